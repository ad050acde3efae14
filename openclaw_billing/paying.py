"""Paying: the walks through Stripe that a request takes to buy something, each step durable before the next.

A walk that is cut short anywhere is taken up by the same request made again, and by the events that follow.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from openclaw_billing import checkouts, subscriptions
from openclaw_billing.effects import Effects
from openclaw_billing.errors import Conflict
from openclaw_billing.payments.account import StripeAccount
from openclaw_billing.records import Client
from openclaw_billing.runtime import Runtime
from openclaw_billing.stripe_facts import CheckoutWish, PriceFact, SessionFact
from openclaw_billing.stripe_records import Checkout, CheckoutState

PAGES_CLOSED_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """What a checkout is for: a plan, or a pack so many times."""

    plan_id: str | None = None
    interval: str = "monthly"
    pack: str | None = None
    quantity: int = 1
    success_url: str
    cancel_url: str
    promotion: bool = False


class Paying:
    """The walks of one gateway on one Stripe account."""

    def __init__(self, runtime: Runtime, account: StripeAccount) -> None:
        self._runtime = runtime
        self._account = account
        self._effects = Effects(runtime, account)
        self._mode = account.mode

    async def checkout(self, client: Client, bought: Bought) -> tuple[Checkout, PriceFact]:
        """An open checkout session: the one that waits for the same thing, or a new one.

        Raises:
            Conflict: `already_on_plan`, `use_change_plan`, `dispute_open`; `change_in_progress`: another checkout
                was begun meanwhile.
            PriceNotConfigured, StripeUnavailable, StripeMisconfigured, StripeRejected, NotFound: no such pack.
        """
        with self._account.budget():
            price = await self._price(bought)
            wish = self._wish(client, bought, price)
            attempt = await self._runtime.write(checkouts.begin, wish)
            customer_id = await self.customer(client)
            attempt = await self._alone(attempt)
            if attempt.state is CheckoutState.OPEN:
                return attempt, price
            asked = self._asked(attempt, customer_id)
            session = await self._account.open_session(
                asked, key=f"co:{client.client_id}:{attempt.attempt_id}"
            )
            attempt = await self._runtime.write(checkouts.opened, attempt.attempt_id, session)
            if attempt.state is not CheckoutState.OPEN:
                await self._effects.close_page(attempt)
                raise Conflict("Another checkout was begun meanwhile", code="change_in_progress")
            self._runtime.log.info("Opened checkout %s for client %s", attempt.session_id, client.client_id)
            return attempt, price

    async def session(self, session_id: str) -> SessionFact | None:
        """What a session is now; whatever was bought in it is applied, as its event would."""
        with self._account.budget():
            session = await self._account.session(session_id)
            if session is not None and session.status == "complete":
                await self._effects.apply(await self._effects.of_session(session_id, cause="return page"))
            return session

    async def customer(self, client: Client) -> str:
        """The client's customer, made where there is none."""
        known = subscriptions.find(self._runtime.view, client.client_id, self._mode)
        if known is not None and known.customer_id is not None:
            return known.customer_id
        known = await self._runtime.write(subscriptions.name_customer, client.client_id, self._mode)
        customer_id = await self._taken_over(client)
        if customer_id is None:
            key = f"cus:{self._mode}:{client.client_id}:{known.customers}"
            customer_id = await self._account.ensure_customer(
                client.client_id, known.billing_name or "", known.billing_email or "", key=key
            )
        linked = await self._runtime.write(
            subscriptions.link_customer, client.client_id, self._mode, customer_id
        )
        return linked.customer_id or customer_id

    async def portal(self, client: Client, *, return_url: str, flow: str | None) -> str:
        """The address of the client's portal.

        Raises:
            Conflict: `no_subscription`, for a flow that needs one.
        """
        known = subscriptions.find(self._runtime.view, client.client_id, self._mode)
        subscription_id = None if known is None else known.subscription_id
        if flow in ("subscription_update", "subscription_cancel") and subscription_id is None:
            raise Conflict("There is no subscription: check out first", code="no_subscription")
        with self._account.budget():
            customer_id = await self.customer(client)
            # Each visit is a new one: an old address would have lapsed.
            return await self._account.portal(
                customer_id,
                return_url=return_url,
                flow=flow,
                subscription_id=subscription_id,
                key=f"portal:{client.client_id}:{uuid.uuid4()}",
            )

    async def _price(self, bought: Bought) -> PriceFact:
        if bought.pack is not None:
            return await self._account.pack(bought.pack)
        assert bought.plan_id is not None
        return await self._account.price_for(bought.plan_id, bought.interval)

    def _wish(self, client: Client, bought: Bought, price: PriceFact) -> Checkout:
        now = self._runtime.now()
        return Checkout(
            attempt_id=str(uuid.uuid4()),
            client_id=client.client_id,
            mode=self._mode,
            created_at=now,
            price_id=price.price_id,
            plan_id=bought.plan_id,
            interval=bought.interval if bought.plan_id is not None else "",
            pack=bought.pack,
            quantity=bought.quantity,
            credits=price.credits * bought.quantity,
            success_url=bought.success_url,
            cancel_url=bought.cancel_url,
            promotion=bought.promotion,
            expires_at=now + checkouts.LIFE,
        )

    def _asked(self, attempt: Checkout, customer_id: str) -> CheckoutWish:
        """The attempt as Stripe is asked for it: of stored things alone, so that a retry asks the same."""
        settings = self._runtime.settings
        known = subscriptions.find(self._runtime.view, attempt.client_id, self._mode)
        trial = attempt.plan_id is not None and not (known is not None and known.trial_used)
        assert attempt.expires_at is not None
        return CheckoutWish(
            attempt_id=attempt.attempt_id,
            client_id=attempt.client_id,
            customer_id=customer_id,
            price_id=attempt.price_id,
            kind="subscription" if attempt.plan_id is not None else "topup",
            plan_id=attempt.plan_id,
            pack=attempt.pack,
            quantity=attempt.quantity,
            success_url=attempt.success_url,
            cancel_url=attempt.cancel_url,
            promotion=attempt.promotion,
            trial_days=settings.trial_days if trial else 0,
            tax=settings.tax == "auto",
            expires_at=attempt.expires_at,
        )

    async def _alone(self, attempt: Checkout) -> Checkout:
        """The attempt, once no other page can be paid. One that was paid meanwhile is applied."""
        others = checkouts.closing(self._runtime.view, attempt.client_id, self._mode)
        for other in others[:PAGES_CLOSED_MAX]:
            if other.attempt_id != attempt.attempt_id:
                await self._effects.close_page(other)
        # What was paid there may be what is asked for here.
        return await self._runtime.write(checkouts.confirm, attempt.attempt_id) if others else attempt

    async def _taken_over(self, client: Client) -> str | None:
        """The customer a client was imported with, if it is one of this account and mode."""
        if client.stripe_customer_id is None:
            return None
        found = await self._account.customer(client.stripe_customer_id)
        return None if found is None or found.deleted else found.customer_id
