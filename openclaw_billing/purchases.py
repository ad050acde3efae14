"""Purchases: packs of credits that were paid for, and what refunds and disputes take back of them.

How much is to be taken back is worked out from what Stripe says of the whole payment now, so neither the order
nor the number of the events makes a difference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from openclaw_billing import checkouts, disputes, grants, lots
from openclaw_billing.alerts import Alerts
from openclaw_billing.contracts import Transaction
from openclaw_billing.records import LotSource
from openclaw_billing.stripe_facts import PaymentFact, SessionFact
from openclaw_billing.stripe_records import Checkout, CheckoutState, Purchase
from openclaw_billing.subscriptions import (
    StaleFact,
    UnknownReference,
    find,
    is_stale,
    link_customer,
    mode_of,
    owner,
)
from openclaw_billing.turning import touch


def take_session(tx: Transaction, session: SessionFact, *, expiry_days: int = 0, now: datetime) -> None:
    """Close the attempt that a checkout session was for, and grant the credits of a paid pack, once.

    A session that we did not open counts where its customer is a client's already.

    Raises:
        UnknownReference: it is nobody's that we know of.
    """
    mode = mode_of(session.livemode)
    attempt = _attempt_of(tx, session, mode)
    if attempt is not None:
        if session.customer_id is not None:
            link_customer(tx, attempt.client_id, mode, session.customer_id, now=now)
        if attempt.state is not (state := checkouts.state_after(attempt, session)):
            tx.checkouts.put(replace(attempt, state=state))
        sold = _Sold(attempt.client_id, attempt.credits, f"pack {attempt.pack}")
    else:
        known = owner(tx, mode, session.customer_id)
        if known is None:
            raise UnknownReference(f"session {session.session_id}")
        sold = _Sold(known.client_id, session.credits, "bought at Stripe")
    if sold.credits and session.mode == "payment" and session.status == "complete" and session.settled:
        _grant(tx, sold, session, expiry_days, now)


def fail_session(tx: Transaction, session: SessionFact, *, now: datetime) -> None:  # noqa: ARG001
    """The money that was to come later did not come."""
    attempt = _attempt_of(tx, session, mode_of(session.livemode))
    if attempt is not None and tx.purchases.get(session.session_id) is None:
        tx.checkouts.put(replace(attempt, state=CheckoutState.FAILED))


def take_payment(tx: Transaction, payment: PaymentFact, fetched_at: datetime, *, now: datetime) -> Alerts:
    """Take back, or give back, credits until they agree with what became of the payment.

    Raises:
        UnknownReference: it paid for no credits.
        StaleFact: something later is known already.
    """
    purchase = _purchase_of(tx, payment)
    if is_stale(fetched_at, purchase.fetched_at, now):
        raise StaleFact
    open_ones = disputes.open_disputes(payment)
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
    known = find(tx, purchase.client_id, purchase.mode)
    return () if known is None else disputes.hold(tx, known, payment, now)


def clawed_for(purchase: Purchase, payment: PaymentFact) -> int:
    """The credits whose money is gone for good: all of them when all of it is."""
    if purchase.amount_paid <= 0:
        return 0
    gone = min(purchase.amount_paid, payment.amount_refunded + payment.amount_lost)
    return purchase.credits * gone // purchase.amount_paid


def _attempt_of(tx: Transaction, session: SessionFact, mode: str) -> Checkout | None:
    """The attempt of ours that the session is for."""
    found = tx.checkouts.by("session", session.session_id)
    attempt = found[0] if found else tx.checkouts.get(session.attempt_id or "")
    return attempt if attempt is not None and attempt.mode == mode else None


@dataclass(frozen=True, slots=True)
class _Sold:
    """What a session sells, and to whom."""

    client_id: str
    credits: int
    reason: str


def _grant(tx: Transaction, sold: _Sold, session: SessionFact, expiry_days: int, now: datetime) -> None:
    if tx.purchases.get(session.session_id) is not None:
        return
    expires_at = _expiry(session.created, expiry_days, now)
    grants.grant(
        tx,
        sold.client_id,
        sold.credits,
        source=LotSource.PURCHASED,
        reason=sold.reason,
        operation_id=f"stripe:topup:{session.session_id}",
        expires_at=expires_at,
        now=now,
    )
    tx.purchases.put(
        Purchase(
            session_id=session.session_id,
            client_id=sold.client_id,
            mode=mode_of(session.livemode),
            created_at=now,
            credits=sold.credits,
            amount_paid=session.amount_total,
            currency=session.currency,
            lot_id=lots.lot_of(LotSource.PURCHASED, sold.credits, expires_at).lot_id,
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
    """What is not spent of it: the packs in a lot are spent in the order in which they were bought."""
    lot = lots.find(touch(tx, purchase.client_id, now).lots, purchase.lot_id)
    left = 0 if lot is None else lot.left
    mine = purchase.credits - purchase.clawed
    for other in tx.purchases.by("client", purchase.client_id):
        if other.lot_id == purchase.lot_id and _bought(purchase) < _bought(other):
            left -= other.credits - other.clawed
    return max(0, min(mine, left))


def _bought(purchase: Purchase) -> tuple[datetime, str]:
    return purchase.created_at, purchase.session_id


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
