"""The rate rule: GCRA, in whole microseconds. Pure: limits, what was stored and a moment in, a verdict out.

All that is stored of a limit is one time: when its calls so far would be over, had they come evenly. A call
moves it on by one interval, and is let in while it is not further ahead than a burst. So `burst` calls may
come at once, and after any quiet span no more than `burst + rate × time` have been let in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

from openclaw_billing.records import Rate

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
SECOND, MINUTE = "default", "minute"
"""The names of a client's two limits, as header fields tell them."""
SLACK_US = SECOND_US
"""A clock set back by less changes nothing; see `judge`."""


@dataclass(frozen=True, slots=True)
class Limit:
    """`count` calls in `period_us`, evenly, and `burst` of them at once. `name` tells it from its neighbours."""

    name: str
    count: int
    period_us: int
    burst: int
    interval_us: int = field(init=False)
    """Between two calls. Rounded up: what is let in is never more than was said."""
    span_us: int = field(init=False)
    """How far ahead the stored time may be: after so long, a burst is whole again."""

    def __post_init__(self) -> None:
        assert self.count >= 1
        assert self.burst >= 1
        object.__setattr__(self, "interval_us", -(-self.period_us // self.count))
        object.__setattr__(self, "span_us", self.interval_us * self.burst)


class Verdict(NamedTuple):
    """Whether a call is let in, and how the limits stand after it."""

    limits: Sequence[Limit]
    times: Sequence[int]
    """What is stored from now on, one time for each limit."""
    now: int
    refused_by: Sequence[Limit] = ()
    degraded: bool = False
    """Whether it was judged without what others have let in."""

    @property
    def allowed(self) -> bool:
        return not self.refused_by

    @property
    def remaining(self) -> int:
        """How many more calls would be let in now."""
        return min(left(limit, time, self.now) for limit, time in zip(self.limits, self.times, strict=True))

    @property
    def retry_after_us(self) -> int:
        """How long the next call has to wait; 0 while some remain."""
        return max(
            wait_us(limit, time, self.now) for limit, time in zip(self.limits, self.times, strict=True)
        )

    @property
    def reset_us(self) -> int:
        """When every limit will be whole again, if nobody calls."""
        return max(max(self.times) - self.now, 0)


def judge(limits: Sequence[Limit], stored: Sequence[int], now: int, cost: int = 1) -> Verdict:
    """The verdict on one call that costs `cost` of each limit. With `cost=0` it is a look: could one call come?

    A call is let in by all limits or counted by none. `stored` is 0 for what was never called. A time much
    further ahead than a burst cannot be ours (the machine was started anew, or the limit was another): it
    counts as now.
    """
    before: list[int] = []
    after: list[int] = []
    refused: tuple[Limit, ...] = ()
    for limit, time in zip(limits, stored, strict=True):
        latest = now + limit.span_us
        counted = time if now <= time <= latest + SLACK_US else now
        moved = counted + (cost or 1) * limit.interval_us
        if moved > latest:
            refused += (limit,)
        before.append(counted)
        after.append(moved)
    return Verdict(limits, before if refused or not cost else after, now, refused)


def left(limit: Limit, time: int, now: int) -> int:
    """How many calls one limit would let in now."""
    return max(limit.span_us - max(time - now, 0), 0) // limit.interval_us


def wait_us(limit: Limit, time: int, now: int) -> int:
    """How long until one limit lets the next call in."""
    return max(time - now + limit.interval_us - limit.span_us, 0)


@lru_cache(maxsize=1024)
def limits_of(rate: Rate) -> tuple[Limit, ...]:
    """The limits that a rate means: none, by the second, by the minute, or both."""
    found: list[Limit] = []
    if rate.per_second:
        found.append(Limit(SECOND, rate.per_second, SECOND_US, max(rate.burst, 1)))
    if rate.per_minute:
        found.append(Limit(MINUTE, rate.per_minute, MINUTE_US, rate.per_minute))
    return tuple(found)


@lru_cache(maxsize=1024)
def shared_by(limits: tuple[Limit, ...], gateways: int) -> tuple[Limit, ...]:
    """Each gateway's part of the limits: together they let in no more than one alone, but for one call each."""
    return tuple(
        replace(limit, period_us=limit.period_us * gateways, burst=max(limit.burst // gateways, 1))
        for limit in limits
    )
