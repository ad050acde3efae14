"""The store on the command line: import, export, verify, backup, restore, adopt, discard, doctor."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from openclaw_billing import adoption, seed_file
from openclaw_billing.cli.output import Json, dumped, opened, say, show_one
from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.errors import BadSettings, CorruptStore, StartupError
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import Settings, load_settings, problems
from openclaw_billing.stores import backups, mending, postgres_end, postgres_verify
from openclaw_billing.stores.anchors import Anchor, refuse_shorter
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import Chain
from openclaw_billing.usage import standing
from openclaw_billing.web.csv_export import csv_chunks
from openclaw_billing.web.views import ClientView

Head = Annotated[
    str,
    typer.Option(metavar="SEQ:HEAD", help="A line that the journal must hold, as the log named it."),
]

DIGITS_MAX = 18
"""No journal has as many entries as a longer number."""
FLOORS = {"fastapi": (0, 133), "starlette": (1, 3, 1), "uvicorn": (0, 34), "pydantic": (2, 12)}


def add_to(root: typer.Typer) -> None:
    for name, command in (
        ("import", import_clients),
        ("export", export_clients),
        ("verify", verify),
        ("backup", backup),
        ("restore", restore),
        ("repair", repair),
        ("adopt", adopt),
        ("discard", discard),
        ("doctor", doctor),
    ):
        root.command(name)(command)


def import_clients(
    file: Annotated[Path, typer.Argument(help="A clients file in the seed's format.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; otherwise it is only tried.")] = False,
) -> None:
    """Take over a clients file of the seed's own format. The file is left as it is."""
    data, owner = mending.read_foreign(file)
    try:
        clients = seed_file.read(data)
    except BadSettings as error:
        raise BadSettings(f"{file}: {error}") from error
    say(f"{file}: {len(clients)} clients; the file belongs to user {owner}")
    for client in clients:
        say(f"  {client.client_id}  {client.plan_id}  {client.credits_remaining} credits")
    if not yes:
        say("Nothing was changed: --yes takes them over.")
        return
    with opened() as runtime:
        taken = runtime.write_and_wait(seed_file.take_over, data=data, peppers=runtime.peppers)
        say(f"Took over {taken} clients.")


def export_clients(
    format: Annotated[str, typer.Option(help="csv or json.")] = "csv",
) -> None:
    """Write every client to standard output, without keys."""
    if format not in ("csv", "json"):
        raise typer.BadParameter("must be csv or json", param_hint="--format")
    with opened() as runtime:
        view, now = runtime.view, runtime.now()
        clients = sorted(view.clients, key=lambda each: (each.created_at, each.client_id))
        rows = dumped(ClientView.of(each, standing(view, each.client_id, now)) for each in clients)
    if format == "json":
        print(json.dumps(rows, indent=1))
        return
    for chunk in csv_chunks(list(ClientView.model_fields), rows):
        sys.stdout.buffer.write(chunk)


def verify(
    directory: Annotated[
        Path | None, typer.Argument(help="A store or a backup; the settings' unless given.")
    ] = None,
    head: Head = "",
    as_json: Json = False,
) -> None:
    """Check the store: that every balance is the sum of its ledger, and a journal's chain and its end.

    With OPENCLAW_DATABASE_URL the database is checked, in one snapshot, while gateways work on it.
    """
    settings = load_settings()
    if directory is None and settings.database_url is not None:
        if head:
            raise typer.BadParameter("a database has no journal", param_hint="--head")
        url = settings.database_url.get_secret_value()
        _tell({"database": postgres_end.shown(url)}, postgres_verify.verify(url), as_json=as_json)
        return
    where = Directory(directory or settings.data_dir, allow_network=True)
    where.open(make=False)
    total = sum((where.path / name).stat().st_size for name in where.names() if ".journal" in name)
    with Progress(disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("Reading the journal", total=total)
        found = backups.verify(
            where, chain_of(settings), lambda done: bar.advance(task, done), head=_anchor(head)
        )
    _tell({"directory": str(where.path), "seq": found.seq, "head": found.head}, found, as_json=as_json)


def backup(
    directory: Annotated[
        Path | None, typer.Argument(help="A new directory; in backups/ unless given.")
    ] = None,
) -> None:
    """Copy the journal, verified, to where it can be restored from. The gateway may run meanwhile."""
    settings = _file_settings("backup")
    here = Directory(settings.data_dir, allow_network=True)
    here.open(make=False)
    made = directory or settings.data_dir / "backups" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    manifest = backups.backup(here, chain_of(settings), made)
    say(f"Backed up to {made} at entry {manifest['seq']}")
    print(made)


def restore(
    source: Annotated[Path, typer.Argument(help="A backup, or a store.")],
    target: Annotated[Path, typer.Argument(help="An empty directory.")],
    to: Annotated[
        str, typer.Option(help="An entry's number or a moment (RFC 3339); all of it unless given.")
    ] = "",
) -> None:
    """Make an empty directory the store that a backup was at an entry or a moment."""
    found = backups.restore(source, target, chain_of(load_settings()), to=_point(to))
    if found.problems:
        raise CorruptStore(str(target), found.problems[0])
    say(f"Restored {found.clients} clients at entry {found.seq} into {target}")


def repair(
    yes: Annotated[bool, typer.Option("--yes", help="Do it; otherwise it is only told.")] = False,
    head: Head = "",
) -> None:
    """Rebuild a damaged checkpoint or clients file from the journal. A damaged or cut journal needs `restore`."""
    settings = _file_settings("repair")
    found = mending.repair(settings.data_dir, chain_of(settings), really=yes, head=_anchor(head))
    for sentence in found.sentences:
        say(sentence)
    if not found.mendable:
        raise typer.Exit(1)
    if not yes:
        say("Nothing was changed: --yes does it.")


def adopt() -> None:
    """Take over the changes that somebody made to the clients file, as audited adjustments."""
    settings = _file_settings("adopt")
    aside = mending.set_aside(settings.data_dir, chain_of(settings))
    if aside is None:
        say("The clients file says what the store says.")
        return
    with opened() as runtime:
        adopted = runtime.write_and_wait(adoption.adopt, data=aside.data, differing=aside.differing)
    for sentence in adopted.done + adopted.left:
        say(sentence)
    say(f"The edited file is kept as {aside.path}.")
    if adopted.left:
        raise typer.Exit(1)


def discard() -> None:
    """Drop the changes that somebody made to the clients file; it is kept under another name."""
    settings = _file_settings("discard")
    aside = mending.set_aside(settings.data_dir, chain_of(settings))
    if aside is None:
        say("The clients file says what the store says.")
        return
    with opened():
        say(f"The clients file is written anew from the journal. The edited one is kept as {aside.path}.")


def doctor() -> None:
    """Check settings, versions and the store, and say in sentences what is wrong."""
    found = _version_problems()
    try:
        settings = load_settings()
        found += problems(settings)
        if settings.data_dir.exists() or settings.database_url is not None:
            with opened() as runtime:
                found += [runtime.admin_refusal] if runtime.admin_refusal else []
                health = runtime.store.health()
                # Whoever reads of the history has the whole of it checked.
                runtime.store.ledger(HistoryQuery(limit=1))
                if not health.writable:
                    found.append(f"Changes are refused: {health.reason}")
                if settings.database_url is None:
                    with closing(Directory(settings.data_dir, allow_network=True)) as directory:
                        directory.open()
                        refuse_shorter(directory, int(health.details["seq"]))
                if asyncio.run(_counts_alone(runtime)):
                    # No fault of the gateway's, which goes on.
                    say("Redis is away: each gateway lets in its part of the rates.")
    except StartupError as error:
        found.append(str(error))
    for sentence in found:
        say(sentence)
    if found:
        raise typer.Exit(1)
    say("All is well.")


def chain_of(settings: Settings) -> Chain:
    """The chain under the settings' key."""
    key = settings.chain_key
    return Chain(None if key is None else key.get_secret_value().encode())


def _tell(place: dict[str, str | int], found: backups.Verified, *, as_json: bool) -> None:
    """What was checked and found there; findings end the command with 1."""
    sums = {"clients": found.clients, "entries": found.entries, "problems": len(found.problems)}
    show_one({**place, **sums}, as_json=as_json)
    for problem in found.problems:
        say(problem)
    if found.problems:
        raise typer.Exit(1)


def _file_settings(command: str) -> Settings:
    """The settings, for a command that works on files of a JSON store.

    Raises:
        BadSettings: the store is in a database.
    """
    settings = load_settings()
    if settings.database_url is not None:
        raise BadSettings(
            f"`{command}` is for the JSON store, and OPENCLAW_DATABASE_URL is set: back PostgreSQL up with pg_dump or "
            "its continuous archiving, and bring it back with pg_restore or point-in-time recovery"
        )
    return settings


def _anchor(text: str) -> Anchor | None:
    try:
        return Anchor.parsed(text) if text else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--head") from error


def _point(text: str) -> int | datetime | None:
    if not text:
        return None
    if text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter("must be an entry's number or a moment", param_hint="--to") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


async def _counts_alone(runtime: Runtime) -> bool:
    """Whether calls are counted without the other machines that they should be counted with."""
    limits = runtime.limits
    try:
        if limits.clients is not None:
            await limits.clients.take("doctor", ())
        return limits.redis_lost
    finally:
        await limits.aclose()


def _version_problems() -> list[str]:
    found = []
    for name, floor in FLOORS.items():
        have = tuple(int(part) for part in version(name).split(".")[:3] if part.isdigit())
        if have < floor:
            found.append(f"{name} {version(name)} is older than {'.'.join(map(str, floor))}: upgrade it")
    return found
