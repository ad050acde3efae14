"""Changing: the walks through Stripe that change a subscription, one at a time for each client.

What Stripe shows of the subscription decides what is still to be done, so a walk whose answer was lost is taken
up by the same request made again.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from openclaw_billing import subscriptions
from openclaw_billing.contracts import Transaction
from openclaw_billing.effects import Effects
from openclaw_billing.errors import BillingError, Conflict, PaymentRequired, StripeUnavailable, Unavailable
from openclaw_billing.inbox import Effect
from openclaw_billing.payments.account import StripeAccount
from openclaw_billing.plans import FREE_PLAN_ID, plan_of
from openclaw_billing.records import Account, Client
from openclaw_billing.runtime import Runtime
from openclaw_billing.stripe_facts import Collection, PriceFact, StripeStatus, SubscriptionFact
from openclaw_billing.stripe_records import Subscription


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


@dataclass(frozen=True, slots=True)
class _Turn:
    """The turn to change a subscription: what it is now, and a key for what is asked of Stripe.

    `again`: the same was asked before, and the answer was lost.
    """

    fact: SubscriptionFact
    key: str
    again: bool


class Changing:
    """The changes that one gateway makes on one Stripe account."""

    def __init__(self, runtime: Runtime, account: StripeAccount) -> None:
        self._runtime = runtime
        self._account = account
        self._effects = Effects(runtime, account)
        self._mode = account.mode

    async def preview(self, client: Client, plan_id: str, interval: str) -> Changed:
        """What a change of plan would cost and bring.

        Raises:
            Conflict: `use_checkout`, `already_on_plan`, `subscription_unknown`.
        """
        with self._account.budget():
            fact = await self._fetched(self._live(client))
            if fact.price.terms == (plan_id, interval):
                if not _is_planned(fact):
                    raise Conflict("The client is on this plan already", code="already_on_plan")
                return _free_of_charge(plan_id, fact, self._runtime.now())
            price = await self._account.price_for(plan_id, interval)
            if not _is_upgrade(fact, price):
                return _free_of_charge(plan_id, fact, fact.end)
            preview = await self._account.preview_change(fact, price)
            account = await self._rehearsed(client, await self._effects.of_preview(preview))
        return Changed(
            plan_id=plan_id,
            effective="preview",
            amount_due=preview.amount_due,
            currency=preview.currency,
            credits_after=None if account is None else account.available,
            effective_at=self._runtime.now(),
        )

    async def preview_end(self, client: Client) -> Changed:
        """When the subscription would end: nothing is due for that."""
        with self._account.budget():
            fact = await self._fetched(self._live(client))
        return _free_of_charge(FREE_PLAN_ID, fact, fact.end)

    async def change_plan(self, client: Client, plan_id: str, interval: str) -> Changed:
        """Up at once, when it is paid; down when the period ends; the current plan again undoes that.

        Raises:
            PaymentRequired: the old plan stays until the invoice it names is paid.
            CardDeclined: refused outright; nothing was changed.
            Conflict: `use_checkout`, `ending`, `already_on_plan`, `change_in_progress`, `subscription_unknown`.
        """
        self._live(client)
        async with self._turn(client, f"plan {plan_id} {interval}") as turn:
            if turn.fact.ends_at is not None:
                raise Conflict("The subscription is set to end: resume it first", code="ending")
            if turn.fact.price.terms == (plan_id, interval):
                return await self._stay(turn, plan_id)
            price = await self._account.price_for(plan_id, interval)
            if _is_upgrade(turn.fact, price):
                return await self._go_up(turn, price, plan_id)
            return await self._go_down(turn, price, plan_id)

    async def cancel(self, client: Client, *, feedback: str | None, comment: str | None) -> SubscriptionFact:
        """Let the subscription end with its period."""
        async with self._turn(client, "end") as turn:
            await self._release(turn)
            if turn.fact.ends_at is None:
                await self._account.set_ending(
                    turn.fact.subscription_id, True, feedback=feedback, comment=comment, key=f"{turn.key}:end"
                )
            return await self._sync(turn.fact.subscription_id, "cancel")

    async def cancel_now(self, client: Client) -> None:
        """End the subscription at once, without giving money back: for admins."""
        async with self._turn(client, "end now") as turn:
            await self._account.cancel_now(turn.fact.subscription_id, prorate=False)
            await self._sync(turn.fact.subscription_id, "cancelled at once")

    async def resume(self, client: Client) -> SubscriptionFact:
        """Undo a cancellation to come, or a pause.

        Raises:
            Conflict: `nothing_to_resume`.
        """
        async with self._turn(client, "resume") as turn:
            fact = turn.fact
            if _is_paused(fact):
                await self._account.resume(fact.subscription_id, key=f"{turn.key}:resume")
            elif fact.ends_at is not None:
                await self._account.set_ending(fact.subscription_id, False, key=f"{turn.key}:go-on")
            after = await self._sync(fact.subscription_id, "resume")
            if fact.ends_at is None and not _is_paused(fact) and not turn.again:
                raise Conflict("There is nothing to resume", code="nothing_to_resume")
            return after

    async def _stay(self, turn: _Turn, plan_id: str) -> Changed:
        """On the plan that the subscription has: what was planned instead is undone."""
        planned = _is_planned(turn.fact)
        if planned:
            await self._release(turn)
        await self._sync(turn.fact.subscription_id, "change undone")
        if not planned and not turn.again:
            raise Conflict("The client is on this plan already", code="already_on_plan")
        return Changed(plan_id=plan_id, effective="now")

    async def _go_up(self, turn: _Turn, price: PriceFact, plan_id: str) -> Changed:
        await self._release(turn)
        after = await self._account.change_price(turn.fact, price, key=f"{turn.key}:up:{price.price_id}")
        await self._sync(after.subscription_id, "upgrade")
        if after.pending_update:
            raise PaymentRequired(hosted_invoice_url=after.invoice_url, expires_at=after.pending_expires_at)
        return Changed(plan_id=plan_id, effective="now")

    async def _go_down(self, turn: _Turn, price: PriceFact, plan_id: str) -> Changed:
        if not _is_planned(turn.fact) or turn.fact.pending_terms != price.terms:
            await self._account.schedule_price(turn.fact, price, key=f"{turn.key}:down:{price.price_id}")
        after = await self._sync(turn.fact.subscription_id, "downgrade")
        if after.pending_terms != price.terms:
            raise StripeUnavailable("The change is not to be seen at Stripe yet", retry_after_seconds=5)
        return Changed(
            plan_id=after.price.plan_id or "",
            effective="period_end",
            pending_plan=plan_id,
            effective_at=after.pending_at,
        )

    async def _release(self, turn: _Turn) -> None:
        """A schedule owns its subscription: nothing else may change that."""
        schedule_id = turn.fact.schedule_id
        if schedule_id is not None:
            await self._account.release_schedule(schedule_id, key=f"{turn.key}:release:{schedule_id}")

    @contextlib.asynccontextmanager
    async def _turn(self, client: Client, asked: str) -> AsyncIterator[_Turn]:
        """The one turn there is for changing a client's subscription.

        Raises:
            Conflict: `no_subscription`, `change_in_progress`, `subscription_unknown`.
        """
        known, again = await self._runtime.write(
            subscriptions.begin_change, client.client_id, self._mode, asked
        )
        answered = False
        try:
            with self._account.budget():
                fact = await self._fetched(known)
                if fact.status not in subscriptions.LIVE:
                    await self._sync(fact.subscription_id, "change")
                    raise Conflict("The subscription has ended: check out again", code="no_subscription")
                yield _Turn(fact, f"change:{known.subscription_id}:{known.changes}", again)
            answered = True
        except BillingError as error:
            # Where Stripe did not answer, the same request goes on under the same key.
            answered = not isinstance(error, Unavailable)
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
        return await self._fetch(known.subscription_id)

    async def _fetch(self, subscription_id: str) -> SubscriptionFact:
        fact = await self._account.subscription(subscription_id)
        if fact is None:
            await self._effects.apply(self._effects.of_missing(subscription_id))
            raise Conflict("Stripe does not know this subscription", code="subscription_unknown")
        return fact

    async def _sync(self, subscription_id: str, cause: str) -> SubscriptionFact:
        """Apply at once what the events will say later."""
        asked_at = self._runtime.now()
        fact = await self._fetch(subscription_id)
        await self._effects.apply(await self._effects.of_fact(fact, asked_at, cause))
        return fact

    async def _rehearsed(self, client: Client, effect: Effect) -> Account | None:
        """The client's account as it would be."""

        def look(tx: Transaction) -> Account | None:
            return tx.accounts.get(client.client_id)

        try:
            return await self._effects.rehearse(effect, look)
        except subscriptions.StaleFact:
            return None


def _free_of_charge(plan_id: str, fact: SubscriptionFact, effective_at: datetime) -> Changed:
    return Changed(
        plan_id=plan_id,
        effective="preview",
        amount_due=0,
        currency=fact.price.currency,
        effective_at=effective_at,
    )


def _is_paused(fact: SubscriptionFact) -> bool:
    return fact.status is StripeStatus.PAUSED or fact.collection is not Collection.NORMAL


def _is_planned(fact: SubscriptionFact) -> bool:
    """Whether another plan is to come when the period ends."""
    return fact.pending is not None and not fact.pending_update


def _is_upgrade(fact: SubscriptionFact, price: PriceFact) -> bool:
    """More jobs, or the same for a longer time."""
    jobs = _jobs(price.plan_id), _jobs(fact.price.plan_id)
    return jobs[0] > jobs[1] or (
        jobs[0] == jobs[1] and (fact.price.interval, price.interval) == ("monthly", "yearly")
    )


def _jobs(plan_id: str | None) -> int:
    return plan_of(plan_id or FREE_PLAN_ID).job_limit or 0
