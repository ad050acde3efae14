"""What Stripe's side should look like: prices, the portal, the event endpoint. Pure; `catalogue` brings it about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from openclaw_billing import plans
from openclaw_billing.payments.bodies import MANAGED_BY, Body
from openclaw_billing.prices import MONTHLY, PRODUCT_PREFIX, SOLD, YEARLY, PriceBook
from openclaw_billing.stripe_events import EVENT_TYPES

EVENTS_PATH = "/api/billing/webhook"
UNITS = {MONTHLY: "month", YEARLY: "year"}
# Currencies whose smallest unit is not a hundredth, which the catalogue's prices are in.
ODD_CURRENCIES = frozenset(
    [
        "bif",
        "clp",
        "djf",
        "gnf",
        "jpy",
        "kmf",
        "krw",
        "mga",
        "pyg",
        "rwf",
        "ugx",
        "vnd",
        "vuv",
        "xaf",
        "xof",
        "xpf",
        "bhd",
        "iqd",
        "jod",
        "kwd",
        "lyd",
        "omr",
        "tnd",
    ]
)
REASONS = [
    "customer_service",
    "low_quality",
    "missing_features",
    "other",
    "switched_service",
    "too_complex",
    "too_expensive",
    "unused",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedPrice:
    """A price under its look-up key, of a product with a fixed id."""

    key: str
    product_id: str
    product_name: str
    amount: int
    currency: str
    interval: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def product(self) -> Body:
        return {"id": self.product_id, "name": self.product_name, "metadata": {"managed_by": MANAGED_BY}}

    def body(self) -> Body:
        body: Body = {
            "currency": self.currency,
            "product": self.product_id,
            "lookup_key": self.key,
            "transfer_lookup_key": True,
            "nickname": self.key,
            "metadata": {**self.labels, "managed_by": MANAGED_BY, "key": self.key},
            "unit_amount": self.amount,
        }
        if self.interval:
            body["recurring"] = {"interval": UNITS[self.interval]}
        return body

    def is_sold_by(self, price: Mapping[str, Any]) -> bool:
        """Whether a price of Stripe's is this one. Its amount can never be changed."""
        every = price.get("recurring") or {}
        return (
            price["currency"] == self.currency
            and price["unit_amount"] == self.amount
            and every.get("interval") == UNITS.get(self.interval)
            and (every.get("interval_count") or 1) == 1
            and every.get("usage_type") != "metered"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the operator asks for beyond the catalogue, amounts in the currency's smallest unit."""

    yearly: Mapping[str, int] = field(default_factory=dict)
    packs: Mapping[int, int] = field(default_factory=dict)
    """The price of each pack, by the credits in it."""
    gateway: str | None = None
    """The gateway's public address, which Stripe sends its events to."""


def prices(book: PriceBook, wishes: Wishes) -> list[WantedPrice]:
    """The prices to be had in Stripe; one that a setting names is the operator's own business."""
    monthly = (
        {} if book.currency in ODD_CURRENCIES else {each: plans.CATALOGUE[each].price_cents for each in SOLD}
    )
    wanted = [
        WantedPrice(
            key=book.lookup_key(plan_id, interval),
            product_id=PRODUCT_PREFIX + plan_id,
            product_name=plans.CATALOGUE[plan_id].name,
            amount=amount,
            currency=book.currency,
            interval=interval,
            labels={"plan": plan_id},
        )
        for interval, amounts in ((MONTHLY, monthly), (YEARLY, wishes.yearly))
        for plan_id, amount in amounts.items()
        if book.setting_for(plan_id, interval) is None
    ]
    wanted += [
        WantedPrice(
            key=book.pack_key(credits),
            product_id=f"{PRODUCT_PREFIX}credits",
            product_name="Credits",
            amount=amount,
            currency=book.currency,
            labels={"credits": str(credits)},
        )
        for credits, amount in wishes.packs.items()
        if credits not in book.packs
    ]
    return wanted


def portal(sold: Iterable[Mapping[str, Any]], return_url: str | None) -> Body:
    """The portal's configuration: everything a client may do there follows the same rules as here."""
    by_product: dict[str, list[str]] = {}
    for price in sold:
        by_product.setdefault(str(price["product"]), []).append(str(price["id"]))
    products = [{"product": product, "prices": sorted(by_product[product])} for product in sorted(by_product)]
    conditions = [{"type": "decreasing_item_amount"}, {"type": "shortening_interval"}]
    updates: Body = {"enabled": False}
    if products:
        updates = {
            "enabled": True,
            "default_allowed_updates": ["price"],
            "products": products,
            "proration_behavior": "always_invoice",
            "schedule_at_period_end": {"conditions": conditions},
        }
    features = {
        "customer_update": {"enabled": True, "allowed_updates": ["address", "email", "name", "tax_id"]},
        "invoice_history": {"enabled": True},
        "payment_method_update": {"enabled": True},
        "subscription_cancel": {
            "enabled": True,
            "mode": "at_period_end",
            "proration_behavior": "none",
            "cancellation_reason": {"enabled": True, "options": REASONS},
        },
        "subscription_update": updates,
    }
    body: Body = {"features": features}
    if return_url is not None:
        body["default_return_url"] = return_url
    # Stripe may leave the products out of what it shows, so what was asked for is told by its digest.
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]
    return {**body, "metadata": {"managed_by": MANAGED_BY, "digest": digest}}


def endpoint(gateway: str, api_version: str) -> Body:
    """The endpoint that Stripe sends our events to, in the shapes that we read."""
    return {
        "url": endpoint_url(gateway),
        "enabled_events": list(EVENT_TYPES),
        "api_version": api_version,
        "description": "OpenClaw billing",
        "metadata": {"managed_by": MANAGED_BY},
    }


# Noted at the endpoint once its signing secret is kept, since Stripe shows that only in answer to its making.
KEPT = {"secret": "kept"}


def is_kept(endpoint: Mapping[str, Any]) -> bool:
    """Whether somebody here knows the endpoint's signing secret."""
    return holds(endpoint.get("metadata"), KEPT)


def endpoint_key(url: str, api_version: str, others: int) -> str:
    """The Idempotency-Key to make it under beside so many others: after a lost reply there is one more."""
    return f"sync:endpoint:{hashlib.sha256(url.encode()).hexdigest()[:32]}:{api_version}:{others}"


def endpoint_url(gateway: str) -> str:
    parts = urlsplit(gateway)
    path = parts.path.rstrip("/").removesuffix(EVENTS_PATH) + EVENTS_PATH
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def holds(shown: Any, wanted: Any) -> bool:
    """Whether an object shows all that is wanted of it; more than that does not matter."""
    if isinstance(wanted, Mapping):
        return isinstance(shown, Mapping) and all(
            holds(shown.get(name), value) for name, value in wanted.items() if name != "products"
        )
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        if not isinstance(shown, list) or len(shown) != len(wanted):
            return False
        return all(any(holds(have, want) for have in shown) for want in wanted)
    return bool(shown == wanted)
