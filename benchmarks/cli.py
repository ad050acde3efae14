"""The command: which subjects, how many clients and workers, how long; then run and report."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks import engines, in_process, picture, report, wrk
from benchmarks.in_process import Figure
from benchmarks.results import Group, Setting
from benchmarks.rounds import Pace, measure
from benchmarks.subjects import SUBJECTS
from benchmarks.subjects.subject import Subject

QUICK = {"rounds": 2, "seconds": 1.5, "warmup": 0.5, "clients": [1_000], "workers": [1]}


def main() -> int:
    """The exit status: 1 when a subject failed or its charges were not exact, 2 when it cannot run as asked."""
    options = _parse(sys.argv[1:])
    chosen = [subject for name, subject in SUBJECTS.items() if name in (options.only or SUBJECTS)]
    missing = {subject.name: reason for subject in chosen if (reason := subject.unavailable())}
    for name, reason in missing.items():
        say(f"{name} is left out: {reason}")
    if options.wrk and not wrk.installed():
        say("wrk is not on the PATH")
        return 2
    if options.only and missing and not options.in_process and not options.engines:
        return 2
    options.dir.mkdir(parents=True, exist_ok=True)
    figures: list[Figure] = []
    groups: list[Group] = []
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="benchmarks-") as folder:
        if not options.http and not options.engines:
            say("in process")
            figures = in_process.measure_all(Path(folder), say)
        if not options.http and not options.in_process:
            say("engines")
            figures += engines.measure_all(Path(folder), say)
        if not options.in_process and not options.engines:
            subjects = [subject for subject in chosen if subject.name not in missing]
            groups = _measure_groups(options, subjects, Path(folder))
    _write(options, groups, figures)
    return int(any(outcome.fault for group in groups for outcome in group.outcomes))


def say(line: str) -> None:
    """Progress goes to stderr, so that stdout is the report alone."""
    print(line, file=sys.stderr, flush=True)


def _measure_groups(options: argparse.Namespace, subjects: list[Subject], folder: Path) -> list[Group]:
    pace = Pace(options.rounds, options.seconds, options.warmup, options.wrk)
    groups = []
    for workers in options.workers:
        for clients in options.clients:
            setting = Setting(workers, clients, options.connections, options.flush_ms)
            say(str(setting))
            fit = [subject for subject in subjects if _fits(subject, setting)]
            groups.append(measure(setting, fit, pace, folder, say))
            print(report.table(groups[-1]), end="\n\n", flush=True)
    return groups


def _fits(subject: Subject, setting: Setting) -> bool:
    if subject.clients_max is not None and setting.clients > subject.clients_max:
        say(f"  {subject.name} is left out: too slow beyond {subject.clients_max:,} clients")
        return False
    if setting.flush_ms and not subject.flushes_in_python:
        say(f"  {subject.name} is left out: it flushes from C, where --flush-ms does not reach")
        return False
    return True


def _write(options: argparse.Namespace, groups: list[Group], figures: list[Figure]) -> None:
    if figures:
        print(report.in_process_table(figures), end="\n\n")
    print(", ".join(f"{name} {value}" for name, value in report.machine().items()))
    if options.json:
        options.json.write_text(json.dumps(report.document(groups, figures), indent=1) + "\n")
    if options.svg:
        picture.write(options.svg, groups)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What billing costs beside the same endpoint without it: ratios, side by side in one run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--only", type=_names, metavar="NAMES", help=f"subjects, of: {', '.join(SUBJECTS)}")
    add("--clients", type=_numbers, default=[10, 1_000, 100_000], help="how many clients, one group for each")
    add("--workers", type=_numbers, default=[1, 2], help="uvicorn workers, one group for each")
    add("--connections", type=int, default=32, help="connections kept busy")
    add("--rounds", type=int, default=3, help="how often each subject has its turn")
    add("--seconds", type=float, default=4.0, help="timed seconds of a round")
    add("--warmup", type=float, default=1.0, help="seconds of load before them")
    add("--flush-ms", type=float, default=0.0, help="milliseconds added to each flush, as on a slower disk")
    add(
        "--quick",
        action="store_true",
        help="1 worker, 1,000 clients, two short rounds, unless told otherwise",
    )
    add("--wrk", action="store_true", help="make the load with wrk instead of the tool of this package")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--in-process", action="store_true", help="only the single functions, without servers")
    parts.add_argument(
        "--engines", action="store_true", help="only PostgreSQL beside its pgbench, and Redis, without HTTP"
    )
    parts.add_argument("--http", action="store_true", help="only the servers")
    add("--json", type=Path, metavar="FILE", help="write everything that was seen")
    add("--svg", type=Path, metavar="FILE", help="draw cost against number of clients")
    add(
        "--dir",
        type=Path,
        default=Path("data"),
        help="where the stores live while they are measured: a real disk",
    )
    if "--quick" in arguments:
        parser.set_defaults(**QUICK)
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return numbers


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SUBJECTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(SUBJECTS)}")
    return names
