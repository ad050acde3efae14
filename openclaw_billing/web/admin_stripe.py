"""What an admin may see and do of Stripe: the inbox, a client's subscription, its end at once."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as QueryParameter
from pydantic import Field

from openclaw_billing import inbox, subscriptions
from openclaw_billing.audit import Actor, note
from openclaw_billing.contracts import Query, Transaction
from openclaw_billing.errors import NotFound
from openclaw_billing.runtime import Runtime
from openclaw_billing.stripe_records import InboxStatus, StripeEvent
from openclaw_billing.usage import standing
from openclaw_billing.web.auth import AdminToken
from openclaw_billing.web.cursors import decode_after, encode_after
from openclaw_billing.web.described import refusals
from openclaw_billing.web.endpoint import asked_of, change, walk
from openclaw_billing.web.limits import RATE_LIMITED
from openclaw_billing.web.lists import Filters
from openclaw_billing.web.models import Input, Moment, Output
from openclaw_billing.web.route import BillingRoute
from openclaw_billing.web.standing import billing_state
from openclaw_billing.web.subscription import changing


class StripeEventView(Output):
    """An event of the inbox: what it is about, and what became of it."""

    event_id: str
    type: str
    mode: str
    status: str
    source: str
    created_at: Moment
    happened_at: Moment
    customer_id: str | None
    object_id: str
    subscription_id: str | None
    payment_intent_id: str | None
    facts: dict[str, str]
    attempts: int
    parkings: int
    stumbles: int
    next_at: Moment | None
    reason: str

    @classmethod
    def of(cls, event: StripeEvent) -> StripeEventView:
        return cls(**{name: getattr(event, name) for name in cls.model_fields})


class EventFilters(Filters):
    """Which events to list."""

    status: InboxStatus | None = None


class StripeEventList(Output):
    events: list[StripeEventView]
    total: int
    next_cursor: str | None
    has_more: bool


class StripeStatus(Output):
    """How billing goes. Seconds are null where there is nothing to count from."""

    billing_mode: str
    waiting: int
    parked: int
    lag_seconds: float | None
    last_event_seconds: float | None


class Attachment(Input):
    client_id: str = Field(min_length=1, max_length=200)


class SubscriptionView(Output):
    """What a client has with Stripe, and why its plan is what it is."""

    client_id: str
    mode: str
    billing_state: str
    customer_id: str | None
    subscription_id: str | None
    status: str | None
    pause_reason: str | None
    plan: str | None
    interval: str
    period_start: Moment | None
    period_end: Moment | None
    ends_at: Moment | None
    pending_plan: str | None
    pending_at: Moment | None
    delinquent_since: Moment | None
    grace_until: Moment | None
    disputes: list[str]
    needs_review: str
    billing_name: str | None
    billing_email: str | None
    features: list[str]
    fetched_at: Moment | None


def admin_stripe_routes(runtime: Runtime) -> APIRouter:
    router = APIRouter(route_class=BillingRoute, tags=["admin"], responses=RATE_LIMITED)
    admin = AdminToken(runtime)
    _inbox(router, runtime, admin)
    _mending(router, runtime, admin)
    _subscription(router, runtime, admin)
    return router


def _inbox(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.get("/api/admin/stripe/events", operation_id="listStripeEvents", summary="The inbox")
    async def list_stripe_events(
        filters: Annotated[EventFilters, QueryParameter()], actor: Actor = Depends(admin)
    ) -> StripeEventList:
        """Every Stripe event of the last weeks, newest first."""
        return await runtime.read(
            lambda: event_list(runtime, filters.status, filters.page_length, filters.cursor)
        )

    @router.get("/api/admin/stripe", operation_id="getStripeStatus", summary="How billing goes")
    async def get_stripe_status(actor: Actor = Depends(admin)) -> StripeStatus:
        """The mode, and how far the inbox is behind."""
        return await stripe_status(runtime)


def _mending(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.post(
        "/api/admin/stripe/events/{event_id}/replay",
        operation_id="replayStripeEvent",
        summary="Apply an event once more",
        responses=refusals(409),
    )
    async def replay_stripe_event(
        event_id: str, request: Request, response: Response, actor: Actor = Depends(admin)
    ) -> StripeEventView:
        """What it did before is not done twice: credits are moved by the fact, not by the event."""

        def operation(tx: Transaction, now: datetime) -> dict[str, object]:
            return _shown(inbox.replay(tx, event_id, runtime.settings.billing_mode, actor=actor, now=now))

        reply = await change(runtime, request, response, operation, principal=actor.name, name="replay_event")
        runtime.wake_worker()
        return StripeEventView.model_validate(reply.body)

    @router.post(
        "/api/admin/stripe/events/{event_id}/attach",
        operation_id="attachStripeEvent",
        summary="Say whose customer an orphaned event is about",
        responses=refusals(409),
    )
    async def attach_stripe_event(
        event_id: str, body: Attachment, request: Request, response: Response, actor: Actor = Depends(admin)
    ) -> StripeEventView:
        """The customer is the client's from now on, and the event is applied."""

        def operation(tx: Transaction, now: datetime) -> dict[str, object]:
            mode = runtime.settings.billing_mode
            return _shown(inbox.attach(tx, event_id, body.client_id, mode, actor=actor, now=now))

        reply = await change(
            runtime, request, response, operation, principal=actor.name, body=body, name="attach_event"
        )
        runtime.wake_worker()
        return StripeEventView.model_validate(reply.body)


def _subscription(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.get(
        "/api/admin/clients/{client_id}/subscription",
        operation_id="getSubscription",
        summary="What a client has with Stripe",
    )
    async def get_subscription(client_id: str, actor: Actor = Depends(admin)) -> SubscriptionView:
        """As of the last answer of Stripe's."""
        return _view(runtime, client_id)

    @router.delete(
        "/api/admin/clients/{client_id}/subscription",
        operation_id="cancelSubscriptionNow",
        summary="End a subscription at once",
        responses=refusals(409, 502),
    )
    async def cancel_subscription_now(
        client_id: str, request: Request, response: Response, actor: Actor = Depends(admin)
    ) -> SubscriptionView:
        """No money is given back; the client is on the free plan afterwards."""
        asked = asked_of(request, actor.name, None)
        return await walk(
            runtime, response, asked, partial(_cancelled, runtime, client_id, actor), SubscriptionView
        )


async def _cancelled(runtime: Runtime, client_id: str, actor: Actor) -> SubscriptionView:
    client = runtime.view.clients.get(client_id)
    if client is None:
        raise NotFound("Client")
    await changing(runtime).cancel_now(client)
    await runtime.write(_note_cancelled, actor, client_id)
    return _view(runtime, client_id)


def event_list(
    runtime: Runtime, status: InboxStatus | None, limit: int, cursor: str | None
) -> StripeEventList:
    """A page of the inbox, newest first."""
    equals = {} if status is None else {"status": status.value}
    query = decode_after(cursor, "stripe_events", Query(equals=equals, limit=limit))
    page = runtime.view.stripe_events.page(query)
    last = page.rows[-1] if page.has_more else None
    place = None if last is None else encode_after(last.created_at, last.event_id, "stripe_events", query)
    return StripeEventList(
        events=[StripeEventView.of(event) for event in page.rows],
        total=page.total,
        next_cursor=place,
        has_more=page.has_more,
    )


async def stripe_status(runtime: Runtime) -> StripeStatus:
    mode, now = runtime.settings.billing_mode, runtime.now()
    state = await runtime.read(lambda: inbox.backlog(runtime.view, mode))
    newest = state.newest_event
    return StripeStatus(
        billing_mode=mode,
        waiting=state.waiting,
        parked=state.parked,
        lag_seconds=None if state.oldest is None else (now - state.oldest).total_seconds(),
        last_event_seconds=None if newest is None else (now - newest).total_seconds(),
    )


def _note_cancelled(tx: Transaction, actor: Actor, client_id: str, *, now: datetime) -> None:
    note(tx, actor, "client.subscription_cancelled", client_id=client_id, object_id=client_id, now=now)


def _view(runtime: Runtime, client_id: str) -> SubscriptionView:
    known = subscriptions.find(runtime.view, client_id, runtime.settings.billing_mode)
    if known is None:
        raise NotFound("Subscription")
    now = runtime.now()
    stand = standing(runtime.view, client_id, now)
    return SubscriptionView(
        client_id=client_id,
        mode=known.mode,
        billing_state=billing_state(stand.limited, known, now),
        customer_id=known.customer_id,
        subscription_id=known.subscription_id,
        status=None if known.status is None else known.status.value,
        pause_reason=known.pause_kind or None,
        plan=known.plan_id,
        interval=known.interval,
        period_start=known.start,
        period_end=known.end,
        ends_at=known.ends_at,
        pending_plan=known.pending_plan_id,
        pending_at=known.pending_at,
        delinquent_since=known.delinquent_since,
        grace_until=stand.grace_until,
        disputes=list(known.disputes),
        needs_review=known.needs_review,
        billing_name=known.billing_name,
        billing_email=known.billing_email,
        features=list(known.features),
        fetched_at=known.fetched_at,
    )


def _shown(event: StripeEvent) -> dict[str, object]:
    return StripeEventView.of(event).model_dump(mode="json")
