"""The database on the command line: its schema."""

from __future__ import annotations

from typing import Annotated

import typer

from openclaw_billing.cli.output import say
from openclaw_billing.errors import BadSettings
from openclaw_billing.settings import load_settings
from openclaw_billing.stores import postgres_schema

app = typer.Typer(no_args_is_help=True)


@app.command("upgrade")
def upgrade(
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL instead, to run it by hand.")] = False,
) -> None:
    """Bring the schema of OPENCLAW_DATABASE_URL to this program's version."""
    if sql:
        print(postgres_schema.upgrade_text())
        return
    before, after = postgres_schema.upgrade(database_url())
    say(f"The schema is at {after}" if before == after else f"The schema went from {before} to {after}")


@app.command("version")
def version() -> None:
    """Tell which version the schema has, and which one this program needs."""
    found = postgres_schema.version_at(database_url())
    print(found or "none")
    if found != postgres_schema.newest_version():
        say(f"This program needs {postgres_schema.newest_version()}: {postgres_schema.COMMAND}")
        raise typer.Exit(1)


def database_url() -> str:
    """The address in the settings.

    Raises:
        BadSettings: there is none.
    """
    url = load_settings().database_url
    if url is None:
        raise BadSettings("OPENCLAW_DATABASE_URL is not set: there is no database to work on")
    return url.get_secret_value()
