"""Metrics: right counts, and labels that are closed lists of words, whatever strangers send."""

from __future__ import annotations

import asyncio
import fcntl
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

import client_auth
import gateway
from openclaw_billing.records import EntryKind
from openclaw_billing.settings import load_settings
from openclaw_billing.testing.delivery import signed
from openclaw_billing.web.paths import routes_of
from openclaw_billing.web.watch import WATCH_SECONDS
from tests.served import ROOT, clean_environment, served

TOKEN = "0123456789abcdef" * 4
ADMIN = {"X-Auth-Token": TOKEN}
JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}
SAMPLE = re.compile(r"^openclaw_billing_(\w+?)(?:\{(.*)\})? (\S+)$", re.MULTILINE)

Counts = dict[tuple[str, str], float]

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = load_settings(
        data_dir=tmp_path / "data",
        admin_token=TOKEN,
        lock_seconds_max=0.5,
        stripe_webhook_secret="whsec_fake",
    )
    client_auth.runtime.reconfigure(settings)
    transport = httpx.ASGITransport(gateway.create_app(settings), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
    client_auth.runtime.reconfigure()


def counts_in(text: str) -> Counts:
    return {(name, labels): float(value) for name, labels, value in SAMPLE.findall(text)}


@pytest.fixture
async def grown(http: httpx.AsyncClient) -> Callable[[], Awaitable[Counts]]:
    """What has grown since the test began, and by how much."""
    before = counts_in((await http.get("/metrics")).text)

    async def since() -> Counts:
        # What was made durable is counted just after it was answered.
        await asyncio.to_thread(client_auth.runtime.store.run, lambda _tx: None, "nothing")
        now = counts_in((await http.get("/metrics")).text)
        return {
            name: value - before.get(name, 0) for name, value in now.items() if value != before.get(name, 0)
        }

    return since


async def create(http: httpx.AsyncClient, plan: str = "free") -> dict[str, str]:
    body = {"name": "Acme", "email": f"{plan}@example.com", "plan": plan}
    made = await http.post("/api/admin/clients", headers=ADMIN, json=body)
    return {"X-Client-Key": made.json()["api_key"]}


async def test_jobs_are_counted_as_requests_charges_and_entries(
    http: httpx.AsyncClient, grown: Callable[[], Awaitable[Counts]]
) -> None:
    key = await create(http)
    for _ in range(7):
        await http.post("/api/intake", headers=key, json=JOB)
    found = await grown()
    assert found["requests_total", 'operation="createClient",status="200"'] == 1
    assert found["requests_total", 'operation="submitJob",status="200"'] == 5
    assert found["requests_total", 'operation="submitJob",status="403"'] == 2
    assert found["refusals_total", 'reason="quota_exceeded"'] == 2
    assert found["credits_charged_total", ""] == 5
    assert found["ledger_entries_total", 'kind="capture"'] == 5
    assert found["ledger_entries_total", 'kind="grant"'] == 1
    assert found["flush_seconds_count", ""] == found["batch_operations_count", ""]
    assert found["batch_operations_sum", ""] == found["operations_total", ""] >= 8


async def test_refusals_are_counted_by_reason(
    http: httpx.AsyncClient, grown: Callable[[], Awaitable[Counts]]
) -> None:
    for _ in range(3):
        await http.get("/api/billing/usage", headers={"X-Client-Key": "junk"})
        await http.get("/api/billing/usage")
    for path in ("/api/admin/clients", "/secret-path-of-the-host"):
        await http.get(path, headers={"X-Auth-Token": "junk"})
    found = await grown()
    assert found["refusals_total", 'reason="invalid_key"'] == 6
    assert found["refusals_total", 'reason="invalid_token"'] == 2


async def test_a_repeated_job_is_charged_and_counted_once(
    http: httpx.AsyncClient, grown: Callable[[], Awaitable[Counts]]
) -> None:
    key = {**await create(http), "Idempotency-Key": "once"}
    for _ in range(3):
        await http.post("/api/intake", headers=key, json=JOB)
    found = await grown()
    assert found["credits_charged_total", ""] == 1
    assert found["requests_total", 'operation="submitJob",status="200"'] == 3


async def test_a_job_on_enterprise_is_an_entry_and_no_credit(
    http: httpx.AsyncClient, grown: Callable[[], Awaitable[Counts]]
) -> None:
    await http.post("/api/intake", headers=await create(http, "enterprise"), json=JOB)
    found = await grown()
    assert found["ledger_entries_total", 'kind="capture"'] == 1
    assert ("credits_charged_total", "") not in found


async def test_nothing_of_a_strangers_becomes_a_label(
    http: httpx.AsyncClient, grown: Callable[[], Awaitable[Counts]]
) -> None:
    canary = "canary"
    for method in ("GET", "POST", "CANARY"):
        for path in (
            f"/{canary}",
            f"/api/jobs/{canary}",
            f"/api/admin/clients/{canary}",
            f"/metrics/{canary}",
        ):
            await http.request(method, path, headers={"X-Client-Key": canary, "X-Auth-Token": canary})
            await http.request(method, path, headers=ADMIN, json={canary: canary})
    text = (await http.get("/metrics")).text
    assert canary not in text.lower()
    operations = {each.route.operation_id for each in routes_of(gateway.create_app()) if each.guards_itself}
    closed = {
        "operation": operations,
        "kind": {each.value for each in EntryKind},
        "reason": {
            "invalid_key",
            "invalid_token",
            "quota_exceeded",
            "payment_overdue",
            "client_inactive",
            "rate_limited",
        },
    }
    labels = ",".join(each for _, each in await grown())
    assert "operation=" in labels
    for name, value in re.findall(r'(\w+)="([^"]*)"', labels):
        if name in closed:
            assert value in closed[name]
        else:
            assert name in ("status", "le")
            assert re.fullmatch(r"[1-5]\d\d|\d+(\.\d+)?|\+Inf", value)


async def test_stripe_events_are_counted_by_type_and_outcome(
    http: httpx.AsyncClient, grown: Callable[[], Awaitable[Counts]]
) -> None:
    secret = client_auth.runtime.settings.stripe_webhook_secret[0].get_secret_value()

    async def deliver(event_id: str, kind: str, secret: str) -> None:
        event = {"object": "event", "id": event_id, "type": kind, "created": 1, "livemode": False}
        body, headers = signed(event, secret)
        await http.post("/api/billing/webhook", content=body, headers=headers)

    for event_id, kind in (("evt_1", "invoice.paid"), ("evt_1", "invoice.paid"), ("evt_2", "canary.type")):
        await deliver(event_id, kind, secret)
    await deliver("evt_3", "invoice.paid", "whsec_canary")
    assert {labels: n for (name, labels), n in (await grown()).items() if name == "stripe_events_total"} == {
        'outcome="ignored",type="invoice.paid"': 1,
        'outcome="duplicate",type="invoice.paid"': 1,
        'outcome="ignored",type="other"': 1,
        'outcome="bad_signature",type="other"': 1,
    }
    shown = counts_in((await http.get("/metrics")).text)
    assert shown["stripe_events_total", 'outcome="failed",type="invoice.paid"'] == 0, "an alert needs a start"


async def test_a_store_that_cannot_be_written_is_told(
    http: httpx.AsyncClient, grown: Callable[[], Awaitable[Counts]], tmp_path: Path
) -> None:
    await create(http)
    with (tmp_path / "data/openclaw_clients.lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused = await http.post("/api/intake", headers=ADMIN, json=JOB)
        assert (refused.status_code, refused.json()["detail"]) == (503, "storage unavailable")
        found = counts_in((await http.get("/metrics")).text)
        assert found["store_refusing", ""] == 1
    assert (await http.post("/api/intake", headers=ADMIN, json=JOB)).status_code == 200
    found = await grown()
    assert found["store_errors_total", ""] == 1
    assert counts_in((await http.get("/metrics")).text)["store_refusing", ""] == 0


async def test_what_a_dead_worker_said_of_itself_is_told_no_more(
    http: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = """
import os
from openclaw_billing.metrics import REQUESTS, STORE_REFUSING
STORE_REFUSING.told(True)
REQUESTS.labels("submitJob", "200").inc(3)
"""
    environment = clean_environment(PROMETHEUS_MULTIPROC_DIR=str(tmp_path), PYTHONPATH=str(ROOT))
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", said], env=environment, check=True)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    found = counts_in((await http.get("/metrics")).text)
    assert ("store_refusing", "") not in found
    assert found["requests_total", 'operation="submitJob",status="200"'] == 3


def test_workers_that_nobody_asks_say_nothing_wrong_and_see_when_it_is_over(tmp_path: Path) -> None:
    shared = tmp_path / "metrics"
    shared.mkdir()
    settings = {"PROMETHEUS_MULTIPROC_DIR": str(shared)}
    with served(tmp_path / "gateway", workers=2, settings=settings) as running:

        def refusing() -> float:
            return counts_in(httpx.get(f"{running.base}/metrics").text)["store_refusing", ""]

        assert [refusing() for _ in range(4)] == [0.0] * 4
        with (running.data / "openclaw_clients.lock").open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            # Whichever is scraped.
            time.sleep(2 * WATCH_SECONDS)
            assert [refusing() for _ in range(4)] == [1.0] * 4
        deadline = time.monotonic() + 3 * WATCH_SECONDS
        while refusing():
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_several_workers_are_added_up(tmp_path: Path) -> None:
    shared = tmp_path / "metrics"
    shared.mkdir()
    settings = {"PROMETHEUS_MULTIPROC_DIR": str(shared)}
    with served(tmp_path / "gateway", workers=2, settings=settings) as running:
        client = running.create_client("a@example.com")
        key = {"X-Client-Key": client["api_key"]}
        for _ in range(5):
            assert httpx.post(f"{running.base}/api/intake", headers=key, json=JOB).status_code == 200
        seen = [counts_in(httpx.get(f"{running.base}/metrics").text) for _ in range(4)]
    assert [each["credits_charged_total", ""] for each in seen] == [5.0] * 4
