"""The real engines: charges on PostgreSQL beside its own pgbench, and rate checks through Redis.

Both servers are started here, from the packages that the tests use. pgbench and ours take turns in one run.
"""

from __future__ import annotations

import asyncio
import atexit
import re
import secrets
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from time import perf_counter

from benchmarks.in_process import Figure
from benchmarks.results import spread
from benchmarks.subjects.ours import make_clients
from openclaw_billing import ledger
from openclaw_billing.gcra import limits_of
from openclaw_billing.limits.redis import RedisLimiter
from openclaw_billing.limits.shared import SharedLimiter
from openclaw_billing.records import Rate
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import load_settings
from tests.limits import redis_server
from tests.stores import postgres_server

CALLERS = 32
ROWS = 1_000
ROUNDS = 5
SECONDS = 3
RATE_CHECKS = 5_000
PGBENCH = "pgbench: update returning, 32 clients"
SCRIPT = """\\set number random(1, {rows})
UPDATE pgbench_clients SET credits = credits - 1 WHERE client_id = 'client-' || :number RETURNING credits;
"""


class Missing(Exception):
    """An engine cannot be started here; the text says why."""


@cache
def postgres() -> postgres_server.Server:
    """A durable server for as long as this process runs.

    Raises:
        Missing
    """
    stack = ExitStack()
    try:
        server = stack.enter_context(postgres_server.serving(durable=True))
    except postgres_server.NoServer as reason:
        raise Missing(str(reason)) from reason
    atexit.register(stack.close)
    return server


def new_schema() -> str:
    """The address of a migrated schema, which goes with the server."""
    stack = ExitStack()
    url = stack.enter_context(postgres_server.schema(postgres().url))
    atexit.register(stack.close)
    return url


def measure_all(parent_dir: Path, say: Callable[[str], None]) -> list[Figure]:
    """Each engine that is here; what is not is told and left out."""
    figures: list[Figure] = []
    for measure in (charges, rate_checks):
        with tempfile.TemporaryDirectory(dir=parent_dir, prefix="engines-") as folder:
            try:
                figures += measure(Path(folder), say)
            except (Missing, postgres_server.NoServer, redis_server.NoServer) as reason:
                say(f"  {measure.__name__} is left out: {reason}")
    return figures


def charges(folder: Path, say: Callable[[str], None]) -> list[Figure]:
    """Charges a second of 32 callers, and the updates a second of pgbench with 32 clients, in turns."""
    server, url = postgres(), new_schema()
    _make_pgbench_rows(url)
    script = Path(server.home) / "update.sql"
    script.write_text(SCRIPT.format(rows=ROWS))
    script.chmod(0o644)
    runtime = _runtime(folder, url)
    make_clients(folder, ROWS, runtime)
    theirs, ours, lone = [], [], []
    try:
        for number in range(ROUNDS):
            theirs.append(_pgbench(server, url, script))
            ours.append(asyncio.run(_charge(runtime, f"{number}", CALLERS)))
            lone.append(asyncio.run(_charge(runtime, f"lone-{number}", 1)))
            say(f"  round {number + 1}/{ROUNDS}: pgbench {theirs[-1]:,.0f}/s, ours {ours[-1]:,.0f}/s")
    finally:
        runtime.close()
    yardstick = spread(theirs)
    return [
        Figure(PGBENCH, "/s", yardstick, None, ""),
        Figure(
            "ours: charges, 32 callers",
            "/s",
            spread(ours),
            spread([mine / other for mine, other in zip(ours, theirs, strict=True)]).median,
            PGBENCH,
        ),
        Figure("ours: charges, one caller", "/s", spread(lone), None, ""),
    ]


def rate_checks(folder: Path, say: Callable[[str], None]) -> list[Figure]:
    """Microseconds a call through Redis, for a caller alone and for 32 at once."""
    with redis_server.serving() as server:
        local = SharedLimiter(folder, lambda: time.monotonic_ns() // 1000)
        alone, shared = asyncio.run(_check_rates(server.url, local))
        local.close()
    say("  rate checks")
    return [
        Figure("ours: rate check in Redis, alone", "us", spread(alone), None, ""),
        Figure("ours: rate check in Redis, 32 at once", "us", spread(shared), None, ""),
    ]


def _make_pgbench_rows(url: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE pgbench_clients (client_id text PRIMARY KEY, credits bigint NOT NULL CHECK (credits >= 0))"
        )
        connection.execute(
            "INSERT INTO pgbench_clients SELECT 'client-' || n, 1000000 FROM generate_series(1, %s) AS n",
            [ROWS],
        )


def _pgbench(server: postgres_server.Server, url: str, script: Path) -> float:
    """Transactions a second, each one UPDATE, prepared."""
    options = ["-n", "-c", str(CALLERS), "-j", "2", "-T", str(SECONDS), "-M", "prepared", "-f", str(script)]
    said = server.run("pgbench", *options, url)
    found = re.search(r"^tps = ([\d.]+)", said, re.MULTILINE)
    assert found is not None, said
    return float(found[1])


async def _charge(runtime: Runtime, name: str, callers: int) -> float:
    """Charges a second, each of a client and a job of its own, as the routes make them."""
    done = 0
    begun = perf_counter()

    async def call(caller: int) -> None:
        nonlocal done
        number = caller
        while perf_counter() - begun < SECONDS:
            client_id = f"client-{(number * 7919) % ROWS}"
            await runtime.write(ledger.charge, client_id, job_id=f"{name}-{number}")
            done += 1
            number += callers

    await asyncio.gather(*map(call, range(callers)))
    return done / (perf_counter() - begun)


async def _check_rates(url: str, local: SharedLimiter) -> tuple[list[float], list[float]]:
    limiter = RedisLimiter(url, local)
    limits = limits_of(Rate(10_000, 100_000, 600_000))
    take = partial(limiter.take, limits=limits)
    alone, shared = [], []
    for number in range(RATE_CHECKS):
        begun = perf_counter()
        verdict = await take(f"client-{number % ROWS}")
        alone.append((perf_counter() - begun) * 1e6)
        assert not verdict.degraded
    for number in range(RATE_CHECKS // CALLERS):
        keys = [f"client-{(number * CALLERS + caller) % ROWS}" for caller in range(CALLERS)]
        begun = perf_counter()
        await asyncio.gather(*map(take, keys))
        shared.append((perf_counter() - begun) / CALLERS * 1e6)
    await limiter.aclose()
    return alone, shared


def _runtime(folder: Path, url: str) -> Runtime:
    settings = load_settings(
        data_dir=folder, database_url=url, key_pepper=secrets.token_hex(32), admin_token=secrets.token_hex(32)
    )
    return Runtime(settings)
