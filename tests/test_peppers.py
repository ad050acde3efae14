"""Peppers change hands: keys go over to the newest as they are used, and the old one can be dropped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import client_auth
import gateway
from openclaw_billing.errors import BadSettings
from openclaw_billing.settings import load_settings

TOKEN = "0123456789abcdef" * 4
ADMIN = {"X-Auth-Token": TOKEN}
OLD, NEW = "an older pepper of thirty-two bytes!", "a newer pepper of thirty-two bytes!!"

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    start_with(tmp_path, OLD)
    app = gateway.create_app(load_settings(data_dir=tmp_path / "data", admin_token=TOKEN))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        yield client
    client_auth.runtime.reconfigure()


def start_with(tmp_path: Path, peppers: str) -> None:
    """Begin anew with these peppers, newest first."""
    settings = load_settings(data_dir=tmp_path / "data", admin_token=TOKEN, key_pepper=peppers)
    client_auth.runtime.reconfigure(settings)
    client_auth.runtime.open()


async def create(http: httpx.AsyncClient, email: str) -> dict[str, Any]:
    answer = await http.post(
        "/api/admin/clients", headers=ADMIN, json={"name": "A", "email": email, "plan": "pro"}
    )
    made: dict[str, Any] = answer.json()
    return made


async def usage(http: httpx.AsyncClient, client: dict[str, Any]) -> int:
    answer = await http.get("/api/billing/usage", headers={"X-Client-Key": client["api_key"]})
    return answer.status_code


async def until_peppers_in_use_are(count: int) -> None:
    """A key goes over behind the answer."""
    for _ in range(500):
        if len({key.pepper_id for key in client_auth.runtime.view.keys}) == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the key did not go over")


async def test_a_key_goes_over_to_the_newest_pepper_when_it_is_used(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    busy, idle = await create(http, "busy@example.com"), await create(http, "idle@example.com")
    start_with(tmp_path, f"{NEW},{OLD}")
    assert [await usage(http, busy) for _ in range(5)] == [200] * 5
    await until_peppers_in_use_are(2)
    moves = (await http.get("/api/admin/audit", headers=ADMIN)).json()["entries"]
    assert [entry["actor"] for entry in moves if entry["action"] == "key.rehashed"] == ["gateway"]
    with pytest.raises(BadSettings, match=r"Keys in the store \(1\) need a pepper"):
        start_with(tmp_path, NEW)
    start_with(tmp_path, f"{NEW},{OLD}")
    assert await usage(http, idle) == 200
    assert await usage(http, busy) == 200
    await until_peppers_in_use_are(1)
    start_with(tmp_path, NEW)
    assert [await usage(http, client) for client in (busy, idle)] == [200, 200]


async def test_a_revoked_key_keeps_no_pepper_alive(http: httpx.AsyncClient, tmp_path: Path) -> None:
    client = await create(http, "gone@example.com")
    start_with(tmp_path, f"{NEW},{OLD}")
    keys = f"/api/admin/clients/{client['client_id']}/keys"
    (key,) = (await http.get(keys, headers=ADMIN)).json()["keys"]
    await http.delete(f"{keys}/{key['key_id']}", headers=ADMIN)
    start_with(tmp_path, NEW)
    assert await usage(http, client) == 401
