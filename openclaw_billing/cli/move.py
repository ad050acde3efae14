"""Moving a store on the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from openclaw_billing.cli.output import Json, say, show
from openclaw_billing.settings import load_settings


def move(
    to: Annotated[
        str,
        typer.Option(
            help="A postgresql:// address, or an empty directory.",
            envvar="OPENCLAW_MOVE_TO",
            show_envvar=True,
        ),
    ],
    switch: Annotated[
        bool,
        typer.Option("--switch", help="Make it the store: the one it was takes no change any more."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy the store of the settings to a database, or from it to a directory, and compare both.

    To a database, gateways may work meanwhile: run it as often as you like, then once with --switch.
    """
    from openclaw_billing.stores import moving

    settings = load_settings()
    database = settings.database_url and settings.database_url.get_secret_value()
    to_database = to.startswith(("postgresql://", "postgres://"))
    if bool(database) == to_database:
        known = "a directory: the store is in a database" if database else "a postgresql:// address"
        raise typer.BadParameter(f"must be {known}", param_hint="--to")
    key = settings.chain_key and settings.chain_key.get_secret_value().encode()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), console=Console(stderr=True)) as bar:

        def step(name: str, total: int) -> Callable[[int], None]:
            task = bar.add_task(name, total=total)
            return lambda done: bar.advance(task, done)

        if to_database:
            moved = moving.to_postgres(settings.data_dir, key or None, to, step, switch=switch)
        else:
            moved = moving.to_json(
                database or "", Path(to), settings.data_dir, key or None, step, switch=switch
            )
    _show(moved, as_json=as_json)
    say(_next(to_database, switch))


def _show(moved: object, *, as_json: bool) -> None:
    from openclaw_billing.stores.moving import Moved

    assert isinstance(moved, Moved)
    rows = [
        {"table": name, "records": each.records, "sha256": each.hex, "same": True}
        for name, each in moved.target.sums.items()
    ]
    show(rows, ("table", "records", "sha256", "same"), as_json=as_json, empty="Nothing.")


def _next(to_database: bool, switch: bool) -> str:
    if not switch:
        return "Both hold the same. Nothing was switched: --switch does it."
    if to_database:
        return (
            "Moved. Start every gateway with OPENCLAW_DATABASE_URL set to the database, and with the same "
            "pepper (OPENCLAW_KEY_PEPPER, or the file pepper in its data directory)."
        )
    return (
        "Moved. Start the gateway without OPENCLAW_DATABASE_URL, and OPENCLAW_DATA_DIR set to the directory."
    )
