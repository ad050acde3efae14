"""The clock: time is an argument everywhere but here."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The moment, aware and in UTC."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class ManualClock:
    """A clock that moves only when told: for tests, here and in a host's own suite."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment

    def advance(self, **span: float) -> datetime:
        """Move by `timedelta(**span)`, backwards when negative."""
        self.moment += timedelta(**span)
        return self.moment


def ticks_of(clock: Clock) -> Callable[[], int]:
    """Microseconds that measure spans: the machine's own count, which nobody sets back, unless time is a test's."""
    if isinstance(clock, SystemClock):
        return _machine_ticks
    return lambda: int(clock.now().timestamp() * 1_000_000)


def _machine_ticks() -> int:
    return time.monotonic_ns() // 1000


def unix_seconds_of(clock: Clock) -> Callable[[], float]:
    """The clock's moment as Unix seconds, without a datetime where none is needed."""
    return time.time if isinstance(clock, SystemClock) else lambda: clock.now().timestamp()
