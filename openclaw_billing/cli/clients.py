"""Clients on the command line, with their credits, plan and ledger."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from openclaw_billing import accounts, subscriptions
from openclaw_billing.cli.output import ACTOR, Json, dumped, opened, say, show, show_one, words
from openclaw_billing.contracts import HistoryQuery, Query, Transaction
from openclaw_billing.errors import NotFound
from openclaw_billing.records import Account, Client
from openclaw_billing.runtime import Runtime
from openclaw_billing.text import clean_email
from openclaw_billing.usage import standing_of
from openclaw_billing.values import rate_of, rate_text
from openclaw_billing.web.models import LINE_LENGTH_MAX, NAME_LENGTH_MAX, REASON_LENGTH_MAX
from openclaw_billing.web.views import AuditView, ClientView, EntryView, WholeClientView

app = typer.Typer(no_args_is_help=True)

ClientId = Annotated[str, typer.Argument(help="The client's id.")]
METADATA_MAX, METADATA_NAME_LENGTH_MAX = 50, 40
COLUMNS = ("client_id", "name", "email", "plan", "credits_remaining", "active", "billing_cycle_end")


@app.command("list")
def list_clients(
    status: Annotated[str, typer.Option(help="active, inactive or all.")] = "all",
    text: Annotated[str, typer.Option("--search", help="In name, e-mail or id.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many to show at most.")] = 100,
    as_json: Json = False,
) -> None:
    """List clients, newest first."""
    if status not in ("active", "inactive", "all"):
        raise typer.BadParameter("must be active, inactive or all", param_hint="--status")
    equals: dict[str, str | bool | None] = {} if status == "all" else {"active": status == "active"}
    fields = ("name", "email", "client_id")
    with opened() as runtime:
        page = runtime.view.clients.page(Query(equals=equals, text=text, text_fields=fields, limit=limit))
        rows = [_shown(runtime, client.client_id) for client in page.rows]
        show(rows, COLUMNS, as_json=as_json, empty="No clients.")
        if page.has_more:
            say(f"{len(rows)} of {page.total}: --limit shows more.")


@app.command("show")
def show_client(client_id: ClientId, as_json: Json = False) -> None:
    """Show one client, with how its subscription stands."""
    with opened() as runtime:
        client, account = _found(runtime, client_id)
        known = subscriptions.find(runtime.view, client_id, runtime.settings.billing_mode)
        now = runtime.now()
        view = WholeClientView.whole(client, standing_of(runtime.view, account, now), known, now)
        show_one(view.model_dump(mode="json"), as_json=as_json)


@app.command("create")
def create_client(
    name: Annotated[str, typer.Option(help="Who pays.")],
    email: Annotated[str, typer.Option(help="One client per address.")],
    plan: Annotated[str, typer.Option(help="free, starter, pro or enterprise.")] = "free",
    as_json: Json = False,
) -> None:
    """Create a client and show its key, once."""
    client_id = str(uuid.uuid4())
    name = words(name, NAME_LENGTH_MAX, "--name")
    email = _address(email)
    with opened() as runtime:
        key_text, key = runtime.new_key(client_id, name="default")
        runtime.write_and_wait(
            accounts.create_client,
            client_id=client_id,
            name=name,
            email=email,
            plan_id=plan,
            key=key,
            actor=ACTOR,
        )
        made = {**_shown(runtime, client_id), "key_id": key.key_id, "api_key": key_text}
        show_one(made, as_json=as_json)
        say("Save the key now: it is stored nowhere.")


@app.command("deactivate")
def deactivate(client_id: ClientId) -> None:
    """Deactivate a client: its keys stop working at once."""
    with opened() as runtime:
        was_active = runtime.write_and_wait(accounts.deactivate, client_id, actor=ACTOR)
        say("Deactivated." if was_active else "The client was inactive already.")


@app.command("reactivate")
def reactivate(client_id: ClientId) -> None:
    """Let a client's keys work again."""
    with opened() as runtime:
        runtime.write_and_wait(accounts.reactivate, client_id, actor=ACTOR)
        say("Reactivated.")


@app.command("rate")
def set_rate(
    client_id: ClientId,
    rate: Annotated[str, typer.Argument(help="Such as '100/s, burst 500, 6000/min'; or off; or plan.")],
) -> None:
    """Set how often a client may call, whatever its plan says."""
    try:
        wanted = "plan" if rate == "plan" else rate_of(rate)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="RATE") from error
    with opened() as runtime:
        runtime.write_and_wait(accounts.update_client, client_id, rate_limit=wanted, actor=ACTOR)
        client = runtime.view.clients.get(client_id)
        assert client is not None
        say("The plan's." if client.rate_limit is None else f"{rate_text(client.rate_limit)}.")


@app.command("set")
def change_client(
    client_id: ClientId,
    name: Annotated[str | None, typer.Option(help="Who pays.")] = None,
    email: Annotated[str | None, typer.Option(help="One client per address.")] = None,
    note: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Into the metadata; without a value, out of it. May be repeated."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Change a client's name, address or metadata; what is not named stays."""
    with opened() as runtime:
        runtime.write_and_wait(
            update_client,
            client_id,
            name=None if name is None else words(name, NAME_LENGTH_MAX, "--name"),
            email=None if email is None else _address(email),
            notes=note or [],
        )
        show_one(_shown(runtime, client_id), as_json=as_json)


def add_to(root: typer.Typer) -> None:
    """The commands that stand beside `clients`."""
    # Below zero looks like an option, and is none.
    root.command("credits", context_settings={"ignore_unknown_options": True})(adjust_credits)
    root.command("plan")(set_plan)
    root.command("ledger")(show_ledger)
    root.command("audit")(show_audit)


def adjust_credits(
    client_id: ClientId,
    credits: Annotated[int, typer.Argument(help="To add; below zero to take away.")],
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")],
    once: Annotated[str, typer.Option(help="An id: the same one again changes nothing.")] = "",
    as_json: Json = False,
) -> None:
    """Add credits to a client, or take some away (`credits ID -5 --reason …`)."""
    reason = words(reason, REASON_LENGTH_MAX, "--reason")
    operation_id = f"adjust:cli:{once or uuid.uuid4()}"
    with opened() as runtime:
        done = runtime.write_and_wait(
            accounts.adjust_credits, client_id, credits, reason=reason, operation_id=operation_id, actor=ACTOR
        )
        show_one(
            {"client_id": client_id, "previous_credits": done.previous, "new_credits": done.now},
            as_json=as_json,
        )


def set_plan(client_id: ClientId, plan: Annotated[str, typer.Argument(help="The plan's id.")]) -> None:
    """Put a client on another plan, at once."""
    with opened() as runtime:
        runtime.write_and_wait(accounts.set_plan, client_id, plan, actor=ACTOR)
        show_one(_shown(runtime, client_id), as_json=False)


def show_ledger(
    client_id: ClientId,
    limit: Annotated[int, typer.Option(min=1, help="How many to show at most.")] = 50,
    as_json: Json = False,
) -> None:
    """Show what happened to a client's credits, newest first."""
    with opened() as runtime:
        _shown(runtime, client_id)
        page = runtime.store.ledger(HistoryQuery(client_id=client_id, limit=limit))
        rows = dumped(EntryView.of(entry) for entry in page.entries)
        columns = ("number", "time", "kind", "amount", "reserved", "balance", "job_id", "reason")
        show(rows, columns, as_json=as_json, empty="No entries.")


def show_audit(
    client_id: Annotated[str | None, typer.Option("--client", help="Of one client only.")] = None,
    action: Annotated[str | None, typer.Option(help="One action only.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to show at most.")] = 50,
    as_json: Json = False,
) -> None:
    """Show who did what, newest first."""
    with opened() as runtime:
        page = runtime.store.audit(HistoryQuery(client_id=client_id, action=action, limit=limit))
        rows = dumped(AuditView.of(entry) for entry in page.entries)
        show(
            rows,
            ("time", "actor", "action", "client_id", "object_id", "reason"),
            as_json=as_json,
            empty="None.",
        )


def _address(email: str) -> str:
    try:
        return clean_email(email)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--email") from error


def _noted(metadata: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """The metadata after these changes, within the limits that HTTP has."""
    found = dict(metadata)
    for note in notes:
        name, equals, value = note.partition("=")
        name = words(name, METADATA_NAME_LENGTH_MAX, "--note")
        if not equals:
            raise typer.BadParameter("must be NAME=VALUE", param_hint="--note")
        if value:
            found[name] = words(value, LINE_LENGTH_MAX, "--note")
        else:
            found.pop(name, None)
    if len(found) > METADATA_MAX:
        raise typer.BadParameter(f"at most {METADATA_MAX} names", param_hint="--note")
    return found


def update_client(
    tx: Transaction,
    client_id: str,
    *,
    name: str | None,
    email: str | None,
    notes: list[str],
    now: datetime,
) -> None:
    client = tx.clients.get(client_id)
    if client is None:
        raise NotFound("Client")
    metadata = _noted(client.metadata, notes)
    accounts.update_client(tx, client_id, name=name, email=email, metadata=metadata, actor=ACTOR, now=now)


def _found(runtime: Runtime, client_id: str) -> tuple[Client, Account]:
    client, account = runtime.view.clients.get(client_id), runtime.view.accounts.get(client_id)
    if client is None or account is None:
        raise NotFound("Client")
    return client, account


def _shown(runtime: Runtime, client_id: str) -> dict[str, Any]:
    client, account = _found(runtime, client_id)
    return ClientView.of(client, standing_of(runtime.view, account, runtime.now())).model_dump(mode="json")
