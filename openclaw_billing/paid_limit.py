"""How many jobs a cycle was paid for: the plan it began with, and the paid share of each change inside it.

An upgrade in mid-cycle adds the difference of the plans for the part of the cycle that it was paid for, so that
the last day of a month does not buy a month's jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from openclaw_billing.cycles import Cycle
from openclaw_billing.plans import plan_of
from openclaw_billing.stripe_facts import InvoiceFact, InvoiceLine


@dataclass(frozen=True, slots=True)
class Paid:
    """What the invoices of a period add up to in one cycle of it."""

    plan_id: str
    """The plan that was paid for last."""
    limit: int
    since: datetime
    """From when on."""


@dataclass(frozen=True, slots=True)
class _Change:
    at: datetime
    before: str
    after: str


def paid_for(invoices: Sequence[InvoiceFact], start: datetime, cycle: Cycle) -> Paid | None:
    """The plan and the limit that these paid invoices buy; None where none of them is for the period."""
    bases = [
        (invoice.created, line.plan_id)
        for invoice in invoices
        for line in invoice.lines
        if not line.proration and line.plan_id is not None and line.start == start and line.amount >= 0
    ]
    if not bases:
        return None
    plan_id, since = min(bases)[1], start
    changes = sorted(_changes(invoices, start), key=lambda change: change.at)
    for change in changes:
        if change.at <= cycle.start:
            plan_id, since = change.after, change.at
    limit = _jobs(plan_id)
    for change in changes:
        if cycle.start < change.at < cycle.end:
            plan_id, since = change.after, change.at
            limit += share(_jobs(change.after) - _jobs(change.before), change.at, cycle)
    return Paid(plan_id, max(0, limit), since)


def share(jobs: int, since: datetime, cycle: Cycle) -> int:
    """That many jobs a cycle, for what is left of this one: rounded up, and below zero rounded away from it."""
    left, whole = (cycle.end - since).total_seconds(), (cycle.end - cycle.start).total_seconds()
    exact = abs(jobs) * max(0.0, min(left, whole))
    rounded = -int(-exact // whole)
    return rounded if jobs >= 0 else -rounded


def _changes(invoices: Sequence[InvoiceFact], start: datetime) -> list[_Change]:
    """Each paid change: an invoice that gives back the rest of one plan and takes the rest of another."""
    found = []
    for invoice in invoices:
        lines = [line for line in invoice.lines if line.proration and line.plan_id and line.start >= start]
        given = [line for line in lines if line.amount < 0]
        taken = [line for line in lines if line.amount > 0]
        if given and taken:
            before, after = _newest(given), _newest(taken)
            assert before.plan_id is not None and after.plan_id is not None  # noqa: PT018
            found.append(_Change(after.start, before.plan_id, after.plan_id))
    return found


def _newest(lines: list[InvoiceLine]) -> InvoiceLine:
    return max(lines, key=lambda line: line.start)


def _jobs(plan_id: str | None) -> int:
    return plan_of(plan_id or "").job_limit or 0
