"""A process that calls as often as it can: `python -m tests.limits.caller PLACE KEY CALLS RATE BURST`.

It says when its first call was judged, when its last, and how many were let in. PLACE is a directory, or the address
of a Redis and a prefix with a blank between.
With `hold` in place of CALLS it stands still while it holds the key's bucket.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from openclaw_billing.gcra import SECOND_US, Limit
from openclaw_billing.limits import redis, shared
from openclaw_billing.limits.redis import RedisLimiter
from openclaw_billing.limits.shared import SharedLimiter


def ticks() -> int:
    return time.monotonic_ns() // 1000


def main() -> None:
    place, key, calls, rate, burst = sys.argv[1:]
    limits = (Limit("default", int(rate), SECOND_US, int(burst)),)
    if calls == "hold":
        hold(Path(place), key)
    elif "://" in place:
        asyncio.run(call_redis(*place.split(" "), key, int(calls), limits))
    else:
        call_shared(Path(place), key, int(calls), limits)


def call_shared(place: Path, key: str, calls: int, limits: tuple[Limit, ...]) -> None:
    limiter = SharedLimiter(place, ticks)
    # Callers that never pause may snatch a bucket from one another for long.
    shared.LOCK_SECONDS_MAX = 60.0
    # Opened before it is said that all is ready.
    assert limiter.take_now("ready", limits, cost=0).allowed
    wait_for_the_word()
    came, verdicts = [], 0
    for _ in range(calls):
        verdict = limiter.take_now(key, limits)
        assert not verdict.degraded
        verdicts += 1
        if verdict.allowed:
            came.append(verdict.now)
    tell(verdicts, came)


async def call_redis(url: str, prefix: str, key: str, calls: int, limits: tuple[Limit, ...]) -> None:
    redis.WAIT_SECONDS_MAX = 60.0
    with tempfile.TemporaryDirectory() as machine:
        limiter = RedisLimiter(url, SharedLimiter(Path(machine) / "data", ticks), prefix=prefix)
        assert (await limiter.take("ready", limits)).allowed
        wait_for_the_word()
        came, verdicts = [], 0
        while verdicts < calls:
            for verdict in await asyncio.gather(*(limiter.take(key, limits) for _ in range(100))):
                assert not verdict.degraded
                verdicts += 1
                if verdict.allowed:
                    came.append(verdict.now)
        tell(verdicts, came)
        await limiter.aclose()


def wait_for_the_word() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def tell(calls: int, came: list[int]) -> None:
    print(json.dumps({"calls": calls, "came": came}), flush=True)


def hold(place: Path, key: str) -> None:
    limiter = SharedLimiter(place, ticks)
    limits = (Limit("default", 1, SECOND_US, 1),)
    limiter.take_now("ready", limits, cost=0)

    def stand_still() -> int:
        print("holding", flush=True)
        while True:
            time.sleep(1000)

    limiter._ticks = stand_still
    limiter.take_now(key, limits)


if __name__ == "__main__":
    main()
