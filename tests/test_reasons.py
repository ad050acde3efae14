"""Why a key that we know was refused is told to the log, seldom, and to nobody else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import client_auth
from openclaw_billing.clock import ManualClock
from openclaw_billing.keyring import KeyOutcome
from openclaw_billing.keys import new_key_text
from openclaw_billing.records import Key
from openclaw_billing.settings import load_settings
from openclaw_billing.web import reasons
from openclaw_billing.web.reasons import Reasons

TOKEN = "0123456789abcdef" * 4
ADMIN = {"X-Auth-Token": TOKEN}

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 2, 19, 10, 30, tzinfo=UTC))


@pytest.fixture
async def http(tmp_path: Path, clock: ManualClock) -> AsyncIterator[httpx.AsyncClient]:
    chosen = load_settings(
        data_dir=tmp_path / "data", admin_token=TOKEN, rate_limits=False, failures_per_address=0
    )
    client_auth.runtime.reconfigure(chosen, clock=clock)
    app = FastAPI()
    app.include_router(client_auth.router)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
    client_auth.runtime.reconfigure()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the log said of refused keys since the last time."""
    caplog.set_level(logging.INFO, "openclaw_billing")

    def lines() -> list[str]:
        found = [each for each in caplog.messages if each.startswith("Refused key")]
        caplog.clear()
        return found

    return lines


async def create(http: httpx.AsyncClient, name: str) -> dict[str, Any]:
    body = {"name": name, "email": f"{name}@example.com"}
    made: dict[str, Any] = (await http.post("/api/admin/clients", headers=ADMIN, json=body)).json()
    return made


async def ask(http: httpx.AsyncClient, key_text: str) -> int:
    return (await http.get("/api/billing/usage", headers={"X-Client-Key": key_text})).status_code


async def test_the_reason_is_in_the_log_with_the_key_and_its_client(
    http: httpx.AsyncClient, told: Callable[[], list[str]], clock: ManualClock
) -> None:
    revoked, expired, inactive = [await create(http, name) for name in ("aa", "bb", "cc")]
    await http.delete(f"/api/admin/clients/{revoked['client_id']}/keys/{revoked['key_id']}", headers=ADMIN)
    rotate = f"/api/admin/clients/{expired['client_id']}/keys/{expired['key_id']}/rotate"
    await http.post(rotate, headers=ADMIN, json={"grace_seconds": 60})
    await http.delete(f"/api/admin/clients/{inactive['client_id']}", headers=ADMIN)
    assert await ask(http, expired["api_key"]) == 200
    clock.advance(minutes=1)
    for client, why in ((revoked, "revoked"), (expired, "expired"), (inactive, "client_inactive")):
        assert await ask(http, client["api_key"]) == 401
        assert told() == [f"Refused key {client['key_id']} of client {client['client_id']}: {why}"]


async def test_it_is_told_once_a_minute_and_never_of_strangers(
    http: httpx.AsyncClient, told: Callable[[], list[str]], clock: ManualClock
) -> None:
    client = await create(http, "aa")
    assert await ask(http, client["api_key"]) == 200
    await http.delete(f"/api/admin/clients/{client['client_id']}", headers=ADMIN)
    assert [await ask(http, client["api_key"]) for _ in range(5)] == [401] * 5
    assert client_auth.get_client_by_api_key(client["api_key"]) is None
    assert len(told()) == 1
    clock.advance(seconds=59)
    await ask(http, client["api_key"])
    assert told() == []
    clock.advance(seconds=1)
    await ask(http, client["api_key"])
    assert len(told()) == 1
    assert await ask(http, new_key_text()) == 401
    assert await ask(http, "junk") == 401
    assert told() == []


async def test_a_refused_key_writes_nothing_to_the_store(http: httpx.AsyncClient, tmp_path: Path) -> None:
    client = await create(http, "aa")
    await http.delete(f"/api/admin/clients/{client['client_id']}", headers=ADMIN)
    journal = tmp_path / "data/openclaw_clients.journal"
    await asyncio.to_thread(client_auth.runtime.store.close)
    before = journal.read_bytes()
    client_auth.runtime.store.open()
    for key_text in (client["api_key"], new_key_text()):
        await ask(http, key_text)
    await asyncio.to_thread(client_auth.runtime.store.close)
    assert journal.read_bytes() == before
    client_auth.runtime.store.open()


async def test_no_more_keys_are_remembered_than_the_limit(
    told: Callable[[], list[str]], clock: ManualClock
) -> None:
    kept = Reasons()
    keys = [
        Key(
            digest=f"d{n}",
            key_id=f"k{n}",
            client_id="c",
            pepper_id="p",
            start="",
            last4="",
            created_at=clock.now(),
        )
        for n in range(reasons.KEPT_MAX + 1)
    ]
    for key in keys:
        kept.tell(key, KeyOutcome.REVOKED, clock.now())
    assert len(told()) == reasons.KEPT_MAX + 1
    kept.tell(keys[-1], KeyOutcome.REVOKED, clock.now())
    assert told() == []
    # The one that was not asked with for the longest has made room.
    kept.tell(keys[0], KeyOutcome.REVOKED, clock.now())
    assert len(told()) == 1
