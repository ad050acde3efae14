"""Stripe's events: the ones we ask for, what each is good for, and what is taken from their bodies.

A body's ids are all that is read of it: what an object is now is asked of Stripe, because events come late,
twice and out of order. Bodies of older API versions are read too: an event keeps the shape it was made in.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from openclaw_billing.stripe_facts import EventFact

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT_MAX = 255


class Kind(StrEnum):
    """What an event is good for."""

    FACT = "fact"
    """It moves credits, once for ever."""
    STATE = "state"
    """The subscription is to be asked for anew."""
    NOTICE = "notice"
    """Somebody is to be told."""
    COPY = "copy"
    """Our copy is to be refreshed."""
    IGNORED = "ignored"


_BY_KIND = {
    Kind.FACT: (
        # In payment mode a pack was sold; in subscription mode it is only a state.
        "checkout.session.completed",
        "checkout.session.async_payment_succeeded",
        # The only event that opens a paid cycle: `invoice.payment_succeeded` tells the same fact.
        "invoice.paid",
        "refund.created",
        "refund.updated",
        "refund.failed",
        "charge.refunded",
        "charge.dispute.created",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.closed",
        "charge.dispute.funds_reinstated",
    ),
    Kind.STATE: (
        "customer.subscription.created",
        "customer.subscription.updated",
        "customer.subscription.deleted",
        "customer.subscription.paused",
        "customer.subscription.resumed",
        "customer.subscription.pending_update_applied",
        "customer.subscription.pending_update_expired",
        "customer.deleted",
        "invoice.payment_failed",
    ),
    Kind.NOTICE: (
        "checkout.session.async_payment_failed",
        "checkout.session.expired",
        "customer.subscription.trial_will_end",
        "invoice.payment_action_required",
        "invoice.finalization_failed",
        "invoice.upcoming",
        "radar.early_fraud_warning.created",
        "payment_method.automatically_updated",
    ),
    Kind.COPY: (
        "customer.updated",
        "invoice.finalized",
        "invoice.voided",
        "invoice.marked_uncollectible",
        "entitlements.active_entitlement_summary.updated",
        "billing.alert.triggered",
        "billing.credit_grant.created",
        "billing.credit_grant.updated",
    ),
}
KINDS: Mapping[str, Kind] = MappingProxyType(
    {name: kind for kind, names in _BY_KIND.items() for name in names}
)
EVENT_TYPES = tuple(sorted(KINDS))
"""The types our endpoint at Stripe is set up for, and no other."""

# Words that help an operator; amounts and states are asked of Stripe.
_WORDS = ("status", "reason", "mode", "payment_status", "billing_reason", "failure_reason", "charge")


def wants(event_type: str) -> Kind:
    """What an event of this type is good for."""
    return KINDS.get(event_type, Kind.IGNORED)


def event_fact(body: object) -> EventFact:
    """An event's envelope, and the ids in its body.

    Raises:
        ValueError: the envelope is not an event's; the text names the field.
    """
    if not isinstance(body, dict):
        raise ValueError("it is no event")
    data = body.get("data")
    about = data.get("object") if isinstance(data, dict) else None
    about = about if isinstance(about, dict) else {}
    livemode = body.get("livemode")
    if body.get("object") != "event" or not isinstance(livemode, bool):
        raise ValueError("the event has no livemode" if body.get("object") == "event" else "it is no event")
    return EventFact(
        event_id=_needed(body, "id"),
        type=_needed(body, "type"),
        created=_moment(body),
        livemode=livemode,
        account=_text(body.get("account")),
        api_version=_text(body.get("api_version")),
        object_id=_text(about.get("id")) or "",
        customer_id=_customer_of(about),
        subscription_id=_subscription_of(about),
        payment_intent_id=_payment_of(about),
        facts=_facts(about),
    )


def id_of(value: object) -> str | None:
    """The id of what may be an id or the object itself."""
    return _text(value.get("id") if isinstance(value, dict) else value)


def invoice_subscription(invoice: Mapping[str, Any]) -> str | None:
    """The subscription an invoice belongs to: under its parent since March 2025, its own field before."""
    parent = invoice.get("parent")
    details = parent.get("subscription_details") if isinstance(parent, dict) else None
    if isinstance(details, dict):
        return id_of(details.get("subscription"))
    return id_of(invoice.get("subscription"))


def _needed(body: Mapping[str, Any], name: str) -> str:
    value = _text(body.get(name))
    if not value:
        raise ValueError(f"the event has no {name}")
    return value


def _moment(body: Mapping[str, Any]) -> datetime:
    value = body.get("created")
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (OverflowError, OSError, ValueError):
            pass
    raise ValueError("the event has no created")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= TEXT_MAX and value.isprintable() else None


def _customer_of(about: Mapping[str, Any]) -> str | None:
    return _text(about.get("id")) if about.get("object") == "customer" else id_of(about.get("customer"))


def _subscription_of(about: Mapping[str, Any]) -> str | None:
    kind = about.get("object")
    if kind == "subscription":
        return _text(about.get("id"))
    return invoice_subscription(about) if kind == "invoice" else id_of(about.get("subscription"))


def _payment_of(about: Mapping[str, Any]) -> str | None:
    return (
        _text(about.get("id"))
        if about.get("object") == "payment_intent"
        else id_of(about.get("payment_intent"))
    )


def _facts(about: Mapping[str, Any]) -> dict[str, str]:
    metadata = about.get("metadata")
    attempt = metadata.get("attempt_id") if isinstance(metadata, dict) else None
    found = {**{name: id_of(about.get(name)) for name in _WORDS}, "attempt_id": _text(attempt)}
    return {name: value for name, value in found.items() if value}
