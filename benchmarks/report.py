"""The report: a table for a person, JSON for a program."""

from __future__ import annotations

import platform
import sqlite3
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from os import cpu_count
from statistics import median
from typing import Any

from benchmarks.in_process import Figure
from benchmarks.results import Group, Outcome, Spread, ratios, spread

PACKAGES = ("fastapi", "starlette", "pydantic", "uvicorn", "uvloop", "httptools")
BUSY_SHARE_MAX = 0.9
HEADINGS = (
    "subject",
    "ratio",
    "(min-max)",
    "req/s",
    "p50 ms",
    "p99 ms",
    "max ms",
    "server us",
    "non-2xx",
    "charged",
)
WIDTHS = (15, 8, 17, 9, 10, 10, 8, 11, 9, 20)


def machine() -> dict[str, str]:
    """The machine in general terms: what the absolute figures depend on most."""
    facts = {
        "cores": str(cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "absent"
    return facts


def table(group: Group) -> str:
    lines = [str(group.setting), _line(HEADINGS)]
    lines += [_line(_cells(group, outcome)) for outcome in group.outcomes]
    for outcome in group.outcomes:
        lines += [f"  ! {outcome.subject}: {remark}" for remark in _remarks(outcome)]
    return "\n".join(lines)


def in_process_table(figures: list[Figure]) -> str:
    lines = ["in process", _line(("what", "", "median", "min", "max"), (34, 0, 12, 12, 12))]
    for figure in figures:
        values = (f"{each:,.2f}" for each in (figure.spread.median, figure.spread.low, figure.spread.high))
        ratio = f"  {figure.ratio:.2f} of {figure.ratio_to}" if figure.ratio is not None else ""
        lines.append(_line((figure.name, "", *values), (34, 0, 12, 12, 12)) + f" {figure.unit}{ratio}")
    return "\n".join(lines)


def document(groups: list[Group], figures: list[Figure]) -> dict[str, Any]:
    """Everything that was seen, for `--json`."""
    return {
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "machine": machine(),
        "groups": [
            {
                "setting": asdict(group.setting),
                "outcomes": [_described(group, outcome) for outcome in group.outcomes],
            }
            for group in groups
        ],
        "in_process": [asdict(figure) for figure in figures],
    }


def _described(group: Group, outcome: Outcome) -> dict[str, Any]:
    own_ratios = ratios(group, outcome)
    return {
        **asdict(outcome),
        "accepted": outcome.accepted,
        "in_doubt": outcome.in_doubt,
        "failed": outcome.failed,
        "rate": asdict(_rate(outcome)),
        "ratio": asdict(spread(own_ratios)) if own_ratios else None,
    }


def _cells(group: Group, outcome: Outcome) -> tuple[str, ...]:
    if not outcome.rounds:
        return (outcome.subject, "-")
    own_ratios = ratios(group, outcome)
    ratio = spread(own_ratios)
    digits = 2 if ratio.median >= 0.1 else 4
    loads = [each.load for each in outcome.rounds]
    server_us = [each.server_us for each in outcome.rounds if each.server_us is not None]
    return (
        outcome.subject,
        f"{ratio.median:.{digits}f}" if own_ratios else "-",
        f"({ratio.low:.{digits}f}-{ratio.high:.{digits}f})" if own_ratios else "",
        f"{_rate(outcome).median:,.{0 if _rate(outcome).median >= 100 else 1}f}",
        f"{median(load.p50_ms for load in loads):,.1f}",
        f"{median(load.p99_ms for load in loads):,.1f}",
        f"{max(load.max_ms for load in loads):,.0f}",
        f"{median(server_us):,.0f}" if server_us else "-",
        f"{outcome.failed:,}",
        f"{outcome.charged:,}/{outcome.accepted:,}" if outcome.charged is not None else "-",
    )


def _remarks(outcome: Outcome) -> list[str]:
    remarks = [text for text in (outcome.fault, outcome.remark) if text]
    if outcome.in_doubt:
        remarks.append(f"{outcome.in_doubt:,} requests in doubt: sent, and no answer seen")
    if any(each.load.busy > BUSY_SHARE_MAX for each in outcome.rounds):
        remarks.append("the load tool was busy all the time: the server could have done more")
    return remarks


def _rate(outcome: Outcome) -> Spread:
    return spread([each.load.rate for each in outcome.rounds])


def _line(cells: tuple[str, ...], widths: tuple[int, ...] = WIDTHS) -> str:
    first, *others = cells
    return first.ljust(widths[0]) + "".join(
        cell.rjust(width) for cell, width in zip(others, widths[1:], strict=False)
    )
