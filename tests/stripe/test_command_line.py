"""`python -m openclaw_billing stripe …` on a store that a gateway has open: what it tells, heals and applies again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from openclaw_billing import cli, inbox, reconcile
from openclaw_billing.stripe_records import InboxStatus
from tests.served import ROOT, clean_environment
from tests.stripe.house import Buyer, House

pytestmark = pytest.mark.anyio


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Stripe = Callable[..., Awaitable[Done]]


@pytest.fixture
def stripe(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Stripe:
    """The command in a thread of its own, against the fake, on the house's store."""
    environment = {
        "OPENCLAW_DATA_DIR": str(tmp_path / "data"),
        "STRIPE_SECRET_KEY": house.fake.key_text,
        "STRIPE_API_BASE": house.fake.url,
        "COLUMNS": "300",
    }

    def command(arguments: tuple[str, ...], settings: dict[str, str]) -> Done:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in clean_environment(**{**environment, **settings}).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["openclaw_billing", "stripe", *arguments])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, out, err)

    async def run(*arguments: str, **settings: str) -> Done:
        return await asyncio.to_thread(command, arguments, settings)

    return run


async def test_it_reconciles_and_replays(house: House, acme: Buyer, stripe: Stripe) -> None:
    # The command looks from where the house has looked; its own clock is the machine's.
    await house.worker.reconciler.poll()
    await acme.check_out("starter")
    await acme.buy_pack()
    waiting = {each["id"] for each in house.fake.events if each["type"] in reconcile.EVENT_TYPES}

    dry = await stripe("reconcile", "--dry-run", "--json")
    assert (dry.code, dry.json["healed"] > 0) == (1, True)
    assert {each["event_id"] for each in dry.json["undelivered"]} == waiting
    assert dry.json["new_events"] == len(waiting)
    assert (await acme.credits())[0] == "free"
    assert await house.inbox() == [], "nothing was stored"
    told = await stripe("reconcile", "--dry-run")
    assert all(event_id in told.out for event_id in waiting)
    assert f"{len(waiting)} events have not been delivered" in told.out

    wet = await stripe("reconcile", "--json")
    assert (wet.code, wet.json["new_events"], wet.json["undelivered"]) == (0, len(waiting), [])
    assert (await acme.usage())["credits"]["purchased"] == 100
    dry = await stripe("reconcile", "--dry-run", "--json")
    assert (dry.code, dry.json["healed"], dry.json["undelivered"]) == (0, 0, [])

    paid = next(each["id"] for each in house.fake.events if each["type"] == "invoice.paid")
    again = await stripe("replay", paid, "--json")
    assert (again.code, again.json["events"]) == (0, 1)
    assert (await acme.credits())[:2] == ("starter", 150)


async def test_an_event_that_was_not_delivered_is_a_finding_by_itself(
    house: House, acme: Buyer, stripe: Stripe
) -> None:
    await acme.subscribe("starter")
    await house.worker.reconciler.poll()
    session = await acme.buy_pack()
    await acme.get(f"checkout/{session}")
    dry = await stripe("reconcile", "--dry-run", "--json")
    assert (dry.code, dry.json["healed"]) == (1, 0)
    assert "checkout.session.completed" in {each["type"] for each in dry.json["undelivered"]}


async def test_replay_since_takes_up_what_came_to_nothing_and_moves_no_cursor(
    house: House, acme: Buyer, stripe: Stripe
) -> None:
    await acme.check_out("starter")
    for event in house.fake.due(types=["invoice.paid"]):
        await house.post(event)

    def fail(tx, *, now):
        for event in tx.stripe_events.by("due", "yes"):
            for _ in range(inbox.BUGS_MAX):
                inbox.stumble(tx, event.event_id, "a bug", now=now)

    house.runtime.write_and_wait(fail)
    [failed] = await house.inbox("failed")
    since = house.fake.clock.now().replace(hour=0).strftime("%Y-%m-%dT%H:%M:%S")

    dry = await stripe("replay", "--since", since, "--dry-run", "--json")
    assert (dry.code, dry.json["events"] > 1, dry.json["applied"]) == (0, True, 0)
    assert [each["event_id"] for each in await house.inbox("failed")] == [failed["event_id"]]
    wet = await stripe("replay", "--since", since, "--json")
    assert (wet.code, wet.json["events"]) == (0, dry.json["events"])
    assert await acme.credits() == ("starter", 50, 50)
    by_id = {each["event_id"]: each for each in await house.inbox("applied")}
    assert by_id[failed["event_id"]]["source"] == "endpoint"
    assert {each["source"] for each in by_id.values()} == {"endpoint", "replay"}
    assert (await stripe("replay", "--since", since, "--json")).json["events"] == 0
    assert not [each for each in house.runtime.view.facts if each.name.startswith("stripe:cursor")]


async def test_a_replay_that_is_only_tried_changes_nothing(house: House, acme: Buyer, stripe: Stripe) -> None:
    await acme.subscribe("starter")
    before = await house.inbox()
    paid = next(each["event_id"] for each in before if each["type"] == "invoice.paid")
    dry = await stripe("replay", paid, "--dry-run", "--json")
    assert (dry.code, dry.json) == (0, {"events": 1, "applied": 0, "dry_run": True})
    assert await house.inbox() == before
    for wrong in (["replay", "evt_none"], ["replay", "evt_none", "--dry-run"], ["replay"]):
        assert (await stripe(*wrong)).code == 2


async def test_the_inbox_is_listed_page_by_page(house: House, acme: Buyer, stripe: Stripe) -> None:
    await acme.subscribe("starter")
    applied = await house.inbox("applied")
    first = await stripe("events", "--status", "applied", "--limit", "2", "--json")
    assert (first.code, first.json["events"], first.json["total"]) == (0, applied[:2], len(applied))
    rest = await stripe("events", "--status", "applied", "--cursor", first.json["next_cursor"], "--json")
    assert (rest.json["events"], rest.json["has_more"]) == (applied[2:], False)
    table = await stripe("events", "--limit", "1")
    assert (await house.inbox())[0]["event_id"] in table.out
    assert "--cursor" in table.err
    assert (await stripe("events", "--status", InboxStatus.ORPHAN.value)).err == "No events.\n"
    without_key = await stripe("events", "--json", STRIPE_SECRET_KEY="")
    assert len(without_key.json["events"]) == len(await house.inbox())
    assert (await stripe("events", "--status", "odd")).code == 2
    foreign = await stripe("events", "--status", "failed", "--cursor", first.json["next_cursor"])
    assert (foreign.code, "cursor" in foreign.err) == (2, True)


@pytest.mark.parametrize("command", [["gateway"], ["openclaw_billing", "stripe", "check"]], ids=" ".join)
def test_a_key_without_the_sdk_is_told_in_one_sentence(tmp_path: Path, command: list[str]) -> None:
    program = (
        "import runpy, sys; sys.modules['stripe'] = None; sys.argv = sys.argv[1:];"
        "runpy.run_module(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command],
        env=clean_environment(STRIPE_SECRET_KEY="sk_test_1", STRIPE_WEBHOOK_SECRET="w", PYTHONPATH=str(ROOT)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == (78 if command == ["gateway"] else 2)
    assert done.stderr.count("\n") == 1, done.stderr
    assert "the package stripe[async] is not installed" in done.stderr


@pytest.mark.parametrize("command", ["sync", "check", "reconcile", "replay evt_1"])
async def test_what_keeps_a_command_from_its_work_ends_it_with_2(stripe: Stripe, command: str) -> None:
    done = await stripe(*command.split(), STRIPE_SECRET_KEY="sk_canary")
    assert (done.code, done.out) == (2, "")
    assert "STRIPE_SECRET_KEY is wrong" in done.err
    assert "canary" not in done.err
    assert len(done.err.splitlines()) == 1
