"""Billing cycles: thirty days, half open, laid end to end from the first one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

CYCLE_LENGTH = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Cycle:
    """The `number`-th [start, end) since the anchor, counted from 0."""

    number: int
    start: datetime
    end: datetime


def cycle_at(anchor: datetime, now: datetime) -> Cycle:
    """The cycle that holds `now`; a moment before the anchor belongs to the first cycle."""
    return cycle_number(anchor, max(0, (now - anchor) // CYCLE_LENGTH))


def cycle_number(anchor: datetime, number: int) -> Cycle:
    """The cycle with that number: its edges are `anchor + k * 30 days`, whatever the clock says."""
    start = anchor + number * CYCLE_LENGTH
    return Cycle(number=number, start=start, end=start + CYCLE_LENGTH)
