"""Effects: what a Stripe event means now. Stripe is asked here, so that no change asks it in its middle.

An effect is applied later, in one change with the event's mark; applied twice it changes nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from openclaw_billing import copies, purchases, subscriptions
from openclaw_billing.contracts import Transaction
from openclaw_billing.inbox import Effect
from openclaw_billing.payments.account import StripeAccount
from openclaw_billing.runtime import Runtime
from openclaw_billing.stripe_events import Kind, wants
from openclaw_billing.stripe_facts import (
    CustomerFact,
    InvoiceFact,
    PaymentFact,
    StripeStatus,
    SubscriptionFact,
)
from openclaw_billing.stripe_records import StripeEvent
from openclaw_billing.subscriptions import Told, UnknownReference


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
        self._runtime.log.warning("Stripe tells of %s: object %s", kind, event.object_id)
        return _nothing

    async def of_subscription(self, subscription_id: str, cause: str) -> Effect:
        """The client's plan, access and credits by what this subscription is now."""
        asked_at = self._runtime.now()
        fact = await self._account.subscription(subscription_id)
        if fact is None:
            return _missing(self._account.mode, subscription_id)
        return await self.of_fact(fact, asked_at, cause)

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
            lambda tx, now: purchases.take_session(tx, session, expiry_days=days, now=now)
        ]
        if failed:
            effects.append(lambda tx, now: purchases.fail_session(tx, session, now=now))
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
        if payment.invoice_subscription_id is not None:
            # The plan's state moves the credits of a plan.
            self._runtime.log.warning(
                "Payment %s of subscription %s was refunded or disputed: no credits are moved",
                payment_intent_id,
                payment.invoice_subscription_id,
            )
            return _nothing
        return _payment(payment, asked_at)

    async def _of_invoice(self, event: StripeEvent) -> Effect:
        if not event.object_id:
            # One that is still to come has no id.
            return _nothing
        asked_at = self._runtime.now()
        invoice = await self._account.invoice(event.object_id)
        if invoice is None:
            raise UnknownReference(f"invoice {event.object_id}")
        if event.type.endswith(("failed", "action_required")):
            self._runtime.log.warning(
                "Stripe tells of %s: invoice %s of customer %s",
                event.type,
                invoice.invoice_id,
                invoice.customer_id,
            )
        effects = [_copy(invoice, asked_at)]
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


def _all(effects: Sequence[Effect]) -> Effect:
    def effect(tx: Transaction, now: datetime) -> None:
        for each in effects:
            each(tx, now)

    return effect


def _sync(told: Told) -> Effect:
    return lambda tx, now: subscriptions.sync(tx, told, now=now)


def _copy(invoice: InvoiceFact, fetched_at: datetime) -> Effect:
    return lambda tx, now: copies.take_invoice(tx, invoice, fetched_at)  # noqa: ARG005


def _payment(payment: PaymentFact, fetched_at: datetime) -> Effect:
    def effect(tx: Transaction, now: datetime) -> None:
        purchases.take_payment(tx, payment, fetched_at, now=now)

    return effect


def _customer(customer: CustomerFact) -> Effect:
    return lambda tx, now: copies.take_customer(tx, customer, now=now)


def _features(mode: str, customer_id: str, features: Sequence[str]) -> Effect:
    return lambda tx, now: copies.take_features(tx, mode, customer_id, features, now=now)


def _missing(mode: str, subscription_id: str) -> Effect:
    return lambda tx, now: subscriptions.missing(tx, mode, subscription_id, now=now)


def _nothing(tx: Transaction, now: datetime) -> None:
    """A notice: the operator was told, and no record changes."""
