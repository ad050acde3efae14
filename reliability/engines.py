"""PostgreSQL and Redis killed and back again under gateways at work; keys revoked at one gateway, used at another."""

from __future__ import annotations

import math
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from reliability.figure import Seen, Skipped
from tests.limits import redis_server
from tests.served import Served, served
from tests.stores import postgres_server
from tests.stores.postgres_server import Server
from tests.stores.test_postgres_gateway import Load, killed, ledger_of, loading, read

READY_SECONDS_MAX = 1.0
REVOKED_SECONDS_MAX = 1.0
CREDITS = 1_000_000
USAGE = "/api/billing/usage"


@contextmanager
def on_postgres(*, durable: bool) -> Iterator[tuple[Server, Callable[[], Served]]]:
    """A PostgreSQL of our own, and gateways on one schema of it."""
    # Revoked keys are asked with again and again here, from one address.
    settings = {"OPENCLAW_KEY_PEPPER": secrets.token_hex(32), "OPENCLAW_FAILURES_PER_ADDRESS": "0"}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        try:
            database = stack.enter_context(postgres_server.serving(durable=durable))
            url = stack.enter_context(postgres_server.schema(database.url))
        except postgres_server.NotInstalled as reason:
            raise Skipped(str(reason)) from None
        inner = stack.enter_context(ExitStack())

        def another() -> Served:
            more = {**settings, "OPENCLAW_DATABASE_URL": url}
            return inner.enter_context(served(Path(folder) / secrets.token_hex(4), settings=more))

        yield database, another


def killed_postgres(kills: int = 6) -> Seen:
    """Killed under eight callers, so that commits are in flight each time; and started again."""
    ready: list[float] = []
    with on_postgres(durable=True) as (database, another):
        gateway = another()
        client = gateway.create_client("a@example.com", "pro", CREDITS)
        with loading(gateway, client["api_key"]) as load:
            for _ in range(kills):
                load.wait_for_more(100)
                with killed(database):
                    time.sleep(0.3)
                ready.append(_seconds_until_ready(gateway))
                load.wait_for_more(1)
            load.wait_for_more(100)
        lost, doubled, left = _inexact(gateway, client, load)
        came, not_came = (
            gateway.said.count(f"A batch in doubt {each} committed") for each in ("was", "was not")
        )
    strange = {answer.status_code for answer in load.refusals} - {503}
    return Seen(
        f"{kills} kills: {len(load.jobs)} jobs answered, {lost} lost, {doubled} charged without an answer, "
        f"{left} credits astray; {came + not_came} commits in doubt, all settled ({came} had come about, "
        f"{not_came} had not); ready {max(ready):.2f} s after it was back at the latest; "
        f"{len(load.refusals)} × 503, other refusals {sorted(strange)}",
        not (lost or doubled or left or strange) and came + not_came > 0 and max(ready) <= READY_SECONDS_MAX,
    )


def _seconds_until_ready(gateway: Served) -> float:
    begun = time.monotonic()
    with httpx.Client(base_url=gateway.base, timeout=30) as http:
        while http.get("/ready").status_code != 200:
            assert time.monotonic() < begun + 60, "it does not get ready again"
            time.sleep(0.01)
    return time.monotonic() - begun


def _inexact(gateway: Served, client: dict[str, Any], load: Load) -> tuple[int, int, int]:
    """How many answered jobs are not charged, charges are nobody's job, and credits are missing."""
    charged = [each["job_id"] for each in ledger_of(gateway, client) if each["kind"] == "capture"]
    answered = set(load.jobs.values())
    left = read(gateway, USAGE, client["api_key"]).json()["credits_remaining"]
    return (
        len(answered - set(charged)),
        len(charged) - len(answered & set(charged)),
        abs(CREDITS + 200 - len(charged) - left),
    )


def revoked_over_machines(keys: int = 20) -> Seen:
    """Keys revoked at one gateway, while another on the same PostgreSQL is asked with them again and again."""
    with on_postgres(durable=False) as (_, another):
        here, there = another(), another()
        took = [_seconds_until_refused(here, there, number) for number in range(keys)]
    return Seen(
        f"{keys} keys revoked at one gateway: refused there at once, by another machine's after "
        f"{max(took) * 1000:.0f} ms at the latest",
        max(took) <= REVOKED_SECONDS_MAX,
    )


def _seconds_until_refused(here: Served, there: Served, number: int) -> float:
    client = here.create_client(f"r{number}@example.com")
    admin, key = {"X-Auth-Token": here.token}, {"X-Client-Key": client["api_key"]}
    with (
        httpx.Client(base_url=here.base, headers=key, timeout=30) as near,
        httpx.Client(base_url=there.base, headers=key, timeout=30) as far,
    ):
        near.get(USAGE).raise_for_status()
        far.get(USAGE).raise_for_status()
        path = f"{here.base}/api/admin/clients/{client['client_id']}/keys/{client['key_id']}"
        httpx.delete(path, headers=admin, timeout=30).raise_for_status()
        revoked_at = time.monotonic()
        assert near.get(USAGE).status_code == 401, "refused at once where it was revoked"
        while far.get(USAGE).status_code != 401:
            assert time.monotonic() < revoked_at + 60, "it is never refused"
            time.sleep(0.002)
        return time.monotonic() - revoked_at


# Redis

BURST = 20
CALM_CALLS = 10


def lost_redis() -> Seen:
    """Two gateways on one Redis that is killed and comes back empty; a client that calls far too often all the while.

    One that keeps to a quarter of its limit is asked as well: it may never be refused.
    """
    let_in: dict[str, int] = {}
    refused = 0
    with _on_redis() as (redis, gateways, greedy, calm):
        # Each phase as short as it can be: what it lets in at once counts most then.
        begun = time.monotonic()
        let_in["up"] = _greed(gateways, greedy)
        refused += _refusals_of_the_calm(gateways, calm)
        redis.stop(signal.SIGKILL)
        let_in["killed"] = _greed(gateways, greedy)
        refused += _refusals_of_the_calm(gateways, calm)
        redis.start()
        _until_counted_together(gateways, calm)
        let_in["back, empty"] = _greed(gateways, greedy)
        refused += _refusals_of_the_calm(gateways, calm)
        seconds = time.monotonic() - begun
    most = BURST + math.floor(seconds)
    told = ", ".join(f"{count} {phase}" for phase, count in let_in.items())
    total = sum(let_in.values())
    return Seen(
        f"two gateways, {seconds:.1f} s: let in {told}: {total} in all where the limit admits {most} "
        f"(× {total / most:.2f}); of a client below its limit {refused} calls were refused",
        total <= 2 * most and refused == 0,
    )


@contextmanager
def _on_redis() -> Iterator[tuple[redis_server.Server, list[Served], dict[str, str], dict[str, str]]]:
    """Two gateways that know the same two clients; for one a limit is set that it will pass, for the other none it will."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        try:
            redis = stack.enter_context(redis_server.serving())
        except redis_server.NotInstalled as reason:
            raise Skipped(str(reason)) from None
        settings = {
            "OPENCLAW_RATE_LIMITS": "true",
            "OPENCLAW_RATE_PRO": f"1/s, burst {BURST}",
            "OPENCLAW_RATE_STARTER": f"{8 * CALM_CALLS}/s, burst {8 * CALM_CALLS}",
            "OPENCLAW_REDIS_URL": redis.url,
        }
        one = stack.enter_context(served(Path(folder) / "one", settings=settings))
        greedy, calm = (
            {"X-Client-Key": one.create_client(f"{plan}@example.com", plan)["api_key"]}
            for plan in ("pro", "starter")
        )
        one.stop()
        shutil.copytree(one.data, Path(folder) / "two" / "data")
        # Another machine has a name of its own.
        (Path(folder) / "two" / "data" / "rate_limits").unlink(missing_ok=True)
        one.start_again()
        two = stack.enter_context(served(Path(folder) / "two", settings=settings))
        yield redis, [one, two], greedy, calm


def _greed(gateways: list[Served], key: dict[str, str]) -> int:
    """How many calls are let in until both refuse."""
    let_in = 0
    for gateway in gateways:
        with httpx.Client(base_url=gateway.base, headers=key, timeout=30) as http:
            while (status := http.get(USAGE).status_code) == 200:
                let_in += 1
            assert status == 429, status
    return let_in


def _refusals_of_the_calm(gateways: list[Served], key: dict[str, str]) -> int:
    refused = 0
    for number in range(CALM_CALLS):
        answer = httpx.get(f"{gateways[number % 2].base}{USAGE}", headers=key, timeout=30)
        refused += answer.status_code != 200
    return refused


def _until_counted_together(gateways: list[Served], key: dict[str, str]) -> None:
    deadline = time.monotonic() + 30
    for gateway in gateways:
        while "X-RateLimit-Degraded" in httpx.get(f"{gateway.base}{USAGE}", headers=key, timeout=30).headers:
            assert time.monotonic() < deadline, "Redis is not used again"
            time.sleep(0.05)
