"""`python -m reliability`."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from reliability import pages
from reliability.figure import Figure, Skipped
from reliability.figures import FIGURES

SECONDS_MAX = 15 * 60
"""What the whole bench may take on two cores."""


def main() -> int:
    options = _options()
    machine = pages.machine()
    print(f"{machine}\n", flush=True)
    rows: list[pages.Row] = []
    begun = time.perf_counter()
    wanted = [
        figure
        for figure in FIGURES
        if not (options.only and figure.name not in options.only)
        and not (options.quick and figure.quick is None)
    ]
    for place, figure in enumerate(wanted, 1):
        told = f"{_clock(time.perf_counter() - begun)}  {place}/{len(wanted)}"
        print(f"{told}  {figure.name}: {figure.goal}", flush=True)
        row = _measured(figure, quick=options.quick, machine=machine)
        rows.append(row)
        print(f"{row.verdict:>7}  {row.seen}  [{row.seconds:.0f} s]\n", flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps([each.shown() for each in rows], indent=1) + "\n")
        if options.write:
            pages.keep([row])
    seconds = time.perf_counter() - begun
    counted = {name: sum(row.verdict == name for row in rows) for name in pages.VERDICTS}
    parts = sum(len(row.skipped) for row in rows)
    print(
        f"{counted['met']} figures met, {counted['in part']} met as far as they could be measured, "
        f"{counted['MISSED']} missed, {counted['skipped']} skipped ({parts} parts skipped in all), "
        f"in {seconds:.0f} s of {SECONDS_MAX}"
    )
    return 1 if counted["MISSED"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m reliability", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these figures and no others")
    parser.add_argument("--quick", action="store_true", help="what a plain CI can")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument(
        "--write",
        action="store_true",
        help="keep what was seen in docs/figures.json and show it on the pages",
    )
    options = parser.parse_args()
    if options.write and options.quick:
        parser.error("what is published is measured in full: --write goes without --quick")
    unknown = set(options.only or ()) - {figure.name for figure in FIGURES}
    if unknown:
        parser.error(f"no such figure: {' '.join(sorted(unknown))}")
    return options


def _measured(figure: Figure, *, quick: bool, machine: str) -> pages.Row:
    measure = figure.quick if quick else figure.measure
    assert measure is not None
    started = time.perf_counter()
    skipped: tuple[str, ...] = ()
    try:
        seen = measure()
        skipped = seen.skipped
        text = "; ".join([seen.text, *(f"not measured here: {reason}" for reason in skipped)])
        verdict = ("in part" if skipped else "met") if seen.met else "MISSED"
    except Skipped as reason:
        verdict, text, skipped = "skipped", str(reason), (str(reason),)
    except Exception as error:
        traceback.print_exc()
        verdict, text = "MISSED", f"{type(error).__name__}: {error}"
    return pages.Row(
        figure.name,
        figure.goal,
        text,
        verdict,
        skipped,
        round(time.perf_counter() - started, 1),
        f"{datetime.now(UTC):%Y-%m-%d}",
        machine,
    )


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    sys.exit(main())
