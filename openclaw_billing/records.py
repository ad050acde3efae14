"""Records: what the store keeps. Frozen; a change is a new version written over the old one.

Times are aware and in UTC. Credits are whole numbers, money is whole micro-USD (`…_usd_micros`) or cents.
A field at its default is not written to disk, so a new field with a default reads old records as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from openclaw_billing.frozen import quickly_made


class KeyState(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"
    REVOKED = "revoked"


class LotSource(StrEnum):
    ALLOWANCE = "allowance"
    PROMO = "promo"
    PURCHASED = "purchased"
    REFUND = "refund"


class ReservationState(StrEnum):
    PENDING = "pending"
    CAPTURED = "captured"
    RELEASED = "released"
    EXPIRED = "expired"
    REFUNDED = "refunded"


class EntryKind(StrEnum):
    GRANT = "grant"
    RESERVE = "reserve"
    CAPTURE = "capture"
    RELEASE = "release"
    REFUND = "refund"
    EXPIRE = "expire"
    ADJUST = "adjust"
    CLAWBACK = "clawback"


class TaskType(StrEnum):
    FEATURE_BUILD = "feature_build"
    BUG_FIX = "bug_fix"
    SECURITY_AUDIT = "security_audit"
    CODE_REVIEW = "code_review"
    DEPLOYMENT = "deployment"
    FULL_PROJECT = "full_project"
    OTHER = "other"


class Priority(StrEnum):
    P0 = "P0"
    P1 = "P1"
    P2 = "P2"
    P3 = "P3"


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a client may call: so often a second, `burst` at once, and so often a minute. 0 is no limit."""

    per_second: int
    burst: int
    per_minute: int


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who pays. What they may still do stands in their `Account`; `rate_limit` None is the plan's."""

    client_id: str
    name: str
    email: str
    created_at: datetime
    updated_at: datetime
    active: bool = True
    metadata: dict[str, str] = field(default_factory=dict)
    stripe_customer_id: str | None = None
    stripe_subscription_id: str | None = None
    rate_limit: Rate | None = None
    version: int = 1


@quickly_made
@dataclass(frozen=True, slots=True)
class Lot:
    """Credits of one origin. `left` is what may still be drawn; `expires_at` None is never."""

    lot_id: str
    source: LotSource
    left: int
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Period:
    """Time that was paid for: [start, end) is cut into `slices` cycles. `key` is what its grant is known by."""

    key: str
    start: datetime
    end: datetime
    slices: int = 1


@dataclass(frozen=True, slots=True)
class Frozen:
    """A paid cycle that waits for a payment, while the client has no more than the free plan gives.

    `used` and `withdrawn` of its `limit` were gone when access was limited in cycle `since`, which began with
    `base` used.
    """

    start: datetime
    end: datetime
    used: int
    limit: int | None
    period: Period | None
    since: int
    base: int
    withdrawn: int = 0


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A client's plan, cycle and credits: all that one charge reads and writes.

    `available` is the sum of the lots, `reserved` is set aside for pending jobs; together they are the
    balance, which equals the sum of the client's ledger. `used` counts this cycle's jobs against the plan,
    `withdrawn` what was taken from its allowance for another reason. `due_at` is when the next lot or reservation may run out: before then there is nothing to sweep.

    With a `period` the cycles are cut from what was paid for, and a new one waits for a payment; without,
    they follow the clock. `cycle_limit` is this cycle's own limit where it is not the plan's. After
    `grace_until` access is limited, and the paid cycle is `frozen`. `active` is the client's, kept here too
    because a charge reads nothing else.
    """

    client_id: str
    plan_id: str
    anchor: datetime
    cycle_number: int
    cycle_start: datetime
    cycle_end: datetime
    lots: tuple[Lot, ...] = ()
    reserved: int = 0
    used: int = 0
    owed: int = 0
    spent_usd_micros: int = 0
    entries: int = 0
    due_at: datetime | None = None
    period: Period | None = None
    cycle_limit: int | None = None
    grace_until: datetime | None = None
    frozen: Frozen | None = None
    active: bool = True
    withdrawn: int = 0

    @property
    def available(self) -> int:
        return sum(lot.left for lot in self.lots)


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key. The secret itself is never kept: `digest` is its HMAC under the pepper `pepper_id`."""

    digest: str
    key_id: str
    client_id: str
    pepper_id: str
    start: str
    last4: str
    created_at: datetime
    name: str = ""
    state: KeyState = KeyState.ACTIVE
    expires_at: datetime | None = None
    rotated_to: str | None = None


@quickly_made
@dataclass(frozen=True, slots=True)
class Draw:
    """Credits taken from one lot for one job."""

    lot_id: str
    credits: int


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Credits for one job: set aside, then captured or given back, once. Remembered for ever."""

    reservation_id: str
    client_id: str
    job_id: str
    credits: int
    state: ReservationState
    created_at: datetime
    cycle_number: int
    draws: tuple[Draw, ...] = ()
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """An operation's id, spent: `fingerprint` is the digest of what it asked, `answer` what it was told."""

    spent_id: str
    fingerprint: str
    created_at: datetime
    answer: str = ""
    keep: bool = True
    """False for replies that may be forgotten after a day."""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job. `client_id` None is an internal, unbilled job."""

    job_id: str
    client_id: str | None
    project_name: str
    description: str
    task_type: TaskType
    priority: Priority
    created_at: datetime
    updated_at: datetime
    status: JobStatus = JobStatus.QUEUED
    budget_limit_usd_micros: int | None = None
    contact_email: str | None = None
    cost_usd_micros: int = 0
    version: int = 1
    step_cost_usd_micros: int | None = None
    """What of the cost was logged in its present status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """The newest few adjustments and costs of a client, for a person reading the clients file."""

    client_id: str
    adjustments: tuple[Adjustment, ...] = ()
    costs: tuple[Cost, ...] = ()


@dataclass(frozen=True, slots=True)
class Adjustment:
    timestamp: datetime
    amount: int
    reason: str


@dataclass(frozen=True, slots=True)
class Cost:
    timestamp: datetime
    cost_usd_micros: int
    job_id: str | None = None


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """What happened to a client's credits: `available` and `reserved` are the changes, signed.

    `number` counts the client's entries from 1. `balance` is available + reserved after the entry.
    """

    client_id: str
    number: int
    kind: EntryKind
    time: datetime
    operation_id: str
    available: int = 0
    reserved: int = 0
    balance: int = 0
    lot_id: str | None = None
    job_id: str | None = None
    cycle_number: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """Who did what to what, when, from where. `before` and `after` never hold a secret."""

    time: datetime
    actor: str
    action: str
    client_id: str | None = None
    object_id: str | None = None
    address: str | None = None
    request_id: str | None = None
    reason: str = ""
    before: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing the house must know about its own store, such as which peppers its keys need."""

    name: str
    value: str


CREDITS_MAX = 1_000_000_000
COST_USD_MICROS_MAX = 10**15
RESERVATION_LIFE_DEFAULT = timedelta(minutes=15)
RESERVATION_LIFE_MAX = timedelta(hours=24)
