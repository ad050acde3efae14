"""Paying: the walks through Stripe that a request takes, each step durable before the next.

A walk that is cut short anywhere is taken up by the same request made again, and by the events that follow.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from openclaw_billing import checkouts, subscriptions
from openclaw_billing.contracts import Transaction
from openclaw_billing.cycles import Cycle
from openclaw_billing.effects import Effects
from openclaw_billing.errors import BillingError, Conflict, PaymentRequired, StripeUnavailable
from openclaw_billing.inbox import Effect
from openclaw_billing.paid_limit import share
from openclaw_billing.payments.account import StripeAccount
from openclaw_billing.plans import FREE_PLAN_ID, plan_of
from openclaw_billing.records import Client
from openclaw_billing.runtime import Runtime
from openclaw_billing.stripe_facts import CheckoutWish, PriceFact, SessionFact, StripeStatus, SubscriptionFact
from openclaw_billing.stripe_records import Checkout, CheckoutState, Subscription

SESSIONS_CLOSED_MAX = 5
ANSWERED = frozenset({"card_declined", "stripe_rejected"})


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What became of a change of plan. `effective` is `now`, `period_end`, or `preview` where nothing was done."""

    plan_id: str
    effective: str
    pending_plan: str | None = None
    effective_at: datetime | None = None
    amount_due: int | None = None
    currency: str | None = None
    credits_after: int | None = None


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
            Conflict: `already_on_plan`, `use_change_plan`, `dispute_open`.
            PriceNotConfigured, StripeUnavailable, StripeMisconfigured, StripeRejected, NotFound: no such pack.
        """
        with self._account.budget():
            price = await self._price(bought)
            wish = self._wish(client, bought, price)
            attempt = await self._runtime.write(checkouts.begin, wish)
            if attempt.state is CheckoutState.OPEN:
                return attempt, price
            customer_id = await self.customer(client)
            await self._close_others(client, attempt)
            asked = self._asked(attempt, customer_id)
            session = await self._account.open_session(
                asked, key=f"co:{client.client_id}:{attempt.attempt_id}"
            )
            attempt = await self._runtime.write(checkouts.opened, attempt.attempt_id, session)
            self._runtime.log.info("Opened checkout %s for client %s", attempt.session_id, client.client_id)
            return attempt, price

    async def session(self, session_id: str) -> SessionFact | None:
        """What a session is now; whatever was bought in it is applied, as its event would."""
        with self._account.budget():
            session = await self._account.session(session_id)
            if session is not None and session.status == "complete":
                await self._apply(await self._effects.of_session(session_id, cause="return page"))
            return session

    async def customer(self, client: Client) -> str:
        """The client's customer, made where there is none."""
        known = subscriptions.find(self._runtime.view, client.client_id, self._mode)
        if known is not None and known.customer_id is not None:
            return known.customer_id
        customer_id = await self._taken_over(client)
        if customer_id is None:
            key = f"cus:{self._mode}:{client.client_id}"
            customer_id = await self._account.ensure_customer(
                client.client_id, client.name, client.email, key=key
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

    async def preview(self, client: Client, plan_id: str, interval: str) -> Changed:
        """What a change of plan would cost and bring."""
        known = self._live(client)
        with self._account.budget():
            fact = await self._fetched(known)
            price = await self._account.price_for(plan_id, interval)
            if not _is_upgrade(fact, price):
                return Changed(
                    plan_id=plan_id,
                    effective="preview",
                    amount_due=0,
                    currency=price.currency,
                    effective_at=fact.end,
                )
            cost = await self._account.preview_change(fact, price)
        account = self._runtime.view.accounts.get(client.client_id)
        jobs = _jobs(price.plan_id) - _jobs(fact.price.plan_id)
        now = self._runtime.now()
        more = share(jobs, now, Cycle(0, fact.start, fact.end))
        return Changed(
            plan_id=plan_id,
            effective="preview",
            amount_due=cost.amount_due,
            currency=cost.currency,
            credits_after=None if account is None else account.available + more,
            effective_at=now,
        )

    async def preview_end(self, client: Client) -> Changed:
        """When the subscription would end: nothing is due for that."""
        with self._account.budget():
            fact = await self._fetched(self._live(client))
        return Changed(
            plan_id=FREE_PLAN_ID,
            effective="preview",
            amount_due=0,
            currency=fact.price.currency,
            effective_at=fact.end,
        )

    async def change_plan(self, client: Client, plan_id: str, interval: str) -> Changed:
        """Up at once, when it is paid; down when the period ends; the current plan again undoes that.

        Raises:
            PaymentRequired: the old plan stays until the invoice it names is paid.
            CardDeclined: refused outright; nothing was changed.
            Conflict: `no_subscription`, `ending`, `already_on_plan`, `change_in_progress`.
        """
        self._live(client)
        async with self._change(client) as (known, key):
            fact = await self._fetched(known)
            price = await self._account.price_for(plan_id, interval)
            scheduled = fact.schedule_id is not None
            if fact.schedule_id is not None:
                # A schedule owns its subscription: nothing else may change it.
                await self._account.release_schedule(
                    fact.schedule_id, key=f"{key}:release:{fact.schedule_id}"
                )
            if fact.price.price_id == price.price_id:
                if not scheduled:
                    raise Conflict("The client is on this plan already", code="already_on_plan")
                await self._sync(fact.subscription_id, "change undone")
                return Changed(plan_id=plan_id, effective="now")
            if not _is_upgrade(fact, price):
                after = await self._account.schedule_price(fact, price, key=f"{key}:down:{price.price_id}")
                await self._sync(after.subscription_id, "downgrade")
                return Changed(
                    plan_id=fact.price.plan_id or "",
                    effective="period_end",
                    pending_plan=plan_id,
                    effective_at=fact.end,
                )
            after = await self._account.change_price(fact, price, key=f"{key}:up:{price.price_id}")
            await self._sync(after.subscription_id, "upgrade")
            if after.pending_update:
                raise PaymentRequired(
                    hosted_invoice_url=after.invoice_url, expires_at=after.pending_expires_at
                )
            return Changed(plan_id=plan_id, effective="now")

    async def cancel(self, client: Client, *, feedback: str | None, comment: str | None) -> SubscriptionFact:
        """Let the subscription end with its period."""
        async with self._change(client, may_end=True) as (known, key):
            fact = await self._fetched(known)
            if fact.schedule_id is not None:
                await self._account.release_schedule(
                    fact.schedule_id, key=f"{key}:release:{fact.schedule_id}"
                )
            if fact.ends_at is None:
                await self._account.set_ending(
                    fact.subscription_id, True, feedback=feedback, comment=comment, key=f"{key}:end"
                )
            return await self._sync(fact.subscription_id, "cancel")

    async def cancel_now(self, client: Client) -> None:
        """End the subscription at once, without giving money back: for admins."""
        async with self._change(client, may_end=True) as (known, _):
            assert known.subscription_id is not None
            await self._account.cancel_now(known.subscription_id, prorate=False)
            await self._sync(known.subscription_id, "cancelled at once")

    async def resume(self, client: Client) -> SubscriptionFact:
        """Undo a cancellation to come, or a pause.

        Raises:
            Conflict: `nothing_to_resume`.
        """
        async with self._change(client, may_end=True) as (known, key):
            fact = await self._fetched(known)
            if fact.status is StripeStatus.PAUSED or fact.collection.value != "normal":
                await self._account.resume(fact.subscription_id, key=f"{key}:resume")
            elif fact.ends_at is not None:
                await self._account.set_ending(fact.subscription_id, False, key=f"{key}:go-on")
            else:
                raise Conflict("There is nothing to resume", code="nothing_to_resume")
            return await self._sync(fact.subscription_id, "resume")

    @contextlib.asynccontextmanager
    async def _change(
        self, client: Client, *, may_end: bool = False
    ) -> AsyncIterator[tuple[Subscription, str]]:
        """The one turn there is for changing a subscription, and a key for what is asked of Stripe in it."""
        known = await self._runtime.write(subscriptions.begin_change, client.client_id, self._mode)
        answered = False
        try:
            with self._account.budget():
                if known.ends_at is not None and not may_end:
                    raise Conflict("The subscription is set to end: resume it first", code="ending")
                yield known, f"change:{known.subscription_id}:{known.changes}"
            answered = True
        except BillingError as error:
            # A refusal is kept under its key for a day: the next try is another one.
            answered = error.code in ANSWERED or isinstance(error, PaymentRequired)
            raise
        finally:
            await self._runtime.write(subscriptions.end_change, client.client_id, self._mode, answered)

    def _live(self, client: Client) -> Subscription:
        known = subscriptions.find(self._runtime.view, client.client_id, self._mode)
        if known is None or known.subscription_id is None or known.status not in subscriptions.LIVE:
            raise Conflict("There is no subscription: check out first", code="use_checkout")
        return known

    async def _fetched(self, known: Subscription) -> SubscriptionFact:
        assert known.subscription_id is not None
        fact = await self._account.subscription(known.subscription_id)
        if fact is None:
            raise StripeUnavailable("Stripe does not know the subscription", retry_after_seconds=60)
        return fact

    async def _sync(self, subscription_id: str, cause: str) -> SubscriptionFact:
        """Apply at once what the events will say later."""
        asked_at = self._runtime.now()
        fact = await self._account.subscription(subscription_id)
        assert fact is not None
        await self._apply(await self._effects.of_fact(fact, asked_at, cause))
        return fact

    async def _apply(self, effect: Effect) -> None:
        with contextlib.suppress(subscriptions.StaleFact, subscriptions.UnknownReference):
            await self._runtime.write(_apply, effect)

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

    async def _close_others(self, client: Client, attempt: Checkout) -> None:
        """One open page is enough: two could both be paid. One that was paid meanwhile is applied."""
        waiting = self._runtime.view.checkouts.by("unfinished", client.client_id)
        others = [
            each
            for each in waiting
            if each.attempt_id != attempt.attempt_id
            and each.mode == self._mode
            and (each.plan_id is None) == (attempt.plan_id is None)
        ]
        for other in others[:SESSIONS_CLOSED_MAX]:
            if other.session_id is not None:
                closed = await self._account.expire_session(other.session_id, key=f"ex:{other.attempt_id}")
                if closed.status == "complete":
                    await self._apply(await self._effects.of_session(other.session_id, cause="checkout"))
                    # What was paid there may be what is asked for here.
                    await self._runtime.write(checkouts.begin, attempt)
            await self._runtime.write(checkouts.abandon, other.attempt_id)

    async def _taken_over(self, client: Client) -> str | None:
        """The customer a client was imported with, if it is one of this account and mode."""
        if client.stripe_customer_id is None:
            return None
        found = await self._account.customer(client.stripe_customer_id)
        return None if found is None or found.deleted else found.customer_id


def _apply(tx: Transaction, effect: Effect, *, now: datetime) -> None:
    effect(tx, now)


def _is_upgrade(fact: SubscriptionFact, price: PriceFact) -> bool:
    """More jobs, or the same for a longer time."""
    jobs = _jobs(price.plan_id), _jobs(fact.price.plan_id)
    return jobs[0] > jobs[1] or (
        jobs[0] == jobs[1] and (fact.price.interval, price.interval) == ("monthly", "yearly")
    )


def _jobs(plan_id: str | None) -> int:
    return plan_of(plan_id or FREE_PLAN_ID).job_limit or 0
