"""Effects: what a Stripe event means now. Stripe is asked here, so that no change asks it in its middle.

An effect is applied later, in one change with the event's mark; applied twice it changes nothing more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from openclaw_billing import checkouts, copies, disputes, purchases, subscriptions
from openclaw_billing.alerts import Alert, Alerts
from openclaw_billing.contracts import Transaction
from openclaw_billing.fitting import Told
from openclaw_billing.inbox import Effect
from openclaw_billing.payments.account import StripeAccount
from openclaw_billing.runtime import Runtime
from openclaw_billing.stripe_events import Kind, wants
from openclaw_billing.stripe_facts import (
    CustomerFact,
    InvoiceFact,
    PaymentFact,
    Preview,
    StripeStatus,
    SubscriptionFact,
)
from openclaw_billing.stripe_records import Checkout, StripeEvent
from openclaw_billing.subscriptions import StaleFact, UnknownReference

T = TypeVar("T")


class Effects:
    """Turns events, and whatever else is looked at, into effects."""

    def __init__(self, runtime: Runtime, account: StripeAccount) -> None:
        self._runtime = runtime
        self._account = account
        self._grace = timedelta(days=runtime.settings.grace_days)

    async def of(self, event: StripeEvent) -> Effect | None:
        """What the event brings about; None where it is none that we apply.

        Raises:
            UnknownReference: Stripe does not know what it is about, or we do not.
            StripeUnavailable, StripeMisconfigured, StripeRejected
        """
        kind = event.type
        if wants(kind) is Kind.IGNORED:
            return None
        if kind.startswith("customer.subscription."):
            return await self.of_subscription(event.subscription_id or event.object_id, event.event_id)
        if kind.startswith("checkout.session."):
            failed = kind.endswith("async_payment_failed")
            return await self.of_session(event.object_id, failed=failed, cause=event.event_id)
        if kind.startswith("invoice."):
            return await self._of_invoice(event)
        if kind.startswith(("refund.", "charge.")):
            payment_id = event.payment_intent_id or await self._payment_of_charge(event)
            if payment_id is not None:
                return await self.of_payment(payment_id)
        if kind in ("customer.updated", "customer.deleted"):
            return await self._of_customer(event)
        if kind.startswith("entitlements.") and event.customer_id is not None:
            return _features(
                event.mode, event.customer_id, await self._account.entitlements(event.customer_id)
            )
        return _notice(f"Stripe tells of {kind}: object {event.object_id}")

    async def of_subscription(self, subscription_id: str, cause: str) -> Effect:
        """The client's plan, access and credits by what this subscription is now."""
        asked_at = self._runtime.now()
        fact = await self._account.subscription(subscription_id)
        if fact is None:
            return self.of_missing(subscription_id)
        return await self.of_fact(fact, asked_at, cause)

    def of_missing(self, subscription_id: str) -> Effect:
        """A subscription that Stripe does not know."""
        return lambda tx, now: subscriptions.missing(tx, self._account.mode, subscription_id, now=now)

    async def of_fact(self, fact: SubscriptionFact, asked_at: datetime, cause: str) -> Effect:
        """The same for one that was fetched at that moment."""
        paid = tuple(await self._account.paid_invoices(fact.subscription_id, fact.start))
        late = fact.status in (StripeStatus.PAST_DUE, StripeStatus.UNPAID)
        overdue_since = await self._account.overdue_since(fact.subscription_id) if late else None
        told = Told(fact, paid, asked_at, self._grace, overdue_since, cause)
        return _all([_sync(told), *(_copy(each, asked_at) for each in paid)])

    async def of_session(self, session_id: str, *, failed: bool = False, cause: str = "") -> Effect:
        """A checkout session's end: its subscription, or its pack with whatever was refunded of it since."""
        asked_at = self._runtime.now()
        session = await self._account.session(session_id)
        if session is None:
            raise UnknownReference(f"session {session_id}")
        days = self._runtime.settings.topup_expiry_days
        effects: list[Effect] = [
            _quiet(lambda tx, now: purchases.take_session(tx, session, expiry_days=days, now=now))
        ]
        if failed:
            effects.append(_quiet(lambda tx, now: purchases.fail_session(tx, session, now=now)))
        if session.subscription_id is not None:
            effects.append(await self.of_subscription(session.subscription_id, cause))
        if session.payment_intent_id is not None and session.settled:
            payment = await self._account.payment(session.payment_intent_id)
            if payment is not None:
                effects.append(_payment(payment, asked_at))
        return _all(effects)

    async def of_payment(self, payment_intent_id: str) -> Effect:
        """Credits taken back or given back for what became of a payment."""
        asked_at = self._runtime.now()
        payment = await self._account.payment(payment_intent_id)
        if payment is None:
            raise UnknownReference(f"payment {payment_intent_id}")
        return _payment(payment, asked_at)

    async def of_preview(self, preview: Preview) -> Effect:
        """The same as `of_fact` for what a subscription would be after a change that is only asked about."""
        fact, asked_at = preview.after, self._runtime.now()
        paid = await self._account.paid_invoices(fact.subscription_id, fact.start)
        return _sync(Told(fact, (*paid, preview.invoice), asked_at, self._grace))

    async def close_page(self, attempt: Checkout) -> bool:
        """Let an attempt's page be paid no more, and apply what was. False where it may still get one."""
        session_id, key = attempt.session_id or await self._session_of(attempt), f"ex:{attempt.attempt_id}"
        if session_id is None or await self._account.expire_session(session_id, key=key) is None:
            return await self._runtime.write(checkouts.lapse, attempt.attempt_id)
        await self.apply(await self.of_session(session_id, cause="page closed"))
        return True

    async def apply(self, effect: Effect) -> None:
        """Bring it about at once, unless something later is known or nobody of ours is meant."""
        with contextlib.suppress(StaleFact, UnknownReference):
            self.tell(await self._runtime.write(_apply, effect))

    async def rehearse(self, effect: Effect, look: Callable[[Transaction], T]) -> T:
        """What would be seen if it came about, which it does not.

        Raises:
            UnknownReference, StaleFact
        """
        seen: list[T] = []
        with contextlib.suppress(Rehearsed):
            await self._runtime.write(_rehearse, effect, lambda tx: seen.append(look(tx)))
        return seen[-1]

    def tell(self, alerts: Alerts) -> None:
        """Tell the operator what has come about."""
        for alert in alerts:
            say = self._runtime.log.error if alert.urgent else self._runtime.log.warning
            say("%s", alert.sentence)

    async def _session_of(self, attempt: Checkout) -> str | None:
        known = subscriptions.find(self._runtime.view, attempt.client_id, attempt.mode)
        if known is None or known.customer_id is None:
            return None
        return await self._account.session_of(known.customer_id, attempt.attempt_id)

    async def _of_invoice(self, event: StripeEvent) -> Effect:
        if not event.object_id:
            # One that is still to come has no id.
            return _all(())
        asked_at = self._runtime.now()
        invoice = await self._account.invoice(event.object_id)
        if invoice is None:
            raise UnknownReference(f"invoice {event.object_id}")
        effects = [_copy(invoice, asked_at)]
        if event.type.endswith(("failed", "action_required")):
            what = f"invoice {invoice.invoice_id} of customer {invoice.customer_id}"
            effects.append(_notice(f"Stripe tells of {event.type}: {what}"))
        if invoice.subscription_id is not None:
            effects.append(await self.of_subscription(invoice.subscription_id, event.event_id))
        return _all(effects)

    async def _payment_of_charge(self, event: StripeEvent) -> str | None:
        """The payment of a refund or dispute that names only its charge."""
        charge_id = event.facts.get("charge")
        return None if charge_id is None else await self._account.payment_of_charge(charge_id)

    async def _of_customer(self, event: StripeEvent) -> Effect:
        customer = await self._account.customer(event.object_id)
        if customer is None:
            raise UnknownReference(f"customer {event.object_id}")
        return _customer(customer)


class Rehearsed(Exception):
    """Ends a change that was only to be tried, so that it is undone."""


def _apply(tx: Transaction, effect: Effect, *, now: datetime) -> Alerts:
    return effect(tx, now)


def _rehearse(tx: Transaction, effect: Effect, look: Callable[[Transaction], None], *, now: datetime) -> None:
    effect(tx, now)
    look(tx)
    raise Rehearsed


def _all(effects: Sequence[Effect]) -> Effect:
    return lambda tx, now: tuple(alert for effect in effects for alert in effect(tx, now))


def _sync(told: Told) -> Effect:
    return lambda tx, now: subscriptions.sync(tx, told, now=now)


def _payment(payment: PaymentFact, fetched_at: datetime) -> Effect:
    take = purchases.take_payment if payment.invoice_subscription_id is None else disputes.take_plan_payment
    return lambda tx, now: take(tx, payment, fetched_at, now=now)


def _notice(sentence: str) -> Effect:
    """No record changes; the operator is told."""
    return lambda tx, now: (Alert(sentence, urgent=False),)  # noqa: ARG005


def _copy(invoice: InvoiceFact, fetched_at: datetime) -> Effect:
    return _quiet(lambda tx, now: copies.take_invoice(tx, invoice, fetched_at, now=now))


def _customer(customer: CustomerFact) -> Effect:
    return _quiet(lambda tx, now: copies.take_customer(tx, customer, now=now))


def _features(mode: str, customer_id: str, features: Sequence[str]) -> Effect:
    return _quiet(lambda tx, now: copies.take_features(tx, mode, customer_id, features, now=now))


def _quiet(change: Callable[[Transaction, datetime], None]) -> Effect:
    """A change of which nobody need be told."""

    def effect(tx: Transaction, now: datetime) -> Alerts:
        change(tx, now)
        return ()

    return effect
