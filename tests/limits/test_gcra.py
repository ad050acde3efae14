"""The rate rule: what is let in is never more than was said, and no less than was promised."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openclaw_billing.gcra import (
    MINUTE_US,
    SECOND_US,
    SLACK_US,
    Limit,
    judge,
    left,
    limits_of,
    shared_by,
)
from openclaw_billing.records import Rate

NEVER = (0, 0)
FREE = Limit("default", 10, SECOND_US, 30)

limits = st.builds(
    Limit,
    st.sampled_from(["default", "minute"]),
    st.integers(1, 10_000),
    st.sampled_from([SECOND_US, MINUTE_US]),
    st.integers(1, 1_000),
)
moments = st.integers(10**12, 2 * 10**15)


def admitted(limits: Sequence[Limit], moments: Sequence[int]) -> list[int]:
    """The moments of the calls that were let in."""
    stored: Sequence[int] = NEVER[: len(limits)]
    found = []
    for now in moments:
        verdict = judge(limits, stored, now)
        stored = verdict.times
        found += [now] if verdict.allowed else []
    return found


def test_a_burst_comes_at_once_and_then_the_rate() -> None:
    now = 10**12
    assert len(admitted([FREE], [now] * 100)) == 30
    assert len(admitted([FREE], [now] * 100 + [now + SECOND_US] * 100)) == 40
    assert len(admitted([FREE], [now] * 100 + [now + MINUTE_US] * 100)) == 60


def test_a_refusal_says_when_to_come_again_to_the_microsecond() -> None:
    now = 10**12
    stored = judge([FREE], [0], now, cost=30).times
    refused = judge([FREE], stored, now)
    assert (refused.allowed, refused.remaining, refused.retry_after_us) == (False, 0, 100_000)
    assert not judge([FREE], stored, now + 99_999).allowed
    assert judge([FREE], stored, now + 100_000).allowed


@settings(deadline=None)
@given(
    st.lists(limits, min_size=1, max_size=2),
    moments,
    st.lists(st.integers(0, 3 * SECOND_US), min_size=1, max_size=200),
)
def test_no_span_of_time_lets_in_more_than_a_burst_and_the_rate(
    limits: list[Limit], start: int, steps: list[int]
) -> None:
    calls = [start + sum(steps[: each + 1]) for each in range(len(steps))]
    calls = [moment for moment in calls for _ in range(3)]
    came = admitted(limits, calls)
    for limit in limits:
        for first, begin in enumerate(came):
            for last, end in enumerate(came[first:], 1):
                assert (last - limit.burst) * limit.interval_us <= end - begin


@given(st.lists(limits, min_size=1, max_size=2), st.lists(moments, min_size=2, max_size=2), moments)
def test_a_verdict_is_true_to_its_own_words(limits: list[Limit], stored: list[int], now: int) -> None:
    verdict = judge(limits, stored[: len(limits)], now)
    assert verdict.allowed == (not verdict.refused_by)
    times = verdict.times
    for _ in range(min(verdict.remaining, 3)):
        following = judge(limits, times, now)
        assert following.allowed
        times = following.times
    if verdict.remaining == 0:
        wait = verdict.retry_after_us
        assert wait > 0
        assert judge(limits, verdict.times, now + wait).allowed
        assert not judge(limits, verdict.times, now + wait - 1).allowed
    whole = judge(limits, verdict.times, now + verdict.reset_us, cost=0)
    assert whole.remaining == min(limit.burst for limit in limits)


@given(st.lists(limits, min_size=1, max_size=2), st.lists(moments, min_size=2, max_size=2), moments)
def test_a_refusal_and_a_look_count_nothing(limits: list[Limit], stored: list[int], now: int) -> None:
    look = judge(limits, stored[: len(limits)], now, cost=0)
    taken = judge(limits, stored[: len(limits)], now)
    assert look.allowed == taken.allowed
    if not taken.allowed:
        assert taken.times == look.times
    assert judge(limits, look.times, now).times == taken.times


def test_a_call_is_let_in_by_both_limits_or_counted_by_neither() -> None:
    both = limits_of(Rate(10, 30, 20))
    now = 10**12
    verdict = judge(both, NEVER, now)
    for _ in range(19):
        verdict = judge(both, verdict.times, now)
    refused = judge(both, verdict.times, now)
    assert [limit.name for limit in refused.refused_by] == ["minute"]
    assert refused.times == verdict.times
    assert left(both[0], refused.times[0], now) == 10
    assert refused.retry_after_us == 3 * SECOND_US


@given(limits, moments)
def test_a_clock_set_back_a_little_lets_nobody_in_twice_and_a_new_count_starts_afresh(
    limit: Limit, now: int
) -> None:
    full = judge([limit], [0], now, cost=limit.burst)
    assert not judge([limit], full.times, now - SLACK_US).allowed
    assert judge([limit], full.times, now - SLACK_US - 1).remaining == limit.burst - 1


@pytest.mark.parametrize("count", [1, 3, 7, 60, 9_999])
def test_a_rate_that_does_not_divide_is_rounded_down(count: int) -> None:
    limit = Limit("default", count, SECOND_US, 1)
    assert limit.interval_us * count >= SECOND_US
    assert (limit.interval_us - 1) * count < SECOND_US


def test_a_rate_of_nothing_is_no_limit() -> None:
    assert limits_of(Rate(0, 0, 0)) == ()
    assert [limit.name for limit in limits_of(Rate(0, 0, 60))] == ["minute"]
    assert [limit.name for limit in limits_of(Rate(5, 0, 0))] == ["default"]
    assert limits_of(Rate(5, 0, 0))[0].burst == 1


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 200), st.integers(20, 200))
def test_gateways_that_know_nothing_of_each_other_let_in_no_more_together(
    gateways: int, rate: int, burst: int
) -> None:
    whole = limits_of(Rate(rate, burst, 0))
    parts = shared_by(whole, gateways)
    now = 10**12
    moments = [now] * 300 + [now + 10 * SECOND_US] * 300
    assert len(admitted(parts, moments)) * gateways <= len(admitted(whole, moments)) + gateways
    assert shared_by(whole, 1) == whole
