"""Purchases: packs of credits that were paid for, and what refunds and disputes take back of them.

How much is to be taken back is worked out from what Stripe says of the whole payment now, so neither the order
nor the number of the events makes a difference.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from openclaw_billing import grants
from openclaw_billing.contracts import Transaction
from openclaw_billing.lots import find
from openclaw_billing.lots import lot_of as lot_for
from openclaw_billing.records import LotSource
from openclaw_billing.stripe_facts import DisputeStatus, PaymentFact, SessionFact
from openclaw_billing.stripe_records import Checkout, CheckoutState, Purchase
from openclaw_billing.subscriptions import StaleFact, UnknownReference, link_customer, mode_of
from openclaw_billing.subscriptions import find as subscription_of
from openclaw_billing.turning import touch

CLOSED = {"complete": CheckoutState.COMPLETE, "expired": CheckoutState.EXPIRED}


def take_session(tx: Transaction, session: SessionFact, *, expiry_days: int = 0, now: datetime) -> None:
    """Close the attempt that a checkout session was for, and grant the credits of a paid pack, once.

    Raises:
        UnknownReference: it was no attempt of ours.
    """
    attempt = attempt_of(tx, session)
    if session.customer_id is not None:
        link_customer(tx, attempt.client_id, attempt.mode, session.customer_id, now=now)
    state = CLOSED.get(session.status, attempt.state)
    if attempt.state is not state:
        tx.checkouts.put(replace(attempt, state=state))
    if session.mode == "payment" and session.status == "complete" and session.settled:
        _grant_pack(tx, attempt, session, expiry_days, now)


def fail_session(tx: Transaction, session: SessionFact, *, now: datetime) -> None:  # noqa: ARG001
    """The money that was to come later did not come.

    Raises:
        UnknownReference
    """
    attempt = attempt_of(tx, session)
    if tx.purchases.get(session.session_id) is None:
        tx.checkouts.put(replace(attempt, state=CheckoutState.FAILED))


def attempt_of(tx: Transaction, session: SessionFact) -> Checkout:
    """Raises `UnknownReference` where the session is no attempt of ours in its mode."""
    found = tx.checkouts.by("session", session.session_id)
    attempt = found[0] if found else tx.checkouts.get(session.attempt_id or "")
    if attempt is None or attempt.mode != mode_of(session.livemode):
        raise UnknownReference(f"session {session.session_id}")
    return attempt


def take_payment(tx: Transaction, payment: PaymentFact, fetched_at: datetime, *, now: datetime) -> Purchase:
    """Take back, or give back, credits until they agree with what became of the payment.

    Raises:
        UnknownReference: it paid for no credits.
        StaleFact: something later is known already.
    """
    purchase = _purchase_of(tx, payment)
    if purchase.fetched_at is not None and fetched_at < purchase.fetched_at:
        raise StaleFact
    open_ones = tuple(each.dispute_id for each in payment.disputes if each.status is DisputeStatus.OPEN)
    target = clawed_for(purchase, payment)
    if open_ones:
        # What is left is held until the dispute is decided; what is spent is not claimed before.
        left = 0 if set(open_ones) <= set(purchase.disputes) else _left(tx, purchase, now)
        target = max(target, min(purchase.credits, purchase.clawed + left))
    version = purchase.version + 1
    operation_id = f"stripe:payment:{payment.payment_intent_id}:{version}"
    change = target - purchase.clawed
    if change > 0:
        grants.claw_back(
            tx,
            purchase.client_id,
            change,
            operation_id=operation_id,
            reason="payment disputed" if open_ones else "payment taken back",
            lot_id=purchase.lot_id,
            now=now,
        )
    elif change < 0:
        _give_back(tx, purchase, -change, operation_id, now)
    after = replace(
        purchase,
        clawed=target,
        amount_refunded=payment.amount_refunded,
        disputes=open_ones,
        version=version if change else purchase.version,
        fetched_at=fetched_at,
    )
    tx.purchases.put(after)
    _hold(tx, after, payment)
    return after


def clawed_for(purchase: Purchase, payment: PaymentFact) -> int:
    """The credits whose money is gone for good: all of them when all of it is."""
    if purchase.amount_paid <= 0:
        return 0
    gone = min(purchase.amount_paid, payment.amount_refunded + payment.amount_lost)
    return purchase.credits * gone // purchase.amount_paid


def _grant_pack(
    tx: Transaction, attempt: Checkout, session: SessionFact, expiry_days: int, now: datetime
) -> None:
    if tx.purchases.get(session.session_id) is not None:
        return
    expires_at = _expiry(session.created, expiry_days, now)
    grants.grant(
        tx,
        attempt.client_id,
        attempt.credits,
        source=LotSource.PURCHASED,
        reason=f"pack {attempt.pack}",
        operation_id=f"stripe:topup:{session.session_id}",
        expires_at=expires_at,
        now=now,
    )
    tx.purchases.put(
        Purchase(
            session_id=session.session_id,
            client_id=attempt.client_id,
            mode=attempt.mode,
            created_at=now,
            credits=attempt.credits,
            amount_paid=session.amount_total,
            currency=session.currency,
            lot_id=lot_for(LotSource.PURCHASED, attempt.credits, expires_at).lot_id,
            payment_intent_id=session.payment_intent_id,
        )
    )


def _expiry(bought: datetime, days: int, now: datetime) -> datetime | None:
    """The end of the day so many days on, so that the packs of one day are one lot; a late one still lives."""
    if days == 0:
        return None
    day = max(bought, now).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day + timedelta(days=days + 1)


def _purchase_of(tx: Transaction, payment: PaymentFact) -> Purchase:
    for purchase in tx.purchases.by("payment", payment.payment_intent_id):
        if purchase.mode == mode_of(payment.livemode):
            return purchase
    raise UnknownReference(f"payment {payment.payment_intent_id}")


def _left(tx: Transaction, purchase: Purchase, now: datetime) -> int:
    lot = find(touch(tx, purchase.client_id, now).lots, purchase.lot_id)
    return min(purchase.credits - purchase.clawed, 0 if lot is None else lot.left)


def _give_back(tx: Transaction, purchase: Purchase, credits: int, operation_id: str, now: datetime) -> None:
    """Into the lot they came from; where it has ended, what is owed is paid and the rest is lost with it."""
    _, _, text = purchase.lot_id.partition(":")
    expires_at = datetime.fromisoformat(text) if text else None
    if expires_at is not None and expires_at <= now:
        credits, expires_at = min(credits, touch(tx, purchase.client_id, now).owed), None
    if credits:
        grants.grant(
            tx,
            purchase.client_id,
            credits,
            source=LotSource.PURCHASED,
            reason="dispute won or refund failed",
            operation_id=operation_id,
            expires_at=expires_at,
            now=now,
        )


def _hold(tx: Transaction, purchase: Purchase, payment: PaymentFact) -> None:
    """While a payment is disputed, its client opens no new checkout."""
    known = subscription_of(tx, purchase.client_id, purchase.mode)
    if known is None:
        return
    about = {each.dispute_id for each in payment.disputes}
    disputes = tuple(sorted((set(known.disputes) - about) | set(purchase.disputes)))
    if disputes != known.disputes:
        tx.subscriptions.put(replace(known, disputes=disputes))
