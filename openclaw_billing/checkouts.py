"""Checkouts: attempts to pay, stored before Stripe hears of them, so that a lost reply makes one session, not two.

Of one client's plans, as of its packs, one attempt is under way at a time: a new one has the others closed.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from openclaw_billing.contracts import Transaction, View
from openclaw_billing.errors import Conflict, KeyRejected, NotFound
from openclaw_billing.stripe_facts import SessionFact
from openclaw_billing.stripe_records import Checkout, CheckoutState, Subscription
from openclaw_billing.subscriptions import LIVE, find

LIFE = timedelta(hours=1)
# Stripe wants a session to live for half an hour at least.
NEW_LIFE = timedelta(minutes=25)
CHANGE_URL = "/api/billing/plan"

_OVER = {"complete": CheckoutState.COMPLETE, "expired": CheckoutState.EXPIRED}


def begin(tx: Transaction, wish: Checkout, *, now: datetime) -> Checkout:
    """The attempt to go on with: the one under way if it is the same in all that matters, else this new one.

    Raises:
        KeyRejected: the client was switched off meanwhile.
        Conflict: `already_on_plan`, `use_change_plan`, `dispute_open`.
    """
    client = tx.clients.get(wish.client_id)
    if client is None or not client.active:
        raise KeyRejected
    known = find(tx, wish.client_id, wish.mode)
    if known is not None:
        _check(known, wish)
    others = [each for each in tx.checkouts.by("unfinished", wish.client_id) if _rivals(each, wish)]
    for attempt in others:
        if attempt.state is not CheckoutState.CLOSING and _usable(attempt, now) and _same(attempt, wish):
            return attempt
    _close(tx, others)
    tx.checkouts.put(wish)
    return wish


def confirm(tx: Transaction, attempt_id: str, *, now: datetime) -> Checkout:  # noqa: ARG001
    """The attempt as it is by now, if what it is for may still be bought.

    Raises:
        Conflict: as `begin` does.
    """
    attempt = _attempt(tx, attempt_id)
    known = find(tx, attempt.client_id, attempt.mode)
    if known is not None:
        _check(known, attempt)
    return attempt


def opened(tx: Transaction, attempt_id: str, session: SessionFact, *, now: datetime) -> Checkout:  # noqa: ARG001
    """Stripe has a session for the attempt: OPEN, unless it is over or to be closed by now."""
    attempt = _attempt(tx, attempt_id)
    if attempt.state is CheckoutState.NEW:
        attempt = replace(attempt, state=CheckoutState.OPEN)
    attempt = replace(
        attempt,
        state=state_after(attempt, session),
        session_id=session.session_id,
        url=session.url,
        expires_at=session.expires_at,
    )
    tx.checkouts.put(attempt)
    return attempt


def state_after(attempt: Checkout, session: SessionFact) -> CheckoutState:
    """What the attempt is, given its session."""
    return _OVER.get(session.status, attempt.state)


def withdraw(tx: Transaction, client_id: str) -> list[Checkout]:
    """Let none of the client's attempts be paid any more; which there were."""
    return _close(tx, tx.checkouts.by("unfinished", client_id))


def closing(tables: Transaction | View, client_id: str, mode: str) -> list[Checkout]:
    """A client's attempts that shall not be paid any more, and may be."""
    waiting = tables.checkouts.by("unfinished", client_id)
    return [each for each in waiting if each.state is CheckoutState.CLOSING and each.mode == mode]


def lapse(tx: Transaction, attempt_id: str, *, now: datetime) -> bool:
    """Whether the attempt is over, since Stripe has no session of it; one may still be on its way for a while."""
    attempt = _attempt(tx, attempt_id)
    if attempt.state is not CheckoutState.CLOSING:
        return True
    over = attempt.session_id is not None or attempt.expires_at is None or now >= attempt.expires_at
    if over:
        tx.checkouts.put(replace(attempt, state=CheckoutState.EXPIRED))
    return over


def _close(tx: Transaction, attempts: list[Checkout]) -> list[Checkout]:
    closing = [replace(attempt, state=CheckoutState.CLOSING) for attempt in attempts]
    for attempt in closing:
        tx.checkouts.put(attempt)
    return closing


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


def _rivals(one: Checkout, other: Checkout) -> bool:
    """Whether one is closed for the other: a plan and a pack may be paid side by side."""
    return one.mode == other.mode and (one.plan_id is None) == (other.plan_id is None)


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
