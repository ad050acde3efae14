"""Wrong keys and admin tokens: so many from one address, so many overall, and who is at work goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import client_auth
from openclaw_billing.clock import ManualClock
from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.errors import TooManyRequests
from openclaw_billing.keys import Peppers
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import Settings, load_settings
from openclaw_billing.web.limits import Attempt
from tests.in_process import gateway_app

TOKEN = "0123456789abcdef" * 4
ADMIN = {"X-Auth-Token": TOKEN}
WRONG = {"X-Client-Key": "oc_live_" + "0" * 32}
WRONG_TOKEN = {"X-Auth-Token": "f" * 64}
USAGE, CLIENTS = "/api/billing/usage", "/api/admin/clients"

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 2, 19, 10, 30, tzinfo=UTC))


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    return load_settings(data_dir=tmp_path / "data", admin_token=TOKEN, **getattr(request, "param", {}))


@pytest.fixture
def app(settings: Settings, clock: ManualClock) -> Iterator[FastAPI]:
    client_auth.runtime.reconfigure(settings, clock=clock)
    yield gateway_app()
    client_auth.runtime.reconfigure()


class Street:
    """Callers of one gateway, each by the address it comes from."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def ask(self, peer: str, path: str, headers: dict[str, str], forwarded: str = "") -> httpx.Response:
        transport = httpx.ASGITransport(self._app, client=(peer, 1234))
        headers = {**headers, "X-Forwarded-For": forwarded} if forwarded else headers
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            return await http.get(path, headers=headers)

    async def statuses(self, peer: str, path: str, headers: dict[str, str], times: int) -> list[int]:
        return [(await self.ask(peer, path, headers)).status_code for _ in range(times)]


@pytest.fixture
def street(app: FastAPI) -> Street:
    return Street(app)


@pytest.fixture
async def acme(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    transport = httpx.ASGITransport(app, client=("192.0.2.200", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        body = {"name": "Acme", "email": "acme@example.com", "plan": "pro"}
        yield (await http.post(CLIENTS, headers=ADMIN, json=body)).json()


def key(client: dict[str, Any]) -> dict[str, str]:
    return {"X-Client-Key": client["api_key"]}


@pytest.mark.parametrize(
    ("path", "wrong"),
    [(USAGE, WRONG), (USAGE, {"X-Client-Key": "nonsense"}), (CLIENTS, WRONG_TOKEN), ("/secret", WRONG_TOKEN)],
    ids=["key", "no key at all", "token", "the guard"],
)
async def test_after_ten_wrong_ones_an_address_is_told_to_wait(
    street: Street, clock: ManualClock, path: str, wrong: dict[str, str]
) -> None:
    assert await street.statuses("192.0.2.1", path, wrong, 10) == [401] * 10
    refused = await street.ask("192.0.2.1", path, wrong)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "300"
    assert refused.json()["code"] == "rate_limited"
    assert refused.json()["violated-policies"] == ["address"]
    assert await street.statuses("192.0.2.2", path, wrong, 1) == [401]
    clock.advance(seconds=299)
    assert await street.statuses("192.0.2.1", path, wrong, 1) == [429]
    clock.advance(seconds=1)
    assert await street.statuses("192.0.2.1", path, wrong, 11) == [401] * 10 + [429]


async def test_no_five_minutes_see_more_than_ten_however_long_one_goes_on(
    street: Street, clock: ManualClock
) -> None:
    answered = []
    for second in range(0, 1_500, 7):
        if await street.statuses("192.0.2.1", USAGE, WRONG, 1) == [401]:
            answered.append(second)
        clock.advance(seconds=7)
    assert most_within(300, answered) == 10
    assert len(answered) == 50


def most_within(span: float, moments: list[float]) -> int:
    """How many there were in the span that saw the most; its end is not in it."""
    return max(sum(first <= each < first + span for each in moments) for first in moments)


async def test_keys_and_tokens_count_together(street: Street) -> None:
    assert await street.statuses("192.0.2.1", USAGE, WRONG, 5) == [401] * 5
    assert await street.statuses("192.0.2.1", CLIENTS, WRONG_TOKEN, 6) == [401] * 5 + [429]
    assert await street.statuses("192.0.2.1", USAGE, WRONG, 1) == [429]


async def test_it_is_refused_before_the_secret_is_looked_at(
    street: Street, acme: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await street.statuses("192.0.2.1", USAGE, WRONG, 10)

    def looked(*_: object) -> None:
        raise AssertionError("a secret was looked at")

    monkeypatch.setattr(Peppers, "digests", looked)
    monkeypatch.setattr(Runtime, "is_admin", looked)
    assert await street.statuses("192.0.2.1", USAGE, key(acme), 3) == [429] * 3
    assert await street.statuses("192.0.2.1", CLIENTS, ADMIN, 3) == [429] * 3
    assert await street.statuses("192.0.2.1", "/secret", ADMIN, 1) == [429]


async def test_a_right_one_that_was_looked_up_while_ten_were_wrong_is_refused_too(street: Street) -> None:
    scope = {"client": ("192.0.2.1", 1234), "headers": []}
    attempts = [Attempt(client_auth.runtime, scope, f"guess {number}") for number in range(11)]
    for each in attempts[:10]:
        each.failed()
    with pytest.raises(TooManyRequests):
        attempts[10].passed()
    assert await street.statuses("192.0.2.1", CLIENTS, ADMIN, 1) == [429]


async def test_another_address_with_the_right_secret_is_let_in(street: Street, acme: dict[str, Any]) -> None:
    await street.statuses("192.0.2.1", USAGE, WRONG, 12)
    assert await street.statuses("192.0.2.2", USAGE, key(acme), 1) == [200]
    assert await street.statuses("192.0.2.2", CLIENTS, ADMIN, 1) == [200]


async def test_a_success_clears_nothing(street: Street, acme: dict[str, Any]) -> None:
    await street.statuses("192.0.2.1", USAGE, WRONG, 9)
    assert await street.statuses("192.0.2.1", USAGE, key(acme), 5) == [200] * 5
    assert await street.statuses("192.0.2.1", USAGE, WRONG, 2) == [401, 429]


async def test_who_was_let_in_from_there_before_goes_on_beside_a_broken_neighbour(
    street: Street, acme: dict[str, Any]
) -> None:
    assert await street.statuses("192.0.2.1", USAGE, key(acme), 1) == [200]
    assert await street.statuses("192.0.2.1", CLIENTS, ADMIN, 1) == [200]
    await street.statuses("192.0.2.1", USAGE, WRONG, 12)
    assert await street.statuses("192.0.2.1", USAGE, key(acme), 3) == [200] * 3
    assert await street.statuses("192.0.2.1", CLIENTS, ADMIN, 3) == [200] * 3
    assert await street.statuses("192.0.2.1", USAGE, WRONG, 1) == [429]


async def test_a_key_that_was_revoked_is_known_no_more(street: Street, acme: dict[str, Any]) -> None:
    assert await street.statuses("192.0.2.1", USAGE, key(acme), 1) == [200]
    await street.statuses("192.0.2.1", USAGE, WRONG, 9)
    path = f"/api/admin/clients/{acme['client_id']}/keys/{acme['key_id']}"
    transport = httpx.ASGITransport(street._app, client=("192.0.2.9", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        assert (await http.delete(path, headers=ADMIN)).status_code == 200
    assert await street.statuses("192.0.2.1", USAGE, key(acme), 3) == [401, 429, 429]


@pytest.mark.parametrize("settings", [{"failures_overall": 25}], indirect=True)
async def test_many_addresses_together_are_stopped_and_who_is_at_work_goes_on(
    street: Street, acme: dict[str, Any], clock: ManualClock
) -> None:
    assert await street.statuses("192.0.2.1", USAGE, key(acme), 1) == [200]
    for number in range(25):
        assert await street.statuses(f"198.51.100.{number}", USAGE, WRONG, 1) == [401]
    refused = await street.ask("198.51.100.99", USAGE, WRONG)
    assert refused.status_code == 429
    assert refused.json()["violated-policies"] == ["overall"]
    assert await street.statuses("192.0.2.1", USAGE, key(acme), 2) == [200, 200]
    clock.advance(seconds=299)
    assert await street.statuses("192.0.2.77", USAGE, key(acme), 1) == [429]
    clock.advance(seconds=1)
    assert await street.statuses("192.0.2.77", USAGE, key(acme), 1) == [200]


@pytest.mark.parametrize("settings", [{"failures_per_address": 0, "failures_overall": 0}], indirect=True)
async def test_zero_is_no_limit(street: Street) -> None:
    assert await street.statuses("192.0.2.1", USAGE, WRONG, 50) == [401] * 50


@pytest.mark.parametrize("settings", [{"rate_limits": False}], indirect=True)
async def test_they_stay_on_when_clients_rates_are_off(street: Street) -> None:
    assert await street.statuses("192.0.2.1", USAGE, WRONG, 11) == [401] * 10 + [429]


async def test_who_sends_no_secret_guesses_at_none(street: Street) -> None:
    assert await street.statuses("192.0.2.1", USAGE, {}, 30) == [401] * 30
    assert await street.statuses("192.0.2.1", "/secret", {}, 30) == [401] * 30


async def test_one_ipv6_site_is_one_caller(street: Street) -> None:
    for number in range(10):
        assert await street.statuses(f"2001:db8:1:2::{number:x}", USAGE, WRONG, 1) == [401]
    assert await street.statuses("2001:db8:1:2:ffff::1", USAGE, WRONG, 1) == [429]
    assert await street.statuses("2001:db8:1:3::1", USAGE, WRONG, 1) == [401]


async def test_a_forwarded_address_counts_for_nothing_by_default(street: Street) -> None:
    for number in range(10):
        assert (await street.ask("192.0.2.1", USAGE, WRONG, f"203.0.113.{number}")).status_code == 401
    assert (await street.ask("192.0.2.1", USAGE, WRONG, "203.0.113.99")).status_code == 429


@pytest.mark.parametrize("settings", [{"trusted_proxies": "1"}], indirect=True)
async def test_behind_a_proxy_callers_are_told_apart_and_what_they_write_counts_for_nothing(
    street: Street, acme: dict[str, Any]
) -> None:
    for number in range(10):
        told = f"198.51.100.{number}, 203.0.113.7"
        assert (await street.ask("127.0.0.1", USAGE, WRONG, told)).status_code == 401
    assert (await street.ask("127.0.0.1", USAGE, WRONG, "203.0.113.7")).status_code == 429
    assert (await street.ask("127.0.0.1", USAGE, key(acme), "203.0.113.8")).status_code == 200


@pytest.mark.parametrize("settings", [{"trusted_proxies": "127.0.0.0/8"}], indirect=True)
async def test_the_audit_log_names_the_caller_and_not_the_proxy(street: Street, acme: dict[str, Any]) -> None:
    path = f"/api/admin/clients/{acme['client_id']}"
    transport = httpx.ASGITransport(street._app, client=("127.0.0.1", 1))
    headers = {**ADMIN, "X-Forwarded-For": "203.0.113.7"}
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        (await http.patch(path, headers=headers, json={"name": "Other"})).raise_for_status()
    [entry] = client_auth.runtime.store.audit(HistoryQuery(action="client.updated")).entries
    assert entry.address == "203.0.113.7"
