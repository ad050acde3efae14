"""The limiter of several machines: exact between them, and no worse than one short wait when Redis is lost."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from openclaw_billing.gcra import SECOND_US, Limit, judge
from openclaw_billing.limits import redis as redis_module
from openclaw_billing.limits.redis import RedisLimiter
from openclaw_billing.limits.shared import SharedLimiter
from tests.limits.calling import admitted_by_all, assert_exact
from tests.limits.conftest import Ticks
from tests.limits.redis_server import Server
from tests.served import ROOT

pytestmark = pytest.mark.anyio

HOUR = 3600 * SECOND_US
TEN = (Limit("minute", 1, HOUR, 10),)


class Machines:
    """Gateways of several machines on one Redis, each with a data directory of its own."""

    def __init__(self, url: str, top: Path, prefix: str = "test:") -> None:
        self.url, self.top, self.prefix = url, top, prefix
        self.limiters: list[RedisLimiter] = []

    def add(self, name: str) -> RedisLimiter:
        local = SharedLimiter(self.top / name, Ticks())
        self.limiters.append(RedisLimiter(self.url, local, prefix=self.prefix))
        return self.limiters[-1]

    async def until(self, true: Callable[[], object]) -> None:
        """Beats come by themselves: wait for what they bring, ten seconds at most."""
        async with asyncio.timeout(10):
            while not true():
                await asyncio.sleep(0.01)


def line_of(limiter: RedisLimiter) -> Any:
    return limiter._lines[asyncio.get_running_loop()]


@pytest.fixture
async def machines(redis_of_our_own: Server, tmp_path: Path, anyio_backend: str) -> AsyncIterator[Machines]:
    made = Machines(redis_of_our_own.url, tmp_path)
    yield made
    for each in made.limiters:
        await each.aclose()
        each._local.close()


async def allowed(limiter: RedisLimiter, calls: int, key: str = "acme") -> int:
    verdicts = await asyncio.gather(*(limiter.take(key, TEN) for _ in range(calls)))
    return sum(verdict.allowed for verdict in verdicts)


@pytest.mark.parametrize("seed", range(3))
async def test_the_script_and_the_rule_agree(redis_url: str, prefix: str, tmp_path: Path, seed: int) -> None:
    """Whatever the limits and their changes: what the script stored is what the rule says."""
    chance = random.Random(seed)
    limiter = RedisLimiter(redis_url, SharedLimiter(tmp_path, Ticks()), prefix=prefix)
    stored: dict[str, list[int]] = {}
    for _ in range(30):
        calls = []
        for _ in range(chance.randrange(1, 40)):
            periods = chance.choice([(SECOND_US,), (SECOND_US, 60 * SECOND_US)])
            limits = tuple(
                Limit(f"by {period}", chance.choice([1, 3, 50, 9_999]), period, chance.choice([1, 2, 30]))
                for period in periods
            )
            calls.append((chance.choice("abc"), limits))
        verdicts = await asyncio.gather(*(limiter.take(key, limits) for key, limits in calls))
        for (key, limits), verdict in zip(calls, verdicts, strict=True):
            before = [*stored.get(key, []), 0, 0][: len(limits)]
            expected = judge(limits, before, verdict.now)
            # A record may be gone once it says nothing more: then both are as if never called.
            assert verdict.refused_by == expected.refused_by
            assert list(verdict.times) == list(expected.times)
            if verdict.allowed:
                stored[key] = list(verdict.times)
    await limiter.aclose()


@pytest.mark.parametrize(
    "calls", [3_000, pytest.param(500_000, marks=pytest.mark.slow)], ids=["some", "two million"]
)
def test_gateways_that_call_at_once_are_let_in_as_if_they_were_one(
    redis_url: str, prefix: str, calls: int
) -> None:
    assert_exact(admitted_by_all(f"{redis_url} {prefix}", calls, 50, 50), 50, 50)


async def test_every_key_has_the_prefix_and_an_end(machines: Machines, redis_of_our_own: Server) -> None:
    limiter = machines.add("one")
    await allowed(limiter, 3)
    await limiter.take("short", (Limit("default", 10, SECOND_US, 30),))
    with redis_of_our_own.client() as client:
        keys = client.keys("*")
        assert sorted(keys) == [b"test:began", b"test:gateways", b"test:rate:acme", b"test:rate:short"]
        lives = {key: client.pttl(key) for key in keys}
    assert all(life > 0 for life in lives.values())
    assert lives[b"test:rate:acme"] <= 3 * HOUR / 1000 + 1
    assert lives[b"test:rate:short"] <= 101


async def test_a_server_that_forgot_the_scripts_is_told_them_again(
    machines: Machines, redis_of_our_own: Server
) -> None:
    limiter = machines.add("one")
    assert await allowed(limiter, 4) == 4
    with redis_of_our_own.client() as client:
        client.script_flush()
    assert await allowed(limiter, 20) == 6


async def test_calls_that_wait_share_a_journey(machines: Machines, redis_of_our_own: Server) -> None:
    limiter = machines.add("one")
    await limiter.take("acme", TEN)
    with redis_of_our_own.client() as client:
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        await allowed(limiter, 200)
        after = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert after - before <= 3


async def test_a_lost_redis_refuses_nobody_and_each_gateway_lets_in_its_part(
    machines: Machines, redis_of_our_own: Server
) -> None:
    one, two = machines.add("one"), machines.add("two")
    assert await allowed(one, 1) + await allowed(two, 1) == 2
    await machines.until(lambda: one._local.gateways == two._local.gateways == 2 or beat(one))
    redis_of_our_own.stop(signal.SIGKILL)
    for limiter in (one, two):
        verdicts = await asyncio.gather(*(limiter.take("acme", TEN) for _ in range(20)))
        # Of its five it has let in one already, though Redis counted it.
        assert [verdict.allowed for verdict in verdicts] == [True] * 4 + [False] * 16
        assert all(verdict.degraded for verdict in verdicts)


async def both(machines: Machines) -> tuple[RedisLimiter, RedisLimiter]:
    """Two gateways that know of each other."""
    one, two = machines.add("one"), machines.add("two")
    await allowed(one, 1, "other")
    await allowed(two, 1, "other")
    await machines.until(lambda: one._local.gateways == two._local.gateways == 2 or beat(one))
    return one, two


def beat(limiter: RedisLimiter) -> bool:
    """Let the next beat come now."""
    line = line_of(limiter)
    if line._next_beat is not None:
        line._next_beat.cancel()
        line._next_beat = None
        line._begin(line._beat())
    return False


async def test_a_redis_that_is_back_counts_again_by_itself(
    machines: Machines, redis_of_our_own: Server
) -> None:
    limiter = machines.add("one")
    assert await allowed(limiter, 3) == 3
    redis_of_our_own.stop(signal.SIGKILL)
    assert (await limiter.take("acme", TEN)).degraded
    redis_of_our_own.start()
    await machines.until(lambda: not line_of(limiter).lost)
    verdict = await limiter.take("acme", TEN)
    # It came back empty, and what was let in before is not forgotten for that.
    assert (verdict.degraded, verdict.remaining) == (False, 5)


@pytest.mark.parametrize("callers", ["one gateway", "both gateways"])
async def test_a_redis_that_dies_and_comes_back_empty_lets_in_less_than_twice_the_rule(
    machines: Machines, redis_of_our_own: Server, callers: str
) -> None:
    one, two = await both(machines)

    async def let_in(*limiters: RedisLimiter) -> int:
        return sum([await allowed(each, 1) for _ in range(20) for each in limiters])

    before = await let_in(*([one] if callers == "one gateway" else [one, two]))
    assert before == 10
    redis_of_our_own.stop(signal.SIGKILL)
    during = await let_in(one, two)
    redis_of_our_own.start()
    await machines.until(lambda: not line_of(one).lost and not line_of(two).lost)
    after = await let_in(one, two)
    # A gateway that nobody called has its part left; nobody gets anything twice.
    assert (during, after) == ((5, 0) if callers == "one gateway" else (0, 0))
    # After as long as it takes to be whole again, Redis alone decides.
    for each in (one, two):
        each._local._ticks.now += 10 * HOUR + SECOND_US
    assert await let_in(one) == 10


async def test_a_redis_that_forgot_everything_unseen_lets_in_nothing_twice(
    machines: Machines, redis_of_our_own: Server
) -> None:
    one, two = await both(machines)
    assert sum([await allowed(each, 1) for _ in range(20) for each in (one, two)]) == 10
    with redis_of_our_own.client() as client:
        client.flushall()
    # The first batch that goes there finds out; what it brings is counted here all the same.
    assert sum([await allowed(each, 1) for _ in range(20) for each in (one, two)]) == 0
    assert not line_of(one).lost


async def test_a_redis_that_hangs_costs_one_short_wait_and_never_the_loop(
    machines: Machines, redis_of_our_own: Server
) -> None:
    limiter = machines.add("one")
    assert await allowed(limiter, 1) == 1
    redis_of_our_own.pause()
    turns = 0
    calling = asyncio.ensure_future(allowed(limiter, 50))
    while not calling.done():
        turns += 1
        await asyncio.sleep(0.005)
    # All of them waited together, and the loop went on turning meanwhile.
    assert await calling == 9
    assert turns > 5
    began = asyncio.get_running_loop().time()
    assert await allowed(limiter, 500) == 0
    # Nobody waits for each call: that would be five hundred waits.
    assert asyncio.get_running_loop().time() - began < 20 * redis_module.WAIT_SECONDS_MAX
    redis_of_our_own.go_on()
    await machines.until(lambda: not line_of(limiter).lost)
    assert not (await limiter.take("acme", TEN)).degraded


async def test_a_redis_that_is_away_at_the_start_is_found_when_it_comes(
    machines: Machines, redis_of_our_own: Server
) -> None:
    redis_of_our_own.stop()
    limiter = machines.add("one")
    assert await allowed(limiter, 20) == 10
    redis_of_our_own.start()
    await machines.until(lambda: not line_of(limiter).lost)
    assert not (await limiter.take("acme", TEN)).degraded


async def test_the_number_of_gateways_outlives_a_restart_and_is_all_workers(
    machines: Machines, redis_of_our_own: Server
) -> None:
    for name in ("one", "two", "two", "three"):
        await machines.add(name).take("acme", TEN)
    assert machines.limiters[-1]._local.gateways == 3
    redis_of_our_own.stop(signal.SIGKILL)
    after = machines.add("three")
    assert await allowed(after, 20) == 10 // 3 - 1


async def test_a_caller_that_hangs_up_disturbs_nobody(machines: Machines) -> None:
    limiter = machines.add("one")
    calls = [asyncio.ensure_future(limiter.take("acme", TEN)) for _ in range(10)]
    await asyncio.sleep(0)
    for each in calls[:5]:
        each.cancel()
    verdicts = await asyncio.gather(*calls[5:])
    assert all(verdict.allowed for verdict in verdicts)


def test_without_the_library_the_line_that_installs_it_is_told(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "from openclaw_billing.errors import BadSettings\n"
        "from openclaw_billing.runtime import Runtime\n"
        "from openclaw_billing.settings import load_settings\n"
        f"runtime = Runtime(load_settings(data_dir={str(tmp_path)!r}, redis_url='redis://x'))\n"
        "try: runtime.open()\n"
        "except BadSettings as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip install" in done.stdout
    assert done.stdout.count("\n") == 1


def test_one_limiter_serves_several_event_loops(redis_url: str, prefix: str, tmp_path: Path) -> None:
    limiter = RedisLimiter(redis_url, SharedLimiter(tmp_path / "data", Ticks()), prefix=prefix)

    async def take() -> int:
        remaining = (await limiter.take("acme", TEN)).remaining
        await limiter.aclose()
        return remaining

    assert [asyncio.run(take()) for _ in range(3)] == [9, 8, 7]
