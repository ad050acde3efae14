"""Reading: what Stripe holds, asked for and put into our words."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

from openclaw_billing.errors import BadRequest, UnknownPack
from openclaw_billing.payments import translate
from openclaw_billing.payments.calls import Calls, Obj
from openclaw_billing.payments.shelf import Kept, Shelf
from openclaw_billing.prices import PriceBook
from openclaw_billing.stripe_events import event_fact, id_of
from openclaw_billing.stripe_facts import (
    CustomerFact,
    DisputeFact,
    DisputeStatus,
    EventFact,
    InvoiceFact,
    InvoicePage,
    PaymentFact,
    PriceFact,
    SessionFact,
    SubscriptionFact,
)

EVENT_TYPES_MAX = 20
# An invoice is made when its period begins; clocks may differ.
INVOICES_EARLY = timedelta(days=3)
WHOLE_SUBSCRIPTION = ("items.data.price", "latest_invoice", "schedule")
_ALL_WHOLE: Obj = {"status": "all", "expand": [f"data.{path}" for path in WHOLE_SUBSCRIPTION]}

log = logging.getLogger(__name__.partition(".")[0])


class StripeReader:
    """The half of the account that changes nothing. Every method raises what `Calls.get` raises."""

    def __init__(self, calls: Calls, book: PriceBook, *, mode: str, shelf: Shelf, kept: Kept[str]) -> None:
        self.mode = mode
        """`test` or `live`."""
        self._calls = calls
        self._book = book
        self._shelf = shelf
        self._kept = kept

    def budget(self, seconds: float | None = None) -> AbstractContextManager[None]:
        """`with account.budget():` all calls within share one budget of time, by default the setting's."""
        return self._calls.budget(seconds)

    async def account_id(self) -> str:
        """The id of the Stripe account that our key belongs to."""
        known = self._kept.get("account")
        if known is None:
            known = self._kept.put("account", str((await self._calls.get("accounts.retrieve_current"))["id"]))
        return known

    async def price_for(self, plan_id: str, interval: str) -> PriceFact:
        """The price a plan is sold at.

        Raises:
            PriceNotConfigured: there is none.
        """
        return await self._shelf.price_for(plan_id, interval)

    async def packs(self) -> list[PriceFact]:
        """The packs of credits for sale, the smallest first."""
        return list(await self._shelf.packs())

    async def pack(self, pack: str) -> PriceFact:
        """The pack of that many credits.

        Raises:
            UnknownPack: none is for sale.
        """
        for each in await self._shelf.packs():
            if str(each.credits) == pack:
                return each
        raise UnknownPack

    async def session(self, session_id: str) -> SessionFact | None:
        """The session, with what it sells."""
        lines = {"expand": ["line_items"]}
        found = await self._calls.find("checkout.sessions.retrieve", session_id, params=lines)
        return None if found is None else translate.session_fact(found, self._book)

    async def session_of(self, customer_id: str, attempt_id: str) -> str | None:
        """The session that an attempt has, whatever became of it."""
        found = await self._session_of(customer_id, attempt_id)
        return None if found is None else str(found["id"])

    async def subscription(self, subscription_id: str) -> SubscriptionFact | None:
        """The subscription as it is now, ended ones too."""
        found = await self._calls.find(
            "subscriptions.retrieve", subscription_id, params={"expand": list(WHOLE_SUBSCRIPTION)}
        )
        return None if found is None else await self._subscription_fact(found)

    async def subscriptions(self, created_after: datetime | None = None) -> AsyncIterator[SubscriptionFact]:
        """Every subscription of the account, whatever became of it, newest first.

        One that is in no shape we know is told to the log and passed over: it must not hide the others.
        """
        params = {} if created_after is None else {"created": {"gt": _seconds(created_after)}}
        async for each in self._calls.pages("subscriptions.list", params={**_ALL_WHOLE, **params}):
            try:
                yield await self._subscription_fact(each)
            except ValueError as error:
                log.error("Subscription %s is passed over: %s", id_of(each), error)

    async def subscriptions_of(self, customer_id: str) -> list[SubscriptionFact]:
        """All of a customer's subscriptions, whatever became of them, newest first."""
        params = {**_ALL_WHOLE, "customer": customer_id}
        return [
            await self._subscription_fact(each)
            async for each in self._calls.pages("subscriptions.list", params=params)
        ]

    async def invoice(self, invoice_id: str) -> InvoiceFact | None:
        """The invoice with all of its lines."""
        found = await self._calls.find("invoices.retrieve", invoice_id)
        return None if found is None else await self._invoice_fact(found)

    async def paid_invoices(self, subscription_id: str, since: datetime) -> list[InvoiceFact]:
        """A subscription's paid invoices that pay for any time from `since` on, the oldest first."""
        created = {"gte": int((since - INVOICES_EARLY).timestamp())}
        params = {"subscription": subscription_id, "status": "paid", "created": created}
        found = [
            await self._invoice_fact(each) async for each in self._calls.pages("invoices.list", params=params)
        ]
        return [each for each in reversed(found) if any(line.end > since for line in each.lines)]

    async def overdue_since(self, subscription_id: str) -> datetime | None:
        """When the oldest of a subscription's open invoices was made final; None where none is open."""
        params = {"subscription": subscription_id, "status": "open"}
        found = [
            translate.finalized_at(each) async for each in self._calls.pages("invoices.list", params=params)
        ]
        return min(found, default=None)

    async def invoices(
        self, customer_id: str, *, limit: int, after: str | None = None, status: str | None = None
    ) -> InvoicePage:
        """A page of a customer's invoices, newest first and without their lines.

        Raises:
            BadRequest: `after` is no invoice of this customer.
        """
        params: Obj = {"customer": customer_id, "limit": limit}
        if status is not None:
            params["status"] = status
        if after is not None:
            known = await self._calls.find("invoices.retrieve", after)
            if known is None or id_of(known.get("customer")) != customer_id:
                raise BadRequest("The cursor is not one of your invoices", code="unknown_cursor")
            params["starting_after"] = after
        page = await self._calls.get("invoices.list", params=params)
        found = tuple(translate.invoice_fact(each, self._book) for each in page["data"])
        return InvoicePage(found, bool(page["has_more"]))

    async def payment(self, payment_intent_id: str) -> PaymentFact | None:
        """What was paid, and all that was given back, disputed or lost of it since."""
        intent = await self._calls.find("payment_intents.retrieve", payment_intent_id)
        if intent is None:
            return None
        mine = {"payment_intent": payment_intent_id}
        refunds = [each async for each in self._calls.pages("refunds.list", params=mine)]
        disputes = [each async for each in self._calls.pages("disputes.list", params=mine)]
        paid = {"payment": {"type": "payment_intent", **mine}, "expand": ["data.invoice"]}
        links = await self._calls.get("invoice_payments.list", params=paid)
        shown = [each["invoice"] for each in links["data"] if isinstance(each["invoice"], dict)]
        return translate.payment_fact(intent, refunds, disputes, shown[0] if shown else None)

    async def payment_of_charge(self, charge_id: str) -> str | None:
        """The payment that a charge belongs to."""
        found = await self._calls.find("charges.retrieve", charge_id)
        return None if found is None else id_of(found.get("payment_intent"))

    async def dispute(self, dispute_id: str) -> DisputeFact | None:
        found = await self._calls.find("disputes.retrieve", dispute_id)
        return None if found is None else translate.dispute_fact(found)

    async def open_disputes(self) -> AsyncIterator[DisputeFact]:
        """Every dispute for which money is away now, newest first, and who paid."""
        async for each in self._calls.pages("disputes.list", params={"expand": ["data.payment_intent"]}):
            fact = translate.dispute_fact(each)
            if fact.status is DisputeStatus.OPEN:
                yield fact

    async def customer(self, customer_id: str) -> CustomerFact | None:
        """The customer; one that was deleted says so."""
        found = await self._calls.find("customers.retrieve", customer_id)
        return None if found is None else translate.customer_fact(found, self.mode == "live")

    async def entitlements(self, customer_id: str) -> list[str]:
        """The features a customer may use, by their look-up keys."""
        pages = self._calls.pages("entitlements.active_entitlements.list", params={"customer": customer_id})
        return sorted([str(each["lookup_key"]) async for each in pages])

    async def event(self, event_id: str) -> EventFact | None:
        """The event; Stripe forgets them after thirty days."""
        found = await self._calls.find("events.retrieve", event_id)
        return None if found is None else event_fact(found)

    async def events(self, types: Sequence[str], since: datetime) -> AsyncIterator[EventFact]:
        """The account's events of these types from `since` on, the oldest first."""
        found: list[EventFact] = []
        for some in _in_parts(types, EVENT_TYPES_MAX):
            params = {"types": list(some), "created": {"gte": _seconds(since)}}
            part = [event_fact(each) async for each in self._calls.pages("events.list", params=params)]
            found += reversed(part)
        for each in sorted(found, key=lambda event: event.created):
            yield each

    async def close(self) -> None:
        """Close this event loop's connections."""
        await self._calls.close()

    async def _session_of(self, customer_id: str, attempt_id: str) -> Obj | None:
        async for each in self._calls.pages("checkout.sessions.list", params={"customer": customer_id}):
            if each["metadata"].get("attempt_id") == attempt_id:
                return each
        return None

    async def _subscription_fact(self, sub: Obj) -> SubscriptionFact:
        phase = translate.next_phase(sub)
        named = () if phase is None else translate.named_prices(phase["items"])
        return translate.subscription_fact(sub, self._book, await self._shelf.prices(named))

    async def _invoice_fact(self, invoice: Obj) -> InvoiceFact:
        lines = await self._lines(invoice)
        shown = await self._shelf.prices(translate.named_prices(lines))
        return translate.invoice_fact(invoice, self._book, shown, lines)

    async def _lines(self, invoice: Obj) -> list[Obj]:
        """All lines of an invoice: only the first few are shown with it."""
        listed = invoice["lines"]
        if not listed.get("has_more"):
            return list(listed["data"])
        return [each async for each in self._calls.pages("invoices.line_items.list", invoice["id"])]


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _in_parts(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
