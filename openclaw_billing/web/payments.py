"""Paying: checkout, and the endpoint that Stripe's events come to.

Without `STRIPE_SECRET_KEY` checkout is in mock mode: it answers a mock address, opens no socket and changes
nothing. An event is believed only when it is signed, and each is taken in once.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi import Query as QueryParameter
from pydantic import Field

from openclaw_billing import plans
from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import BadRequest, Unavailable, UnknownPlan
from openclaw_billing.records import Client, Spent
from openclaw_billing.runtime import Runtime
from openclaw_billing.signatures import is_signed
from openclaw_billing.web import strict_json
from openclaw_billing.web.auth import ClientKey, header
from openclaw_billing.web.limits import RATE_LIMITED
from openclaw_billing.web.models import Dollars, Input, Output
from openclaw_billing.web.route import BillingRoute, limited_route

EVENT_BYTES_MAX = 1024 * 1024
EVENT_TEXT_MAX = 255
MOCK_ADDRESS = "https://checkout.stripe.com/mock?session_id="


class Checkout(Input):
    """The plan to pay for."""

    plan: str = Field(max_length=40)


class CheckoutView(Output):
    """Where to pay. In mock mode nothing is charged there; `price` is in dollars a month."""

    session_id: str
    checkout_url: str
    url: str
    plan_id: str
    price: Dollars
    currency: str
    mode: str
    billing_mode: str
    mock: bool
    publishable_key: str | None
    message: str


class Received(Output):
    """What became of an event."""

    status: str
    event_id: str
    outcome: str


def payment_routes(runtime: Runtime) -> APIRouter:
    router = APIRouter()
    router.include_router(_checkout(runtime))
    router.include_router(_events(runtime))
    return router


def _checkout(runtime: Runtime) -> APIRouter:
    router = APIRouter(route_class=BillingRoute, tags=["billing"], responses=RATE_LIMITED)

    @router.post("/api/billing/checkout", operation_id="createCheckout", summary="Pay for a plan")
    async def create_checkout(
        plan: Annotated[str | None, QueryParameter(max_length=40)] = None,
        body: Checkout | None = None,
        client: Client = Depends(ClientKey(runtime)),
    ) -> CheckoutView:
        """The plan is named in the query or in a JSON body. Enterprise is sold by people."""
        plan_id = plan if body is None else body.plan
        if plan_id is None or plan_id not in plans.CATALOGUE:
            raise UnknownPlan(plan_id or "")
        if plan_id == "enterprise":
            raise BadRequest(_sales(runtime), code="contact_sales")
        if plan_id == "free":
            raise BadRequest("The free plan needs no checkout", code="free_needs_no_checkout")
        if runtime.settings.billing_mode != "mock":
            raise Unavailable("Stripe cannot be reached for a checkout", retry_after_seconds=30)
        session_id = f"cs_test_{secrets.token_hex(8)}"
        return CheckoutView(
            session_id=session_id,
            checkout_url=MOCK_ADDRESS + session_id,
            url=MOCK_ADDRESS + session_id,
            plan_id=plan_id,
            price=Dollars.from_cents(plans.CATALOGUE[plan_id].price_cents),
            currency=runtime.settings.currency,
            mode="subscription",
            billing_mode="mock",
            mock=True,
            publishable_key=runtime.settings.stripe_public_key,
            message="Mock mode: nothing is charged until STRIPE_SECRET_KEY is set",
        )

    return router


def _events(runtime: Runtime) -> APIRouter:
    router = APIRouter(route_class=limited_route(body_bytes_max=EVENT_BYTES_MAX), tags=["billing"])

    @router.post("/api/billing/webhook", operation_id="receiveStripeEvent", summary="Stripe's events")
    async def receive_stripe_event(request: Request) -> Received:
        """For Stripe alone: unsigned bodies change nothing, and a repeated event counts once."""
        signing = [secret.get_secret_value() for secret in runtime.settings.stripe_webhook_secret]
        if not signing:
            raise Unavailable("No signing secret is set for Stripe's events", retry_after_seconds=30)
        raw = await request.body()
        if not is_signed(raw, header(request, b"stripe-signature") or "", signing, runtime.now()):
            raise BadRequest("The event is not signed by Stripe", code="invalid_signature")
        event_id, kind = _envelope(raw)
        new = await runtime.write(take_in, event_id, hashlib.sha256(raw).hexdigest())
        outcome = "ignored" if new else "duplicate"
        runtime.log.info("Stripe event %s (%s): %s", event_id, kind, outcome)
        return Received(status="received", event_id=event_id, outcome=outcome)

    return router


def take_in(tx: Transaction, event_id: str, digest: str, *, now: datetime) -> bool:
    """Spend the event's id; whether it was new."""
    spent_id = f"stripe:event:{event_id}"
    if tx.spent.get(spent_id) is not None:
        return False
    tx.spent.put(Spent(spent_id=spent_id, fingerprint=digest, created_at=now, answer=json.dumps("ignored")))
    return True


def _envelope(raw: bytes) -> tuple[str, str]:
    """The event's id and type."""
    event = strict_json.loads(raw)
    if isinstance(event, dict) and event.get("object") == "event":
        event_id, kind = event.get("id"), event.get("type")
        if all(isinstance(text, str) and 0 < len(text) <= EVENT_TEXT_MAX for text in (event_id, kind)):
            return str(event_id), str(kind)
    raise BadRequest("The body is not a Stripe event", code="invalid_event")


def _sales(runtime: Runtime) -> str:
    contact = runtime.settings.contact_url
    return "Enterprise is sold by people: contact sales" + (f" at {contact}" if contact else "")
