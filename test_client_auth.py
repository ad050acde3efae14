"""The promise to the gateway: what `client_auth` gives, seen through its door only."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI

import client_auth
import intake_routes
from openclaw_billing.clock import ManualClock
from openclaw_billing.errors import ClientInactive, QuotaExceeded, Unprocessable
from openclaw_billing.settings import load_settings

TOKEN = "0123456789abcdef" * 4
ADMIN = {"X-Auth-Token": TOKEN}
JOB = {
    "project_name": "Feature Build",
    "description": "Add user authentication",
    "task_type": "feature_build",
}

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 2, 19, 10, 30, tzinfo=UTC))


@pytest.fixture
def door(tmp_path: Path, clock: ManualClock) -> Iterator[Any]:
    """The module on a data directory and a clock of its own."""
    client_auth.runtime.reconfigure(load_settings(data_dir=tmp_path / "data", admin_token=TOKEN), clock=clock)
    yield client_auth
    client_auth.runtime.reconfigure()


@functools.cache
def host() -> FastAPI:
    """An application with the router and intake, and nothing else of ours."""
    app = FastAPI()
    app.include_router(intake_routes.router)
    app.include_router(client_auth.router)
    return app


@pytest.fixture
async def http(door: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(host(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


async def create(http: httpx.AsyncClient, plan: str = "free", name: str = "acme") -> dict[str, Any]:
    answer = await http.post(
        "/api/admin/clients",
        headers=ADMIN,
        json={"name": name.title(), "email": f"{name}@example.com", "plan": plan},
    )
    assert answer.status_code == 200, answer.text
    created: dict[str, Any] = answer.json()
    return created


def key(client: dict[str, Any]) -> dict[str, str]:
    return {"X-Client-Key": client["api_key"]}


async def usage(http: httpx.AsyncClient, client: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get("/api/billing/usage", headers=key(client))).json()
    return found


# Keys


async def test_api_key_generation(http: httpx.AsyncClient) -> None:
    first, second = await create(http), await create(http, name="other")
    assert re.fullmatch(r"oc_live_[0-9a-f]{32}", first["api_key"])
    assert first["api_key"] != second["api_key"]


async def test_authenticate_valid_key(http: httpx.AsyncClient, door: Any) -> None:
    created = await create(http, "pro")
    client = door.get_client_by_api_key(created["api_key"])
    assert client["client_id"] == created["client_id"]
    assert (client["plan"], client["credits_remaining"], client["active"]) == ("pro", 200, True)
    assert "api_key" not in client


@pytest.mark.parametrize(
    "key_text",
    [
        "",
        "oc_live_",
        "oc_live_" + "0" * 32,
        "oc_live_" + "G" * 32,
        "ключ",
        "oc_test_" + "0" * 32,
        "x" * 10_000,
    ],
)
async def test_a_wrong_key_is_nobody(door: Any, key_text: str) -> None:
    assert door.get_client_by_api_key(key_text) is None


async def test_every_refused_key_gets_the_same_answer(http: httpx.AsyncClient) -> None:
    inactive, revoked, expired = [await create(http, name=name) for name in ("aa", "bb", "cc")]
    await http.delete(f"/api/admin/clients/{inactive['client_id']}", headers=ADMIN)
    await http.delete(f"/api/admin/clients/{revoked['client_id']}/keys/{revoked['key_id']}", headers=ADMIN)
    rotated = await http.post(
        f"/api/admin/clients/{expired['client_id']}/keys/{expired['key_id']}/rotate",
        headers=ADMIN,
        json={"grace_seconds": 0},
    )
    assert rotated.status_code == 200
    answers = []
    for key_text in [each["api_key"] for each in (inactive, revoked, expired)] + [
        "oc_live_" + "0" * 32,
        "junk",
    ]:
        answer = await http.get(
            "/api/billing/usage", headers={"X-Client-Key": key_text, "X-Request-Id": "same"}
        )
        assert answer.status_code == 401
        answers.append((answer.content, sorted(answer.headers.items())))
    assert all(answer == answers[0] for answer in answers)
    assert "Invalid or inactive API key" in answers[0][0].decode()


async def test_no_key_is_401(http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/billing/usage")).status_code == 401


async def test_a_key_given_twice_is_refused(http: httpx.AsyncClient) -> None:
    client = await create(http)
    twice = [("X-Client-Key", client["api_key"]), ("X-Client-Key", client["api_key"])]
    answer = await http.get("/api/billing/usage", headers=twice)
    assert (answer.status_code, answer.json()["code"]) == (400, "doubled_header")


async def test_a_key_in_the_address_is_refused_and_not_echoed(http: httpx.AsyncClient) -> None:
    client = await create(http)
    answer = await http.get("/api/billing/usage", params={"key": client["api_key"]}, headers=key(client))
    assert (answer.status_code, answer.json()["code"]) == (400, "key_in_query")
    assert client["api_key"] not in answer.text


async def test_rotation_lets_both_keys_work_within_the_grace(
    http: httpx.AsyncClient, clock: ManualClock
) -> None:
    old = await create(http)
    path = f"/api/billing/keys/{old['key_id']}/rotate"
    new = (await http.post(path, headers=key(old), json={"grace_seconds": 3600})).json()
    assert (await http.get("/api/billing/usage", headers=key(old))).status_code == 200
    assert (await http.get("/api/billing/usage", headers=key(new))).status_code == 200
    clock.advance(hours=1)
    assert (await http.get("/api/billing/usage", headers=key(old))).status_code == 401
    assert (await http.get("/api/billing/usage", headers=key(new))).status_code == 200


async def test_a_client_manages_its_own_keys_and_nobody_elses(http: httpx.AsyncClient) -> None:
    mine, other = await create(http), await create(http, name="other")
    made = await http.post("/api/billing/keys", headers=key(mine), json={"name": "ci"})
    assert made.status_code == 201
    listed = (await http.get("/api/billing/keys", headers=key(mine))).json()
    assert listed["total"] == 2
    assert made.json()["api_key"] not in str(listed)
    foreign = await http.delete(f"/api/billing/keys/{other['key_id']}", headers=key(mine))
    assert foreign.status_code == 404
    assert (
        await http.delete(f"/api/billing/keys/{made.json()['key_id']}", headers=key(mine))
    ).status_code == 200
    assert (await http.get("/api/billing/usage", headers=key(made.json()))).status_code == 401
    assert (await http.get("/api/billing/usage", headers=key(other))).status_code == 200


# Plans and usage


async def test_list_billing_plans(http: httpx.AsyncClient) -> None:
    plans = (await http.get("/api/billing/plans")).json()
    assert list(plans) == ["free", "starter", "pro", "enterprise"]
    assert plans["free"] == {
        "plan_id": "free",
        "name": "Free",
        "price": 0.0,
        "currency": "USD",
        "billing_period": "monthly",
        "job_limit": 5,
        "features": ["Basic job submission", "24h history", "Email support"],
    }
    assert [plans[each]["job_limit"] for each in plans] == [5, 50, 200, None]
    assert [plans[each]["price"] for each in plans] == [0.0, 49.0, 199.0, 0.0]


async def test_usage_shows_the_cycle_and_what_is_left(http: httpx.AsyncClient, clock: ManualClock) -> None:
    client = await create(http, "pro")
    clock.advance(hours=1)
    await http.post("/api/intake", headers=key(client), json=JOB)
    found = await usage(http, client)
    expected = {
        "client_id": client["client_id"],
        "plan": "pro",
        "credits_remaining": 199,
        "credits_limit": 200,
        "billing_cycle_start": "2026-02-19T10:30:00+00:00",
        "billing_cycle_end": "2026-03-21T10:30:00+00:00",
        "days_remaining": 29,
        "usage_pct": 0.5,
        "total_spent": 0.0,
        "status": "active",
    }
    assert {name: found[name] for name in expected} == expected


async def test_promo_credits_do_not_bend_the_percentage(http: httpx.AsyncClient) -> None:
    client = await create(http)
    path = f"/api/admin/clients/{client['client_id']}/credits"
    await http.put(path, headers=ADMIN, json={"credits": 100, "reason": "promo"})
    assert (await usage(http, client))["usage_pct"] == 0.0


# The helpers


async def test_job_limit_free_plan(http: httpx.AsyncClient, door: Any) -> None:
    client = door.get_client_by_api_key((await create(http))["api_key"])
    for _ in range(5):
        allowed, _ = door.can_submit_job(client)
        assert allowed
        assert door.deduct_job_credit(client["client_id"]) is True
    allowed, reason = door.can_submit_job(client)
    assert (allowed, reason) == (False, "Monthly job limit reached")
    assert door.deduct_job_credit(client["client_id"]) is False


async def test_a_job_deducted_twice_costs_one_credit(http: httpx.AsyncClient, door: Any) -> None:
    client = await create(http)
    assert door.deduct_job_credit(client["client_id"], "job-1")
    assert door.deduct_job_credit(client["client_id"], "job-1")
    assert (await usage(http, client))["credits_remaining"] == 4


async def test_deducting_from_nobody_is_false(door: Any) -> None:
    assert door.deduct_job_credit("nobody") is False
    assert door.can_submit_job("nobody") == (False, "Client not found")


async def test_costs_add_up_exactly(http: httpx.AsyncClient, door: Any) -> None:
    client = await create(http)
    for _ in range(50):
        door.log_client_cost(client["client_id"], 0.004)
    assert (await usage(http, client))["total_spent"] == 0.2


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -1, 1e18, "much"])
async def test_a_cost_that_is_none_is_refused(http: httpx.AsyncClient, door: Any, cost: Any) -> None:
    client = await create(http)
    with pytest.raises(Unprocessable):
        door.log_client_cost(client["client_id"], cost)
    assert (await usage(http, client))["total_spent"] == 0.0


async def test_a_credit_is_captured_when_the_block_ends_well(http: httpx.AsyncClient, door: Any) -> None:
    client = await create(http)
    with door.job_credit(client["client_id"], "sync"):
        assert (await usage(http, client))["credits_reserved"] == 1
    async with door.job_credit(client["client_id"], "async"):
        pass
    left = await usage(http, client)
    assert (left["credits_remaining"], left["credits_reserved"]) == (3, 0)


async def test_a_credit_comes_back_when_the_block_fails(http: httpx.AsyncClient, door: Any) -> None:
    client = await create(http)
    with pytest.raises(RuntimeError, match="broke"), door.job_credit(client["client_id"]):
        raise RuntimeError("broke")
    with pytest.raises(RuntimeError, match="broke"):
        async with door.job_credit(client["client_id"]):
            raise RuntimeError("broke")
    left = await usage(http, client)
    assert (left["credits_remaining"], left["credits_reserved"]) == (5, 0)


async def test_a_credit_comes_back_when_the_block_is_cancelled(http: httpx.AsyncClient, door: Any) -> None:
    client = await create(http)
    inside = asyncio.Event()

    async def work() -> None:
        async with door.job_credit(client["client_id"]):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await usage(http, client))["credits_remaining"] == 5


async def test_a_block_is_not_run_without_a_credit(http: httpx.AsyncClient, door: Any) -> None:
    client = await create(http)
    with pytest.raises(QuotaExceeded):
        async with door.job_credit(client["client_id"], credits=6):
            pytest.fail("the block was run")


async def test_a_dead_process_gives_the_credit_back_at_expiry(
    http: httpx.AsyncClient, door: Any, clock: ManualClock
) -> None:
    client = await create(http)
    door.reserve_job_credit(client["client_id"], "lost")
    clock.advance(minutes=14)
    assert (await usage(http, client))["credits_reserved"] == 1
    clock.advance(minutes=1)
    assert door.deduct_job_credit(client["client_id"])
    left = await usage(http, client)
    assert (left["credits_remaining"], left["credits_reserved"]) == (4, 0)


@pytest.mark.parametrize("days", [0, 1, 10, 30, 75])
async def test_credits_of_dead_processes_are_offered_again_before_anybody_takes_one(
    http: httpx.AsyncClient, door: Any, clock: ManualClock, days: int
) -> None:
    client = await create(http)
    for number in range(5):
        door.reserve_job_credit(client["client_id"], f"lost-{number}")
    assert door.can_submit_job(client["client_id"]) == (False, "Monthly job limit reached")
    clock.advance(days=days, minutes=16)
    assert door.can_submit_job(client["client_id"])[0]
    seen = await usage(http, client)
    assert (seen["credits_remaining"], seen["credits_reserved"], seen["jobs_used"]) == (5, 0, 0)
    assert door.get_client_by_api_key(client["api_key"])["credits_remaining"] == 5
    (listed,) = (await http.get("/api/admin/clients", headers=ADMIN)).json()["clients"]
    assert listed["credits_remaining"] == 5
    assert door.deduct_job_credit(client["client_id"])
    assert (await usage(http, client))["billing_cycle_end"] == seen["billing_cycle_end"]


async def test_a_refund_happens_once(http: httpx.AsyncClient, door: Any) -> None:
    client = await create(http)
    door.deduct_job_credit(client["client_id"], "job-1")
    door.refund_job_credit(client["client_id"], "job-1")
    door.refund_job_credit(client["client_id"], "job-1")
    assert (await usage(http, client))["credits_remaining"] == 5


async def test_parallel_deductions_take_what_is_there(http: httpx.AsyncClient, door: Any) -> None:
    client = await create(http)
    took = await asyncio.gather(
        *(asyncio.to_thread(door.deduct_job_credit, client["client_id"]) for _ in range(20))
    )
    assert took.count(True) == 5


# The cycle


async def test_a_new_cycle_grants_the_allowance_once(http: httpx.AsyncClient, clock: ManualClock) -> None:
    client = await create(http)
    clock.advance(days=30)
    statuses = [
        (await http.post("/api/intake", headers=key(client), json=JOB)).status_code for _ in range(25)
    ]
    assert statuses.count(200) == 5
    assert statuses.count(403) == 20


async def test_missed_cycles_grant_once_and_keep_their_edges(
    http: httpx.AsyncClient, clock: ManualClock
) -> None:
    client = await create(http)
    clock.advance(days=100)
    found = await usage(http, client)
    assert found["credits_remaining"] == 5
    assert found["billing_cycle_end"] == "2026-06-19T10:30:00+00:00"
    await http.post("/api/intake", headers=key(client), json=JOB)
    grants = await http.get(
        f"/api/admin/clients/{client['client_id']}/ledger", headers=ADMIN, params={"kind": "grant"}
    )
    assert grants.json()["total"] == 2


@pytest.mark.parametrize("jump", [400, -400])
async def test_a_jumping_clock_never_grants_twice(
    http: httpx.AsyncClient, clock: ManualClock, jump: int
) -> None:
    client = await create(http)
    accepted = 0
    for days in (0, jump, -jump, jump, -jump):
        clock.advance(days=days)
        for _ in range(8):
            accepted += (await http.post("/api/intake", headers=key(client), json=JOB)).status_code == 200
    assert accepted == (10 if jump > 0 else 5)


# Intake


async def test_a_job_is_accepted_and_charged(http: httpx.AsyncClient) -> None:
    client = await create(http)
    answer = await http.post("/api/intake", headers=key(client), json={**JOB, "priority": "P1"})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"job_id", "status", "estimated_start", "message", "credits_remaining"}
    assert (body["status"], body["credits_remaining"]) == ("queued", 4)
    assert answer.headers["X-Credits-Remaining"] == "4"
    job = (await http.get(f"/api/jobs/{body['job_id']}", headers=key(client))).json()
    assert (job["project_name"], job["priority"]) == ("Feature Build", "P1")


async def test_eight_parallel_jobs_on_the_last_credit(http: httpx.AsyncClient) -> None:
    client = await create(http)
    for _ in range(4):
        await http.post("/api/intake", headers=key(client), json=JOB)
    answers = await asyncio.gather(
        *(http.post("/api/intake", headers=key(client), json=JOB) for _ in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [403] * 7
    refused = next(answer for answer in answers if answer.status_code == 403)
    assert refused.json()["detail"] == "Monthly job limit reached"
    assert (refused.json()["code"], refused.json()["credits_remaining"]) == ("quota_exceeded", 0)
    assert "Retry-After" not in refused.headers
    assert (await http.get("/api/jobs", headers=key(client))).json()["total"] == 5


async def test_out_of_credits_is_402_where_it_is_set(
    http: httpx.AsyncClient, tmp_path: Path, clock: ManualClock
) -> None:
    settings = load_settings(data_dir=tmp_path / "data", admin_token=TOKEN, quota_status=402)
    client_auth.runtime.reconfigure(settings, clock=clock)
    client = await create(http)
    answers = [await http.post("/api/intake", headers=key(client), json=JOB) for _ in range(6)]
    assert answers[-1].status_code == 402


async def test_a_repeated_idempotency_key_submits_once(http: httpx.AsyncClient) -> None:
    client = await create(http)
    headers = {**key(client), "Idempotency-Key": "order-66"}
    first, second = [await http.post("/api/intake", headers=headers, json=JOB) for _ in range(2)]
    assert first.json() == second.json()
    assert second.headers["Idempotent-Replayed"] == "true"
    other = await http.post("/api/intake", headers=headers, json={**JOB, "description": "Another"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert (await usage(http, client))["credits_remaining"] == 4


async def test_a_job_asked_for_again_after_days_is_the_job_it_was(
    http: httpx.AsyncClient, clock: ManualClock
) -> None:
    client = await create(http, "starter")
    headers = {**key(client), "Idempotency-Key": "order-66"}
    first = (await http.post("/api/intake", headers=headers, json=JOB)).json()
    await http.patch(f"/api/admin/jobs/{first['job_id']}", headers=ADMIN, json={"status": "running"})
    clock.advance(hours=25)
    for _ in range(2):
        again = await http.post("/api/intake", headers=headers, json=JOB)
        assert (again.json()["job_id"], again.json()["status"]) == (first["job_id"], "running")
        assert again.headers["Idempotent-Replayed"] == "true"
    clock.advance(hours=25)
    other = await http.post("/api/intake", headers=headers, json={**JOB, "description": "Another"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert (await usage(http, client))["credits_remaining"] == 49


async def test_one_idempotency_key_of_two_clients_is_two_jobs(http: httpx.AsyncClient) -> None:
    made = set()
    for client in (await create(http), await create(http, name="other")):
        headers = {**key(client), "Idempotency-Key": "order-66"}
        answer = await http.post("/api/intake", headers=headers, json=JOB)
        assert (answer.status_code, answer.json()["credits_remaining"]) == (200, 4)
        assert "Idempotent-Replayed" not in answer.headers
        made.add(answer.json()["job_id"])
    answer = await http.post("/api/intake", headers={**ADMIN, "Idempotency-Key": "order-66"}, json=JOB)
    assert len({*made, answer.json()["job_id"]}) == 3


async def test_cancelling_a_queued_job_refunds_it_once(http: httpx.AsyncClient) -> None:
    client = await create(http)
    job_id = (await http.post("/api/intake", headers=key(client), json=JOB)).json()["job_id"]
    for _ in range(2):
        answer = await http.delete(f"/api/jobs/{job_id}", headers=key(client))
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert (await usage(http, client))["credits_remaining"] == 5


async def test_another_clients_job_is_not_there(http: httpx.AsyncClient) -> None:
    mine, other = await create(http), await create(http, name="other")
    job_id = (await http.post("/api/intake", headers=key(mine), json=JOB)).json()["job_id"]
    foreign = await http.get(f"/api/jobs/{job_id}", headers=key(other))
    unknown = await http.get("/api/jobs/none", headers=key(other))
    assert (foreign.status_code, unknown.status_code) == (404, 404)
    assert (await http.delete(f"/api/jobs/{job_id}", headers=key(other))).status_code == 404
    assert (await http.get("/api/jobs", headers=key(other))).json()["total"] == 0


async def test_without_a_key_only_an_admin_submits_and_unbilled(http: httpx.AsyncClient) -> None:
    assert (await http.post("/api/intake", json=JOB)).status_code == 401
    answer = await http.post("/api/intake", headers=ADMIN, json=JOB)
    assert (answer.status_code, answer.json()["credits_remaining"]) == (200, None)
    listed = (await http.get("/api/admin/jobs", headers=ADMIN)).json()
    assert [job["client_id"] for job in listed["jobs"]] == [None]


async def test_a_bad_key_beside_a_good_token_is_401(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/intake", headers={**ADMIN, "X-Client-Key": "junk"}, json=JOB)
    assert answer.status_code == 401


async def test_jobs_are_shown_as_far_back_as_the_plan_reaches(
    http: httpx.AsyncClient, clock: ManualClock
) -> None:
    free, starter = await create(http), await create(http, "starter", name="other")
    for client in (free, starter):
        await http.post("/api/intake", headers=key(client), json=JOB)
    clock.advance(hours=25)
    assert (await http.get("/api/jobs", headers=key(free))).json()["total"] == 0
    assert (await http.get("/api/jobs", headers=key(starter))).json()["total"] == 1


async def test_pages_of_jobs_follow_their_cursor(http: httpx.AsyncClient) -> None:
    client = await create(http, "starter")
    made = [
        (await http.post("/api/intake", headers=key(client), json=JOB)).json()["job_id"] for _ in range(7)
    ]
    seen, cursor = [], None
    while True:
        params = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        page = (await http.get("/api/jobs", headers=key(client), params=params)).json()
        seen += [job["job_id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break
    assert sorted(seen) == sorted(made)
    foreign = await http.get("/api/jobs", headers=key(client), params={"cursor": "junk"})
    assert (foreign.status_code, foreign.json()["code"]) == (400, "unknown_cursor")


async def test_a_failed_job_is_refunded_and_a_done_one_is_not(http: httpx.AsyncClient) -> None:
    client = await create(http)
    failed, done = [
        (await http.post("/api/intake", headers=key(client), json=JOB)).json()["job_id"] for _ in range(2)
    ]
    for job_id, status in ((failed, "failed"), (done, "done")):
        await http.patch(f"/api/admin/jobs/{job_id}", headers=ADMIN, json={"status": "running"})
        moved = await http.patch(
            f"/api/admin/jobs/{job_id}", headers=ADMIN, json={"status": status, "cost": 1.25}
        )
        assert (moved.status_code, moved.json()["status"]) == (200, status)
    left = await usage(http, client)
    assert (left["credits_remaining"], left["total_spent"]) == (4, 2.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"project_name": ""},
        {"project_name": "x" * 201},
        {"description": "  "},
        {"description": "x" * 10_001},
        {"task_type": "theft"},
        {"priority": "P9"},
        {"budget_limit": -1},
        {"budget_limit": True},
        {"contact_email": "=cmd@x"},
        {"project_name": "line\u2028break"},
        {"unknown": 1},
    ],
)
async def test_a_wrong_job_is_refused_and_nothing_changes(
    http: httpx.AsyncClient, wrong: dict[str, Any]
) -> None:
    client = await create(http)
    answer = await http.post("/api/intake", headers=key(client), json={**JOB, **wrong})
    assert answer.status_code == 422
    assert len(answer.content) <= 2048
    assert (await usage(http, client))["credits_remaining"] == 5


@pytest.mark.parametrize(
    "body",
    [
        b'{"project_name": NaN}',
        b'{"project_name": Infinity}',
        b'{"project_name": "\\ud800"}',
        b'{"project_name": "a", "project_name": "b"}',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"[" * 5000,
        b'{"budget_limit": ' + b"9" * 5000 + b"}",
        b"not json",
        b"",
        b"x" * 1_000_000,
    ],
)
async def test_a_hostile_body_gets_a_short_refusal(http: httpx.AsyncClient, body: bytes) -> None:
    client = await create(http)
    headers = {**key(client), "Content-Type": "application/json"}
    answer = await http.post("/api/intake", headers=headers, content=body)
    assert answer.status_code in (400, 413, 422)
    assert len(answer.content) <= 2048
    assert b"999999" not in answer.content
    assert (await usage(http, client))["credits_remaining"] == 5


# Admin


async def test_create_client_success(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        "/api/admin/clients",
        headers=ADMIN,
        json={"name": "Acme Corp", "email": "api@acmecorp.com", "plan": "pro"},
    )
    assert answer.status_code == 200
    expected = {
        "name": "Acme Corp",
        "email": "api@acmecorp.com",
        "plan": "pro",
        "credits_remaining": 200,
        "total_spent": 0.0,
        "created_at": "2026-02-19T10:30:00+00:00",
        "active": True,
    }
    body = answer.json()
    assert {name: body[name] for name in expected} == expected
    assert answer.headers["Cache-Control"] == "no-store"


async def test_an_unknown_plan_is_400(http: httpx.AsyncClient) -> None:
    body = {"name": "Acme", "email": "a@example.com", "plan": "golden"}
    answer = await http.post("/api/admin/clients", headers=ADMIN, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "unknown_plan")


async def test_one_client_per_address_in_any_case(http: httpx.AsyncClient) -> None:
    await create(http)
    body = {"name": "Acme", "email": "ACME@Example.com", "plan": "free"}
    answer = await http.post("/api/admin/clients", headers=ADMIN, json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "duplicate_email")


async def test_a_repeated_create_makes_one_client_and_shows_no_key_again(http: httpx.AsyncClient) -> None:
    headers = {**ADMIN, "Idempotency-Key": "create-acme"}
    body = {"name": "Acme", "email": "a@example.com", "plan": "free"}
    first, second = [await http.post("/api/admin/clients", headers=headers, json=body) for _ in range(2)]
    assert first.json()["client_id"] == second.json()["client_id"]
    assert second.json()["api_key"] is None


async def test_the_list_shows_no_keys_and_filters(http: httpx.AsyncClient) -> None:
    active, inactive = await create(http), await create(http, name="other")
    await http.delete(f"/api/admin/clients/{inactive['client_id']}", headers=ADMIN)
    listed = await http.get("/api/admin/clients", headers=ADMIN, params={"status": "active"})
    assert [each["client_id"] for each in listed.json()["clients"]] == [active["client_id"]]
    assert listed.json()["total"] == 1
    assert "oc_live_" not in listed.text
    assert (await http.get("/api/admin/clients?status=all", headers=ADMIN)).json()["total"] == 2
    assert (await http.get("/api/admin/clients?status=odd", headers=ADMIN)).status_code == 422


async def test_credits_are_added_and_never_lost_to_a_race(http: httpx.AsyncClient) -> None:
    client = await create(http)
    path = f"/api/admin/clients/{client['client_id']}/credits"
    answer = await http.put(path, headers=ADMIN, json={"credits": 50, "reason": "promotional credit for Q1"})
    assert answer.json() == {
        "client_id": client["client_id"],
        "previous_credits": 5,
        "credits_added": 50,
        "new_credits": 55,
        "reason": "promotional credit for Q1",
    }
    await asyncio.gather(
        *(http.put(path, headers=ADMIN, json={"credits": 1, "reason": "more"}) for _ in range(20)),
        *(http.post("/api/intake", headers=key(client), json=JOB) for _ in range(20)),
    )
    assert (await usage(http, client))["credits_remaining"] == 55


async def test_a_repeated_credit_is_added_once(http: httpx.AsyncClient) -> None:
    client = await create(http)
    path = f"/api/admin/clients/{client['client_id']}/credits"
    headers = {**ADMIN, "Idempotency-Key": "q1"}
    body = {"credits": 50, "reason": "promo"}
    answers = [await http.put(path, headers=headers, json=body) for _ in range(3)]
    assert all(answer.json() == answers[0].json() for answer in answers)
    assert (await usage(http, client))["credits_remaining"] == 55


async def test_a_credit_repeated_after_days_is_known_to_be_repeated(
    http: httpx.AsyncClient, clock: ManualClock
) -> None:
    client = await create(http)
    path = f"/api/admin/clients/{client['client_id']}/credits"
    headers = {**ADMIN, "Idempotency-Key": "q1"}
    body = {"credits": 50, "reason": "promo"}
    first = await http.put(path, headers=headers, json=body)
    assert "Idempotent-Replayed" not in first.headers
    clock.advance(hours=25)
    again = await http.put(path, headers=headers, json=body)
    assert (again.json(), again.headers["Idempotent-Replayed"]) == (first.json(), "true")
    assert (await usage(http, client))["credits_remaining"] == 55


async def test_the_ledger_shows_nobody_the_idempotency_key_of_an_admin(http: httpx.AsyncClient) -> None:
    client = await create(http)
    path = f"/api/admin/clients/{client['client_id']}/credits"
    headers = {**ADMIN, "Idempotency-Key": "ticket-4711"}
    await http.put(path, headers=headers, json={"credits": 50, "reason": "promo"})
    own = await http.get("/api/billing/ledger", headers=key(client))
    audit = await http.get("/api/admin/audit", headers=ADMIN)
    assert [entry["kind"] for entry in own.json()["entries"]] == ["adjust", "grant"]
    for shown in (own.text, audit.text):
        assert "ticket-4711" not in shown
        assert path not in shown


async def test_credits_on_enterprise_are_400_and_unknown_clients_404(http: httpx.AsyncClient) -> None:
    client = await create(http, "enterprise")
    body = {"credits": 5, "reason": "promo"}
    answer = await http.put(f"/api/admin/clients/{client['client_id']}/credits", headers=ADMIN, json=body)
    assert answer.status_code == 400
    assert (await http.put("/api/admin/clients/none/credits", headers=ADMIN, json=body)).status_code == 404


@pytest.mark.parametrize("credits", [10**12, 1.5, "5", True, None])
async def test_a_wrong_number_of_credits_is_refused(http: httpx.AsyncClient, credits: Any) -> None:
    client = await create(http)
    path = f"/api/admin/clients/{client['client_id']}/credits"
    answer = await http.put(path, headers=ADMIN, json={"credits": credits, "reason": "x"})
    assert answer.status_code == 422
    assert (await usage(http, client))["credits_remaining"] == 5


async def test_taking_more_credits_than_there_are_is_refused(http: httpx.AsyncClient) -> None:
    client = await create(http)
    path = f"/api/admin/clients/{client['client_id']}/credits"
    answer = await http.put(path, headers=ADMIN, json={"credits": -6, "reason": "x"})
    assert answer.status_code == 422
    assert (await http.put(path, headers=ADMIN, json={"credits": -5, "reason": "x"})).json()[
        "new_credits"
    ] == 0


async def test_enterprise_jobs_are_unlimited_and_recorded(http: httpx.AsyncClient) -> None:
    client = await create(http, "enterprise")
    for _ in range(12):
        answer = await http.post("/api/intake", headers=key(client), json=JOB)
        assert (answer.status_code, answer.json()["credits_remaining"]) == (200, None)
    found = await usage(http, client)
    assert (found["credits_limit"], found["jobs_used"]) == (None, 12)
    ledger = await http.get("/api/billing/ledger", headers=key(client), params={"kind": "capture"})
    assert ledger.json()["total"] == 12


async def test_deactivating_is_told_once_and_can_be_undone(http: httpx.AsyncClient) -> None:
    client = await create(http)
    path = f"/api/admin/clients/{client['client_id']}"
    assert (await http.delete(path, headers=ADMIN)).json()["status"] == "deactivated"
    assert (await http.delete(path, headers=ADMIN)).json()["status"] == "was_inactive"
    assert (await http.get("/api/billing/usage", headers=key(client))).status_code == 401
    assert (await http.post(f"{path}/reactivate", headers=ADMIN)).json()["active"] is True
    assert (await http.get("/api/billing/usage", headers=key(client))).status_code == 200


async def test_an_inactive_client_takes_no_credit_but_what_it_has_begun_ends_as_it_would(
    http: httpx.AsyncClient, door: Any
) -> None:
    client_id = (await create(http))["client_id"]
    assert door.deduct_job_credit(client_id, "done")
    for job_id in ("running", "given up", "slow"):
        door.reserve_job_credit(client_id, job_id)
    await http.delete(f"/api/admin/clients/{client_id}", headers=ADMIN)
    assert door.can_submit_job(client_id) == (False, "This client is inactive")
    assert door.deduct_job_credit(client_id) is False
    assert door.deduct_job_credit(client_id, "done") is True
    with pytest.raises(ClientInactive):
        door.reserve_job_credit(client_id, "new")
    with pytest.raises(ClientInactive):
        async with door.job_credit(client_id):
            raise AssertionError("it must not run")
    assert door.capture_job_credit(client_id, "running").state == "captured"
    assert door.release_job_credit(client_id, "given up").state == "released"
    assert door.refund_job_credit(client_id, "done").state == "refunded"
    door.log_client_cost(client_id, 1)
    await http.post(f"/api/admin/clients/{client_id}/reactivate", headers=ADMIN)
    assert door.can_submit_job(client_id) == (True, "3 jobs left in this cycle")


async def test_a_late_capture_is_charged_though_the_client_is_inactive_by_then(
    http: httpx.AsyncClient, door: Any, clock: ManualClock
) -> None:
    client = await create(http)
    door.reserve_job_credit(client["client_id"], "slow")
    await http.delete(f"/api/admin/clients/{client['client_id']}", headers=ADMIN)
    clock.advance(minutes=16)
    assert door.capture_job_credit(client["client_id"], "slow").state == "captured"


async def test_changing_plans_back_and_forth_mints_nothing(http: httpx.AsyncClient) -> None:
    client = await create(http)
    for _ in range(3):
        await http.post("/api/intake", headers=key(client), json=JOB)
    path = f"/api/admin/clients/{client['client_id']}/plan"
    for plan, left in (("starter", 47), ("free", 2), ("pro", 197), ("free", 2)):
        answer = await http.put(path, headers=ADMIN, json={"plan": plan})
        assert (answer.status_code, answer.json()["credits_remaining"]) == (200, left)
    again = await http.put(path, headers=ADMIN, json={"plan": "free"})
    assert (again.status_code, again.json()["code"]) == (409, "already_on_plan")


@pytest.mark.parametrize(
    "metadata",
    [{"": "x"}, {" ": "x"}, {"a\nb": "x"}, {"a\u202eb": "x"}, {"a" * 41: "x"}, {"a": ""}, {"a": 1}],
)
async def test_a_wrong_name_or_value_in_metadata_is_refused(
    http: httpx.AsyncClient, metadata: dict[str, Any]
) -> None:
    client = await create(http)
    path = f"/api/admin/clients/{client['client_id']}"
    assert (await http.patch(path, headers=ADMIN, json={"metadata": metadata})).status_code == 422
    assert (await http.patch(path, headers=ADMIN, json={"metadata": {"crm id": "4711"}})).status_code == 200


async def test_a_stale_version_changes_nothing(http: httpx.AsyncClient) -> None:
    client = await create(http)
    path = f"/api/admin/clients/{client['client_id']}"
    tag = (await http.get(path, headers=ADMIN)).headers["ETag"]
    assert (await http.get(path, headers={**ADMIN, "If-None-Match": tag})).status_code == 304
    changed = await http.patch(path, headers={**ADMIN, "If-Match": tag}, json={"name": "Acme & Sons"})
    assert (changed.status_code, changed.json()["name"]) == (200, "Acme & Sons")
    stale = await http.patch(path, headers={**ADMIN, "If-Match": tag}, json={"name": "Other"})
    assert (stale.status_code, stale.json()["code"]) == (412, "stale")


async def test_every_admin_and_key_action_is_audited(http: httpx.AsyncClient) -> None:
    client = await create(http)
    await http.put(
        f"/api/admin/clients/{client['client_id']}/credits",
        headers=ADMIN,
        json={"credits": 1, "reason": "why"},
    )
    await http.post("/api/billing/keys", headers=key(client), json={})
    audit = await http.get("/api/admin/audit", headers=ADMIN, params={"client_id": client["client_id"]})
    entries = [(entry["actor"], entry["action"]) for entry in audit.json()["entries"]]
    assert entries == [
        (f"client:{client['client_id']}", "key.issued"),
        ("admin", "client.credits_adjusted"),
        ("admin", "key.issued"),
        ("admin", "client.created"),
    ]
    assert not re.search(r"oc_live_[0-9a-f]{8}", audit.text)


async def test_the_ledger_sums_to_the_balance(http: httpx.AsyncClient) -> None:
    client = await create(http)
    for _ in range(3):
        await http.post("/api/intake", headers=key(client), json=JOB)
    ledger = (await http.get(f"/api/admin/clients/{client['client_id']}/ledger", headers=ADMIN)).json()
    assert sum(entry["amount"] for entry in ledger["entries"]) == 2
    assert ledger["entries"][0]["balance"] == 2


async def test_csv_cells_are_inert(http: httpx.AsyncClient) -> None:
    await http.post(
        "/api/admin/clients", headers=ADMIN, json={"name": "=1+1", "email": "a@example.com", "plan": "free"}
    )
    answer = await http.get("/api/admin/clients", headers=ADMIN, params={"format": "csv"})
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert "'=1+1" in answer.text


@pytest.mark.parametrize(
    "token", ["", "wrong", "admin-token-secret", "ключ".encode().decode("latin-1"), "x" * 9000]
)
async def test_a_wrong_token_is_401(http: httpx.AsyncClient, token: str) -> None:
    answer = await http.get("/api/admin/clients", headers={"X-Auth-Token": token.encode("latin-1")})
    assert answer.status_code == 401


async def test_a_token_in_the_address_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/admin/clients", params={"token": TOKEN})
    assert answer.status_code == 400
    assert TOKEN not in answer.text


async def test_a_published_token_disables_the_admin_api_only(
    http: httpx.AsyncClient, tmp_path: Path, clock: ManualClock
) -> None:
    settings = load_settings(data_dir=tmp_path / "data", admin_token="admin-token-secret")
    client_auth.runtime.reconfigure(settings, clock=clock)
    answer = await http.get("/api/admin/clients", headers={"X-Auth-Token": "admin-token-secret"})
    assert (answer.status_code, answer.json()["code"]) == (503, "admin_disabled")
    assert (await http.get("/api/billing/plans")).status_code == 200


# Paying


async def test_checkout_in_mock_mode_answers_an_address_and_changes_nothing(http: httpx.AsyncClient) -> None:
    client = await create(http)
    by_query = await http.post("/api/billing/checkout?plan=starter", headers=key(client))
    by_body = await http.post("/api/billing/checkout", headers=key(client), json={"plan": "pro"})
    for answer, plan, price in ((by_query, "starter", 49.0), (by_body, "pro", 199.0)):
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["plan_id"], body["price"], body["mock"]) == (plan, price, True)
        assert body["checkout_url"].startswith("https://checkout.stripe.com/mock?session_id=cs_test_")
    assert (await usage(http, client))["plan"] == "free"


@pytest.mark.parametrize(
    ("plan", "code"),
    [("enterprise", "contact_sales"), ("free", "free_needs_no_checkout"), ("golden", "unknown_plan")],
)
async def test_a_checkout_that_cannot_be_is_400(http: httpx.AsyncClient, plan: str, code: str) -> None:
    client = await create(http)
    answer = await http.post(f"/api/billing/checkout?plan={plan}", headers=key(client))
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert (await http.post("/api/billing/checkout?plan=pro")).status_code == 401


async def test_events_are_refused_until_a_secret_is_set(http: httpx.AsyncClient) -> None:
    assert (await http.post("/api/billing/webhook", content=b"{}")).status_code == 503


async def test_only_signed_events_are_taken_in_and_each_once(
    http: httpx.AsyncClient, tmp_path: Path, clock: ManualClock
) -> None:
    settings = load_settings(
        data_dir=tmp_path / "data", admin_token=TOKEN, stripe_webhook_secret="whsec_old,whsec_new"
    )
    client_auth.runtime.reconfigure(settings, clock=clock)
    raw = b'{"id": "evt_1", "object": "event", "type": "invoice.paid", "created": 1, "livemode": false}'

    def signed(secret: str, seconds: int = 0, body: bytes = raw) -> dict[str, str]:
        at = str(int(clock.now().timestamp()) + seconds)
        mark = hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
        return {"Stripe-Signature": f"t={at},v1=00,v1={mark}"}

    outcomes = []
    for _ in range(2):
        answer = await http.post("/api/billing/webhook", content=raw, headers=signed("whsec_new"))
        assert answer.status_code == 200
        outcomes.append(answer.json()["outcome"])
    assert outcomes == ["ignored", "duplicate"]
    refused = [
        {},
        signed(""),
        signed("whsec_other"),
        signed("whsec_new", -301),
        signed("whsec_new", 301),
        {"Stripe-Signature": b"t=x,v1=\xff"},
        {"Stripe-Signature": "v1=" + "0" * 5000},
        signed("whsec_new", body=b"other"),
    ]
    for headers in refused:
        answer = await http.post("/api/billing/webhook", content=raw, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_signature")
    for body in (b"[1]", b"null", b"{", b"\xff", b"[" * 9000, b'{"object": "event", "id": 7, "type": "x"}'):
        answer = await http.post("/api/billing/webhook", content=body, headers=signed("whsec_new", body=body))
        assert answer.status_code == 400


# In a host of somebody else's


async def test_the_dependencies_work_in_a_host_with_a_prefix(door: Any, http: httpx.AsyncClient) -> None:
    client = await create(http)
    app = FastAPI()
    app.include_router(client_auth.router, prefix="/v1")

    @app.get("/me")
    async def me(
        record: Annotated[client_auth.ClientRecord, Depends(client_auth.authenticate_client)],
    ) -> dict[str, str]:
        return {"name": record["name"]}

    @app.get("/dear", dependencies=[Depends(client_auth.require_credits(6))])
    async def dear() -> None:
        pytest.fail("the client has five credits")

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as host:
        assert (await host.get("/v1/api/billing/usage", headers=key(client))).status_code == 200
        assert (await host.get("/me", headers=key(client))).json() == {"name": "Acme"}
        refused = await host.get("/me")
        assert (refused.status_code, refused.json()) == (401, {"detail": "Invalid or inactive API key"})
        assert (await host.get("/dear", headers=key(client))).status_code == 403


async def test_importing_and_including_write_nothing(tmp_path: Path) -> None:
    client_auth.runtime.reconfigure(load_settings(data_dir=tmp_path / "data"))
    FastAPI().include_router(client_auth.router)
    assert not (tmp_path / "data").exists()
    client_auth.runtime.reconfigure()
