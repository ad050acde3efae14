"""Checkout: where a client pays for a plan or a pack, and what became of it.

Without `STRIPE_SECRET_KEY` it is in mock mode: it answers a mock address, opens no socket and changes nothing.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as QueryParameter
from pydantic import Field

from openclaw_billing import plans
from openclaw_billing.errors import BadRequest, NotFound, UnknownPlan, Unprocessable
from openclaw_billing.paying import Bought, Paying
from openclaw_billing.records import Client
from openclaw_billing.runtime import Runtime
from openclaw_billing.stripe_facts import PriceFact
from openclaw_billing.stripe_records import Checkout, CheckoutState
from openclaw_billing.web.auth import ClientKey
from openclaw_billing.web.described import refusals
from openclaw_billing.web.endpoint import asked_of, walk
from openclaw_billing.web.limits import RATE_LIMITED
from openclaw_billing.web.models import Amount, Input, Moment, Output
from openclaw_billing.web.redirects import ADDRESS_LENGTH_MAX, redirect, with_session
from openclaw_billing.web.route import BillingRoute

MOCK_ADDRESS = "https://checkout.stripe.com/mock?session_id="
PLAN_DEFAULT = "starter"
Address = Annotated[str, Field(max_length=ADDRESS_LENGTH_MAX)]
PlanName = Annotated[str, Field(max_length=40)]
Interval = Literal["monthly", "yearly"]


class CheckoutRequest(Input):
    """What to pay for: a plan, or a pack of credits. `plan` and `plan_id` are the same field."""

    plan_id: PlanName | None = None
    plan: PlanName | None = None
    interval: Interval = "monthly"
    kind: Literal["subscription", "topup"] = "subscription"
    pack: Annotated[str, Field(pattern=r"^[1-9]\d{0,8}$")] | None = None
    quantity: int = Field(1, ge=1, le=100)
    success_url: Address | None = None
    cancel_url: Address | None = None
    promotion: bool = False


class CheckoutView(Output):
    """Where to pay. In mock mode nothing is charged there; `price` is of one month, year or pack."""

    session_id: str
    checkout_url: str
    url: str
    plan_id: str | None
    pack: str | None
    price: Amount
    currency: str
    mode: str
    billing_mode: str
    mock: bool
    publishable_key: str | None
    expires_at: Moment | None
    message: str


class SessionView(Output):
    """What became of a checkout; `applied` once the plan or the credits are there."""

    session_id: str
    status: str
    payment_status: str
    plan_id: str | None
    pack: str | None
    applied: bool


class PackView(Output):
    """A pack of credits on sale."""

    pack: str
    credits: int
    price: Amount
    currency: str


class PackList(Output):
    packs: list[PackView]
    billing_mode: str


def checkout_routes(runtime: Runtime) -> APIRouter:
    router = APIRouter(route_class=BillingRoute, tags=["billing"], responses=RATE_LIMITED)
    _create(router, runtime)
    _read(router, runtime)
    _packs(router, runtime)
    return router


def _create(router: APIRouter, runtime: Runtime) -> None:
    @router.post(
        "/api/billing/checkout",
        operation_id="createCheckout",
        summary="Pay for a plan or a pack",
        responses=refusals(404, 409, 502),
    )
    async def create_checkout(
        request: Request,
        response: Response,
        plan_id: Annotated[str | None, QueryParameter(max_length=40)] = None,
        plan: Annotated[str | None, QueryParameter(max_length=40, description="The same")] = None,
        body: CheckoutRequest | None = None,
        client: Client = Depends(ClientKey(runtime)),
    ) -> CheckoutView:
        """What is wanted is named in the query or in a JSON body; asked again, the open page is answered again."""
        wanted = _wanted(runtime, body or CheckoutRequest(), plan_id, plan)
        asked = asked_of(request, f"client:{client.client_id}", wanted)
        return await walk(runtime, response, asked, partial(_opened, runtime, client, wanted), CheckoutView)


def _read(router: APIRouter, runtime: Runtime) -> None:
    @router.get(
        "/api/billing/checkout/{session_id}",
        operation_id="getCheckout",
        summary="What became of it",
        responses=refusals(502),
    )
    async def get_checkout(session_id: str, client: Client = Depends(ClientKey(runtime))) -> SessionView:
        """For the page that Stripe sends the visitor back to: what was paid is applied now, as by its event."""
        found = runtime.view.checkouts.by("session", session_id)
        if runtime.stripe is None or not found or found[0].client_id != client.client_id:
            raise NotFound("Checkout")
        session = await Paying(runtime, runtime.stripe).session(session_id)
        attempt = runtime.view.checkouts.get(found[0].attempt_id)
        if session is None or attempt is None:
            raise NotFound("Checkout")
        return SessionView(
            session_id=session_id,
            status=session.status,
            payment_status=session.payment_status,
            plan_id=attempt.plan_id,
            pack=attempt.pack,
            applied=_applied(runtime, attempt),
        )


def _packs(router: APIRouter, runtime: Runtime) -> None:
    @router.get(
        "/api/billing/packs",
        operation_id="listPacks",
        summary="Packs of credits on sale",
        responses=refusals(502, 503),
    )
    async def list_packs(response: Response) -> PackList:
        """Public, like the plans. Without Stripe there are none."""
        found = []
        if runtime.stripe is not None:
            with runtime.stripe.budget():
                found = await runtime.stripe.packs()
        response.headers["Cache-Control"] = "public, max-age=60"
        packs = [
            PackView(
                pack=str(each.credits),
                credits=each.credits,
                price=Amount.of(each.unit_amount or 0, each.currency),
                currency=each.currency,
            )
            for each in sorted(found, key=lambda price: price.credits)
        ]
        return PackList(packs=packs, billing_mode=runtime.settings.billing_mode)


def _wanted(
    runtime: Runtime, body: CheckoutRequest, plan_id: str | None, plan: str | None
) -> CheckoutRequest:
    """What is asked for, however it was said: with its plan as `plan_id`, and None there for a pack."""
    named = [each for each in (plan_id, plan, body.plan_id, body.plan) if each is not None]
    if len(set(named)) > 1:
        raise BadRequest("Two plans are named", code="two_plans")
    sold = None if body.kind == "topup" else _sold(runtime, named[0] if named else PLAN_DEFAULT)
    if sold is None and body.pack is None:
        raise Unprocessable("Which pack? GET /api/billing/packs lists them", code="pack_missing")
    return body.model_copy(update={"plan_id": sold, "plan": None})


async def _opened(runtime: Runtime, client: Client, wanted: CheckoutRequest) -> CheckoutView:
    if runtime.stripe is None:
        return _mock(runtime, wanted)
    attempt, price = await Paying(runtime, runtime.stripe).checkout(client, _bought(runtime, wanted))
    return _view(runtime, attempt, price)


def _sold(runtime: Runtime, plan_id: str) -> str:
    """Raises where it is no plan that a checkout sells."""
    if plan_id not in plans.CATALOGUE:
        raise UnknownPlan(plan_id)
    if plan_id == "enterprise":
        contact = runtime.settings.contact_url
        where = f" at {contact}" if contact else ""
        raise BadRequest(f"Enterprise is sold by people: contact sales{where}", code="contact_sales")
    if plan_id == plans.FREE_PLAN_ID:
        raise BadRequest("The free plan needs no checkout", code="free_needs_no_checkout")
    return plan_id


def _bought(runtime: Runtime, asked: CheckoutRequest) -> Bought:
    plan_id, settings = asked.plan_id, runtime.settings
    success = redirect(settings, asked.success_url, settings.checkout_success_url, "success_url")
    return Bought(
        plan_id=plan_id,
        interval=asked.interval,
        pack=asked.pack if plan_id is None else None,
        quantity=asked.quantity if plan_id is None else 1,
        success_url=with_session(success),
        cancel_url=redirect(settings, asked.cancel_url, settings.checkout_cancel_url, "cancel_url"),
        promotion=asked.promotion,
    )


def _mock(runtime: Runtime, asked: CheckoutRequest) -> CheckoutView:
    plan_id, session_id = asked.plan_id, f"cs_test_{secrets.token_hex(8)}"
    currency = runtime.settings.currency
    cents = 0 if plan_id is None else plans.CATALOGUE[plan_id].price_cents
    return CheckoutView(
        session_id=session_id,
        checkout_url=MOCK_ADDRESS + session_id,
        url=MOCK_ADDRESS + session_id,
        plan_id=plan_id,
        pack=asked.pack if plan_id is None else None,
        price=Amount.of(cents, currency),
        currency=currency,
        mode="payment" if plan_id is None else "subscription",
        billing_mode="mock",
        mock=True,
        publishable_key=runtime.settings.stripe_public_key,
        expires_at=None,
        message="Mock mode: nothing is charged until STRIPE_SECRET_KEY is set",
    )


def _view(runtime: Runtime, attempt: Checkout, price: PriceFact) -> CheckoutView:
    assert attempt.session_id is not None
    url = attempt.url or ""
    return CheckoutView(
        session_id=attempt.session_id,
        checkout_url=url,
        url=url,
        plan_id=attempt.plan_id,
        pack=attempt.pack,
        price=Amount.of(price.unit_amount or 0, price.currency),
        currency=price.currency,
        mode="payment" if attempt.plan_id is None else "subscription",
        billing_mode=runtime.settings.billing_mode,
        mock=False,
        publishable_key=runtime.settings.stripe_public_key,
        expires_at=attempt.expires_at,
        message="Open checkout_url to pay",
    )


def _applied(runtime: Runtime, attempt: Checkout) -> bool:
    if attempt.state is not CheckoutState.COMPLETE:
        return False
    if attempt.plan_id is None:
        return runtime.view.purchases.get(attempt.session_id or "") is not None
    account = runtime.view.accounts.get(attempt.client_id)
    return account is not None and account.plan_id == attempt.plan_id
