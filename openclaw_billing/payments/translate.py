"""Translation: Stripe's objects as plain JSON in, our facts out. Nothing is decided here.

Both today's shapes and those from before March 2025 are read. What must be there and is not, a period above
all, is a ValueError that names it: a default would grant or take credits for a time nobody paid for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from openclaw_billing.prices import MONTHLY, YEARLY, PriceBook
from openclaw_billing.stripe_events import id_of, invoice_subscription
from openclaw_billing.stripe_facts import (
    Collection,
    CustomerFact,
    DisputeFact,
    DisputeStatus,
    InvoiceFact,
    InvoiceLine,
    PaymentFact,
    Preview,
    PriceFact,
    SessionFact,
    StripeStatus,
    SubscriptionFact,
)

Obj = Mapping[str, Any]
Prices = Mapping[str, PriceFact]
E = TypeVar("E", bound=StrEnum)

_INTERVALS = {("month", 1): MONTHLY, ("month", 12): YEARLY, ("year", 1): YEARLY}
_DISPUTES = {
    "needs_response": DisputeStatus.OPEN,
    "under_review": DisputeStatus.OPEN,
    "warning_needs_response": DisputeStatus.WARNING,
    "warning_under_review": DisputeStatus.WARNING,
    "warning_closed": DisputeStatus.WARNING,
    "prevented": DisputeStatus.WARNING,
    "won": DisputeStatus.WON,
    "lost": DisputeStatus.LOST,
}
# Money of these refunds is with the merchant again.
_REFUNDS_UNDONE = ("failed", "canceled")
TRIAL_END_WITHOUT_CARD = "trial_end_without_payment_method"


def price_fact(price: Obj, book: PriceBook) -> PriceFact:
    """A price, or the plan that was its name before prices."""
    metadata = price.get("metadata") or {}
    price_id, lookup_key = _needed(price, "id"), price.get("lookup_key")
    plan_id, _ = book.plan_of(price_id, lookup_key, metadata.get("plan"), id_of(price.get("product")))
    every = price.get("recurring") or price
    unit, count = every.get("interval"), every.get("interval_count") or 1
    return PriceFact(
        price_id=price_id,
        plan_id=plan_id,
        interval=_INTERVALS.get((str(unit), int(count)), ""),
        unit_amount=price.get("unit_amount", price.get("amount")),
        currency=_needed(price, "currency"),
        credits=0 if unit is not None else book.credits_of(price_id, lookup_key, metadata.get("credits")),
        active=bool(price.get("active", True)),
    )


def subscription_fact(sub: Obj, book: PriceBook, prices: Prices) -> SubscriptionFact:
    """A subscription; `prices` holds those that its schedule names by their ids."""
    item = _plan_item(sub, book)
    price = price_fact(_price_of(item), book)
    end = _moment(item, "current_period_end", sub)
    invoice = sub.get("latest_invoice")
    invoice = invoice if isinstance(invoice, Mapping) else {"id": invoice}
    status = _enum(StripeStatus, sub.get("status"))
    pending, pending_at = _pending(sub, book, prices, price)
    waiting = sub.get("pending_update") or {}
    return SubscriptionFact(
        subscription_id=_needed(sub, "id"),
        customer_id=id_of(sub.get("customer")) or _missing("customer"),
        status=status,
        livemode=_flag(sub, "livemode"),
        created=_moment(sub, "created"),
        start=_moment(item, "current_period_start", sub),
        end=end,
        item_id=_needed(item, "id"),
        price=price,
        ends_at=_maybe(sub, "cancel_at") or (end if sub.get("cancel_at_period_end") else None),
        ended_at=_maybe(sub, "ended_at"),
        trial_end=_maybe(sub, "trial_end"),
        collection=_collection(sub),
        pending_update=bool(waiting),
        pending=pending,
        pending_at=pending_at,
        pending_expires_at=_maybe(waiting, "expires_at"),
        schedule_id=id_of(sub.get("schedule")),
        pause_kind=_pause_kind(sub) if status is StripeStatus.PAUSED else "",
        latest_invoice_id=id_of(invoice),
        latest_invoice_paid=_invoice_status(invoice) == "paid",
        latest_invoice_at=_maybe(invoice.get("status_transitions") or {}, "finalized_at"),
        invoice_url=invoice.get("hosted_invoice_url") if invoice.get("status") == "open" else None,
    )


def next_phase(sub: Obj) -> Obj | None:
    """The phase after the current one of a subscription's schedule, if the schedule is shown and runs."""
    schedule = sub.get("schedule")
    current = schedule.get("current_phase") if isinstance(schedule, Mapping) else None
    if not isinstance(schedule, Mapping) or not current or schedule.get("status") != "active":
        return None
    later = [phase for phase in schedule["phases"] if phase["start_date"] >= current["end_date"]]
    return min(later, key=lambda phase: int(phase["start_date"]), default=None)


def named_prices(items: Iterable[Obj]) -> Iterator[str]:
    """The prices that are only named by items or lines, not shown."""
    for item in items:
        price = _price_of(item)
        if not _is_shown(price) and price.get("id") is not None:
            yield price["id"]


def invoice_fact(
    invoice: Obj, book: PriceBook, prices: Prices | None = None, lines: Iterable[Obj] = ()
) -> InvoiceFact:
    """An invoice; `lines` are all of its lines, or none where they do not matter."""
    due, paid = int(invoice.get("amount_due") or 0), int(invoice.get("amount_paid") or 0)
    left = invoice.get("amount_remaining")
    return InvoiceFact(
        invoice_id=_needed(invoice, "id"),
        customer_id=id_of(invoice.get("customer")) or _missing("customer"),
        subscription_id=invoice_subscription(invoice),
        number=invoice.get("number"),
        status=_invoice_status(invoice),
        livemode=_flag(invoice, "livemode"),
        amount_due=due,
        amount_paid=paid,
        amount_remaining=due - paid if left is None else int(left),
        currency=_needed(invoice, "currency"),
        created=_moment(invoice, "created"),
        period_start=_moment(invoice, "period_start"),
        period_end=_moment(invoice, "period_end"),
        hosted_invoice_url=invoice.get("hosted_invoice_url"),
        invoice_pdf=invoice.get("invoice_pdf"),
        next_payment_attempt=_maybe(invoice, "next_payment_attempt"),
        lines=tuple(_line(each, book, prices or {}) for each in lines),
    )


def finalized_at(invoice: Obj) -> datetime:
    """When it was made final, or else made."""
    made_final = _maybe(invoice.get("status_transitions") or {}, "finalized_at")
    return made_final or _moment(invoice, "created")


def session_fact(session: Obj, book: PriceBook) -> SessionFact:
    return SessionFact(
        session_id=_needed(session, "id"),
        mode=_needed(session, "mode"),
        status=session.get("status") or "unknown",
        payment_status=session.get("payment_status") or "unknown",
        livemode=_flag(session, "livemode"),
        customer_id=id_of(session.get("customer")),
        attempt_id=(session.get("metadata") or {}).get("attempt_id"),
        url=session.get("url"),
        amount_total=int(session.get("amount_total") or 0),
        currency=session.get("currency") or "",
        created=_moment(session, "created"),
        expires_at=_moment(session, "expires_at"),
        subscription_id=id_of(session.get("subscription")),
        payment_intent_id=id_of(session.get("payment_intent")),
        credits=sum(_credits(each, book) for each in (session.get("line_items") or {}).get("data") or ()),
    )


def payment_fact(
    intent: Obj, refunds: Iterable[Obj], disputes: Iterable[Obj], invoice: Obj | None
) -> PaymentFact:
    """A payment with everything that became of it, and the invoice it paid if it paid one."""
    counted = (each for each in refunds if each.get("status") not in _REFUNDS_UNDONE)
    return PaymentFact(
        payment_intent_id=_needed(intent, "id"),
        customer_id=id_of(intent.get("customer")),
        invoice_subscription_id=None if invoice is None else invoice_subscription(invoice),
        livemode=_flag(intent, "livemode"),
        amount_paid=int(intent["amount_received"]),
        amount_refunded=sum(int(each["amount"]) for each in counted),
        currency=_needed(intent, "currency"),
        disputes=tuple(dispute_fact(each) for each in disputes),
    )


def dispute_fact(dispute: Obj) -> DisputeFact:
    intent = dispute.get("payment_intent")
    return DisputeFact(
        dispute_id=_needed(dispute, "id"),
        payment_intent_id=id_of(intent),
        customer_id=id_of(intent.get("customer")) if isinstance(intent, Mapping) else None,
        status=_DISPUTES.get(str(dispute.get("status")), DisputeStatus.UNKNOWN),
        amount=int(dispute["amount"]),
        livemode=_flag(dispute, "livemode"),
    )


def customer_fact(customer: Obj, livemode: bool) -> CustomerFact:
    """A customer; what is left of one that was deleted does not say which mode it was of."""
    return CustomerFact(
        customer_id=_needed(customer, "id"),
        deleted=bool(customer.get("deleted")),
        livemode=bool(customer.get("livemode", livemode)),
        name=customer.get("name"),
        email=customer.get("email"),
    )


def preview_fact(invoice: Obj, told: InvoiceFact, fact: SubscriptionFact, price: PriceFact) -> Preview:
    """What a change to `price` would bring, by the invoice that Stripe would make of it, told in our words."""
    total = int(invoice["total"])
    # A change that begins a period of its own bills it as a whole; else the current one goes on.
    begun = [each for each in told.lines if not each.proration and each.plan_id == price.plan_id]
    after = replace(fact, price=price, pending=None, pending_at=None, latest_invoice_id=told.invoice_id)
    for each in begun:
        after = replace(after, start=each.start, end=each.end)
    return Preview(
        amount_due=total if total < 0 else told.amount_due,
        currency=told.currency,
        after=after,
        invoice=told,
    )


def _line(line: Obj, book: PriceBook, prices: Prices) -> InvoiceLine:
    price = _price_of(line)
    known = price_fact(price, book) if _is_shown(price) else prices.get(price.get("id") or "")
    period = line.get("period") or {}
    return InvoiceLine(
        plan_id=None if known is None else known.plan_id,
        proration=_is_proration(line),
        amount=int(line["amount"]),
        start=_moment(period, "start"),
        end=_moment(period, "end"),
    )


def _credits(item: Obj, book: PriceBook) -> int:
    """What an item of a session holds of our packs."""
    price = _price_of(item)
    return price_fact(price, book).credits * int(item.get("quantity") or 0) if _is_shown(price) else 0


def _is_proration(line: Obj) -> bool:
    parent = line.get("parent")
    if not isinstance(parent, Mapping):
        return bool(line.get("proration"))
    details = parent.get("subscription_item_details") or parent.get("invoice_item_details") or {}
    return bool(details.get("proration"))


def _price_of(item: Obj) -> Obj:
    """The price of an item or a line: shown in whole, or `{"id": …}` where it is only named."""
    details = (item.get("pricing") or {}).get("price_details") or {}
    found = item.get("price") or item.get("plan") or details.get("price")
    return found if isinstance(found, Mapping) else {"id": found}


def _is_shown(price: Obj) -> bool:
    return "currency" in price


def _plan_item(sub: Obj, book: PriceBook) -> Obj:
    """The item that sells a plan of ours, else the first: a metered price may stand beside it."""
    items: list[Obj] = list((sub.get("items") or {}).get("data") or ())
    ours = (item for item in items if price_fact(_price_of(item), book).plan_id is not None)
    found = next(ours, items[0] if items else None)
    return _missing("items") if found is None else found


def _pending(
    sub: Obj, book: PriceBook, prices: Prices, now: PriceFact
) -> tuple[PriceFact | None, datetime | None]:
    waiting = sub.get("pending_update")
    if waiting:
        shown = [price_fact(_price_of(item), book) for item in waiting.get("subscription_items") or ()]
        return next((price for price in shown if price.plan_id is not None), None), None
    phase = next_phase(sub)
    if phase is None:
        return None, None
    for price_id in named_prices(phase["items"]):
        coming = prices.get(price_id)
        if coming is not None and coming.plan_id is not None and coming.price_id != now.price_id:
            return coming, _moment(phase, "start_date")
    return None, None


def _pause_kind(sub: Obj) -> str:
    details = sub.get("status_details")
    if not details:
        # Before pausing could be asked for, a trial that ended without a card was the only way here.
        return TRIAL_END_WITHOUT_CARD
    return str(((details.get("paused") or {}).get("subscription") or {}).get("type") or "unknown")


def _collection(sub: Obj) -> Collection:
    paused = sub.get("pause_collection")
    return Collection.NORMAL if not paused else _enum(Collection, paused.get("behavior"))


def _invoice_status(invoice: Obj) -> str:
    return str(invoice.get("status") or ("paid" if invoice.get("paid") else "unknown"))


def _enum(kind: type[E], value: object) -> E:
    try:
        return kind(str(value))
    except ValueError:
        return kind("unknown")


def _needed(obj: Obj, name: str) -> str:
    value = obj.get(name)
    return value if isinstance(value, str) and value else _missing(name)


def _flag(obj: Obj, name: str) -> bool:
    value = obj.get(name)
    return value if isinstance(value, bool) else _missing(name)


def _moment(obj: Obj, name: str, older: Obj | None = None) -> datetime:
    """A moment that must be there; `older` is where it stood before it moved."""
    found = _maybe(obj, name) or (None if older is None else _maybe(older, name))
    return _missing(name) if found is None else found


def _maybe(obj: Obj, name: str) -> datetime | None:
    value = obj.get(name)
    return None if value is None else datetime.fromtimestamp(int(value), UTC)


def _missing(name: str) -> Any:
    raise ValueError(f"Stripe's object has no {name}")
