"""The pages that publish the figures: their tables are written by the command that measures, and by nobody else.

`docs/figures.json` holds what was seen, when and on what; the tables between the marks of `docs/reliability.md`
and `docs/security.md` show it. `tests/test_promises.py` holds the pages to it.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reliability.figure import ROOT
from reliability.figures import FIGURES

KEPT = ROOT / "docs" / "figures.json"
PAGES = {
    "R": ROOT / "docs" / "reliability.md",
    "A": ROOT / "docs" / "reliability.md",
    "S": ROOT / "docs" / "security.md",
}
VERDICTS = ("met", "in part", "MISSED", "skipped")
SHOWN = {"met": "met", "in part": "in part", "MISSED": "not met", "skipped": "not measured"}


@dataclass(frozen=True, slots=True)
class Row:
    """What was seen of one figure."""

    figure: str
    goal: str
    seen: str
    verdict: str
    skipped: tuple[str, ...]
    seconds: float
    date: str
    machine: str

    def shown(self) -> dict[str, Any]:
        return asdict(self)


def machine() -> str:
    """What it was measured on, in one line."""
    model = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+)", _read("/proc/meminfo"), re.MULTILINE)
    said = [
        f"Python {platform.python_version()}",
        f"{platform.system()} {platform.release()}",
        f"{os.cpu_count()} cores" + (f" ({model[1].strip()})" if model else ""),
    ]
    if memory:
        said.append(f"{round(int(memory[1]) / (1 << 20))} GiB of memory")
    return ", ".join(said)


def keep(rows: Iterable[Row]) -> None:
    """Remember these rows, and show all that are remembered on the pages."""
    kept = seen()
    for row in rows:
        kept[row.figure] = row.shown()
    ordered = {figure.name: kept[figure.name] for figure in FIGURES if figure.name in kept}
    KEPT.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
    for kind, page in PAGES.items():
        page.write_text(with_table(page.read_text(), kind, ordered))


def seen() -> dict[str, dict[str, Any]]:
    kept: dict[str, dict[str, Any]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return kept


def with_table(text: str, kind: str, kept: dict[str, dict[str, Any]]) -> str:
    """The page with the table of that kind of figure as it is remembered."""
    begin, end = f"<!-- figures {kind}, written by `python -m reliability --write` -->\n", "<!-- end -->"
    head, found, rest = text.partition(begin)
    assert found, f"the page has no place for the figures {kind}"
    return head + found + "\n" + table(kind, kept) + "\n" + end + rest.partition(end)[2]


def table(kind: str, kept: dict[str, dict[str, Any]]) -> str:
    lines = ["| | Goal | Seen | |", "|--|--|--|--|"]
    machines: dict[str, list[str]] = {}
    for figure in FIGURES:
        if not figure.name.startswith(kind):
            continue
        row = kept.get(figure.name)
        # What was measured for another goal says nothing of this one.
        if row is None or row["goal"] != figure.goal:
            lines.append(f"| {figure.name} | {figure.goal} | | not measured |")
            continue
        lines.append(f"| {figure.name} | {figure.goal} | {_cell(row['seen'])} | {SHOWN[row['verdict']]} |")
        machines.setdefault(f"{row['date']}, {row['machine']}", []).append(figure.name)
    told = [f"{' '.join(names)}: seen {where}." for where, names in machines.items()]
    return "\n".join([*lines, "", *told]).rstrip() + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
