"""Disputes: while a payment of a client is disputed, nothing more is sold to it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from openclaw_billing.alerts import Alert, Alerts, once
from openclaw_billing.contracts import Transaction
from openclaw_billing.stripe_facts import DisputeFact, DisputeStatus, PaymentFact
from openclaw_billing.stripe_records import Subscription
from openclaw_billing.subscriptions import StaleFact, UnknownReference, is_stale, mode_of, owner

_TOLD = {
    DisputeStatus.OPEN: "is disputed: nothing more is sold to its client until that is decided",
    DisputeStatus.WARNING: "is inquired about: answered in time, it becomes no dispute",
}


def take_plan_payment(
    tx: Transaction, payment: PaymentFact, fetched_at: datetime, *, now: datetime
) -> Alerts:
    """What became of a payment for a plan. The plan's state moves the credits of a plan, and nothing here.

    Raises:
        UnknownReference: nobody's customer paid it.
        StaleFact: something later is known already.
    """
    known = owner(tx, mode_of(payment.livemode), payment.customer_id)
    if known is None:
        raise UnknownReference(f"customer {payment.customer_id}")
    if is_stale(fetched_at, known.fetched_at, now):
        raise StaleFact
    alerts = hold(tx, replace(known, fetched_at=fetched_at), payment, now)
    if payment.amount_refunded:
        sentence = f"Payment {payment.payment_intent_id} for a plan was refunded: no credits are moved"
        told = f"refund:{payment.payment_intent_id}:{payment.amount_refunded}"
        alerts += once(tx, told, Alert(sentence, urgent=False), now)
    return alerts


def hold(tx: Transaction, known: Subscription, payment: PaymentFact, now: datetime) -> Alerts:
    """Remember which disputes of the payment are open, so that its client opens no new checkout meanwhile."""
    about = {each.dispute_id for each in payment.disputes}
    disputes = (set(known.disputes) - about) | set(open_disputes(payment))
    tx.subscriptions.put(replace(known, disputes=tuple(sorted(disputes))))
    return tuple(alert for each in payment.disputes for alert in _told(tx, each, payment, now))


def open_disputes(payment: PaymentFact) -> tuple[str, ...]:
    """The ids of those for which the money is gone for now."""
    return tuple(each.dispute_id for each in payment.disputes if each.status is DisputeStatus.OPEN)


def _told(tx: Transaction, dispute: DisputeFact, payment: PaymentFact, now: datetime) -> Alerts:
    what = _TOLD.get(dispute.status)
    if what is None:
        return ()
    sentence = f"Payment {payment.payment_intent_id} {what} ({dispute.dispute_id})"
    return once(tx, f"dispute:{dispute.dispute_id}:{dispute.status.value}", Alert(sentence), now)
