"""Two gateways on one Redis, as their users see them: together no more than the rate, whatever becomes of Redis."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.limits.redis_server import Server
from tests.served import ROOT, Served, served

JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}
BURST = 20
AWAY = "Redis is away: each gateway lets in its part of the rates"


@pytest.fixture
def gateways(tmp_path: Path, redis_of_our_own: Server) -> Iterator[tuple[Served, Served, dict[str, str]]]:
    """Both know the same client, whose rate is a burst and next to nothing after it."""
    settings = {
        "OPENCLAW_RATE_LIMITS": "true",
        "OPENCLAW_RATE_PRO": f"1/s, burst {BURST}",
        "OPENCLAW_REDIS_URL": redis_of_our_own.url,
    }
    with served(tmp_path / "one", settings=settings) as one:
        key = {"X-Client-Key": one.create_client("acme@example.com", "pro")["api_key"]}
        one.stop()
        shutil.copytree(one.data, tmp_path / "two" / "data")
        # Another machine has a name of its own.
        (tmp_path / "two" / "data" / "rate_limits").unlink(missing_ok=True)
        one.start_again()
        with served(tmp_path / "two", settings=settings) as two:
            yield one, two, key


def call(gateway: Served, key: dict[str, str]) -> httpx.Response:
    return httpx.get(f"{gateway.base}/api/billing/usage", headers=key)


def calls(one: Served, two: Served, key: dict[str, str]) -> int:
    """How many of two bursts at both gateways in turn were let in."""
    return sum(call((one, two)[number % 2], key).status_code == 200 for number in range(2 * BURST))


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it did not happen within ten seconds"
        time.sleep(0.05)


def degraded(gateway: Served) -> bool:
    metrics = httpx.get(f"{gateway.base}/metrics").text
    return "openclaw_billing_rate_limits_degraded 1.0" in metrics


def readiness(gateway: Served) -> tuple[int, list[str]]:
    answer = httpx.get(f"{gateway.base}/ready", headers={"X-Auth-Token": gateway.token})
    return answer.status_code, answer.json()["warnings"]


def doctor(gateway: Served) -> tuple[int, str]:
    command = [sys.executable, "-m", "openclaw_billing", "doctor"]
    environment = {**gateway.environment, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, cwd=gateway.data.parent, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr


def test_together_they_let_in_what_one_would(gateways: tuple[Served, Served, dict[str, str]]) -> None:
    one, two, key = gateways
    began = time.monotonic()
    answers = [call((one, two)[number % 2], key) for number in range(BURST + 10)]
    seconds = time.monotonic() - began
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert BURST <= statuses.count(200) <= BURST + seconds + 1
    assert not [answer for answer in answers if "X-RateLimit-Degraded" in answer.headers]
    left = [int(answer.headers["X-RateLimit-Remaining"]) for answer in answers[:5]]
    assert left == sorted(left, reverse=True)


def test_a_lost_redis_is_told_of_and_refuses_nobody_and_takes_no_credit(
    gateways: tuple[Served, Served, dict[str, str]], redis_of_our_own: Server
) -> None:
    one, two, key = gateways
    began, let_in = time.monotonic(), calls(one, two, key)
    assert let_in >= BURST
    assert not degraded(one)
    assert readiness(one) == (200, [])
    assert doctor(one) == (0, "All is well.\n")
    with redis_of_our_own.client() as client:
        assert client.zcard("openclaw:gateways") == 2
    redis_of_our_own.stop(signal.SIGKILL)
    answers = [call((one, two)[number % 2], key) for number in range(2 * BURST)]
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert all(answer.headers["X-RateLimit-Degraded"] == "1" for answer in answers)
    let_in += sum(answer.status_code == 200 for answer in answers)
    assert degraded(one)
    # It is told, and nobody is sent elsewhere for it.
    assert readiness(one) == (200, [AWAY])
    code, said = doctor(one)
    assert code == 0
    assert said.endswith(f"{AWAY}.\nAll is well.\n")
    before = call_until_let_in(one, key)["credits_remaining"]
    job = httpx.post(f"{one.base}/api/intake", headers=key, json=JOB)
    while job.status_code == 429:
        time.sleep(float(job.headers["Retry-After"]) / 4)
        job = httpx.post(f"{one.base}/api/intake", headers=key, json=JOB)
    assert (job.status_code, job.json()["credits_remaining"]) == (200, before - 1)
    redis_of_our_own.start()
    # Whether or not anybody calls.
    until(lambda: not degraded(one) and not degraded(two))
    assert "X-RateLimit-Degraded" not in call(one, key).headers
    let_in += calls(one, two, key)
    # Six bursts were asked for; only time brought more than one, but for a call of each gateway each time.
    assert let_in <= BURST + (time.monotonic() - began) + BURST / 4
    assert "Redis is lost" in one.said
    assert "Redis is back" in one.said
    assert redis_of_our_own.url not in one.said


def call_until_let_in(gateway: Served, key: dict[str, str]) -> dict[str, int]:
    answer = call(gateway, key)
    while answer.status_code == 429:
        time.sleep(0.2)
        answer = call(gateway, key)
    found: dict[str, int] = answer.json()
    return found


def test_workers_of_one_gateway_count_together(tmp_path: Path) -> None:
    settings = {"OPENCLAW_RATE_LIMITS": "true", "OPENCLAW_RATE_PRO": f"1/s, burst {BURST}"}
    with served(tmp_path, settings=settings, workers=2) as running:
        key = {"X-Client-Key": running.create_client("acme@example.com", "pro")["api_key"]}
        began = time.monotonic()
        # A connection of its own for each call, so that both workers are met.
        statuses = [call(running, key).status_code for _ in range(BURST + 15)]
        seconds = time.monotonic() - began
    assert BURST <= statuses.count(200) <= BURST + seconds + 1


def test_wrong_keys_count_over_all_workers(tmp_path: Path) -> None:
    with served(tmp_path, workers=2) as running:
        wrong = {"X-Client-Key": "oc_live_" + "0" * 32}
        statuses = [call(running, wrong).status_code for _ in range(14)]
    assert statuses == [401] * 10 + [429] * 4
