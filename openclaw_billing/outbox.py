"""The outbox: calls that Stripe must hear, stored with what made them necessary, made until they are heard."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from openclaw_billing.contracts import Transaction
from openclaw_billing.stripe_records import CallKind, StripeCall, Subscription

CLAIMED_MAX = 8
PAUSES = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(hours=1),
    timedelta(hours=6),
)


def cancel(
    tx: Transaction, known: Subscription, subscription_id: str, *, prorate: bool = True, now: datetime
) -> None:
    """Have that subscription end at once; asked again, it is one call."""
    call_id = f"cancel:{known.mode}:{subscription_id}"
    if tx.stripe_calls.get(call_id) is None:
        tx.stripe_calls.put(
            StripeCall(
                call_id=call_id,
                kind=CallKind.CANCEL,
                client_id=known.client_id,
                mode=known.mode,
                created_at=now,
                object_id=subscription_id,
                prorate=prorate,
                next_at=now,
            )
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
        pause = PAUSES[min(call.attempts, len(PAUSES) - 1)]
        tx.stripe_calls.put(
            replace(call, attempts=call.attempts + 1, next_at=now + pause, lease_until=None, reason=reason)
        )


def _reached(moment: datetime | None, now: datetime) -> bool:
    return moment is None or moment <= now
