"""Bodies: what we send to Stripe, as plain parameters of its API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from openclaw_billing.stripe_facts import CheckoutWish, PriceFact, SubscriptionFact

MANAGED_BY = "openclaw-billing"
SESSION_ID = "session_id={CHECKOUT_SESSION_ID}"

Body = dict[str, Any]


def checkout(wish: CheckoutWish) -> Body:
    """A session in which one thing is bought: a plan, or a pack."""
    metadata = _metadata(wish)
    body: Body = {
        "ui_mode": "hosted_page",
        "customer": wish.customer_id,
        "client_reference_id": wish.client_id,
        "line_items": [{"price": wish.price_id, "quantity": wish.quantity}],
        "success_url": _with_session_id(wish.success_url),
        "cancel_url": wish.cancel_url,
        "allow_promotion_codes": wish.promotion,
        "expires_at": int(wish.expires_at.timestamp()),
        "metadata": metadata,
    }
    if wish.kind == "subscription":
        data: Body = {"metadata": metadata, "billing_mode": {"type": "flexible"}}
        if wish.trial_days:
            data["trial_period_days"] = wish.trial_days
        body |= {"mode": "subscription", "subscription_data": data}
    else:
        body |= {
            "mode": "payment",
            "payment_intent_data": {"metadata": metadata},
            "invoice_creation": {"enabled": True, "invoice_data": {"metadata": metadata}},
        }
    if wish.tax:
        body |= {
            "automatic_tax": {"enabled": True},
            "tax_id_collection": {"enabled": True},
            "customer_update": {"address": "auto", "name": "auto"},
        }
    return body


def change(fact: SubscriptionFact, price: PriceFact) -> Body:
    """The plan's item at another price, billed at once and kept waiting until that bill is paid."""
    return {
        "items": [{"id": fact.item_id, "price": price.price_id}],
        "proration_behavior": "always_invoice",
        "payment_behavior": "pending_if_incomplete",
    }


def preview(fact: SubscriptionFact, price: PriceFact) -> Body:
    """The same change, only asked about."""
    details = {
        "items": [{"id": fact.item_id, "price": price.price_id}],
        "proration_behavior": "always_invoice",
    }
    return {"subscription": fact.subscription_id, "subscription_details": details}


def phases(schedule: Mapping[str, Any], fact: SubscriptionFact, price: PriceFact) -> Body:
    """The running phase as it is, and one at another price after it; then the schedule lets go."""
    running = schedule["current_phase"]
    now = next(each for each in schedule["phases"] if each["start_date"] == running["start_date"])
    items = [_phase_item(each) for each in now["items"]]
    kept: Body = {"items": items, "start_date": now["start_date"], "end_date": now["end_date"]}
    if now.get("trial_end"):
        kept["trial_end"] = now["trial_end"]
    coming: Body = {
        "items": [
            {**each, "price": price.price_id} if each["price"] == fact.price.price_id else each
            for each in items
        ],
        "duration": {"interval": "year" if price.interval == "yearly" else "month", "interval_count": 1},
        # The period turns there, so there is nothing to give back or to bill in between.
        "proration_behavior": "none",
    }
    for phase in (kept, coming):
        # A phase that names no discounts would lose the subscription's.
        if discounts := [_discount(each) for each in now.get("discounts") or ()]:
            phase["discounts"] = discounts
    return {"end_behavior": "release", "phases": [kept, coming], "metadata": {"managed_by": MANAGED_BY}}


def portal_flow(flow: str, subscription_id: str | None) -> Body:
    """The one thing that a visit to the portal is for."""
    if flow == "payment_method_update" or subscription_id is None:
        return {"type": flow}
    return {"type": flow, flow: {"subscription": subscription_id}}


def is_ours(obj: Mapping[str, Any]) -> bool:
    """Whether an object of Stripe's was made by this program: all others are left as they are."""
    return bool((obj.get("metadata") or {}).get("managed_by") == MANAGED_BY)


def _metadata(wish: CheckoutWish) -> dict[str, str]:
    what = {"plan": wish.plan_id} if wish.kind == "subscription" else {"pack": wish.pack}
    found = {
        "client_id": wish.client_id,
        **what,
        "kind": wish.kind,
        "attempt_id": wish.attempt_id,
        "managed_by": MANAGED_BY,
    }
    return {name: value for name, value in found.items() if value is not None}


def _with_session_id(address: str) -> str:
    if "{CHECKOUT_SESSION_ID}" in address:
        return address
    parts = urlsplit(address)
    query = f"{parts.query}&{SESSION_ID}" if parts.query else SESSION_ID
    return urlunsplit(parts._replace(query=query))


def _phase_item(item: Mapping[str, Any]) -> Body:
    price = item["price"]
    found: Body = {"price": price["id"] if isinstance(price, Mapping) else price}
    return {**found, "quantity": item["quantity"]} if item.get("quantity") is not None else found


def _discount(discount: Mapping[str, Any]) -> Body:
    for name in ("discount", "promotion_code", "coupon"):
        value = discount.get(name)
        if value is not None:
            return {name: value["id"] if isinstance(value, Mapping) else value}
    raise ValueError("Stripe's object has no discount")
