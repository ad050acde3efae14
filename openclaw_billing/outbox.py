"""The outbox: calls that Stripe must hear, stored with what made them necessary, made until they are heard."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from openclaw_billing.contracts import Transaction
from openclaw_billing.pauses import pause
from openclaw_billing.stripe_records import CallKind, Checkout, StripeCall, Subscription

CLAIMED_MAX = 8


def cancel(tx: Transaction, known: Subscription, subscription_id: str, *, now: datetime) -> bool:
    """Have that subscription end at once, the rest of its period given back. False where that was asked before."""
    return _ask(
        tx,
        StripeCall(
            call_id=f"cancel:{known.mode}:{subscription_id}",
            kind=CallKind.CANCEL,
            client_id=known.client_id,
            mode=known.mode,
            created_at=now,
            object_id=subscription_id,
            prorate=True,
            next_at=now,
        ),
    )


def close_page(tx: Transaction, attempt: Checkout, *, now: datetime) -> bool:
    """Have an attempt's page closed."""
    return _ask(
        tx,
        StripeCall(
            call_id=f"close:{attempt.attempt_id}",
            kind=CallKind.CLOSE,
            client_id=attempt.client_id,
            mode=attempt.mode,
            created_at=now,
            object_id=attempt.attempt_id,
            next_at=now,
        ),
    )


def claim(tx: Transaction, mode: str, lease: timedelta, *, now: datetime) -> list[StripeCall]:
    """Calls that are due, kept from other workers for `lease`."""
    due = [
        call
        for call in tx.stripe_calls.by("undone", "yes")
        if call.mode == mode and _reached(call.next_at, now) and _reached(call.lease_until, now)
    ][:CLAIMED_MAX]
    for call in due:
        tx.stripe_calls.put(replace(call, lease_until=now + lease))
    return due


def finish(tx: Transaction, call_id: str, *, now: datetime) -> None:  # noqa: ARG001
    """It was heard."""
    call = tx.stripe_calls.get(call_id)
    if call is not None:
        tx.stripe_calls.put(replace(call, done=True, next_at=None, lease_until=None, reason=""))


def delay(tx: Transaction, call_id: str, reason: str, *, now: datetime) -> None:
    """It was not: later, and never given up, since money goes on being taken."""
    call = tx.stripe_calls.get(call_id)
    if call is not None:
        next_at = now + pause(call.attempts, call_id)
        tx.stripe_calls.put(
            replace(call, attempts=call.attempts + 1, next_at=next_at, lease_until=None, reason=reason)
        )


def _ask(tx: Transaction, call: StripeCall) -> bool:
    if tx.stripe_calls.get(call.call_id) is not None:
        return False
    tx.stripe_calls.put(call)
    return True


def _reached(moment: datetime | None, now: datetime) -> bool:
    return moment is None or moment <= now
