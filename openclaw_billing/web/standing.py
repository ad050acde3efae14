"""Standing: what answers say of a client's subscription, in their body and in a header field of every one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from openclaw_billing import subscriptions
from openclaw_billing.contracts import View
from openclaw_billing.records import Client
from openclaw_billing.runtime import Runtime
from openclaw_billing.stripe_facts import StripeStatus
from openclaw_billing.stripe_records import Subscription
from openclaw_billing.usage import Standing, is_limited
from openclaw_billing.web.far import far_store
from openclaw_billing.web.models import Moment, Output

STATES = ("none", "trialing", "active", "ending", "past_due", "limited", "paused")

Field = tuple[bytes, bytes]

_FIELDS: Mapping[str, Field] = MappingProxyType(
    {state: (b"x-billing-state", state.encode()) for state in STATES}
)
_NONE = _FIELDS["none"]


class SubscriptionFields(Output):
    """`pause_reason` is Stripe's word for why the subscription is paused."""

    billing_state: str
    pause_reason: str | None
    grace_until: Moment | None
    ends_at: Moment | None
    pending_plan: str | None
    pending_at: Moment | None
    dispute_hold: bool
    needs_review: bool


class StandingField:
    """The header field `X-Billing-State`. Every job comes by here."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def of(self, client: Client, view: View) -> Field:
        """The field of the answers to that client."""
        if client.stripe_subscription_id is None:
            return _NONE
        if far_store(self._runtime) is None:
            return _FIELDS[self._state(client.client_id, view)]
        believed = self._runtime.limits.believed
        return _FIELDS[believed.of("state", client.client_id, lambda: self._state(client.client_id, view))]

    def _state(self, client_id: str, view: View) -> str:
        known = subscriptions.find(view, client_id, self._runtime.settings.billing_mode)
        account, now = view.accounts.get(client_id), self._runtime.now()
        return billing_state(account is not None and is_limited(account, now), known, now)


def billing_state(limited: bool, known: Subscription | None, now: datetime) -> str:
    """One of `STATES`."""
    if known is None or known.subscription_id is None or known.status is None:
        return "none"
    if known.status is StripeStatus.PAUSED:
        return "paused"
    if limited:
        return "limited"
    if known.status is StripeStatus.PAST_DUE:
        return "past_due"
    if known.ends_at is not None and now < known.ends_at:
        return "ending"
    return {StripeStatus.TRIALING: "trialing", StripeStatus.ACTIVE: "active"}.get(known.status, "none")


def subscription_fields(stand: Standing, known: Subscription | None, now: datetime) -> dict[str, Any]:
    """What a view of a client says of its subscription."""
    return {
        "billing_state": billing_state(stand.limited, known, now),
        "pause_reason": None if known is None else known.pause_kind or None,
        "grace_until": stand.grace_until,
        "ends_at": None if known is None else known.ends_at,
        "pending_plan": None if known is None else known.pending_plan_id,
        "pending_at": None if known is None else known.pending_at,
        "dispute_hold": known is not None and bool(known.disputes),
        "needs_review": known is not None and bool(known.needs_review),
    }
