"""Billing cycles: thirty days, half open, laid end to end from the first one; or cut from a paid period."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from openclaw_billing.records import Account, Period

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


def slice_at(period: Period, now: datetime) -> Cycle:
    """The share of the paid period that holds `now`: whole calendar months, the last one to the period's end.

    Moments outside belong to the first or the last.
    """
    number = 0
    while number + 1 < period.slices and now >= months_after(period.start, number + 1):
        number += 1
    last = number + 1 >= period.slices
    end = period.end if last else months_after(period.start, number + 1)
    return Cycle(number=number, start=months_after(period.start, number), end=end)


def months_after(moment: datetime, months: int) -> datetime:
    """The same day and time so many calendar months later, or the month's last day where it has no such day."""
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)


@lru_cache(maxsize=16_384)
def minute_of(moment: datetime) -> str:
    """The minute that a moment is in, as a text that sorts as time does."""
    return moment.astimezone(UTC).isoformat()[:16]


def next_cycle(account: Account, now: datetime) -> Cycle | None:
    """The cycle that the account is to turn to; None while its own goes on, or waits for a payment."""
    if now < account.cycle_end:
        return None
    if account.period is None:
        return cycle_at(account.anchor, now)
    share = slice_at(account.period, now)
    return share if share.start > account.cycle_start else None
