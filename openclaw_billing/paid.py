"""Paid cycles: an account whose cycles follow what was paid for, and what becomes of them without a payment.

A period's key is spent by the cycle it opens, so that however often its payment is told, it grants once.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime

from openclaw_billing.books import begin_cycle, fit_allowance, settle
from openclaw_billing.contracts import Transaction
from openclaw_billing.cycles import cycle_at, slice_at
from openclaw_billing.plans import FREE_PLAN_ID, limit_of, plan_of
from openclaw_billing.records import Account, Period, Spent
from openclaw_billing.turning import allowance_left, free_limit, keep


def open_period(
    tx: Transaction, account: Account, period: Period, plan_id: str, limit: int | None, now: datetime
) -> Account:
    """Begin the cycle that this payment is for, with the limit that was paid for; again changes nothing.

    What was left of the allowance before ends; purchased and promotional credits stay.
    """
    if tx.spent.get(period.key) is not None:
        return account
    account = replace(
        account,
        plan_id=plan_id,
        anchor=period.start,
        period=period,
        cycle_limit=None if limit == plan_of(plan_id).job_limit else limit,
        grace_until=None,
        frozen=None,
    )
    cycle = slice_at(period, now)
    key = period.key if cycle.number == 0 else f"{period.key}:{cycle.number}"
    account = begin_cycle(tx, account, cycle, used=0, operation_id=key, reason="paid", now=now)
    _spend(tx, period.key, now)
    return keep(tx, account)


def set_limit(tx: Transaction, account: Account, limit: int, key: str, reason: str, now: datetime) -> Account:
    """Make it this cycle's limit; what was used counts against it. The plan's own returns with the next cycle."""
    if limit_of(account) == limit:
        return account
    account = replace(account, cycle_limit=None if limit == plan_of(account.plan_id).job_limit else limit)
    return keep(tx, settle(tx, fit_allowance(tx, account, key, reason, now), now))


def label(tx: Transaction, account: Account, plan_id: str) -> Account:
    """Name another plan without a credit changing hands: its allowance comes when it is paid."""
    if account.plan_id == plan_id:
        return account
    limit = account.frozen.limit if account.frozen is not None else limit_of(account)
    before = plan_of(account.plan_id).job_limit
    kept = before if limit is None else limit
    kept = None if kept == plan_of(plan_id).job_limit else kept
    account = replace(account, plan_id=plan_id)
    if account.frozen is not None:
        return keep(tx, replace(account, frozen=replace(account.frozen, limit=kept)))
    return keep(tx, replace(account, cycle_limit=kept))


def thaw(tx: Transaction, account: Account, now: datetime) -> Account:
    """Full access again in the cycle that was frozen; what was used meanwhile counts."""
    frozen = account.frozen
    if frozen is None:
        return replace(account, grace_until=None) if account.grace_until else account
    base = frozen.base if account.cycle_number == frozen.since else 0
    used, withdrawn = frozen.used + max(0, account.used - base), frozen.withdrawn + account.withdrawn
    account = replace(account, frozen=None, grace_until=None, period=frozen.period, cycle_limit=frozen.limit)
    if frozen.period is not None:
        account = replace(account, anchor=frozen.period.start)
    cycle = replace(cycle_at(frozen.start, frozen.start), number=0, end=frozen.end)
    key = f"thawed:{account.client_id}:{account.cycle_number + 1}"
    account = begin_cycle(
        tx, account, cycle, used=used, withdrawn=withdrawn, operation_id=key, reason="paid", now=now
    )
    return keep(tx, account)


def end_paid(tx: Transaction, account: Account, ended_at: datetime, now: datetime) -> Account:
    """The free plan from `ended_at` on: of what was paid for, no more than its allowance is left."""
    if account.period is None and account.frozen is None and limit_of(account) == free_limit():
        return keep(tx, replace(label(tx, account, FREE_PLAN_ID), grace_until=None))
    if account.frozen is not None:
        # The free plan's cycle is running already.
        return keep(tx, replace(account, plan_id=FREE_PLAN_ID, frozen=None, grace_until=None))
    cycle = cycle_at(ended_at, now)
    used = max(0, free_limit() - allowance_left(account)) if cycle.number == 0 else 0
    account = replace(
        account, plan_id=FREE_PLAN_ID, period=None, cycle_limit=None, grace_until=None, anchor=ended_at
    )
    key = f"ended:{account.client_id}:{account.cycle_number + 1}"
    return keep(tx, begin_cycle(tx, account, cycle, used=used, operation_id=key, reason="ended", now=now))


def _spend(tx: Transaction, key: str, now: datetime) -> None:
    tx.spent.put(Spent(spent_id=key, fingerprint="", created_at=now, answer=json.dumps("granted")))
