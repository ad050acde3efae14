"""Stripe on the command line: `sync` sets the account up, `check` looks whether it is set up well.

`reconcile` looks for what was lost, `replay` has events applied once more, `events` lists them.

Exit codes: 0 fine, 1 findings, 2 it could not run.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from openclaw_billing.cli.output import Json, opened, say, show
from openclaw_billing.errors import BadSettings, BillingError, StartupError
from openclaw_billing.payments import make_calls, make_catalogue, make_checkup
from openclaw_billing.payments.calls import Calls
from openclaw_billing.payments.catalogue import Report
from openclaw_billing.payments.wanted import Wishes
from openclaw_billing.prices import CREDITS_MAX, SOLD
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import Settings, load_settings
from openclaw_billing.stores.files import Directory
from openclaw_billing.stripe_records import InboxStatus
from openclaw_billing.values import LOOPBACK, host_of
from openclaw_billing.web.admin_stripe import event_list
from openclaw_billing.web.lists import PAGE_MAX
from openclaw_billing.worker import Worker

T = TypeVar("T")

SECRET_FILE = "stripe_webhook_secret"  # noqa: S105 - the file's name
SECRETS_KEPT_MAX = 2
COULD_NOT_RUN = 2
AMOUNT_MAX = 99_999_999

EVENT_COLUMNS = ("event_id", "type", "status", "created_at", "customer_id", "attempts", "reason")


class Commands(TyperGroup):
    """Whatever keeps one of these commands from its work is told in a sentence, and ends it with 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (BillingError, StartupError, OSError) as error:
            say(f"Could not finish: {error.detail if isinstance(error, BillingError) else error}")
            raise typer.Exit(COULD_NOT_RUN) from error


app = typer.Typer(no_args_is_help=True, cls=Commands)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")]
Gateway = Annotated[
    str | None, typer.Option(help="The gateway's public address, such as https://gateway.example.com.")
]


@app.command("sync")
def sync(
    dry_run: DryRun = False,
    as_json: Json = False,
    gateway: Gateway = None,
    pack: Annotated[
        list[str] | None,
        typer.Option(help="CREDITS=AMOUNT: a pack to sell, its price in cents. May be given again."),
    ] = None,
    yearly: Annotated[
        list[str] | None,
        typer.Option(help="PLAN=AMOUNT: a plan's price by the year, in cents. May be given again."),
    ] = None,
) -> None:
    """Make products, prices, portal and event endpoint in Stripe what the plans here say. Twice is once."""
    settings = _settings()
    wishes = Wishes(
        gateway=_address(settings, gateway),
        packs={_credits(left): amount for left, amount in _pairs(pack, "--pack")},
        yearly={_plan(left): amount for left, amount in _pairs(yearly, "--yearly")},
    )
    calls = make_calls(settings)
    catalogue = make_catalogue(settings, calls, dry_run=dry_run)
    secrets = _Secrets(settings, dry_run=dry_run)
    report = _run(calls, catalogue.sync(wishes, secrets.keep), catalogue.report)
    _show(report, as_json=as_json, dry_run=dry_run)
    for line in secrets.remarks:
        say(line)
    raise typer.Exit(1 if report.findings else 0)


@app.command("check")
def check(as_json: Json = False, gateway: Gateway = None, dry_run: DryRun = False) -> None:  # noqa: ARG001
    """Look at account, prices, portal and event endpoint. Nothing is changed, with --dry-run or without."""
    settings = _settings()
    calls = make_calls(settings)
    checkup = make_checkup(settings, calls)
    address = _address(settings, gateway)
    report = _run(calls, checkup.check(address, datetime.now(UTC)), checkup.report)
    _show(report, as_json=as_json, dry_run=False)
    raise typer.Exit(1 if report.findings else 0)


@app.command("reconcile")
def reconcile(dry_run: DryRun = False, as_json: Json = False) -> None:
    """Store the events that were not delivered, compare every subscription with Stripe's, and heal."""

    async def work(worker: Worker) -> dict[str, Any]:
        unknown = await worker.reconciler.undelivered() if dry_run else []
        new = len(unknown) if dry_run else await worker.reconciler.poll()
        found = await worker.reconciler.sweep(dry_run=dry_run)
        return {
            **asdict(found),
            "new_events": new,
            "undelivered": [{"event_id": each.event_id, "type": each.type} for each in unknown],
            "applied": 0 if dry_run else await worker.drain(),
            "dry_run": dry_run,
        }

    done = _with_worker(work)
    if as_json:
        print(json.dumps(done, indent=1))
    else:
        would, had = ("would be healed", "have") if dry_run else ("healed", "had")
        print(f"checked {done['checked']}, {would} {done['healed']}, orphans {done['orphans']}")
        print(f"{done['new_events']} events {had} not been delivered")
        for each in done["undelivered"]:
            print(f"  {each['event_id']} {each['type']}")
    raise typer.Exit(1 if done["orphans"] or (dry_run and (done["healed"] or done["new_events"])) else 0)


@app.command("replay")
def replay(
    event_id: Annotated[str | None, typer.Argument(help="The event to apply once more.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(help="Instead: every event since then that is not known here or came to nothing (UTC)."),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Fetch events from Stripe and apply them again; what they did before is not done twice."""
    if (event_id is None) == (since is None):
        raise typer.BadParameter("name an event, or a moment with --since")

    async def work(worker: Worker) -> dict[str, Any]:
        if since is not None:
            found = await worker.reconciler.replay_since(since.replace(tzinfo=UTC), dry_run=dry_run)
        else:
            assert event_id is not None
            found = await worker.reconciler.replay(event_id, dry_run=dry_run)
        return {"events": found, "applied": 0 if dry_run else await worker.drain(), "dry_run": dry_run}

    done = _with_worker(work)
    would = " would be applied again" if dry_run else f", {done['applied']} steps"
    print(json.dumps(done, indent=1) if as_json else f"{done['events']} events{would}")
    raise typer.Exit(0 if done["events"] or since is not None else 1)


@app.command("events")
def events(
    status: Annotated[InboxStatus | None, typer.Option(help="Only what became of them so.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=PAGE_MAX, help="How many to show at most.")] = 100,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    as_json: Json = False,
) -> None:
    """List the inbox, newest first: what Stripe told, and what became of it."""
    with opened() as runtime:
        page = event_list(runtime, status, limit, cursor).model_dump(mode="json")
    if as_json:
        print(json.dumps(page, indent=1))
        return
    show(page["events"], EVENT_COLUMNS, as_json=False, empty="No events.")
    if page["has_more"]:
        say(f"{len(page['events'])} of {page['total']}: --cursor {page['next_cursor']} shows the next.")


def _with_worker(work: Callable[[Worker], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """Run some work of the worker's on the store, whether a gateway runs or not."""
    settings = _settings()
    runtime = Runtime(settings)

    async def whole() -> dict[str, Any]:
        account = runtime.stripe
        assert account is not None
        try:
            return await work(Worker(runtime, account))
        finally:
            await account.close()

    try:
        return asyncio.run(whole())
    finally:
        runtime.close()


class _Secrets:
    """Keeps an endpoint's signing secret, which is shown once, in a file that only this user can read."""

    def __init__(self, settings: Settings, *, dry_run: bool) -> None:
        self.remarks: list[str] = []
        self._directory = Directory(settings.data_dir, allow_network=True)
        if not dry_run:
            # Before anything is made in Stripe: a secret that cannot be kept is lost.
            self._directory.open()

    def keep(self, endpoint_id: str, secret: str) -> None:
        name, here = SECRET_FILE, self._directory
        before = here.read(name).decode("ascii").strip().split(",") if here.exists(name) else []
        kept = [secret, *before][:SECRETS_KEPT_MAX]
        here.write_new(f"{name}.tmp", [",".join(kept).encode("ascii") + b"\n"])
        here.replace(f"{name}.tmp", name)
        here.sync()
        path = here.path / name
        self.remarks.append(
            f"The signing secret of {endpoint_id} is in {path}: set STRIPE_WEBHOOK_SECRET to it"
        )


def _settings() -> Settings:
    settings = load_settings()
    if settings.stripe_secret_key is None:
        raise BadSettings("STRIPE_SECRET_KEY is not set: there is no Stripe account to work on")
    return settings


def _run(calls: Calls, work: Coroutine[None, None, T], report: Report) -> T:
    async def whole() -> T:
        try:
            return await work
        finally:
            await calls.close()

    try:
        return asyncio.run(whole())
    except (BillingError, OSError):
        # An endpoint's secret that could not be kept is shown by Stripe's dashboard.
        for change in report.changes:
            say(f"Done before: {change.action} {change.kind} {change.name}")
        raise


def _show(report: Report, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        print(json.dumps({**asdict(report), "dry_run": dry_run}, indent=1))
        return
    for name, value in report.facts.items():
        print(f"{name}: {value}")
    for change in report.changes:
        would = "would " if dry_run else ""
        print(
            " ".join(
                part
                for part in (f"{would}{change.action}", change.kind, change.name, change.object_id)
                if part
            )
        )
    for finding in report.findings:
        say(f"! {finding}")
    if not report.changes and not report.findings:
        say("Everything is as it should be.")


def _address(settings: Settings, gateway: str | None) -> str | None:
    if gateway is None:
        return None
    host = host_of(gateway)
    local = host in LOOPBACK and settings.billing_mode != "live"
    if host is None or not (gateway.startswith("https://") or local):
        raise typer.BadParameter("must be an https address", param_hint="--gateway")
    return gateway


def _pairs(given: list[str] | None, hint: str) -> list[tuple[str, int]]:
    found = []
    for text in given or ():
        left, equals, amount = text.partition("=")
        if not (equals and amount.isascii() and amount.isdigit() and 0 < int(amount) <= AMOUNT_MAX):
            raise typer.BadParameter(f"must be a name, = and a price in cents: {text}", param_hint=hint)
        found.append((left, int(amount)))
    return found


def _credits(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= CREDITS_MAX):
        raise typer.BadParameter(f"must be a number of credits up to {CREDITS_MAX}", param_hint="--pack")
    return int(text)


def _plan(text: str) -> str:
    if text not in SOLD:
        raise typer.BadParameter(f"must be one of {', '.join(SOLD)}", param_hint="--yearly")
    return text
