"""Single resources: tags that change with what is seen, changes made on a condition, keys by the clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import client_auth
import intake_routes
from openclaw_billing import keyring
from openclaw_billing.clock import ManualClock
from openclaw_billing.settings import load_settings

TOKEN = "0123456789abcdef" * 4
ADMIN = {"X-Auth-Token": TOKEN}
JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 2, 19, 10, 30, tzinfo=UTC))


@pytest.fixture
async def http(tmp_path: Path, clock: ManualClock) -> AsyncIterator[httpx.AsyncClient]:
    chosen = load_settings(data_dir=tmp_path / "data", admin_token=TOKEN, rate_limits=False)
    client_auth.runtime.reconfigure(chosen, clock=clock)
    app = FastAPI()
    app.include_router(client_auth.router, prefix="/v1")
    app.include_router(intake_routes.router, prefix="/v1")
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway/v1") as client:
        yield client
    client_auth.runtime.reconfigure()


@pytest.fixture
async def acme(http: httpx.AsyncClient) -> dict[str, Any]:
    body = {"name": "Acme", "email": "acme@example.com", "plan": "pro"}
    made: dict[str, Any] = (await http.post("/api/admin/clients", headers=ADMIN, json=body)).json()
    return made


@pytest.fixture
def path(acme: dict[str, Any]) -> str:
    return f"/api/admin/clients/{acme['client_id']}"


@pytest.fixture
def own(acme: dict[str, Any]) -> dict[str, str]:
    return {"X-Client-Key": acme["api_key"]}


# Tags


@pytest.mark.parametrize(
    ("method", "below", "body"),
    [
        ("PUT", "/credits", {"credits": 5, "reason": "promo"}),
        ("PUT", "/plan", {"plan": "starter"}),
        ("PATCH", "", {"name": "Acme & Sons"}),
        ("DELETE", "", None),
    ],
)
async def test_a_tag_changes_with_all_that_is_seen(
    http: httpx.AsyncClient, path: str, method: str, below: str, body: dict[str, Any] | None
) -> None:
    before = await http.get(path, headers=ADMIN)
    tag = before.headers["ETag"]
    same = await http.get(path, headers={**ADMIN, "If-None-Match": tag})
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", tag)
    assert (await http.request(method, path + below, headers=ADMIN, json=body)).status_code == 200
    after = await http.get(path, headers={**ADMIN, "If-None-Match": tag})
    assert (after.status_code, after.json() != before.json()) == (200, True)
    assert after.headers["ETag"] != tag


async def test_a_tag_changes_with_a_job_and_with_a_cycle_that_nobody_turned(
    http: httpx.AsyncClient, path: str, own: dict[str, str], clock: ManualClock
) -> None:
    tags = [(await http.get(path, headers=ADMIN)).headers["ETag"]]
    await http.post("/api/intake", headers=own, json=JOB)
    tags.append((await http.get(path, headers=ADMIN)).headers["ETag"])
    clock.advance(days=31)
    tags.append((await http.get(path, headers=ADMIN)).headers["ETag"])
    clock.advance(minutes=1)
    assert (await http.get(path, headers=ADMIN)).headers["ETag"] == tags[-1]
    assert len(set(tags)) == 3


@pytest.mark.parametrize(
    ("named", "known"),
    [
        ("{tag}", True),
        ("W/{tag}", True),
        ("*", True),
        ('"other", {tag}', True),
        ('{tag} ,"other"', True),
        ('"other"', False),
        ("", False),
        ("{tag}x", True),
    ],
)
async def test_what_the_caller_has_is_not_sent_again(
    http: httpx.AsyncClient, path: str, named: str, known: bool
) -> None:
    tag = (await http.get(path, headers=ADMIN)).headers["ETag"]
    assert len(tag) > 10
    answer = await http.get(path, headers={**ADMIN, "If-None-Match": named.format(tag=tag)})
    assert answer.status_code == (304 if known else 200)


async def test_the_update_of_a_client_shows_in_updated_at(
    http: httpx.AsyncClient, path: str, acme: dict[str, Any], clock: ManualClock
) -> None:
    for below, body in (("/credits", {"credits": 5, "reason": "promo"}), ("/plan", {"plan": "starter"})):
        clock.advance(hours=1)
        headers = {**ADMIN, "Idempotency-Key": below}
        for _ in range(2):
            await http.put(path + below, headers=headers, json=body)
            shown = (await http.get(path, headers=ADMIN)).json()
        assert shown["updated_at"] == clock.now().isoformat()
    clock.advance(hours=25)
    await http.put(
        f"{path}/credits",
        headers={**ADMIN, "Idempotency-Key": "/credits"},
        json={"credits": 5, "reason": "promo"},
    )
    assert (await http.get(path, headers=ADMIN)).json() == shown


# Conditions


def changes_of(path: str) -> list[tuple[str, str, dict[str, Any] | None]]:
    return [
        ("PATCH", path, {"name": "Acme & Sons"}),
        ("PUT", f"{path}/credits", {"credits": 5, "reason": "promo"}),
        ("PUT", f"{path}/plan", {"plan": "starter"}),
        ("POST", f"{path}/reactivate", None),
        ("DELETE", path, None),
    ]


async def test_every_change_of_a_client_is_made_on_its_condition(http: httpx.AsyncClient, path: str) -> None:
    for method, where, body in changes_of(path):
        tag = (await http.get(path, headers=ADMIN)).headers["ETag"]
        for wrong in ('"other"', f"W/{tag}", tag.strip('"'), ""):
            answer = await http.request(method, where, headers={**ADMIN, "If-Match": wrong}, json=body)
            assert (answer.status_code, answer.json()["code"]) == (412, "stale"), (method, where, wrong)
        assert (await http.get(path, headers=ADMIN)).headers["ETag"] == tag
        named = {**ADMIN, "If-Match": f'"other", {tag}'}
        answer = await http.request(method, where, headers=named, json=body)
        assert answer.status_code == 200, (method, where)


async def test_a_tag_that_credits_have_made_old_is_stale(http: httpx.AsyncClient, path: str) -> None:
    tag = (await http.get(path, headers=ADMIN)).headers["ETag"]
    await http.put(f"{path}/credits", headers=ADMIN, json={"credits": 5, "reason": "promo"})
    stale = await http.patch(path, headers={**ADMIN, "If-Match": tag}, json={"name": "Other"})
    assert stale.status_code == 412
    any_at_all = await http.patch(path, headers={**ADMIN, "If-Match": "*"}, json={"name": "Other"})
    assert any_at_all.status_code == 200


async def test_answers_that_are_the_resource_carry_its_tag(http: httpx.AsyncClient, path: str) -> None:
    for method, where, body in changes_of(path)[:4]:
        answer = await http.request(method, where, headers=ADMIN, json=body)
        read = await http.get(path, headers=ADMIN)
        if "version" in answer.json():
            assert answer.headers["ETag"] == read.headers["ETag"], where
            assert answer.json() == read.json()


async def test_a_condition_that_held_once_is_not_asked_again_by_a_repeated_request(
    http: httpx.AsyncClient, path: str
) -> None:
    tag = (await http.get(path, headers=ADMIN)).headers["ETag"]
    headers = {**ADMIN, "If-Match": tag, "Idempotency-Key": "once"}
    first, second = [await http.patch(path, headers=headers, json={"name": "Other"}) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.headers["ETag"] == second.headers["ETag"] != tag
    assert second.headers["Idempotent-Replayed"] == "true"


async def test_a_condition_on_nothing_is_refused(
    http: httpx.AsyncClient, path: str, own: dict[str, str]
) -> None:
    body = {"name": "Other", "email": "other@example.com"}
    for where, who, sent in (
        ("/api/admin/clients", ADMIN, body),
        (f"{path}/keys", ADMIN, {"name": "ci"}),
        ("/api/intake", own, JOB),
        ("/api/billing/cancel", own, {}),
    ):
        answer = await http.post(where, headers={**who, "If-Match": '"1"'}, json=sent)
        assert (answer.status_code, answer.json()["code"]) == (400, "if_match_unsupported"), where
    assert (await http.get("/api/admin/clients", headers=ADMIN)).json()["total"] == 1
    assert (await http.get("/api/jobs", headers=own)).json()["total"] == 0
    unknown = await http.patch("/api/admin/clients/none", headers={**ADMIN, "If-Match": "*"}, json={})
    assert unknown.status_code == 404


async def test_a_job_has_a_tag_and_is_changed_on_its_condition(
    http: httpx.AsyncClient, own: dict[str, str]
) -> None:
    job_id = (await http.post("/api/intake", headers=own, json=JOB)).json()["job_id"]
    read = await http.get(f"/api/jobs/{job_id}", headers=own)
    tag = read.headers["ETag"]
    known = await http.get(f"/api/jobs/{job_id}", headers={**own, "If-None-Match": tag})
    assert known.status_code == 304
    moves = f"/api/admin/jobs/{job_id}"
    moved = await http.patch(moves, headers={**ADMIN, "If-Match": tag}, json={"status": "running"})
    assert (moved.status_code, moved.json()["status"]) == (200, "running")
    again = await http.patch(moves, headers={**ADMIN, "If-Match": tag}, json={"status": "done"})
    assert again.status_code == 412
    cancelled = await http.delete(f"/api/jobs/{job_id}", headers={**own, "If-Match": tag})
    assert cancelled.status_code == 412
    assert moved.headers["ETag"] == (await http.get(f"/api/jobs/{job_id}", headers=own)).headers["ETag"]


# Keys


def keys_of(path: str, own: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
    return [("/api/billing/keys", own), (f"{path}/keys", ADMIN)]


async def test_a_new_key_says_where_it_is(http: httpx.AsyncClient, path: str, own: dict[str, str]) -> None:
    for keys, who in keys_of(path, own):
        made = await http.post(keys, headers={**who, "Idempotency-Key": "k"}, json={"name": "ci"})
        again = await http.post(keys, headers={**who, "Idempotency-Key": "k"}, json={"name": "ci"})
        assert made.status_code == 201
        assert made.headers["Location"] == again.headers["Location"] == f"/v1{keys}/{made.json()['key_id']}"
        read = await http.get(f"http://gateway{made.headers['Location']}", headers=who)
        shown = {name: value for name, value in made.json().items() if name != "api_key"}
        assert (read.status_code, read.json()) == (200, shown)
        known = {**who, "If-None-Match": read.headers["ETag"]}
        assert (await http.get(f"{keys}/{made.json()['key_id']}", headers=known)).status_code == 304
        assert (await http.get(f"{keys}/none", headers=who)).status_code == 404


async def test_another_clients_key_is_not_there(http: httpx.AsyncClient, own: dict[str, str]) -> None:
    body = {"name": "Other", "email": "other@example.com"}
    other = (await http.post("/api/admin/clients", headers=ADMIN, json=body)).json()
    assert (await http.get(f"/api/billing/keys/{other['key_id']}", headers=own)).status_code == 404


async def test_a_key_is_made_and_rotated_without_a_body(
    http: httpx.AsyncClient, path: str, own: dict[str, str]
) -> None:
    for keys, who in keys_of(path, own):
        made = await http.post(keys, headers=who)
        assert (made.status_code, made.json()["expires_at"]) == (201, None)
        rotated = await http.post(f"{keys}/{made.json()['key_id']}/rotate", headers=who)
        assert rotated.status_code == 200
        old = (await http.get(f"{keys}/{made.json()['key_id']}", headers=who)).json()
        assert old["expires_at"] == "2026-02-20T10:30:00+00:00"
        form = await http.post(keys, headers=who, content=b'{"name": "ci"}')
        assert form.status_code == 422


@pytest.mark.parametrize("expires_at", ["2026-02-19T10:30:00Z", "2020-01-01T00:00:00+00:00"])
async def test_a_key_that_would_be_over_already_is_not_made(
    http: httpx.AsyncClient, path: str, own: dict[str, str], expires_at: str
) -> None:
    for keys, who in keys_of(path, own):
        answer = await http.post(keys, headers=who, json={"expires_at": expires_at})
        assert (answer.status_code, answer.json()["code"]) == (422, "expires_in_the_past")
        assert (await http.get(keys, headers=who)).json()["total"] == 1


async def test_a_key_is_shown_as_the_clock_has_it(
    http: httpx.AsyncClient, path: str, own: dict[str, str], clock: ManualClock, acme: dict[str, Any]
) -> None:
    expires = {"name": "short", "expires_at": "2026-02-19T10:31:00Z"}
    await http.post(f"{path}/keys", headers=ADMIN, json=expires)
    await http.post(f"{path}/keys/{acme['key_id']}/rotate", headers=ADMIN, json={"grace_seconds": 120})

    async def states() -> dict[str, str]:
        listed = (await http.get(f"{path}/keys", headers=ADMIN)).json()["keys"]
        return {("new" if each["expires_at"] is None else each["name"]): each["state"] for each in listed}

    assert await states() == {"new": "active", "short": "active", "default": "active"}
    clock.advance(minutes=1)
    assert await states() == {"new": "active", "short": "expired", "default": "active"}
    clock.advance(minutes=1)
    assert await states() == {"new": "active", "short": "expired", "default": "expired"}
    revoked = await http.delete(f"{path}/keys/{acme['key_id']}", headers=ADMIN)
    assert revoked.json()["state"] == "revoked"


async def test_a_full_ring_of_keys_is_renewed_key_by_key(
    http: httpx.AsyncClient, path: str, acme: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "KEYS_MAX", 3)
    ids = [acme["key_id"]]
    ids += [(await http.post(f"{path}/keys", headers=ADMIN)).json()["key_id"] for _ in range(2)]
    for _ in range(2):
        full = await http.post(f"{path}/keys", headers=ADMIN)
        assert (full.status_code, full.json()["code"]) == (409, "too_many_keys")
        rotated = [await http.post(f"{path}/keys/{key_id}/rotate", headers=ADMIN) for key_id in ids]
        ids = [each.json().get("key_id") for each in rotated]
    assert [each.status_code for each in rotated] == [409, 409, 409]
    assert [each.json()["code"] for each in rotated] == ["too_many_keys"] * 3


async def test_an_old_key_within_its_grace_takes_no_place(
    http: httpx.AsyncClient, path: str, acme: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "KEYS_MAX", 2)
    await http.post(f"{path}/keys/{acme['key_id']}/rotate", headers=ADMIN)
    assert (await http.post(f"{path}/keys", headers=ADMIN)).status_code == 201
    assert (await http.post(f"{path}/keys", headers=ADMIN)).status_code == 409
