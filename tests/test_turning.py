"""Accounts that nobody touches: the gateway turns them some at a time, so that files and ledger show it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import gateway
from openclaw_billing import accounts, ledger, turning
from openclaw_billing.audit import Actor
from openclaw_billing.clock import ManualClock
from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import load_settings

ADMIN = Actor("admin")
START = datetime(2026, 2, 19, 10, 30, tzinfo=UTC)

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def runtime(tmp_path: Path, clock: ManualClock) -> Iterator[Runtime]:
    runtime = Runtime(load_settings(data_dir=tmp_path / "data"), clock=clock)
    yield runtime
    runtime.close()


def create(runtime: Runtime, client_id: str) -> None:
    runtime.write_and_wait(
        accounts.create_client,
        client_id=client_id,
        name="Acme",
        email=f"{client_id}@example.com",
        plan_id="free",
        key=None,
        actor=ADMIN,
    )


def kinds(runtime: Runtime, client_id: str) -> list[str]:
    return [entry.kind.value for entry in runtime.store.ledger(HistoryQuery(client_id=client_id)).entries]


async def test_the_clients_file_and_the_ledger_show_the_cycle_of_a_client_who_stays_away(
    runtime: Runtime, clock: ManualClock, tmp_path: Path
) -> None:
    create(runtime, "acme")
    runtime.write_and_wait(ledger.charge, "acme", job_id="j")
    clock.advance(days=75)
    await gateway.keep_house(runtime)
    runtime.close()
    shown = json.loads((tmp_path / "data" / "openclaw_clients.json").read_text())["acme"]
    assert shown["credits_remaining"] == 5
    assert shown["billing_cycle_end"] == (START + timedelta(days=90)).isoformat()
    assert kinds(runtime, "acme") == ["grant", "expire", "capture", "grant"]


async def test_a_forgotten_reservation_is_ended_in_the_ledger(runtime: Runtime, clock: ManualClock) -> None:
    create(runtime, "acme")
    runtime.write_and_wait(ledger.reserve, "acme", job_id="lost")
    clock.advance(minutes=17)
    await gateway.keep_house(runtime)
    assert kinds(runtime, "acme") == ["release", "reserve", "grant"]


async def test_all_that_is_due_is_turned_once_and_nothing_else(runtime: Runtime, clock: ManualClock) -> None:
    for number in range(2 * turning.TURNED_MAX + 5):
        create(runtime, f"early-{number}")
    create(runtime, "off")
    runtime.write_and_wait(accounts.deactivate, "off", actor=ADMIN)
    clock.advance(minutes=1)
    create(runtime, "late")
    clock.advance(days=30)
    await gateway.keep_house(runtime)
    entries = {row.client_id: row.entries for row in runtime.view.accounts}
    assert entries.pop("late") == entries.pop("off") == 1
    assert set(entries.values()) == {3}
    await gateway.keep_house(runtime)
    assert {row.entries for row in runtime.view.accounts} == {1, 3}


async def test_a_clock_that_goes_back_keeps_nobody_turning(runtime: Runtime, clock: ManualClock) -> None:
    create(runtime, "acme")
    clock.advance(days=31)
    ids = turning.due(runtime.view, now=clock.now())
    clock.advance(days=-31)
    assert await runtime.write(turning.turn, ids) == 1
    assert kinds(runtime, "acme") == ["grant"]
