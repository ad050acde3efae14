"""How long a move takes: a JSON store of many clients and entries to PostgreSQL, digested on both sides.

    python -m benchmarks.moving --help

The database is the one given, emptied of nothing: it must be empty, with the schema of `db upgrade`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from benchmarks.ours_in_process import _runtime
from benchmarks.subjects.ours import make_clients
from openclaw_billing import ledger

AT_ONCE = 500


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.moving", description=__doc__)
    parser.add_argument("--to", required=True, help="the postgresql:// address of an empty database")
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--dir", type=Path, default=Path("data"), help="where the store is made: a real disk")
    options = parser.parse_args(arguments)
    from openclaw_billing.stores import moving

    options.dir.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="moving-", dir=options.dir) as name:
        folder = Path(name)
        print(f"making {options.clients:,} clients and {options.entries:,} entries", flush=True)
        make_clients(folder / "data", options.clients)
        _charge(folder, options.clients, options.entries - options.clients)
        begun = perf_counter()

        def step(told: str, total: int) -> Callable[[int], None]:
            print(f"{perf_counter() - begun:7.1f} s  {told} ({total:,})", flush=True)
            return lambda _done: None

        moved = moving.to_postgres(folder / "data", None, options.to, step, switch=True)
        print(f"{perf_counter() - begun:7.1f} s  switched", flush=True)
        for table, found in moved.target.sums.items():
            if found.records:
                print(f"{table:14} {found.records:>10,}  {found.hex[:16]}")
    return 0


def _charge(folder: Path, clients: int, charges: int) -> None:
    runtime = _runtime(folder)
    store, now = runtime.store, runtime.now()
    for first in range(0, charges, AT_ONCE):
        for number in range(first, min(charges, first + AT_ONCE)):
            store.submit(
                lambda tx, number=number: ledger.charge(  # type: ignore[misc]
                    tx, f"client-{number % clients}", job_id=f"job-{number}", now=now
                ),
                "charge",
                lambda _answer, _error: None,
            )
        store.run(lambda tx: None, "nothing")
    runtime.close()


if __name__ == "__main__":
    raise SystemExit(main())
