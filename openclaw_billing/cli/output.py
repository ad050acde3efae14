"""Output: tables for people on a terminal, JSON for machines; remarks and progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from openclaw_billing.audit import Actor
from openclaw_billing.runtime import Runtime
from openclaw_billing.text import clean_text

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]

ACTOR = Actor(name="cli")
WIDTH_MAX = 10_000


@contextmanager
def opened() -> Iterator[Runtime]:
    """The runtime of the settings in force, closed afterwards."""
    runtime = Runtime(makes_token=False)
    runtime.open()
    try:
        yield runtime
    finally:
        runtime.close()


def words(text: str, length_max: int, hint: str) -> str:
    """The text, if it may be kept: what HTTP refuses, the command line refuses too."""
    try:
        return clean_text(text, length_max)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from error


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """The rows: as JSON in whole, else these columns, as a table on a terminal and between tabs elsewhere."""
    if as_json:
        print(json.dumps(list(rows), indent=1, default=str))
        return
    if not rows:
        say(empty)
        return
    cells = [[plain(row.get(name)) for name in columns] for row in rows]
    if not sys.stdout.isatty():
        for line in (list(columns), *cells):
            print("\t".join(line))
        return
    table = Table()
    for place, name in enumerate(columns):
        # Other commands need the ids whole; what has no room is folded, and never cut off.
        width = max(len(line[place]) for line in cells) if name.endswith("_id") else None
        table.add_column(name.replace("_", " "), overflow="fold", min_width=width)
    for line in cells:
        table.add_row(*map(Text, line))
    console = Console()
    least = Measurement.get(console, console.options.update(max_width=WIDTH_MAX), table).minimum
    Console(width=max(console.width, least)).print(table)


def show_one(row: Mapping[str, Any], *, as_json: bool) -> None:
    """One thing: as JSON, else a line for each of its fields."""
    if as_json:
        print(json.dumps(dict(row), indent=1, default=str))
        return
    width = max(map(len, row))
    for name, value in row.items():
        print(f"{name:<{width}}  {plain(value)}")


def plain(value: object) -> str:
    """Data as text: no control character reaches the terminal."""
    text = "" if value is None else str(value)
    return "".join(each if each.isprintable() else "?" for each in text)


def say(text: str) -> None:
    """A remark for the person, beside the data."""
    print(plain(text), file=sys.stderr)


def dumped(models: Iterable[Any]) -> list[dict[str, Any]]:
    return [model.model_dump(mode="json") for model in models]
