"""`python -m tests.simulation`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, datetime

from tests.simulation.judge import Violation
from tests.simulation.world import World

NIGHT_SEEDS = 10_000


def tell(seed: int) -> tuple[str, Counter[str]]:
    """What went wrong in that world, "" when nothing; and what was seen in it."""
    world = World(seed)
    try:
        world.run()
    except Violation as violation:
        return str(violation), world.seen
    return "", world.seen


def night_of(day: date) -> int:
    """The first seed of that day's night: no two days share one."""
    return int(f"{day:%Y%m%d}") * 100_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one, and let its error through")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many to try (1000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--night", action="store_true", help=f"{NIGHT_SEEDS} seeds that no other day has")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.seed is not None:
        world = World(options.seed)
        world.run()
        print(dict(world.seen))
        return 0
    if options.night:
        options.first, options.seeds = night_of(datetime.now(UTC).date()), NIGHT_SEEDS
    begun, seen, wrong = time.perf_counter(), Counter[str](), list[str]()
    with ProcessPoolExecutor(options.processes) as pool:
        seeds = range(options.first, options.first + options.seeds)
        for heard, (told, counted) in enumerate(pool.map(tell, seeds, chunksize=20)):
            seen += counted
            if told:
                wrong.append(told)
                seed = options.first + heard
                print(f"{told}\n    again: python -m tests.simulation --seed {seed}", flush=True)
    seconds = time.perf_counter() - begun
    rate = options.seeds / seconds * 60
    print(f"{options.seeds} seeds in {seconds:.1f} s ({rate:.0f} a minute), {len(wrong)} wrong; {dict(seen)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
