"""Rate limits over HTTP: who calls too often is told so and when to come again, and it costs nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import client_auth
from client_auth import CurrentClient
from openclaw_billing import metrics
from openclaw_billing.clock import ManualClock
from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.settings import Settings, load_settings
from openclaw_billing.web import limits as limits_module
from tests.in_process import gateway_app

TOKEN = "0123456789abcdef" * 4
ADMIN = {"X-Auth-Token": TOKEN}
JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}
FREE_BURST = 30

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


@pytest.fixture
async def acme(http: httpx.AsyncClient) -> dict[str, Any]:
    return await create(http, "free", "acme")


async def create(http: httpx.AsyncClient, plan: str, name: str) -> dict[str, Any]:
    body = {"name": name, "email": f"{name}@example.com", "plan": plan}
    made = (await http.post("/api/admin/clients", headers=ADMIN, json=body)).raise_for_status()
    created: dict[str, Any] = made.json()
    return created


def key(client: dict[str, Any]) -> dict[str, str]:
    return {"X-Client-Key": client["api_key"]}


async def calls(http: httpx.AsyncClient, client: dict[str, Any], number: int) -> list[httpx.Response]:
    return [await http.get("/api/billing/keys", headers=key(client)) for _ in range(number)]


async def change(http: httpx.AsyncClient, client: dict[str, Any], rate: object) -> httpx.Response:
    path = f"/api/admin/clients/{client['client_id']}"
    return await http.patch(path, headers=ADMIN, json={"rate_limit": rate})


async def test_every_answer_says_what_is_left(http: httpx.AsyncClient, acme: dict[str, Any]) -> None:
    first, second = await calls(http, acme, 2)
    assert first.headers["RateLimit-Policy"] == '"default";q=10;w=1;burst=30, "minute";q=300;w=60'
    assert first.headers["RateLimit"] == '"default";r=29;t=1, "minute";r=299;t=1'
    assert second.headers["RateLimit"] == '"default";r=28;t=1, "minute";r=298;t=1'
    assert second.headers["X-RateLimit-Limit"] == "30"
    assert second.headers["X-RateLimit-Remaining"] == "28"
    reset = datetime(2026, 2, 19, 10, 30, 1, tzinfo=UTC)
    assert int(second.headers["X-RateLimit-Reset"]) == reset.timestamp()
    assert "X-RateLimit-Degraded" not in second.headers


async def test_a_job_and_its_refusal_for_credit_say_it_too(
    http: httpx.AsyncClient, acme: dict[str, Any]
) -> None:
    for number in range(6):
        answer = await http.post("/api/intake", headers=key(acme), json=JOB)
        assert answer.status_code == (200 if number < 5 else 403)
        assert answer.headers.get_list("RateLimit") == [
            f'"default";r={29 - number};t=1, "minute";r={299 - number};t={1 + number // 5}'
        ]
    wrong = await http.post("/api/intake", headers=key(acme), json={})
    assert wrong.status_code == 422
    assert "RateLimit" in wrong.headers


async def test_a_call_too_many_is_refused_and_told_when_to_come_again(
    http: httpx.AsyncClient, acme: dict[str, Any], clock: ManualClock
) -> None:
    answers = await calls(http, acme, FREE_BURST + 1)
    assert [each.status_code for each in answers] == [200] * FREE_BURST + [429]
    refused = answers[-1]
    assert refused.headers["Content-Type"] == "application/problem+json"
    told = refused.json()
    assert told.pop("request_id")
    assert told == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "Too many requests",
        "code": "rate_limited",
        "violated-policies": ["default"],
    }
    assert refused.headers["Retry-After"] == "1"
    assert refused.headers.get_list("RateLimit") == ['"default";r=0;t=1']
    assert refused.headers.get_list("RateLimit-Policy") == [answers[0].headers["RateLimit-Policy"]]
    assert refused.headers["X-RateLimit-Remaining"] == "0"
    assert refused.headers["Cache-Control"] == "no-store"
    clock.advance(seconds=1)
    again = await calls(http, acme, 11)
    assert [each.status_code for each in again] == [200] * 10 + [429]


async def test_a_refused_job_costs_no_credit_and_makes_no_job(
    http: httpx.AsyncClient, acme: dict[str, Any], clock: ManualClock
) -> None:
    await calls(http, acme, FREE_BURST)
    for _ in range(3):
        assert (await http.post("/api/intake", headers=key(acme), json=JOB)).status_code == 429
    account = client_auth.runtime.view.accounts.get(acme["client_id"])
    assert account is not None
    assert (account.available, account.reserved, account.entries) == (5, 0, 1)
    assert client_auth.runtime.view.jobs.by("client", acme["client_id"]) == []
    clock.advance(seconds=1)
    assert (await http.post("/api/intake", headers=key(acme), json=JOB)).json()["credits_remaining"] == 4


async def test_what_one_client_does_is_not_anothers(http: httpx.AsyncClient, acme: dict[str, Any]) -> None:
    other = await create(http, "free", "other")
    await calls(http, acme, FREE_BURST + 5)
    assert (await calls(http, other, 1))[0].headers["X-RateLimit-Remaining"] == "29"
    assert (await http.get("/api/billing/plans")).status_code == 200
    assert (await http.get("/api/admin/clients", headers=ADMIN)).status_code == 200


async def test_all_keys_of_a_client_count_together(http: httpx.AsyncClient, acme: dict[str, Any]) -> None:
    another = (await http.post("/api/billing/keys", headers=key(acme), json={})).json()
    assert (await calls(http, another, 1))[0].headers["X-RateLimit-Remaining"] == "28"


@pytest.mark.parametrize(
    ("plan", "burst", "policy"),
    [
        ("free", 30, '"default";q=10;w=1;burst=30, "minute";q=300;w=60'),
        ("starter", 100, '"default";q=20;w=1;burst=100, "minute";q=900;w=60'),
        ("pro", 250, '"default";q=50;w=1;burst=250, "minute";q=2400;w=60'),
        ("enterprise", 1000, '"default";q=200;w=1;burst=1000'),
    ],
)
async def test_each_plan_has_its_rate(http: httpx.AsyncClient, plan: str, burst: int, policy: str) -> None:
    client = await create(http, plan, "acme")
    answers = await calls(http, client, burst + 1)
    assert [each.status_code for each in answers] == [200] * burst + [429]
    assert answers[0].headers["RateLimit-Policy"] == policy


async def test_the_limit_by_the_minute_holds_when_the_one_by_the_second_does_not(
    http: httpx.AsyncClient, acme: dict[str, Any], clock: ManualClock
) -> None:
    statuses = []
    for _ in range(70):
        statuses += [each.status_code for each in await calls(http, acme, 10)]
        clock.advance(seconds=1)
    # 300 at once if they came so, and five a second from then on.
    assert statuses[:590] == [200] * 590
    refused = (await calls(http, acme, 11))[-1]
    assert refused.json()["violated-policies"] == ["minute"]
    assert refused.headers["RateLimit"] == '"minute";r=0;t=1'
    assert refused.headers["X-RateLimit-Limit"] == "300"


async def test_a_change_of_plan_counts_at_once(http: httpx.AsyncClient, acme: dict[str, Any]) -> None:
    await calls(http, acme, FREE_BURST + 1)
    path = f"/api/admin/clients/{acme['client_id']}/plan"
    (await http.put(path, headers=ADMIN, json={"plan": "pro"})).raise_for_status()
    answer = (await calls(http, acme, 1))[0]
    assert answer.status_code == 200
    assert answer.headers["RateLimit-Policy"].startswith('"default";q=50')


@pytest.mark.parametrize("settings", [{"rate_limits": False}], indirect=True)
async def test_one_setting_switches_them_off(http: httpx.AsyncClient, acme: dict[str, Any]) -> None:
    answers = await calls(http, acme, 100)
    assert {each.status_code for each in answers} == {200}
    assert not [name for name in answers[0].headers if "ratelimit" in name]
    usage = (await http.get("/api/billing/usage", headers=key(acme))).json()
    assert usage["rate_limit"] is None


@pytest.mark.parametrize("settings", [{"rate_free": "2/s"}], indirect=True)
async def test_a_plans_rate_is_a_setting(http: httpx.AsyncClient, acme: dict[str, Any]) -> None:
    answers = await calls(http, acme, 3)
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"default";q=2;w=1'


@pytest.mark.parametrize("settings", [{"rate_free": "off"}], indirect=True)
async def test_a_plan_without_a_rate_is_not_limited(http: httpx.AsyncClient, acme: dict[str, Any]) -> None:
    assert {each.status_code for each in await calls(http, acme, 50)} == {200}


async def test_a_client_may_have_a_rate_of_its_own(http: httpx.AsyncClient, acme: dict[str, Any]) -> None:
    changed = await change(http, acme, {"per_second": 1, "burst": 2})
    assert changed.json()["rate_limit"] == {"per_second": 1, "burst": 2, "per_minute": 0}
    assert [each.status_code for each in await calls(http, acme, 3)] == [200, 200, 429]
    await change(http, acme, {})
    answers = await calls(http, acme, 50)
    assert {each.status_code for each in answers} == {200}
    assert "RateLimit" not in answers[0].headers
    path = f"/api/admin/clients/{acme['client_id']}"
    (await http.patch(path, headers=ADMIN, json={"name": "Renamed"})).raise_for_status()
    assert (await http.get(path, headers=ADMIN)).json()["rate_limit"] == {
        "per_second": 0,
        "burst": 0,
        "per_minute": 0,
    }
    assert (await change(http, acme, None)).json()["rate_limit"] is None
    usage = (await http.get("/api/billing/usage", headers=key(acme))).json()
    assert usage["rate_limit"] == {"per_second": 10, "burst": 30, "per_minute": 300}


async def test_a_rate_of_its_own_is_audited(http: httpx.AsyncClient, acme: dict[str, Any]) -> None:
    await change(http, acme, {"per_second": 100, "burst": 500})
    await change(http, acme, None)
    audit = client_auth.runtime.store.audit(
        HistoryQuery(client_id=acme["client_id"], action="client.updated")
    )
    assert [(each.before, each.after, each.actor, each.address) for each in audit.entries] == [
        ({"rate_limit": "100/s, burst 500"}, {"rate_limit": "plan"}, "admin", "127.0.0.1"),
        ({"rate_limit": "plan"}, {"rate_limit": "100/s, burst 500"}, "admin", "127.0.0.1"),
    ]


@pytest.mark.parametrize(
    "rate",
    [
        {"burst": 5},
        {"per_second": -1},
        {"per_second": 10_001},
        {"per_second": True},
        {"per_second": 1.5},
        {"per_second": 1, "burst": 100_001},
        {"per_minute": 600_001},
        {"per_hour": 1},
        "10/s",
        [],
    ],
)
async def test_a_rate_that_cannot_be_is_refused(
    http: httpx.AsyncClient, acme: dict[str, Any], rate: object
) -> None:
    assert (await change(http, acme, rate)).status_code == 422


async def test_a_hosts_own_route_is_limited_and_tells_it_too(
    app: FastAPI, http: httpx.AsyncClient, acme: dict[str, Any]
) -> None:
    host = FastAPI()

    @host.get("/render")
    async def render(client: CurrentClient) -> dict[str, str]:
        return {"rendered": client.client_id}

    transport = httpx.ASGITransport(host)
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as other:
        answers = [await other.get("/render", headers=key(acme)) for _ in range(FREE_BURST + 1)]
    assert [each.status_code for each in answers] == [200] * FREE_BURST + [429]
    assert answers[0].headers.get_list("RateLimit") == ['"default";r=29;t=1, "minute";r=299;t=1']
    assert answers[-1].json() == {"detail": "Too many requests"}
    assert answers[-1].headers["Retry-After"] == "1"
    assert answers[-1].headers["X-RateLimit-Remaining"] == "0"


async def test_the_plain_helpers_are_not_limited(http: httpx.AsyncClient, acme: dict[str, Any]) -> None:
    for _ in range(FREE_BURST + 20):
        assert client_auth.get_client_by_api_key(acme["api_key"]) is not None


async def test_refusals_are_counted_by_limit_and_logged_once_a_minute(
    http: httpx.AsyncClient,
    acme: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits_module, "_tally", limits_module.Tally())
    before = metrics.RATE_REFUSALS["default"]._value.get()
    with caplog.at_level(logging.WARNING, "openclaw_billing"):
        await calls(http, acme, FREE_BURST + 20)
    assert metrics.RATE_REFUSALS["default"]._value.get() - before == 20
    assert [each.getMessage() for each in caplog.records] == [
        "Refused 1 calls for a rate, the last for default"
    ]


async def test_the_documents_tell_of_429(http: httpx.AsyncClient) -> None:
    app = FastAPI()
    app.include_router(client_auth.router)
    schema = app.openapi()
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            if path not in ("/api/billing/plans", "/api/billing/webhook"):
                assert "Retry-After" in operation["responses"]["429"]["headers"], path
