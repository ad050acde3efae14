"""The gateway as a process: its first start, its refusals to start, its end under load, several workers."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway import main
from openclaw_billing.stores import backups
from openclaw_billing.stores.files import Directory, FileLock
from openclaw_billing.stores.journal import Chain
from tests.served import ROOT, Served, clean_environment, served

JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("gateway")) as running:
        yield running


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_makes_a_token_and_shows_it_once(gateway: Served) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", gateway.token)
    assert gateway.said.count(gateway.token) == 1
    assert "Admin token" in gateway.said
    admin = httpx.get(f"{gateway.base}/api/admin/clients", headers={"X-Auth-Token": gateway.token})
    assert admin.status_code == 200


def test_the_token_is_shown_by_the_first_start_though_a_command_came_before_it(tmp_path: Path) -> None:
    environment = clean_environment(OPENCLAW_DATA_DIR=str(tmp_path / "data"), PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "openclaw_billing", "clients", "list"]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True)
    with served(tmp_path) as running:
        assert running.said.count(running.token) == 1


def test_every_file_is_its_owners_alone(gateway: Served) -> None:
    assert mode(gateway.data) == 0o700
    files = [path for path in gateway.data.rglob("*") if path.is_file()]
    assert {"admin_token", "pepper"} <= {path.name for path in files}
    assert {mode(path) for path in files} == {0o600}


def test_a_second_start_keeps_the_token_and_does_not_show_it(gateway: Served) -> None:
    token = gateway.token
    client = gateway.create_client("second@example.com")
    assert gateway.stop() == 0
    gateway.start_again()
    assert gateway.token == token
    assert gateway.said.count(token) == 1
    key = {"X-Client-Key": client["api_key"]}
    assert httpx.get(f"{gateway.base}/api/billing/usage", headers=key).json()["credits_remaining"] == 5


@pytest.mark.parametrize(("workers", "options", "lines"), [(1, (), 1), (2, ("--no-access-log",), 0)])
def test_requests_are_logged_unless_it_is_told_otherwise(
    tmp_path: Path, workers: int, options: tuple[str, ...], lines: int
) -> None:
    with served(tmp_path, workers=workers, options=options) as running:
        httpx.get(f"{running.base}/api/billing/plans")
        running.stop()
        assert running.said.count("GET /api/billing/plans") == lines


def test_health_ready_and_metrics_answer_anybody(gateway: Served) -> None:
    health, ready, metrics = (httpx.get(f"{gateway.base}/{name}") for name in ("health", "ready", "metrics"))
    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert metrics.headers["Content-Type"].startswith("text/plain")
    assert "openclaw_billing_store_refusing 0.0" in metrics.text
    for answer in (health, ready, metrics):
        assert str(gateway.data) not in answer.text
        assert "server" not in answer.headers


def test_what_is_public_can_be_asked_for_by_head(gateway: Served) -> None:
    for path in ("/health", "/ready", "/metrics", "/api/billing/plans"):
        answer, whole = httpx.head(f"{gateway.base}{path}"), httpx.get(f"{gateway.base}{path}")
        assert (answer.status_code, answer.content) == (200, b""), path
        assert answer.headers["Content-Type"] == whole.headers["Content-Type"]


def test_readiness_tells_an_admin_how_far_billing_is_and_nobody_else(gateway: Served) -> None:
    ready = f"{gateway.base}/ready"
    assert httpx.get(ready, headers={"X-Auth-Token": gateway.token}).json() == {
        "status": "ready",
        "warnings": [],
        "billing_mode": "mock",
        "inbox": {"waiting": 0, "parked": 0, "lag_seconds": None, "last_event_seconds": None},
    }
    for wrong in ({"X-Auth-Token": "0" * 64}, {"X-Auth-Token": ""}, {"X-Client-Key": "junk"}):
        answer = httpx.get(ready, headers=wrong)
        assert (answer.status_code, answer.json()) == (200, {"status": "ready"})


def test_who_guesses_tokens_at_readiness_is_counted_as_everywhere(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        for number in range(12):
            guess = {"X-Auth-Token": f"{number:064}"}
            assert httpx.get(f"{running.base}/ready", headers=guess).status_code == 200
        good = {"X-Auth-Token": running.token}
        assert httpx.get(f"{running.base}/api/admin/clients", headers=guess).status_code == 429
        assert "inbox" not in httpx.get(f"{running.base}/ready", headers=good).json()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/api/nothing", 404, "not_found"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("PUT", "/api/intake", 405, "method_not_allowed"),
        ("DELETE", "/api/admin/clients", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_there_is_refused_like_everything_else(
    gateway: Served, method: str, path: str, status: int, code: str
) -> None:
    headers = {"X-Auth-Token": gateway.token, "X-Request-Id": "r1"}
    answer = httpx.request(method, f"{gateway.base}{path}", headers=headers)
    assert (answer.status_code, answer.json()["code"], answer.json()["request_id"]) == (status, code, "r1")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert ("Allow" in answer.headers) is (status == 405)
    stranger = httpx.get(f"{gateway.base}/nothing", headers={"X-Request-Id": "r1"})
    assert (stranger.status_code, stranger.json()["code"]) == (401, "invalid_token")
    for each in (answer, stranger):
        assert each.headers.get_list("X-Request-Id") == ["r1"]
        assert each.headers["X-Content-Type-Options"] == "nosniff"
        assert each.headers["Cache-Control"] == "no-store"


def test_a_caller_who_hangs_up_during_an_export_leaves_no_trace(gateway: Served) -> None:
    client = gateway.create_client("export@example.com", plan="enterprise")
    admin, key = {"X-Auth-Token": gateway.token}, {"X-Client-Key": client["api_key"]}
    long = {**JOB, "description": "x" * 9_999}
    with httpx.Client(base_url=gateway.base) as http:
        for _ in range(250):
            assert http.post("/api/intake", headers=key, json=long).status_code == 200
        whole = http.get("/api/admin/jobs?format=csv", headers=admin)
        assert whole.headers["Transfer-Encoding"] == "chunked"
        assert whole.text.count("\r\n") > 250
        with http.stream("GET", "/api/admin/jobs?format=csv", headers=admin) as begun:
            assert next(begun.iter_raw()).startswith(b"job_id,")
        assert http.get("/health").status_code == 200
    gateway.stop()
    assert "Traceback" not in gateway.said
    gateway.start_again()


def test_a_gateway_whose_lock_somebody_keeps_reads_on_and_is_not_ready(gateway: Served) -> None:
    client = gateway.create_client("locked@example.com")
    directory = Directory(gateway.data)
    directory.open()
    lock = FileLock(directory, "openclaw_clients.lock", 2.0)
    lock.acquire()
    try:
        ready, key = httpx.get(f"{gateway.base}/ready"), {"X-Client-Key": client["api_key"]}
        assert (ready.status_code, ready.json()) == (503, {"status": "read-only"})
        told = httpx.get(f"{gateway.base}/ready", headers={"X-Auth-Token": gateway.token})
        assert told.json()["reason"] == "the lock is held by another process"
        assert httpx.get(f"{gateway.base}/health").status_code == 200
        assert httpx.get(f"{gateway.base}/api/billing/usage", headers=key).status_code == 200
    finally:
        lock.forget()
        directory.close()
    assert httpx.get(f"{gateway.base}/ready").status_code == 200


def test_docs_are_the_admins_until_they_are_switched_on(gateway: Served) -> None:
    for path in ("/docs", "/openapi.json"):
        assert httpx.get(f"{gateway.base}{path}").status_code == 401
        assert httpx.get(f"{gateway.base}{path}", headers={"X-Auth-Token": gateway.token}).status_code == 404


def test_a_short_token_disables_the_admin_api_only(gateway: Served) -> None:
    token = "canary-x" * 3
    client = gateway.create_client("short@example.com")
    gateway.stop()
    gateway.start_again(OPENCLAW_ADMIN_TOKEN=token)
    try:
        for tried in (token, gateway.token):
            answer = httpx.get(f"{gateway.base}/api/admin/clients", headers={"X-Auth-Token": tried})
            assert (answer.status_code, answer.json()["code"]) == (503, "admin_disabled")
        key = {"X-Client-Key": client["api_key"]}
        assert httpx.post(f"{gateway.base}/api/intake", headers=key, json=JOB).status_code == 200
        ready = httpx.get(f"{gateway.base}/ready", headers={"X-Auth-Token": token})
        assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
        assert "the admin API is disabled" in gateway.said
        assert token not in gateway.said
    finally:
        gateway.stop()
        gateway.start_again()


def test_what_strangers_send_in_an_address_is_masked_in_the_log(gateway: Served) -> None:
    token, key_text = "canary" + "0" * 58, "oc_live_" + "d0" * 16
    httpx.get(f"{gateway.base}/api/admin/clients", params={"token": token})
    httpx.get(f"{gateway.base}/api/billing/usage", params={"key": key_text})
    httpx.get(f"{gateway.base}/api/jobs/{key_text}")
    httpx.get(f"{gateway.base}/line%0a2026-01-01 00:00:00 - openclaw_billing - INFO - forged")
    gateway.stop()
    said = gateway.said
    gateway.start_again()
    assert "[masked]" in said
    assert token not in said
    assert key_text not in said
    assert "\n2026-01-01" not in said


def test_a_damaged_journal_is_told_in_a_sentence_and_left_alone(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        running.create_client("a@example.com")
        running.create_client("b@example.com")
    journal = running.data / "openclaw_clients.journal"
    whole = journal.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    journal.write_bytes(damaged)
    for name in ("openclaw_clients.json", "openclaw_clients.checkpoint"):
        (running.data / name).unlink(missing_ok=True)
    before = {path.name: path.read_bytes() for path in running.data.iterdir() if path.is_file()}
    environment = running.environment
    done = subprocess.run(
        running.command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 78
    assert re.search(r"openclaw_clients\.journal at byte \d+", done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert {path.name: path.read_bytes() for path in running.data.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"OPENCLAW_PORT": "many", "STRIPE_SECRET_KEY": "sk_canary"}, "STRIPE_SECRET_KEY is wrong"),
        ({"OPENCLAW_DATA_DIR": "/proc/nothing"}, "cannot be used"),
        ({"OPENCLAW_KEY_PEPPER": "short"}, "fewer than 32 bytes"),
    ],
)
def test_settings_that_cannot_be_used_are_told_in_a_sentence(
    tmp_path: Path, gateway: Served, settings: dict[str, str], said: str
) -> None:
    environment = clean_environment(**{"OPENCLAW_DATA_DIR": str(tmp_path / "data"), **settings})
    done = subprocess.run(
        gateway.command[:2], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 78
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "canary" not in done.stderr


@pytest.mark.parametrize(
    "option",
    [("--port", "0"), ("--port", "99999"), ("--port", "x"), ("--workers", "0"), ("--workers", "257")],
)
def test_an_option_out_of_range_is_refused_in_a_sentence(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(option)
    assert ended.value.code == 2
    assert f"argument {option[0]}: must be a whole number from 1 to" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [1, 2])
def test_an_end_under_load_loses_nothing_and_charges_nothing_unanswered(tmp_path: Path, workers: int) -> None:
    accepted: set[str] = set()
    with served(tmp_path, workers=workers) as running:
        client = running.create_client("load@example.com", "pro", credits=50_000)
        going = threading.Barrier(5)

        def submit() -> None:
            with httpx.Client(base_url=running.base, headers={"X-Client-Key": client["api_key"]}) as http:
                going.wait()
                while True:
                    try:
                        answer = http.post("/api/intake", json=JOB)
                    except httpx.TransportError:
                        return
                    assert answer.status_code == 200, answer.text
                    accepted.add(answer.json()["job_id"])

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        going.wait()
        while len(accepted) < 100:
            threads[0].join(0.01)
        assert running.stop() == 0
        for thread in threads:
            thread.join()
        said = running.said
    # A graceful end answers all that it has begun: nothing is there that nobody was told of.
    jobs = {line.get("job_id") for line in ledger_of(running.data) if line["kind"] == "capture"}
    assert jobs == accepted
    assert "Traceback" not in said
    assert said.count("Deducted credit for") == len(accepted)


def ledger_of(data: Path) -> list[dict[str, str]]:
    """Every entry of the ledger in the journal, whose chain is whole and whose sums are the balances."""
    directory = Directory(data)
    directory.open()
    try:
        assert backups.verify(directory, Chain(None)).problems == []
        return [
            entry for line in backups.walk(directory, Chain(None)) for entry in line.data.get("ledger", ())
        ]
    finally:
        directory.close()
