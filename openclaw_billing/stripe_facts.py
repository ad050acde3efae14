"""What Stripe says, in our words: frozen, checked, in UTC, amounts in the currency's smallest unit.

The Stripe adapter makes these and decides nothing; operations apply them and never see Stripe's own objects.
An enum value that we do not know is UNKNOWN, and `plan_id` is None where a price is none of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

Terms: TypeAlias = tuple[str | None, str]
"""A plan and an interval."""


class StripeStatus(StrEnum):
    """A subscription's status, as Stripe names it."""

    INCOMPLETE = "incomplete"
    INCOMPLETE_EXPIRED = "incomplete_expired"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    UNPAID = "unpaid"
    PAUSED = "paused"
    CANCELED = "canceled"
    UNKNOWN = "unknown"


class Collection(StrEnum):
    """What `pause_collection` makes of the invoices meanwhile."""

    NORMAL = "normal"
    VOID = "void"
    KEEP_AS_DRAFT = "keep_as_draft"
    MARK_UNCOLLECTIBLE = "mark_uncollectible"
    UNKNOWN = "unknown"


class DisputeStatus(StrEnum):
    """`OPEN` is any in which the money is gone for now; `WARNING` any in which it is not."""

    WARNING = "warning"
    OPEN = "open"
    WON = "won"
    LOST = "lost"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceFact:
    """A price. `interval` is `monthly`, `yearly` or empty; `credits` is what a pack of it holds, 0 if none."""

    price_id: str
    plan_id: str | None
    interval: str
    unit_amount: int | None
    currency: str
    credits: int = 0
    active: bool = True

    @property
    def terms(self) -> Terms:
        """What it sells. Prices change; who is on an older one has the same plan."""
        return self.plan_id, self.interval


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionFact:
    """A subscription as it was when asked for.

    `start` and `end` are the plan item's current period. `pending` is the price of a waiting update,
    or of a schedule's next phase, which begins at `pending_at`. `latest_invoice_paid` tells of the newest
    invoice, which was made final at `latest_invoice_at`; `invoice_url` is where an open one is paid.
    """

    subscription_id: str
    customer_id: str
    status: StripeStatus
    livemode: bool
    created: datetime
    start: datetime
    end: datetime
    item_id: str
    price: PriceFact
    ends_at: datetime | None = None
    ended_at: datetime | None = None
    trial_end: datetime | None = None
    collection: Collection = Collection.NORMAL
    pending_update: bool = False
    pending: PriceFact | None = None
    pending_at: datetime | None = None
    pending_expires_at: datetime | None = None
    schedule_id: str | None = None
    pause_kind: str = ""
    latest_invoice_id: str | None = None
    latest_invoice_paid: bool = False
    latest_invoice_at: datetime | None = None
    invoice_url: str | None = None

    @property
    def pending_plan_id(self) -> str | None:
        return None if self.pending is None else self.pending.plan_id

    @property
    def pending_terms(self) -> Terms | None:
        return None if self.pending is None else self.pending.terms


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceLine:
    """One line of an invoice, for [start, end) of one price. A proration gives back where `amount` < 0."""

    plan_id: str | None
    proration: bool
    amount: int
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceFact:
    invoice_id: str
    customer_id: str
    subscription_id: str | None
    number: str | None
    status: str
    livemode: bool
    amount_due: int
    amount_paid: int
    amount_remaining: int
    currency: str
    created: datetime
    period_start: datetime
    period_end: datetime
    hosted_invoice_url: str | None = None
    invoice_pdf: str | None = None
    next_payment_attempt: datetime | None = None
    lines: tuple[InvoiceLine, ...] = ()

    @property
    def paid(self) -> bool:
        return self.status == "paid"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFact:
    """A checkout session. `payment_intent_id` is there once something was paid."""

    session_id: str
    mode: str
    status: str
    payment_status: str
    livemode: bool
    customer_id: str | None
    attempt_id: str | None
    url: str | None
    amount_total: int
    currency: str
    created: datetime
    expires_at: datetime
    subscription_id: str | None = None
    payment_intent_id: str | None = None
    credits: int = 0
    """What is sold by it, by the catalogue; only where its lines were asked for."""

    @property
    def settled(self) -> bool:
        """Whether what was bought is paid, or costs nothing."""
        return self.payment_status in ("paid", "no_payment_required")


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputeFact:
    dispute_id: str
    payment_intent_id: str | None
    status: DisputeStatus
    amount: int
    livemode: bool
    customer_id: str | None = None
    """Who paid; only where the payment was asked for with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFact:
    """What became of one payment: all of its refunds that did not fail, and its disputes."""

    payment_intent_id: str
    customer_id: str | None
    invoice_subscription_id: str | None
    """The subscription it paid for, if it paid an invoice of one."""
    livemode: bool
    amount_paid: int
    amount_refunded: int
    currency: str
    disputes: tuple[DisputeFact, ...] = ()

    @property
    def amount_lost(self) -> int:
        return sum(each.amount for each in self.disputes if each.status is DisputeStatus.LOST)

    @property
    def disputed(self) -> bool:
        return any(each.status is DisputeStatus.OPEN for each in self.disputes)


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerFact:
    customer_id: str
    deleted: bool
    livemode: bool = False
    name: str | None = None
    email: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFact:
    """A Stripe event's envelope and what is taken from its body: ids, and nothing that is a state.

    `object_id` is the id of the object it is about (a subscription, an invoice, a session, …), empty where
    Stripe gives it none; `payment_intent_id` is of a refund, a charge or a dispute.
    """

    event_id: str
    type: str
    created: datetime
    livemode: bool
    account: str | None
    api_version: str | None
    object_id: str
    customer_id: str | None = None
    subscription_id: str | None = None
    payment_intent_id: str | None = None
    facts: dict[str, str] = field(default_factory=dict)
    """Short words worth showing an operator, such as `status` or `reason`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutWish:
    """A checkout session to be opened."""

    attempt_id: str
    client_id: str
    customer_id: str
    price_id: str
    kind: str
    """`subscription` or `topup`."""
    plan_id: str | None
    pack: str | None
    quantity: int
    success_url: str
    cancel_url: str
    promotion: bool
    trial_days: int
    tax: bool
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a change of plan would cost now; a credit is below zero.

    `after` is what the subscription would be, once it had paid `invoice`.
    """

    amount_due: int
    currency: str
    after: SubscriptionFact
    invoice: InvoiceFact


@dataclass(frozen=True, slots=True)
class InvoicePage:
    invoices: tuple[InvoiceFact, ...]
    has_more: bool
