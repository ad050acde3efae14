"""Records of what stands between a client and Stripe: subscriptions, attempts to pay, purchases, inbox, outbox."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from openclaw_billing.stripe_facts import StripeStatus


class CheckoutState(StrEnum):
    NEW = "new"
    OPEN = "open"
    CLOSING = "closing"
    """Nobody shall pay it any more, and somebody still may."""
    COMPLETE = "complete"
    EXPIRED = "expired"
    FAILED = "failed"


class InboxStatus(StrEnum):
    RECEIVED = "received"
    PARKED = "parked"
    APPLIED = "applied"
    IGNORED = "ignored"
    ORPHAN = "orphan"
    FAILED = "failed"


class InboxSource(StrEnum):
    ENDPOINT = "endpoint"
    POLL = "poll"
    REPLAY = "replay"


class CallKind(StrEnum):
    CANCEL = "cancel"
    CLOSE = "close"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What a client has with Stripe, in one of its modes: ids of the other mode count as absent.

    The plan stands in the `Account`; here stands why. `fetched_at` is when Stripe was asked for what this
    says; an older answer changes nothing. `changes` counts the changes that were asked of Stripe and answered: it
    makes their Idempotency-Keys, so that a lost one is repeated and not made twice; `change_asked` is the one that
    is not answered yet. `customers` counts the customers that were deleted, and is in the next one's key.
    `billing_name` and `billing_email` are the customer's, noted before it is asked for, so that a retry asks the same.
    `needs_review` is a sentence for an admin, empty when all is well.
    """

    client_id: str
    mode: str
    created_at: datetime
    customer_id: str | None = None
    subscription_id: str | None = None
    subscribed_at: datetime | None = None
    status: StripeStatus | None = None
    pause_kind: str = ""
    plan_id: str | None = None
    interval: str = ""
    start: datetime | None = None
    end: datetime | None = None
    ends_at: datetime | None = None
    pending_plan_id: str | None = None
    pending_at: datetime | None = None
    schedule_id: str | None = None
    delinquent_since: datetime | None = None
    invoice_url: str | None = None
    trial_used: bool = False
    disputes: tuple[str, ...] = ()
    needs_review: str = ""
    provisional: bool = False
    fetched_at: datetime | None = None
    changing_until: datetime | None = None
    changes: int = 0
    change_asked: str = ""
    customers: int = 0
    billing_name: str | None = None
    billing_email: str | None = None
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """One attempt to pay, stored before Stripe hears of it. `plan_id` or `pack` is what is bought."""

    attempt_id: str
    client_id: str
    mode: str
    created_at: datetime
    price_id: str
    plan_id: str | None = None
    interval: str = ""
    pack: str | None = None
    quantity: int = 1
    credits: int = 0
    success_url: str
    cancel_url: str
    promotion: bool = False
    state: CheckoutState = CheckoutState.NEW
    session_id: str | None = None
    url: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """Credits that were paid for. `clawed` of them were taken back since, for refunds and disputes."""

    session_id: str
    client_id: str
    mode: str
    created_at: datetime
    credits: int
    amount_paid: int
    currency: str
    lot_id: str
    payment_intent_id: str | None = None
    amount_refunded: int = 0
    clawed: int = 0
    disputes: tuple[str, ...] = ()
    version: int = 0
    fetched_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """Our copy of an invoice, to be shown while Stripe cannot be asked."""

    invoice_id: str
    client_id: str
    mode: str
    created_at: datetime
    number: str | None
    status: str
    amount_due: int
    amount_paid: int
    amount_remaining: int
    currency: str
    period_start: datetime
    period_end: datetime
    hosted_invoice_url: str | None = None
    invoice_pdf: str | None = None
    subscription_id: str | None = None
    fetched_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeEvent:
    """One Stripe event in the inbox: its envelope and ids, never its body.

    `created_at` is when we stored it, `happened_at` Stripe's own time. It is tried again at `next_at`;
    until `lease_until` one worker has it in hand. In vain it was tried `attempts` times because Stripe was away,
    `parkings` times because it was about nobody, and `stumbles` times because of a bug: each has its own end.
    """

    event_id: str
    type: str
    mode: str
    created_at: datetime
    happened_at: datetime
    source: InboxSource
    status: InboxStatus = InboxStatus.RECEIVED
    api_version: str | None = None
    object_id: str = ""
    customer_id: str | None = None
    subscription_id: str | None = None
    payment_intent_id: str | None = None
    facts: dict[str, str] = field(default_factory=dict)
    attempts: int = 0
    parkings: int = 0
    stumbles: int = 0
    next_at: datetime | None = None
    lease_until: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeCall:
    """A call that Stripe must hear, stored with what made it necessary: the outbox."""

    call_id: str
    kind: CallKind
    client_id: str
    mode: str
    created_at: datetime
    object_id: str
    prorate: bool = False
    done: bool = False
    attempts: int = 0
    next_at: datetime | None = None
    lease_until: datetime | None = None
    reason: str = ""


def customer_key(mode: str, customer_id: str) -> str:
    """What a customer is found by: the same id may not stand for one of the other mode."""
    return f"{mode}:{customer_id}"
