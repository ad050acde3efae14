"""The endpoint that Stripe's events come to: stored when signed, once, and applied afterwards."""

from __future__ import annotations

import time
from datetime import datetime

from fastapi import APIRouter, Request

from openclaw_billing import inbox
from openclaw_billing.errors import BadRequest, BillingError, Unavailable
from openclaw_billing.runtime import Runtime
from openclaw_billing.signatures import is_signed
from openclaw_billing.stripe_events import Kind, event_fact, wants
from openclaw_billing.stripe_facts import EventFact
from openclaw_billing.stripe_records import InboxSource
from openclaw_billing.web import strict_json
from openclaw_billing.web.described import refusals
from openclaw_billing.web.models import Output
from openclaw_billing.web.route import limited_route

EVENT_BYTES_MAX = 1024 * 1024
WARNING_SECONDS = 60.0


class Received(Output):
    """What became of an event: `stored`, `duplicate`, or `ignored` for a reason."""

    status: str
    event_id: str
    outcome: str
    reason: str | None = None


def webhook_routes(runtime: Runtime) -> APIRouter:
    router = APIRouter(route_class=limited_route(body_bytes_max=EVENT_BYTES_MAX), tags=["billing"])
    warned = _Warned()

    @router.post(
        "/api/billing/webhook",
        operation_id="receiveStripeEvent",
        summary="Stripe's events",
        response_model_exclude_none=True,
        responses=refusals(400, 408, 413, 503),
    )
    async def receive_stripe_event(request: Request) -> Received:
        """For Stripe alone: an unsigned body changes nothing, and a repeated event counts once."""
        signing = [secret.get_secret_value() for secret in runtime.settings.stripe_webhook_secret]
        if not signing:
            if warned.is_due():
                runtime.log.warning("A Stripe event was refused: STRIPE_WEBHOOK_SECRET is not set")
            raise Unavailable(
                "No signing secret is set for Stripe's events",
                code="webhook_not_configured",
                retry_after_seconds=30,
            )
        begun = time.monotonic()
        try:
            event = _event(
                await request.body(), request.headers.getlist("stripe-signature"), signing, runtime.now()
            )
        except BillingError as error:
            outcome = "bad_signature" if error.code == "invalid_signature" else "invalid"
            runtime.stripe_observer.event("", outcome)
            raise
        reason = _why_ignored(runtime, event)
        outcome = await runtime.write(inbox.record_event, event, source=InboxSource.ENDPOINT, ignored=reason)
        runtime.stripe_observer.event(event.type, outcome)
        took = 1000 * (time.monotonic() - begun)
        runtime.log.info("Stripe event %s (%s): %s in %d ms", event.event_id, event.type, outcome, took)
        if outcome == inbox.STORED:
            runtime.wake_worker()
        return Received(status="received", event_id=event.event_id, outcome=outcome, reason=reason or None)

    return router


def _event(raw: bytes, signatures: list[str], signing: list[str], now: datetime) -> EventFact:
    """The event in a signed body.

    Raises:
        BadRequest: `invalid_signature` or `invalid_event`, without saying why.
    """
    if len(signatures) != 1 or not is_signed(raw, signatures[0], signing, now):
        raise BadRequest("The event is not signed by Stripe", code="invalid_signature")
    try:
        return event_fact(strict_json.loads(raw))
    except (BadRequest, ValueError) as error:
        raise BadRequest("The body is not a Stripe event", code="invalid_event") from error


def _why_ignored(runtime: Runtime, event: EventFact) -> str:
    """Why a signed event is not applied; empty where it is. A refusal would only bring three days of retries."""
    mode = runtime.settings.billing_mode
    if mode == "mock":
        return "mock_mode"
    if event.livemode != (mode == "live"):
        return "other_mode"
    if event.account is not None:
        return "other_account"
    return "unknown_type" if wants(event.type) is Kind.IGNORED else ""


class _Warned:
    """Whether a minute has passed since the last warning."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def is_due(self) -> bool:
        now = time.monotonic()
        due = now - self._last >= WARNING_SECONDS
        if due:
            self._last = now
        return due
