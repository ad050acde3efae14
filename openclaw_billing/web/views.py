"""Views: the models that leave, made of records. Every field the guide names keeps its name and meaning."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from openclaw_billing.keyring import state_of
from openclaw_billing.plans import Plan
from openclaw_billing.records import (
    AuditEntry,
    Client,
    Job,
    JobStatus,
    Key,
    LedgerEntry,
    LotSource,
    Priority,
    Rate,
    TaskType,
)
from openclaw_billing.stripe_records import Subscription
from openclaw_billing.usage import Standing
from openclaw_billing.web.models import Dollars, Moment, Output
from openclaw_billing.web.standing import SubscriptionFields, subscription_fields


class PlanView(Output):
    """`job_limit` is null where jobs are unlimited; `price` is in dollars a month."""

    plan_id: str
    name: str
    price: Dollars
    currency: str = "USD"
    billing_period: str = "monthly"
    job_limit: int | None
    features: list[str]

    @classmethod
    def of(cls, plan: Plan) -> PlanView:
        return cls(
            plan_id=plan.plan_id,
            name=plan.name,
            price=Dollars.from_cents(plan.price_cents),
            job_limit=plan.job_limit,
            features=list(plan.features),
        )


class RateView(Output):
    """How often a client may call; 0 is no limit."""

    per_second: int
    burst: int
    per_minute: int

    @classmethod
    def of(cls, rate: Rate) -> RateView:
        return cls(per_second=rate.per_second, burst=rate.burst, per_minute=rate.per_minute)


class ClientView(Output):
    """A client. `credits_remaining` is null where jobs are unlimited, `rate_limit` where it is the plan's."""

    client_id: str
    name: str
    email: str
    plan: str
    credits_remaining: int | None
    total_spent: Dollars
    created_at: Moment
    updated_at: Moment
    active: bool
    billing_cycle_start: Moment
    billing_cycle_end: Moment
    stripe_customer_id: str | None = None
    stripe_subscription_id: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    rate_limit: RateView | None = None
    version: int

    @classmethod
    def of(cls, client: Client, stand: Standing) -> ClientView:
        return cls(**client_fields(client, stand))


class WholeClientView(SubscriptionFields, ClientView):
    """One client, with how its subscription stands."""

    @classmethod
    def whole(
        cls, client: Client, stand: Standing, known: Subscription | None, now: datetime
    ) -> WholeClientView:
        return cls(**client_fields(client, stand), **subscription_fields(stand, known, now))


class NewClientView(WholeClientView):
    """A client just created: the only answer that shows the key text; null when the answer is repeated."""

    api_key: str | None
    key_id: str


class ClientList(Output):
    clients: list[ClientView]
    total: int
    next_cursor: str | None = None
    has_more: bool = False


class LotView(Output):
    """Credits of one origin."""

    source: str
    credits: int
    expires_at: Moment | None


class CreditsBySource(Output):
    """What is left, by where it came from; `owed` is taken from what comes in next."""

    allowance: int
    promo: int
    purchased: int
    owed: int

    @classmethod
    def of(cls, stand: Standing) -> CreditsBySource:
        return cls(
            allowance=stand.credits_of(LotSource.ALLOWANCE),
            promo=stand.credits_of(LotSource.PROMO, LotSource.REFUND),
            purchased=stand.credits_of(LotSource.PURCHASED),
            owed=stand.owed,
        )


class UsageView(SubscriptionFields):
    """Where the caller stands. `credits_limit` and `credits_remaining` are null where jobs are unlimited.

    `credits_withdrawn` were taken from this cycle's allowance, and not for jobs.
    """

    client_id: str
    plan: str
    credits_remaining: int | None
    credits_limit: int | None
    credits_reserved: int
    jobs_used: int
    credits_withdrawn: int
    billing_cycle_start: Moment
    billing_cycle_end: Moment
    days_remaining: int
    usage_pct: float
    total_spent: Dollars
    status: str
    rate_limit: RateView | None = None
    lots: list[LotView]
    credits: CreditsBySource

    @classmethod
    def of(
        cls,
        client: Client,
        stand: Standing,
        rate: Rate | None,
        now: datetime,
        known: Subscription | None = None,
    ) -> UsageView:
        """`rate` is how often the client may call; None where calls are not limited."""
        return cls(
            **subscription_fields(stand, known, now),
            credits=CreditsBySource.of(stand),
            client_id=client.client_id,
            plan=stand.plan.plan_id,
            credits_remaining=None if stand.unlimited else stand.available,
            credits_limit=stand.limit,
            credits_reserved=stand.reserved,
            jobs_used=stand.used,
            credits_withdrawn=stand.withdrawn,
            billing_cycle_start=stand.start,
            billing_cycle_end=stand.end,
            days_remaining=stand.days_remaining(now),
            usage_pct=stand.used_percent,
            total_spent=Dollars.from_micros(stand.spent_usd_micros),
            status="active" if client.active else "inactive",
            rate_limit=None if rate is None else RateView.of(rate),
            lots=[
                LotView(source=lot.source, credits=lot.left, expires_at=lot.expires_at) for lot in stand.lots
            ],
        )


class KeyView(Output):
    """A key, by what may be shown of it; `state` is `active`, `expired`, `disabled` or `revoked`."""

    key_id: str
    name: str
    start: str
    last4: str
    state: str
    created_at: Moment
    expires_at: Moment | None

    @classmethod
    def of(cls, key: Key, now: datetime) -> KeyView:
        return cls(
            key_id=key.key_id,
            name=key.name,
            start=key.start,
            last4=key.last4,
            state=state_of(key, now),
            created_at=key.created_at,
            expires_at=key.expires_at,
        )


class NewKeyView(KeyView):
    """A key just made: the only answer that shows the key text; null when the answer is repeated."""

    api_key: str | None


class KeyList(Output):
    keys: list[KeyView]
    total: int
    next_cursor: str | None = None
    has_more: bool = False


class EntryView(Output):
    """One ledger entry. `amount` is the change of the spendable credits, `reserved` of those set aside."""

    number: int
    client_id: str
    kind: str
    time: Moment
    amount: int
    reserved: int
    balance: int
    operation_id: str
    lot_id: str | None
    job_id: str | None
    cycle_number: int
    reason: str

    @classmethod
    def of(cls, entry: LedgerEntry) -> EntryView:
        return cls(
            number=entry.number,
            client_id=entry.client_id,
            kind=entry.kind,
            time=entry.time,
            amount=entry.available,
            reserved=entry.reserved,
            balance=entry.balance,
            operation_id=entry.operation_id,
            lot_id=entry.lot_id,
            job_id=entry.job_id,
            cycle_number=entry.cycle_number,
            reason=entry.reason,
        )


class LedgerPage(Output):
    entries: list[EntryView]
    total: int
    next_cursor: str | None
    has_more: bool


class AuditView(Output):
    """Who did what to what, when and from where."""

    time: Moment
    actor: str
    action: str
    client_id: str | None
    object_id: str | None
    address: str | None
    request_id: str | None
    reason: str
    before: dict[str, str]
    after: dict[str, str]

    @classmethod
    def of(cls, entry: AuditEntry) -> AuditView:
        return cls(
            time=entry.time,
            actor=entry.actor,
            action=entry.action,
            client_id=entry.client_id,
            object_id=entry.object_id,
            address=entry.address,
            request_id=entry.request_id,
            reason=entry.reason,
            before=entry.before,
            after=entry.after,
        )


class AuditPage(Output):
    entries: list[AuditView]
    total: int
    next_cursor: str | None
    has_more: bool


class JobView(Output):
    """A job. `client_id` is null for an internal, unbilled one; `cost_usd_micros` is millionths of a dollar."""

    job_id: str
    client_id: str | None
    status: JobStatus
    project_name: str
    description: str
    task_type: TaskType
    priority: Priority
    budget_limit: Dollars | None
    contact_email: str | None
    cost_usd_micros: int
    created_at: Moment
    updated_at: Moment

    @classmethod
    def of(cls, job: Job) -> JobView:
        limit = job.budget_limit_usd_micros
        return cls(
            job_id=job.job_id,
            client_id=job.client_id,
            status=job.status,
            project_name=job.project_name,
            description=job.description,
            task_type=job.task_type,
            priority=job.priority,
            budget_limit=None if limit is None else Dollars.from_micros(limit),
            contact_email=job.contact_email,
            cost_usd_micros=job.cost_usd_micros,
            created_at=job.created_at,
            updated_at=job.updated_at,
        )


class JobList(Output):
    jobs: list[JobView]
    total: int
    next_cursor: str | None
    has_more: bool


def client_fields(client: Client, stand: Standing) -> dict[str, Any]:
    """The fields every view of a client shares."""
    return {
        "client_id": client.client_id,
        "name": client.name,
        "email": client.email,
        "plan": stand.plan.plan_id,
        "credits_remaining": None if stand.unlimited else stand.available,
        "total_spent": Dollars.from_micros(stand.spent_usd_micros),
        "created_at": client.created_at,
        "updated_at": client.updated_at,
        "active": client.active,
        "billing_cycle_start": stand.start,
        "billing_cycle_end": stand.end,
        "stripe_customer_id": client.stripe_customer_id,
        "stripe_subscription_id": client.stripe_subscription_id,
        "metadata": client.metadata,
        "rate_limit": None if client.rate_limit is None else RateView.of(client.rate_limit),
        "version": client.version,
    }
