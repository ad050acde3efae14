"""What every limiter keeps to, wherever it counts."""

from __future__ import annotations

import asyncio

import pytest

from openclaw_billing.gcra import SECOND_US, Limit, Verdict, limits_of
from openclaw_billing.records import Rate
from tests.limits.conftest import Counted

pytestmark = pytest.mark.anyio

FREE = limits_of(Rate(10, 30, 0))
# Slow enough that the real seconds of a server's own clock do not matter.
SLOW = (Limit("minute", 1, 3600 * SECOND_US, 5),)
BOTH = (*limits_of(Rate(1, 4, 0)), Limit("minute", 1, 3600 * SECOND_US, 3))


async def takes(counted: Counted, key: str, limits: tuple[Limit, ...], calls: int) -> list[Verdict]:
    return [await counted.limiter.take(key, limits) for _ in range(calls)]


async def test_a_burst_is_let_in_and_no_more(counted: Counted) -> None:
    verdicts = await takes(counted, "acme", SLOW, 8)
    assert [verdict.allowed for verdict in verdicts] == [True] * 5 + [False] * 3
    assert [verdict.remaining for verdict in verdicts] == [4, 3, 2, 1, 0, 0, 0, 0]
    assert 3590 * SECOND_US < verdicts[-1].retry_after_us <= 3600 * SECOND_US
    assert 3590 * SECOND_US * 5 < verdicts[-1].reset_us <= 3600 * SECOND_US * 5
    assert not any(verdict.degraded for verdict in verdicts)


async def test_time_lets_in_one_more(counted: Counted) -> None:
    await takes(counted, "acme", SLOW, 6)
    counted.advance(3600 * SECOND_US)
    assert [verdict.allowed for verdict in await takes(counted, "acme", SLOW, 2)] == [True, False]


async def test_after_a_quiet_span_the_burst_is_whole(counted: Counted) -> None:
    await takes(counted, "acme", SLOW, 6)
    counted.advance(5 * 3600 * SECOND_US)
    assert sum(verdict.allowed for verdict in await takes(counted, "acme", SLOW, 9)) == 5


async def test_one_keys_calls_are_not_anothers(counted: Counted) -> None:
    await takes(counted, "acme", SLOW, 9)
    for name in ("other", "acme ", "ACME", "", "acmé", "a" * 300, "\ud800"):
        assert (await counted.limiter.take(name, SLOW)).remaining == 4


async def test_refused_calls_are_not_counted(counted: Counted) -> None:
    await takes(counted, "acme", SLOW, 200)
    counted.advance(3600 * SECOND_US)
    assert (await counted.limiter.take("acme", SLOW)).allowed


async def test_two_limits_let_in_together_or_not_at_all(counted: Counted) -> None:
    verdicts = await takes(counted, "acme", BOTH, 5)
    assert [verdict.allowed for verdict in verdicts] == [True] * 3 + [False] * 2
    assert [limit.name for limit in verdicts[-1].refused_by] == ["minute"]
    counted.advance(10 * SECOND_US)
    refused = await counted.limiter.take("acme", BOTH)
    assert [limit.name for limit in refused.refused_by] == ["minute"]


async def test_a_plan_that_is_changed_changes_what_is_let_in(counted: Counted) -> None:
    await takes(counted, "acme", SLOW, 5)
    wider = (Limit("minute", 1, 3600 * SECOND_US, 8),)
    assert sum(verdict.allowed for verdict in await takes(counted, "acme", wider, 9)) == 3
    assert (await counted.limiter.take("acme", limits_of(Rate(10, 30, 600)))).allowed


async def test_many_at_once_are_let_in_as_one_after_the_other(counted: Counted) -> None:
    limiters = [counted.limiter, counted.other or counted.limiter]
    verdicts = await asyncio.gather(*(limiters[each % 2].take("acme", SLOW) for each in range(100)))
    assert sum(verdict.allowed for verdict in verdicts) == 5


async def test_thousands_of_keys_are_each_their_own(counted: Counted) -> None:
    for turn in (1, 0):
        for key in range(3_000):
            verdict = await counted.limiter.take(f"client-{key}", SLOW)
            assert verdict.remaining == 3 + turn


async def test_a_limiter_that_was_let_go_of_opens_again(counted: Counted) -> None:
    await takes(counted, "acme", SLOW, 3)
    await counted.limiter.aclose()
    assert (await counted.limiter.take("acme", SLOW)).allowed
