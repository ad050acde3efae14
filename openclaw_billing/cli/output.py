"""Output: tables for people on a terminal, JSON for machines; remarks and progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from openclaw_billing.audit import Actor
from openclaw_billing.runtime import Runtime
from openclaw_billing.text import clean_text

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]

ACTOR = Actor(name="cli")


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
    """The rows: as JSON in whole, else these columns as a table."""
    if as_json:
        print(json.dumps(list(rows), indent=1, default=str))
        return
    if not rows:
        say(empty)
        return
    table = Table(*(name.replace("_", " ") for name in columns))
    for row in rows:
        table.add_row(*(plain(row.get(name)) for name in columns))
    Console().print(table)


def show_one(row: Mapping[str, Any], *, as_json: bool) -> None:
    """One thing: as JSON, else a line for each of its fields."""
    if as_json:
        print(json.dumps(dict(row), indent=1, default=str))
        return
    width = max(map(len, row))
    for name, value in row.items():
        print(f"{name:<{width}}  {plain(value)}")


def plain(value: object) -> Text | str:
    """Data as text: no markup is read in it, and no control character reaches the terminal."""
    text = "" if value is None else str(value)
    return Text("".join(each if each.isprintable() else "?" for each in text))


def say(text: str) -> None:
    """A remark for the person, beside the data."""
    print("".join(each if each.isprintable() else "?" for each in text), file=sys.stderr)


def dumped(models: Iterable[Any]) -> list[dict[str, Any]]:
    return [model.model_dump(mode="json") for model in models]
