"""The first implementation's 32 holes: one test each, which tries to go through it and cannot.

Holes 15, 16 and 29 are about Stripe's events and subscriptions and are tried among the tests of Stripe.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI

import client_auth
from openclaw_billing import keyring, ledger
from openclaw_billing.clock import ManualClock
from openclaw_billing.errors import BadSettings, CorruptStore, StartupError, Unprocessable
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import Settings, load_settings
from openclaw_billing.web.auth import key_of
from openclaw_billing.web.route import BillingRoute
from tests.in_process import gateway_app
from tests.served import ROOT, clean_environment

TOKEN = "0123456789abcdef" * 4
ADMIN = {"X-Auth-Token": TOKEN}
JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 2, 19, 10, 30, tzinfo=UTC))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data", admin_token=TOKEN, lock_seconds_max=0.5)


@pytest.fixture
def app(settings: Settings, clock: ManualClock) -> Iterator[FastAPI]:
    client_auth.runtime.reconfigure(settings, clock=clock)
    yield gateway_app()
    client_auth.runtime.reconfigure()


async def create(http: httpx.AsyncClient, plan: str = "free", name: str = "acme") -> dict[str, Any]:
    body = {"name": name, "email": f"{name}@example.com", "plan": plan}
    answer = await http.post("/api/admin/clients", headers=ADMIN, json=body)
    assert answer.status_code == 200, answer.text
    created: dict[str, Any] = answer.json()
    return created


def key(client: dict[str, Any]) -> dict[str, str]:
    return {"X-Client-Key": client["api_key"]}


async def submit(http: httpx.AsyncClient, client: dict[str, Any]) -> int:
    return (await http.post("/api/intake", headers=key(client), json=JOB)).status_code


async def left(http: httpx.AsyncClient, client: dict[str, Any]) -> int:
    found: int = (await http.get("/api/billing/usage", headers=key(client))).json()["credits_remaining"]
    return found


async def test_hole_01_no_default_admin_token(http: httpx.AsyncClient, tmp_path: Path) -> None:
    client_auth.runtime.reconfigure(load_settings(data_dir=tmp_path / "fresh"))
    for published in ("admin-token-secret", "your-secret-admin-token", "", "None"):
        answer = await http.get("/api/admin/clients", headers={"X-Auth-Token": published})
        assert answer.status_code == 401
    assert len((tmp_path / "fresh" / "admin_token").read_text().strip()) == 64


async def test_hole_02_secrets_are_compared_in_constant_time(http: httpx.AsyncClient) -> None:
    for comparing in (Runtime.is_admin, keyring.key_with):
        assert "compare_digest" in comparing.__code__.co_names
    for wrong in ("ключ".encode(), b"\xff" * 64, b"\x80"):
        assert (await http.get("/api/admin/clients", headers=[(b"X-Auth-Token", wrong)])).status_code == 401


async def test_hole_03_no_token_in_the_address(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/admin/clients", params={"token": TOKEN})
    assert (answer.status_code, answer.json()["code"]) == (400, "key_in_query")


async def test_hole_04_no_path_opens_because_of_how_it_begins(http: httpx.AsyncClient) -> None:
    for path in (
        "/dashboard-evil",
        "/dashboard/../api/admin/clients",
        "/healthx",
        "/metrics%2fx",
        "/health/x",
    ):
        assert (await http.get(path)).status_code == 401


async def test_hole_05_no_host_header_opens_a_path(http: httpx.AsyncClient) -> None:
    for host in ("gateway/health?", "gateway/health#", "/health", "x@y/health"):
        answer = await http.get("/api/admin/clients", headers={"Host": host})
        assert answer.status_code == 401


async def test_hole_06_no_root_path_opens_a_path(app: FastAPI) -> None:
    for root in ("/health", "/metrics", "/dashboard"):
        transport = httpx.ASGITransport(app, root_path=root)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            for path in ("/api/admin/clients", f"{root}/api/admin/clients", f"{root}/secret"):
                assert (await http.get(path)).status_code == 401


async def test_hole_07_websockets_are_guarded(app: FastAPI) -> None:
    sent: list[Any] = []

    @app.websocket("/ws")
    async def talk(socket: Any) -> None:
        pytest.fail("a stranger was let in")

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "websocket", "path": "/ws", "root_path": "", "headers": [], "query_string": b""}
    await app({**scope, "subprotocols": [], "scheme": "ws", "client": None, "server": None}, receive, send)
    assert sent == ["websocket.close"]


async def test_hole_08_a_client_needs_no_admin_token(http: httpx.AsyncClient) -> None:
    client = await create(http)
    assert (await http.get("/api/billing/usage", headers=key(client))).status_code == 200
    assert await submit(http, client) == 200


async def test_hole_09_no_key_is_no_job(http: httpx.AsyncClient) -> None:
    assert (await http.post("/api/intake", json=JOB)).status_code == 401
    assert (await http.post("/api/intake", json=JOB, headers={"X-Client-Key": ""})).status_code == 401
    listed = await http.get("/api/admin/jobs", headers=ADMIN)
    assert listed.json()["total"] == 0


async def test_hole_10_one_credit_is_one_job(http: httpx.AsyncClient) -> None:
    client = await create(http)
    answers = await asyncio.gather(*(submit(http, client) for _ in range(12)))
    assert sorted(answers) == [200] * 5 + [403] * 7


async def test_hole_11_no_job_without_its_charge(http: httpx.AsyncClient, tmp_path: Path) -> None:
    client = await create(http)
    await submit(http, client)
    # What follows the last line feed is still being written: the note of when the key was last used.
    whole = (tmp_path / "data/openclaw_clients.journal").read_bytes().rpartition(b"\n")[0]
    lines = [json.loads(line) for line in whole.splitlines()]
    (made,) = [line for line in lines if line.get("put", {}).get("jobs")]
    # One line is written whole or not at all: no crash can part them.
    assert [entry["kind"] for entry in made["ledger"]] == ["capture"]


async def test_hole_12_a_new_cycle_is_stored(http: httpx.AsyncClient, clock: ManualClock) -> None:
    client = await create(http)
    clock.advance(days=31)
    answers = [await submit(http, client) for _ in range(200)]
    assert answers.count(200) == 5


async def test_hole_13_deducting_at_zero_is_false(http: httpx.AsyncClient) -> None:
    client = await create(http)
    took = [client_auth.deduct_job_credit(client["client_id"]) for _ in range(6)]
    assert took == [True] * 5 + [False]
    assert await left(http, client) == 0


async def test_hole_14_cycles_do_not_drift(http: httpx.AsyncClient, clock: ManualClock) -> None:
    client = await create(http)
    for _ in range(4):
        clock.advance(days=37)
        await submit(http, client)
    usage = (await http.get("/api/billing/usage", headers=key(client))).json()
    began = datetime.fromisoformat(client["created_at"])
    assert (datetime.fromisoformat(usage["billing_cycle_end"]) - began).days % 30 == 0


async def test_hole_17_no_shared_temporary_directory(tmp_path: Path) -> None:
    # A directory of its own beside the gateway, wherever that stands.
    assert load_settings().data_dir == Path("data")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for planted in ("openclaw_clients.json", "openclaw_clients.journal", "pepper", "admin_token"):
        data = tmp_path / f"data-{planted}"
        data.mkdir(mode=0o700)
        (data / planted).symlink_to(victim)
        with pytest.raises((BadSettings, CorruptStore)):
            Runtime(load_settings(data_dir=data)).open()
        assert victim.read_text() == "precious"
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(BadSettings, match="Others may write"):
        Runtime(load_settings(data_dir=shared)).open()


async def test_hole_18_no_key_text_at_rest(http: httpx.AsyncClient, tmp_path: Path) -> None:
    client = await create(http)
    await submit(http, client)
    client_auth.runtime.close()
    for path in (tmp_path / "data").rglob("*"):
        assert path.is_dir() or client["api_key"].encode() not in path.read_bytes()


async def test_hole_19_a_stray_byte_is_no_empty_store(http: httpx.AsyncClient, tmp_path: Path) -> None:
    await create(http)
    client_auth.runtime.close()
    for name in ("openclaw_clients.json", "openclaw_clients.journal"):
        file = tmp_path / "data" / name
        whole = file.read_bytes()
        file.write_bytes(b"x" + whole)
        with pytest.raises(StartupError, match=name):
            client_auth.runtime.open()
        assert file.read_bytes() == b"x" + whole
        file.write_bytes(whole)
    assert (await http.get("/api/admin/clients", headers=ADMIN)).json()["total"] == 1


async def test_hole_20_accepted_is_deducted(
    http: httpx.AsyncClient, settings: Settings, clock: ManualClock
) -> None:
    client = await create(http, "pro")
    others = [Runtime(settings, clock=clock) for _ in range(3)]
    accepted: list[bool] = []

    def charge(runtime: Runtime) -> None:
        for _ in range(30):
            runtime.write_and_wait(ledger.charge, client["client_id"], job_id=os.urandom(8).hex())
            accepted.append(True)

    threads = [threading.Thread(target=charge, args=(each,)) for each in (*others, client_auth.runtime)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    for each in others:
        each.close()
    assert await left(http, client) == 200 - len(accepted) == 80


async def test_hole_21_money_is_exact(http: httpx.AsyncClient, tmp_path: Path) -> None:
    client = await create(http)
    for _ in range(50):
        client_auth.log_client_cost(client["client_id"], 0.004)
    for wrong in (float("nan"), float("inf"), -0.01):
        with pytest.raises(Unprocessable):
            client_auth.log_client_cost(client["client_id"], wrong)
    assert (await http.get("/api/billing/usage", headers=key(client))).json()["total_spent"] == 0.2
    client_auth.runtime.close()
    stored = json.loads((tmp_path / "data/openclaw_clients.json").read_text(), parse_constant=pytest.fail)
    assert stored[client["client_id"]]["total_spent"] == 0.2


async def test_hole_22_what_a_client_carries_is_bounded(http: httpx.AsyncClient, tmp_path: Path) -> None:
    client = await create(http)
    path = f"/api/admin/clients/{client['client_id']}/credits"
    huge = await http.put(path, headers=ADMIN, json={"credits": 1, "reason": "x" * 5_000_000})
    assert huge.status_code == 413
    assert (await http.put(path, headers=ADMIN, json={"credits": 1, "reason": "x" * 501})).status_code == 422
    for number in range(30):
        await http.put(path, headers=ADMIN, json={"credits": 1, "reason": f"number {number}"})
        client_auth.log_client_cost(client["client_id"], 1)
    client_auth.runtime.close()
    stored = json.loads((tmp_path / "data/openclaw_clients.json").read_text())[client["client_id"]]
    assert len(stored["metadata"]["credit_adjustments"]) <= 10
    assert len(stored["metadata"]["cost_log"]) <= 10
    entries = await http.get(f"/api/admin/clients/{client['client_id']}/ledger", headers=ADMIN)
    assert entries.json()["total"] == 31


@pytest.mark.parametrize("name", ["two\nlines", "a\rb", "a\u2028b", "a\x85b", "a\x00b", "\x1b[31m"])
async def test_hole_23_no_name_forges_a_line(http: httpx.AsyncClient, name: str) -> None:
    body = {"name": name, "email": "a@example.com", "plan": "free"}
    assert (await http.post("/api/admin/clients", headers=ADMIN, json=body)).status_code == 422


async def test_hole_24_an_email_is_one_address_of_one_client(http: httpx.AsyncClient) -> None:
    await create(http)
    for email in (
        "<b>@example.com",
        "a b@example.com",
        "=cmd@example.com",
        "a@example",
        "Acme <a@example.com>",
    ):
        body = {"name": "B", "email": email, "plan": "free"}
        assert (await http.post("/api/admin/clients", headers=ADMIN, json=body)).status_code == 422
    same = {"name": "B", "email": "ACME@EXAMPLE.COM", "plan": "free"}
    assert (await http.post("/api/admin/clients", headers=ADMIN, json=same)).status_code == 409


async def test_hole_25_a_bad_key_costs_next_to_nothing(http: httpx.AsyncClient) -> None:
    for number in range(300):
        await create(http, name=f"client{number}")
    begun = time.process_time()
    for number in range(1000):
        assert key_of(client_auth.runtime, f"oc_live_{number:032x}") is None
    assert time.process_time() - begun < 0.25


async def test_hole_26_bodies_are_bounded_and_errors_tell_nothing(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/intake", content=b"x" * 60_000_000)
    assert answer.status_code in (401, 413)
    router = APIRouter(route_class=BillingRoute)

    @router.get("/broken")
    async def broken() -> None:
        raise RuntimeError("/etc/shadow: canary")

    host = FastAPI()
    host.include_router(router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(host), base_url="http://host") as other:
        failed = await other.get("/broken")
    assert (failed.status_code, failed.json()["detail"]) == (500, "internal error")
    assert "canary" not in failed.text


async def test_hole_27_odd_clients_of_an_old_file_work(http: httpx.AsyncClient, tmp_path: Path) -> None:
    data = tmp_path / "old"
    data.mkdir(mode=0o700)
    fields = {
        "name": "Old",
        "created_at": "2026-02-01T10:00:00",
        "billing_cycle_start": "2026-02-01T10:00:00",
    }
    clients = {
        "known": {**fields, "email": "a@example.com", "plan": "pro", "api_key": "oc_live_" + "aa" * 16},
        "odd": {**fields, "email": "b@example.com", "plan": "gold", "api_key": "oc_live_" + "bb" * 16},
    }
    for each in clients.values():
        each["credits_remaining"] = 7  # type: ignore[assignment]
    (data / "openclaw_clients.json").write_text(json.dumps(clients))
    client_auth.runtime.reconfigure(
        load_settings(data_dir=data, admin_token=TOKEN), clock=client_auth.runtime.clock
    )
    assert await left(http, {"api_key": "oc_live_" + "aa" * 16}) == 7
    odd = await http.get("/api/billing/usage", headers={"X-Client-Key": "oc_live_" + "bb" * 16})
    assert (odd.status_code, odd.json()["credits_remaining"]) == (200, 7)


async def test_hole_28_half_a_character_is_no_error_of_ours(http: httpx.AsyncClient) -> None:
    for body in (b'{"name": "\\ud800", "email": "a@example.com"}', b'{"\\udfff": 1}'):
        headers = {**ADMIN, "Content-Type": "application/json"}
        answer = await http.post("/api/admin/clients", headers=headers, content=body)
        assert answer.status_code in (400, 422)


async def test_hole_30_no_request_waits_for_anothers_disk(http: httpx.AsyncClient, tmp_path: Path) -> None:
    client = await create(http)
    with (tmp_path / "data/openclaw_clients.lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = asyncio.create_task(submit(http, client))
        slowest = 0.0
        while not waiting.done():
            begun = time.perf_counter()
            assert (await http.get("/health")).status_code == 200
            assert await left(http, client) == 5
            slowest = max(slowest, time.perf_counter() - begun)
            await asyncio.sleep(0.1)
        assert await waiting == 503
    assert slowest < 0.25
    assert await submit(http, client) == 200


async def test_hole_31_the_guide_puts_no_token_into_the_shells_history() -> None:
    for document in ("CLIENT_AUTH_INTEGRATION.md", "README.md"):
        text = (ROOT / document).read_text()
        assert not re.search(r"X-Auth-Token: *[^$\s\"'<{`@.,|]{8,}", text)
        assert not re.search(r"[?&]token=(?!`)\w", text)
        for line in text.splitlines():
            if "curl" in line and "http://" in line:
                assert re.search("http://(localhost|127.0.0.1)", line), line


async def test_hole_32_importing_writes_nothing(tmp_path: Path) -> None:
    environment = clean_environment(PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
    command = [sys.executable, "-c", "import client_auth, gateway, intake_routes, openclaw_billing.cli"]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    assert list(tmp_path.iterdir()) == []
