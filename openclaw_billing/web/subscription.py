"""A client's subscription: invoices, Stripe's portal, another plan, its end and the way back."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as QueryParameter
from pydantic import Field

from openclaw_billing import plans, subscriptions
from openclaw_billing.changing import Changed, Changing
from openclaw_billing.errors import (
    BadRequest,
    Conflict,
    StripeMisconfigured,
    StripeUnavailable,
    UnknownPlan,
)
from openclaw_billing.paying import Paying
from openclaw_billing.records import Client
from openclaw_billing.runtime import Runtime
from openclaw_billing.stripe_facts import InvoiceFact
from openclaw_billing.stripe_records import Invoice, Subscription
from openclaw_billing.web.auth import ClientKey
from openclaw_billing.web.checkout import Address, Interval, PlanName
from openclaw_billing.web.described import refusals
from openclaw_billing.web.endpoint import asked_of, walk
from openclaw_billing.web.limits import RATE_LIMITED
from openclaw_billing.web.lists import QueryFields
from openclaw_billing.web.models import Amount, Input, Moment, Output
from openclaw_billing.web.redirects import redirect
from openclaw_billing.web.route import BillingRoute

MOCK_PORTAL = "https://billing.stripe.com/mock?client="
KEPT_SECONDS = 60.0
KEPT_MAX = 1000
COMMENT_MAX = 500
Flow = Literal["payment_method_update", "subscription_update", "subscription_cancel"]
InvoiceStatus = Literal["draft", "open", "paid", "uncollectible", "void"]
Feedback = Literal[
    "customer_service",
    "low_quality",
    "missing_features",
    "other",
    "switched_service",
    "too_complex",
    "too_expensive",
    "unused",
]


class InvoiceView(Output):
    """An invoice; amounts in the currency's smallest unit, and `amount_due_text` for people."""

    id: str
    number: str | None
    status: str
    amount_due: int
    amount_paid: int
    amount_remaining: int
    currency: str
    amount_due_text: str
    created: Moment
    period_start: Moment
    period_end: Moment
    hosted_invoice_url: str | None
    invoice_pdf: str | None
    subscription_id: str | None

    @classmethod
    def of(cls, invoice: InvoiceFact | Invoice) -> InvoiceView:
        return cls(
            id=invoice.invoice_id,
            number=invoice.number,
            status=invoice.status,
            amount_due=invoice.amount_due,
            amount_paid=invoice.amount_paid,
            amount_remaining=invoice.amount_remaining,
            currency=invoice.currency,
            amount_due_text=Amount.text(invoice.amount_due, invoice.currency),
            created=invoice.created if isinstance(invoice, InvoiceFact) else invoice.created_at,
            period_start=invoice.period_start,
            period_end=invoice.period_end,
            hosted_invoice_url=invoice.hosted_invoice_url,
            invoice_pdf=invoice.invoice_pdf,
            subscription_id=invoice.subscription_id,
        )


class InvoiceFilters(QueryFields):
    """Which invoices to list, by Stripe's own cursor."""

    limit: int = Field(20, ge=1, le=100)
    starting_after: str | None = Field(None, max_length=255)
    status: InvoiceStatus | None = None


class InvoiceList(Output):
    """`stale` is our copy, while Stripe cannot be asked."""

    invoices: list[InvoiceView]
    has_more: bool
    stale: bool


class PortalRequest(Input):
    """Where to come back to, and the one thing to do there, if it is one."""

    return_url: Address | None = None
    flow: Flow | None = None


class PortalView(Output):
    """The address lets in whoever holds it: it is null when the answer is repeated."""

    told_once = frozenset({"portal_url", "url"})

    portal_url: str | None = None
    url: str | None = None
    mock: bool


class PlanRequest(Input):
    """The plan to be on. With `preview` nothing is changed."""

    plan_id: PlanName
    interval: Interval = "monthly"
    preview: bool = False


class PlanChangeView(Output):
    """What became of it: `effective` is `now`, `period_end` or `preview`."""

    plan_id: str
    effective: str
    pending_plan: str | None
    effective_at: Moment | None
    amount_due: int | None
    currency: str | None
    credits_after: int | None

    @classmethod
    def of(cls, changed: Changed) -> PlanChangeView:
        return cls(
            plan_id=changed.plan_id,
            effective=changed.effective,
            pending_plan=changed.pending_plan,
            effective_at=changed.effective_at,
            amount_due=changed.amount_due,
            currency=changed.currency,
            credits_after=changed.credits_after,
        )


class CancelRequest(Input):
    """Why, if you like to say. A subscription ends with the period that is paid for."""

    at_period_end: Literal[True] = True
    feedback: Feedback | None = None
    comment: str | None = Field(None, max_length=COMMENT_MAX)


class EndingView(Output):
    status: str
    ends_at: Moment | None


def subscription_routes(runtime: Runtime) -> APIRouter:
    router = APIRouter(route_class=BillingRoute, tags=["billing"], responses=RATE_LIMITED)
    client_key = ClientKey(runtime)
    _invoices(router, runtime, client_key)
    _portal(router, runtime, client_key)
    _changes(router, runtime, client_key)
    return router


def changing(runtime: Runtime) -> Changing:
    """Raises `Conflict` in mock mode, where there is nothing to change."""
    if runtime.stripe is None:
        raise Conflict("Billing is in mock mode: there is no subscription", code="no_subscription")
    return Changing(runtime, runtime.stripe)


def _invoices(router: APIRouter, runtime: Runtime, client_key: ClientKey) -> None:
    kept: dict[tuple[Any, ...], tuple[float, InvoiceList]] = {}

    @router.get(
        "/api/billing/invoices", operation_id="listInvoices", summary="Your invoices", responses=refusals(502)
    )
    async def list_invoices(
        filters: Annotated[InvoiceFilters, QueryParameter()], client: Client = Depends(client_key)
    ) -> InvoiceList:
        """Newest first. While Stripe is away, what we know of them."""
        limit, starting_after, status = filters.limit, filters.starting_after, filters.status
        account = runtime.stripe
        known = None if account is None else subscriptions.find(runtime.view, client.client_id, account.mode)
        if account is None or known is None or known.customer_id is None:
            return InvoiceList(invoices=[], has_more=False, stale=False)
        asked = (known.customer_id, limit, starting_after, status)
        if asked in kept and time.monotonic() < kept[asked][0]:
            return kept[asked][1]
        try:
            with account.budget():
                page = await account.invoices(
                    known.customer_id, limit=limit, after=starting_after, status=status
                )
        except (StripeUnavailable, StripeMisconfigured):
            return _copies(runtime, known, limit, starting_after, status)
        answer = InvoiceList(
            invoices=[InvoiceView.of(each) for each in page.invoices], has_more=page.has_more, stale=False
        )
        if len(kept) >= KEPT_MAX:
            kept.clear()
        kept[asked] = (time.monotonic() + KEPT_SECONDS, answer)
        return answer


def _copies(
    runtime: Runtime, known: Subscription, limit: int, after: str | None, status: str | None
) -> InvoiceList:
    every = runtime.view.invoices.by("client", known.client_id)[::-1]
    found = [each for each in every if each.mode == known.mode]
    if after is not None:
        ids = [each.invoice_id for each in found]
        if after not in ids:
            raise BadRequest("The cursor is not of this list", code="unknown_cursor")
        found = found[ids.index(after) + 1 :]
    wanted = [each for each in found if status in (None, each.status)]
    return InvoiceList(
        invoices=[InvoiceView.of(each) for each in wanted[:limit]], has_more=len(wanted) > limit, stale=True
    )


def _portal(router: APIRouter, runtime: Runtime, client_key: ClientKey) -> None:
    @router.post(
        "/api/billing/portal",
        operation_id="openPortal",
        summary="Stripe's pages for you",
        responses=refusals(409, 502),
    )
    async def open_portal(
        request: Request,
        response: Response,
        body: PortalRequest | None = None,
        client: Client = Depends(client_key),
    ) -> PortalView:
        """Cards, invoices and the subscription, on Stripe's own pages."""
        wanted = body or PortalRequest()
        asked = asked_of(request, f"client:{client.client_id}", wanted)
        return await walk(runtime, response, asked, partial(_opened, runtime, client, wanted), PortalView)


async def _opened(runtime: Runtime, client: Client, wanted: PortalRequest) -> PortalView:
    if runtime.stripe is None:
        url = MOCK_PORTAL + client.client_id
        return PortalView(portal_url=url, url=url, mock=True)
    settings = runtime.settings
    back = redirect(settings, wanted.return_url, settings.portal_return_url, "return_url")
    url = await Paying(runtime, runtime.stripe).portal(client, return_url=back, flow=wanted.flow)
    return PortalView(portal_url=url, url=url, mock=False)


def _changes(router: APIRouter, runtime: Runtime, client_key: ClientKey) -> None:
    @router.post(
        "/api/billing/plan",
        operation_id="changeOwnPlan",
        summary="Change your plan",
        responses=refusals(402, 409, 502),
    )
    async def change_own_plan(
        body: PlanRequest, request: Request, response: Response, client: Client = Depends(client_key)
    ) -> PlanChangeView:
        """Up at once when it is paid; down when the period ends; choosing the current plan undoes that."""
        asked = asked_of(request, f"client:{client.client_id}", body)
        return await walk(runtime, response, asked, partial(_changed, runtime, client, body), PlanChangeView)

    @router.post(
        "/api/billing/cancel",
        operation_id="cancelSubscription",
        summary="Let it end",
        responses=refusals(409, 502),
    )
    async def cancel_subscription(
        request: Request,
        response: Response,
        body: CancelRequest | None = None,
        client: Client = Depends(client_key),
    ) -> EndingView:
        """Everything works until the end of what is paid for. Asking again is the same answer."""
        wanted = body or CancelRequest()
        asked = asked_of(request, f"client:{client.client_id}", wanted)
        return await walk(runtime, response, asked, partial(_ended, runtime, client, wanted), EndingView)

    @router.post(
        "/api/billing/resume",
        operation_id="resumeSubscription",
        summary="Let it go on",
        responses=refusals(402, 409, 502),
    )
    async def resume_subscription(
        request: Request, response: Response, client: Client = Depends(client_key)
    ) -> EndingView:
        """Undoes a cancellation that has not taken effect, or a pause."""
        asked = asked_of(request, f"client:{client.client_id}", None)
        return await walk(runtime, response, asked, partial(_resumed, runtime, client), EndingView)


async def _changed(runtime: Runtime, client: Client, wanted: PlanRequest) -> PlanChangeView:
    if wanted.plan_id not in plans.CATALOGUE:
        raise UnknownPlan(wanted.plan_id)
    if wanted.plan_id == "enterprise":
        raise BadRequest("Enterprise is sold by people: contact sales", code="contact_sales")
    known = subscriptions.find(runtime.view, client.client_id, runtime.settings.billing_mode)
    if known is None or known.status not in subscriptions.LIVE:
        raise Conflict("There is no subscription: check out first", code="use_checkout")
    changes = changing(runtime)
    if wanted.plan_id == plans.FREE_PLAN_ID:
        return await _to_free(changes, client, preview=wanted.preview)
    if wanted.preview:
        return PlanChangeView.of(await changes.preview(client, wanted.plan_id, wanted.interval))
    return PlanChangeView.of(await changes.change_plan(client, wanted.plan_id, wanted.interval))


async def _ended(runtime: Runtime, client: Client, wanted: CancelRequest) -> EndingView:
    fact = await changing(runtime).cancel(client, feedback=wanted.feedback, comment=wanted.comment)
    return EndingView(status="ending", ends_at=fact.ends_at)


async def _resumed(runtime: Runtime, client: Client) -> EndingView:
    fact = await changing(runtime).resume(client)
    return EndingView(status=fact.status.value, ends_at=fact.ends_at)


async def _to_free(changes: Changing, client: Client, *, preview: bool) -> PlanChangeView:
    """The free plan is what is left when the subscription has ended."""
    if preview:
        return PlanChangeView.of(await changes.preview_end(client))
    fact = await changes.cancel(client, feedback=None, comment=None)
    return PlanChangeView.of(
        Changed(
            plan_id=fact.price.plan_id or "",
            effective="period_end",
            pending_plan=plans.FREE_PLAN_ID,
            effective_at=fact.ends_at,
        )
    )
