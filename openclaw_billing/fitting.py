"""Fitting: an account's credits and access made what a subscription and its paid invoices say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from openclaw_billing import paid
from openclaw_billing.contracts import Transaction
from openclaw_billing.cycles import slice_at
from openclaw_billing.paid_limit import Paid, paid_for, share
from openclaw_billing.plans import plan_of
from openclaw_billing.records import Account, Period, Spent
from openclaw_billing.stripe_facts import Collection, InvoiceFact, StripeStatus, SubscriptionFact
from openclaw_billing.stripe_records import Subscription
from openclaw_billing.turning import freeze, keep

MONTHS = {"monthly": 1, "yearly": 12}


@dataclass(frozen=True, slots=True)
class Told:
    """A fetched subscription, the paid invoices of its period, and when Stripe was asked.

    Grace begins with the oldest invoice that is open, so that a later failure does not extend it.
    """

    fact: SubscriptionFact
    paid: Sequence[InvoiceFact]
    fetched_at: datetime
    grace: timedelta
    overdue_since: datetime | None = None
    cause: str = ""
    """What made us ask: an event's id, for the audit log."""


def fit_credits(tx: Transaction, account: Account, told: Told, now: datetime) -> Account:
    """Open the cycle that was paid for, and give it the limit that was paid for."""
    fact = told.fact
    plan_id = fact.price.plan_id
    if plan_id is None or fact.status is StripeStatus.CANCELED:
        return account
    key = f"stripe:cycle:{fact.subscription_id}:{int(fact.start.timestamp())}"
    period = Period(key, fact.start, fact.end, MONTHS.get(fact.price.interval, 1))
    if fact.status is StripeStatus.TRIALING:
        # Nothing is paid for in a trial: all of it is had, by the price alone.
        bought: Paid | None = Paid(plan_id, plan_of(plan_id).job_limit or 0, fact.start)
    else:
        bought = paid_for(told.paid, fact.start, slice_at(period, now))
    if bought is None:
        return account
    account = paid.open_period(tx, account, period, plan_id, bought.limit, now)
    if account.period is None or account.period.key != key:
        return account
    account = paid.label(tx, account, plan_id)
    limit = bought.limit - _lowered(tx, fact, bought, period, now)
    change = f"stripe:change:{fact.subscription_id}:{fact.latest_invoice_id}"
    return paid.set_limit(tx, account, max(0, limit), change, "plan changed", now)


def _lowered(tx: Transaction, fact: SubscriptionFact, bought: Paid, period: Period, now: datetime) -> int:
    """What a lower price inside the cycle takes from its limit, worked out when it was first seen."""
    jobs = (plan_of(bought.plan_id).job_limit or 0) - (plan_of(fact.price.plan_id or "").job_limit or 0)
    cycle = slice_at(period, now)
    spent_id = f"stripe:lower:{period.key}:{cycle.number}"
    known = tx.spent.get(spent_id)
    if jobs <= 0:
        if known is not None:
            # The next time is another one.
            tx.spent.delete(spent_id)
        return 0
    lowering = f"{fact.price.price_id} {bought.since.isoformat()}"
    if known is None or known.fingerprint != lowering:
        taken = str(share(jobs, now, cycle))
        known = Spent(spent_id=spent_id, fingerprint=lowering, created_at=now, answer=taken)
        tx.spent.put(known)
    return int(known.answer)


def fit_access(tx: Transaction, account: Account, after: Subscription, told: Told, now: datetime) -> Account:
    """Full or limited access, by the status alone."""
    fact = told.fact
    if fact.status is StripeStatus.CANCELED:
        return paid.end_paid(tx, account, fact.ended_at or told.fetched_at, now)
    if fact.status in (StripeStatus.UNPAID, StripeStatus.PAUSED):
        return keep(tx, freeze(tx, account, now))
    assert fact.price.plan_id is not None
    account = paid.label(tx, account, fact.price.plan_id)
    if fact.status is StripeStatus.PAST_DUE:
        assert after.delinquent_since is not None
        grace_until = after.delinquent_since + told.grace
        if now >= grace_until:
            return keep(tx, freeze(tx, account, now))
        return keep(tx, replace(paid.thaw(tx, account, now), grace_until=grace_until))
    if fact.collection is Collection.VOID:
        return keep(tx, freeze(tx, account, now))
    return keep(tx, paid.thaw(tx, account, now))
