"""Checkouts: attempts to pay, stored before Stripe hears of them, so that a lost reply makes one session, not two."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import Conflict, NotFound
from openclaw_billing.stripe_facts import SessionFact
from openclaw_billing.stripe_records import Checkout, CheckoutState, Subscription
from openclaw_billing.subscriptions import LIVE, find

LIFE = timedelta(hours=1)
# Stripe wants a session to live for half an hour at least.
NEW_LIFE = timedelta(minutes=25)
CHANGE_URL = "/api/billing/plan"


def begin(tx: Transaction, wish: Checkout, *, now: datetime) -> Checkout:
    """The attempt to go on with: one that is open and the same in all that matters, else this new one.

    Raises:
        Conflict: `already_on_plan`, `use_change_plan`, `dispute_open`.
    """
    known = find(tx, wish.client_id, wish.mode)
    if known is not None:
        _check(known, wish)
    for attempt in tx.checkouts.by("unfinished", wish.client_id):
        if not _usable(attempt, now):
            tx.checkouts.put(replace(attempt, state=CheckoutState.EXPIRED))
        elif _same(attempt, wish):
            return attempt
    tx.checkouts.put(wish)
    return wish


def opened(tx: Transaction, attempt_id: str, session: SessionFact, *, now: datetime) -> Checkout:  # noqa: ARG001
    """Stripe has a session for the attempt."""
    attempt = _attempt(tx, attempt_id)
    if attempt.state is CheckoutState.NEW:
        attempt = replace(
            attempt,
            state=CheckoutState.OPEN,
            session_id=session.session_id,
            url=session.url,
            expires_at=session.expires_at,
        )
        tx.checkouts.put(attempt)
    return attempt


def abandon(tx: Transaction, attempt_id: str, *, now: datetime) -> None:  # noqa: ARG001
    """Nothing will come of the attempt any more."""
    attempt = _attempt(tx, attempt_id)
    if attempt.state in (CheckoutState.NEW, CheckoutState.OPEN):
        tx.checkouts.put(replace(attempt, state=CheckoutState.EXPIRED))


def _attempt(tx: Transaction, attempt_id: str) -> Checkout:
    attempt = tx.checkouts.get(attempt_id)
    if attempt is None:
        raise NotFound("Checkout")
    return attempt


def _check(known: Subscription, wish: Checkout) -> None:
    if known.disputes:
        raise Conflict("A payment is disputed: nothing can be bought meanwhile", code="dispute_open")
    if wish.plan_id is None or known.subscription_id is None or known.status not in LIVE:
        return
    if (known.plan_id, known.interval) == (wish.plan_id, wish.interval):
        raise Conflict("The client is on this plan already", code="already_on_plan")
    raise Conflict(
        f"There is a subscription: change its plan at {CHANGE_URL}",
        code="use_change_plan",
        change_url=CHANGE_URL,
    )


def _same(one: Checkout, other: Checkout) -> bool:
    return _content(one) == _content(other)


def _content(attempt: Checkout) -> tuple[object, ...]:
    return (
        attempt.mode,
        attempt.price_id,
        attempt.quantity,
        attempt.success_url,
        attempt.cancel_url,
        attempt.promotion,
    )


def _usable(attempt: Checkout, now: datetime) -> bool:
    if attempt.state is CheckoutState.OPEN:
        return attempt.expires_at is not None and now < attempt.expires_at
    return now < attempt.created_at + NEW_LIFE
