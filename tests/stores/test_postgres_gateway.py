"""Gateways as processes on a real PostgreSQL that is killed and stopped under them, over HTTP."""

from __future__ import annotations

import asyncio
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import client_auth
from gateway import keep_house
from openclaw_billing import replies
from openclaw_billing.clock import ManualClock
from openclaw_billing.contracts import Transaction
from openclaw_billing.replies import Asked
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import load_settings
from openclaw_billing.stores.postgres_line import connect
from openclaw_billing.stores.postgres_view import AGE_SECONDS_MAX
from tests.served import ROOT, Served, served
from tests.stores import postgres_server
from tests.stores.postgres_server import Server

JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}
CALLERS = 8
RESOLVED_SECONDS_MAX = 30.0
BOUND_SECONDS = 8.0
"""No answer may take longer, whatever the database does: two limits one after the other, and a slow machine."""


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    """A server of this module's own: it is killed."""
    pytest.importorskip("psycopg", reason=f"psycopg is not installed: {postgres_server.INSTALL}")
    pytest.importorskip("alembic", reason=f"alembic is not installed: {postgres_server.INSTALL}")
    with ExitStack() as stack:
        try:
            yield stack.enter_context(postgres_server.serving(durable=True))
        except postgres_server.NotInstalled as reason:
            pytest.skip(str(reason))


@pytest.fixture
def gateways(database: Server, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Each call is another gateway on one schema."""
    settings = {"OPENCLAW_KEY_PEPPER": secrets.token_hex(32)}
    with ExitStack() as stack:
        url = stack.enter_context(postgres_server.schema(database.url))
        # Gateways end before their schema does.
        inner = stack.enter_context(ExitStack())

        def another(**more: str) -> Served:
            place = tmp_path / secrets.token_hex(4)
            return inner.enter_context(
                served(place, settings={**settings, **more, "OPENCLAW_DATABASE_URL": url})
            )

        yield another


@contextmanager
def killed(database: Server) -> Iterator[None]:
    database.kill()
    try:
        yield
    finally:
        database.start()


@dataclass
class Load:
    """Callers who submit jobs without a pause, and ask again with the same Idempotency-Key until it is 200."""

    gateway: Served
    key: str
    jobs: dict[str, str] = field(default_factory=dict)
    """The job that each Idempotency-Key was answered."""
    accepted_at: list[float] = field(default_factory=list)
    refusals: list[httpx.Response] = field(default_factory=list)
    slowest: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)

    def call(self, caller: int) -> None:
        with httpx.Client(base_url=self.gateway.base, timeout=30) as http:
            number = 0
            while not self.ended.is_set():
                number += 1
                self._submit(http, f"{caller}-{number}")

    def _submit(self, http: httpx.Client, name: str) -> None:
        headers = {"X-Client-Key": self.key, "Idempotency-Key": name}
        deadline = time.monotonic() + RESOLVED_SECONDS_MAX
        while time.monotonic() < deadline:
            asked_at = time.monotonic()
            answer = http.post("/api/intake", headers=headers, json=JOB)
            now = time.monotonic()
            self.slowest = max(self.slowest, now - asked_at)
            if answer.status_code == 200:
                self.jobs[name] = answer.json()["job_id"]
                self.accepted_at.append(now)
                return
            self.refusals.append(answer)
            time.sleep(0.02)
        raise AssertionError(f"{name} is still refused")

    def wait_for_more(self, count: int) -> None:
        enough, deadline = len(self.accepted_at) + count, time.monotonic() + 30
        while len(self.accepted_at) < enough:
            assert time.monotonic() < deadline, "no more jobs are accepted"
            time.sleep(0.01)

    def first_after(self, moment: float) -> float:
        """Seconds from the moment to the first job that was accepted after it."""
        return min(each for each in self.accepted_at if each > moment) - moment


@contextmanager
def loading(gateway: Served, key: str) -> Iterator[Load]:
    load = Load(gateway, key)
    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(load.call, caller) for caller in range(CALLERS)]
        try:
            yield load
        finally:
            load.ended.set()
        for call in calls:
            call.result()


def read(gateway: Served, path: str, key: str) -> Any:
    return httpx.get(f"{gateway.base}{path}", headers={"X-Client-Key": key}, timeout=30)


def ledger_of(gateway: Served, client: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        path = f"{gateway.base}/api/admin/clients/{client['client_id']}/ledger"
        page = httpx.get(
            path, headers={"X-Auth-Token": gateway.token}, params={"limit": "1000", **cursor}
        ).json()
        found += page["entries"]
        if not page["has_more"]:
            return found
        cursor = {"cursor": page["next_cursor"]}


def is_exact(gateway: Served, client: dict[str, Any], credits: int, load: Load) -> None:
    """Every key got one job, every job one charge, and nothing else was charged."""
    captured = [each["job_id"] for each in ledger_of(gateway, client) if each["kind"] == "capture"]
    assert sorted(captured) == sorted(load.jobs.values())
    left = read(gateway, "/api/billing/usage", client["api_key"]).json()["credits_remaining"]
    assert left == credits - len(load.jobs)


def refused_well(refusals: list[httpx.Response]) -> None:
    for answer in refusals:
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
        assert 1 <= int(answer.headers["Retry-After"]) <= 30


@pytest.mark.slow
def test_a_database_killed_three_times_under_load_loses_and_doubles_nothing(
    database: Server, gateways: Callable[..., Served], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = gateways()
    client = gateway.create_client("a@example.com", "pro", 200_000)
    back: list[float] = []
    with loading(gateway, client["api_key"]) as load:
        for _ in range(3):
            load.wait_for_more(200)
            with killed(database):
                time.sleep(0.5)
                assert httpx.get(f"{gateway.base}/health", timeout=BOUND_SECONDS).status_code == 200
                assert httpx.get(f"{gateway.base}/ready", timeout=BOUND_SECONDS).status_code == 503
            returned_at = time.monotonic()
            load.wait_for_more(1)
            back.append(load.first_after(returned_at))
        load.wait_for_more(200)
    is_exact(gateway, client, 200_200, load)
    refused_well(load.refusals)
    assert load.refusals
    assert load.slowest < BOUND_SECONDS
    assert max(back) < 5
    in_doubt = gateway.said.count("A batch in doubt")
    with capsys.disabled():
        print(
            f"\n3 kills: {len(load.jobs)} jobs, {len(load.refusals)} × 503, {in_doubt} batches in doubt,"
            f" first answers {', '.join(f'{each:.2f}' for each in back)} s after its return,"
            f" slowest answer {load.slowest:.2f} s"
        )


@pytest.mark.slow
def test_a_database_that_hangs_is_answered_for_in_time_and_leaves_nobody_waiting_behind(
    database: Server, gateways: Callable[..., Served], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = gateways()
    client = gateway.create_client("a@example.com", "pro", 200_000)
    took: list[tuple[str, int, float]] = []

    http = httpx.Client(
        base_url=gateway.base, headers={"X-Client-Key": client["api_key"]}, timeout=30, limits=httpx.Limits()
    )

    def ask(path: str) -> httpx.Response:
        begun = time.monotonic()
        answer = http.get(path)
        took.append((path, answer.status_code, time.monotonic() - begun))
        return answer

    with http, loading(gateway, client["api_key"]) as load, ThreadPoolExecutor(40) as readers:
        list(readers.map(ask, ["/health"] * 40))
        took.clear()
        load.wait_for_more(100)
        database.signal(signal.SIGSTOP)
        stopped_at = time.monotonic()
        try:
            paths = ["/api/billing/usage", "/api/jobs", "/api/billing/ledger", "/health"] * 10
            first = list(readers.map(ask, paths))
            after_first = time.monotonic() - stopped_at
            second = list(readers.map(ask, paths))
        finally:
            database.signal(signal.SIGCONT)
        returned_at = time.monotonic()
        load.wait_for_more(100)
        back = load.first_after(returned_at)
        # None of the connections is lost for good.
        assert {each.status_code for each in readers.map(ask, paths)} == {200}
    assert {each.status_code for each in first} <= {200, 503}
    assert [each.status_code for each in second] == [503, 503, 503, 200] * 10
    refused_well([each for each in first + second if each.status_code != 200] + load.refusals)
    is_exact(gateway, client, 200_200, load)
    assert load.slowest < BOUND_SECONDS
    assert max(seconds for _, _, seconds in took) < BOUND_SECONDS
    with capsys.disabled():
        healthy = max(seconds for path, _, seconds in took if path == "/health")
        reading = max(seconds for path, _, seconds in took if path != "/health")
        print(
            f"\nhang: reads answered within {reading:.2f} s, /health {healthy:.2f} s, jobs {load.slowest:.2f} s,"
            f" all refused at once after {after_first:.2f} s, first job {back:.2f} s after it goes on"
        )


def test_eight_jobs_at_two_gateways_on_the_last_credit_are_one_job(gateways: Callable[..., Served]) -> None:
    pair = (gateways(), gateways())
    for number in range(3):
        client = pair[0].create_client(f"a{number}@example.com", "free")
        headers = {"X-Client-Key": client["api_key"]}
        for _ in range(4):
            httpx.post(f"{pair[0].base}/api/intake", headers=headers, json=JOB).raise_for_status()
        begin = threading.Barrier(8)

        def submit(caller: int, headers: dict[str, str] = headers, begin: threading.Barrier = begin) -> int:
            with httpx.Client(base_url=pair[caller % 2].base, headers=headers) as http:
                http.get("/health")
                begin.wait()
                return http.post("/api/intake", json=JOB).status_code

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(submit, range(8))) == [200] + [403] * 7


def test_a_key_revoked_at_one_gateway_is_refused_by_the_other_within_a_second(
    gateways: Callable[..., Served], capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = gateways(), gateways()
    client = here.create_client("a@example.com")
    admin = {"X-Auth-Token": here.token}
    path = f"{here.base}/api/admin/clients/{client['client_id']}/keys"
    key_id = httpx.get(path, headers=admin).json()["keys"][0]["key_id"]
    assert read(there, "/api/billing/usage", client["api_key"]).status_code == 200
    httpx.delete(f"{path}/{key_id}", headers=admin).raise_for_status()
    revoked_at = time.monotonic()
    assert read(here, "/api/billing/usage", client["api_key"]).status_code == 401
    while read(there, "/api/billing/usage", client["api_key"]).status_code != 401:
        assert time.monotonic() - revoked_at < 1


@pytest.mark.anyio
@pytest.mark.parametrize("seconds", [0, 60])
async def test_a_known_key_is_believed_without_the_database_as_long_as_the_setting_says(
    database: Server, tmp_path: Path, seconds: int
) -> None:
    """At a host's own route: it needs nothing but the key."""
    app = FastAPI()
    app.include_router(client_auth.router)

    @app.get("/whoami")
    async def whoami(client: client_auth.CurrentClient) -> dict[str, str]:
        return {"client_id": client.client_id}

    token = secrets.token_hex(32)
    with postgres_server.schema(database.url) as url:
        client_auth.runtime.reconfigure(
            load_settings(
                data_dir=tmp_path,
                database_url=url,
                key_pepper=secrets.token_hex(32),
                admin_token=token,
                keys_seconds_without_database=seconds,
                rate_limits=False,
            )
        )
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")
        try:
            body = {"name": "Acme", "email": "a@example.com"}
            made = (await http.post("/api/admin/clients", headers={"X-Auth-Token": token}, json=body)).json()
            key = {"X-Client-Key": made["api_key"]}
            assert (await http.get("/whoami", headers=key)).json() == {"client_id": made["client_id"]}
            with killed(database):
                await _asked_while_away(http, key, seconds)
            while (await http.get("/whoami", headers=key)).status_code != 200:
                await asyncio.sleep(0.02)
        finally:
            await http.aclose()
            client_auth.runtime.reconfigure()


async def _asked_while_away(http: httpx.AsyncClient, key: dict[str, str], seconds: int) -> None:
    killed_at, statuses = time.monotonic(), set[int]()
    while time.monotonic() < killed_at + AGE_SECONDS_MAX + 0.3:
        answer = await http.get("/whoami", headers=key)
        statuses.add(answer.status_code)
        assert answer.status_code == 200 or answer.headers["Retry-After"]
        await asyncio.sleep(0.02)
    assert statuses == ({200} if seconds else {200, 503})
    unknown = await http.get("/whoami", headers={"X-Client-Key": f"oc_live_{'0' * 32}"})
    assert unknown.status_code == 503, "nobody can tell"


def doctor(gateway: Served) -> tuple[int, str]:
    command = [sys.executable, "-m", "openclaw_billing", "doctor"]
    environment = {**gateway.environment, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, cwd=gateway.data.parent, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr


def refusing(gateway: Served) -> str:
    text = httpx.get(f"{gateway.base}/metrics", timeout=BOUND_SECONDS).text
    [value] = re.findall(r"^openclaw_billing_store_refusing (\S+)$", text, re.MULTILINE)
    return str(value)


def test_readiness_metrics_and_doctor_tell_of_a_database_that_is_away(
    database: Server, gateways: Callable[..., Served]
) -> None:
    gateway = gateways()
    gateway.create_client("a@example.com")
    admin = {"X-Auth-Token": gateway.token}
    told = httpx.get(f"{gateway.base}/ready", headers=admin)
    assert (told.json()["status"], told.json()["warnings"]) == ("ready", [])
    assert refusing(gateway) == "0.0"
    assert doctor(gateway) == (0, "All is well.\n")
    with killed(database):
        answer = httpx.get(f"{gateway.base}/ready", timeout=BOUND_SECONDS)
        while answer.status_code == 200:
            answer = httpx.get(f"{gateway.base}/ready", timeout=BOUND_SECONDS)
        assert answer.json() == {"status": "read-only"}
        told = httpx.get(f"{gateway.base}/ready", headers=admin, timeout=BOUND_SECONDS)
        assert told.json()["status"] == "read-only"
        assert told.json()["reason"]
        assert refusing(gateway) == "1.0"
        code, said = doctor(gateway)
        assert code == 1
        assert "The database cannot be used" in said
    while httpx.get(f"{gateway.base}/ready").status_code != 200:
        time.sleep(0.02)
    assert refusing(gateway) == "0.0"
    # What was said while it was away is a handful of lines, and not one for each caller.
    assert gateway.said.count("The database is away") == 1


@pytest.mark.anyio
async def test_forgetting_what_is_old_touches_nothing_that_stays(database: Server, tmp_path: Path) -> None:
    with postgres_server.schema(database.url) as url, connect(url, autocommit=False) as other:
        clock = ManualClock(datetime(2026, 3, 1, tzinfo=UTC))
        settings = load_settings(data_dir=tmp_path, database_url=url, key_pepper=secrets.token_hex(32))
        runtime = Runtime(settings, clock=clock)

        def answered(tx: Transaction, name: str, *, now: datetime) -> None:
            asked = Asked("admin", "POST", "/", name, b"")
            replies.once(tx, asked, lambda _: {}, now=now)

        try:
            for number in range(25):
                await runtime.write(answered, f"old-{number}")
            clock.advance(hours=24)
            await runtime.write(answered, "new")
            # Somebody else works on what stays, for longer than anybody would wait for him.
            new = [each for each in runtime.view.spent if each.created_at == clock.now()]
            other.execute("SELECT 1 FROM spent WHERE spent_id = %s FOR UPDATE", [new[0].spent_id])
            await keep_house(runtime)
            assert [each.spent_id for each in runtime.view.spent] == [new[0].spent_id]
        finally:
            other.rollback()
            await runtime.aclose()
