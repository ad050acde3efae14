"""`python -m reliability`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path

from reliability.figure import Skipped
from reliability.figures import FIGURES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m reliability", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these figures and no others")
    parser.add_argument("--quick", action="store_true", help="what a plain CI can")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {os.cpu_count()} cores\n"
    )
    rows: list[dict[str, object]] = []
    begun = time.perf_counter()
    for figure in FIGURES:
        measure = figure.quick if options.quick else figure.measure
        if measure is None or (options.only and figure.name not in options.only):
            continue
        started = time.perf_counter()
        try:
            seen = measure()
            verdict, text = ("pass" if seen.met else "FAIL"), seen.text
        except Skipped as reason:
            verdict, text = "skip", str(reason)
        except Exception as error:
            traceback.print_exc()
            verdict, text = "FAIL", f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - started
        rows.append(
            {
                "figure": figure.name,
                "goal": figure.goal,
                "seen": text,
                "verdict": verdict,
                "seconds": round(seconds, 1),
            }
        )
        print(
            f"{verdict:4}  {figure.name:4}  {figure.goal}\n            {text}  [{seconds:.0f} s]", flush=True
        )
        if options.json is not None:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
    counted = {
        verdict: sum(row["verdict"] == verdict for row in rows) for verdict in ("pass", "FAIL", "skip")
    }
    print(
        f"\n{counted['pass']} figures met, {counted['FAIL']} missed, {counted['skip']} skipped, "
        f"in {time.perf_counter() - begun:.0f} s"
    )
    return 1 if counted["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
