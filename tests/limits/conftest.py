"""Limiters for every test here: `counted` is each kind in turn, with a clock of its own that a test moves."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from openclaw_billing.contracts import Limiter
from openclaw_billing.limits.memory import MemoryLimiter
from openclaw_billing.limits.redis import RedisLimiter
from openclaw_billing.limits.shared import SharedLimiter
from tests.limits import redis_server


@dataclass
class Ticks:
    """Microseconds that pass only when told."""

    now: int = 10**12

    def __call__(self) -> int:
        return self.now


@dataclass
class Counted:
    """A limiter, and a second one that counts in the same place where there can be one."""

    limiter: Limiter
    other: Limiter | None = None
    ticks: Ticks = field(default_factory=Ticks)

    def advance(self, microseconds: int) -> None:
        self.ticks.now += microseconds


@dataclass
class CountedByRedis(Counted):
    """Its clock is the server's and cannot be moved: what is stored is moved the other way."""

    url: str = ""
    prefix: str = ""

    def advance(self, microseconds: int) -> None:
        import redis

        with redis.Redis.from_url(self.url) as client:
            for key in client.scan_iter(f"{self.prefix}rate:*"):
                times = [int(each) - microseconds for each in client.get(key).split()]
                client.set(key, " ".join(map(str, times)), keepttl=True)


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def shared(tmp_path: Path, ticks: Ticks) -> Iterator[SharedLimiter]:
    limiter = SharedLimiter(tmp_path / "data", ticks)
    yield limiter
    limiter.close()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis to test with; without one, what needs it is skipped and says how to get one."""
    with ExitStack() as stack:
        try:
            address = stack.enter_context(redis_server.address())
        except redis_server.NotInstalled as reason:
            pytest.skip(str(reason))
        yield address


@pytest.fixture
def redis_of_our_own() -> Iterator[redis_server.Server]:
    """One that may be killed, paused and started again."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(redis_server.serving())
        except redis_server.NotInstalled as reason:
            pytest.skip(str(reason))
        yield server


@pytest.fixture
def prefix(redis_url: str) -> Iterator[str]:
    """A prefix of this test's own, whose keys are gone afterwards."""
    import redis

    prefix = f"test_{secrets.token_hex(6)}:"
    yield prefix
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(f"{prefix}*"):
            client.delete(key)


@pytest.fixture(params=["memory", "shared", "redis"])
async def counted(
    request: pytest.FixtureRequest, ticks: Ticks, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[Counted]:
    if request.param == "memory":
        yield Counted(MemoryLimiter(ticks), ticks=ticks)
        return
    local, other_local = (SharedLimiter(tmp_path / name, ticks) for name in ("data", "other"))
    if request.param == "shared":
        other_local = SharedLimiter(tmp_path / "data", ticks)
        yield Counted(local, other_local, ticks)
    else:
        url, prefix = request.getfixturevalue("redis_url"), request.getfixturevalue("prefix")
        one, two = (RedisLimiter(url, each, prefix=prefix) for each in (local, other_local))
        yield CountedByRedis(one, two, ticks, url, prefix)
        await one.aclose()
        await two.aclose()
    local.close()
    other_local.close()
