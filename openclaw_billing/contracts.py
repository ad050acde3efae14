"""Contracts: what an operation may ask of a store, and what the house may ask of it.

Stores keep records, and limiters times, not rules. Each contract has several implementations and one suite
in `tests/stores/` or `tests/limits/` that all of them pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Protocol, TypeAlias, TypeVar

from openclaw_billing.gcra import Limit, Verdict
from openclaw_billing.records import (
    Account,
    AuditEntry,
    Client,
    EntryKind,
    Fact,
    Job,
    Key,
    LedgerEntry,
    Recent,
    Reservation,
    Spent,
)
from openclaw_billing.stripe_records import (
    Checkout,
    Invoice,
    Purchase,
    StripeCall,
    StripeEvent,
    Subscription,
)

R = TypeVar("R")
T = TypeVar("T")
E = TypeVar("E", LedgerEntry, AuditEntry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A page of a table, newest first by (created_at, primary key).

    `equals` names fields and the values they must have, `text` is looked for, without regard to case,
    in `text_fields`. `after` is the (created_at, primary key) of the last row of the page before.
    `within` is an index and the value in it of the only rows that are looked at.
    """

    equals: Mapping[str, str | bool | None] = field(default_factory=dict)
    text: str = ""
    text_fields: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    after: tuple[datetime, str] | None = None
    limit: int = 100
    within: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """`total` counts every match, on this page or not."""

    rows: list[R]
    total: int
    has_more: bool


class Rows(Protocol[R]):
    """One table, to read."""

    def get(self, key: str) -> R | None:
        """The record with that primary key."""
        ...

    def by(self, index: str, value: str) -> list[R]:
        """Every record whose `index` has that value, oldest first."""
        ...

    def upto(self, index: str, value: str, limit: int) -> list[R]:
        """Records whose `index` is at most that value, the least first.

        It may read the whole table, inside a transaction: never on the path of a job.
        """
        ...

    def page(self, query: Query) -> Page[R]:
        """One page. It may read the whole table: never on the path of a job."""
        ...

    def walk(self, query: Query) -> Iterator[R]:
        """What all pages from this one on hold together, looked up as it is walked: for exports."""
        ...

    def __iter__(self) -> Iterator[R]:
        """Every record, in no promised order."""
        ...


class Table(Rows[R], Protocol[R]):
    """One table, inside a transaction."""

    def put(self, record: R) -> None:
        """Insert the record, or replace the one with its primary key.

        Raises:
            Duplicate: another record holds a value that must be unique.
        """
        ...

    def delete(self, key: str) -> None:
        """Forget the record; nothing happens when there is none."""
        ...


class Duplicate(Exception):
    """A unique value is taken. `index` names it."""

    def __init__(self, index: str) -> None:
        super().__init__(index)
        self.index = index


class View(Protocol):
    """Every table as of the last durable change."""

    @property
    def clients(self) -> Rows[Client]: ...
    @property
    def accounts(self) -> Rows[Account]: ...
    @property
    def keys(self) -> Rows[Key]: ...
    @property
    def reservations(self) -> Rows[Reservation]: ...
    @property
    def spent(self) -> Rows[Spent]: ...
    @property
    def jobs(self) -> Rows[Job]: ...
    @property
    def recents(self) -> Rows[Recent]: ...
    @property
    def facts(self) -> Rows[Fact]: ...
    @property
    def subscriptions(self) -> Rows[Subscription]: ...
    @property
    def checkouts(self) -> Rows[Checkout]: ...
    @property
    def purchases(self) -> Rows[Purchase]: ...
    @property
    def invoices(self) -> Rows[Invoice]: ...
    @property
    def stripe_events(self) -> Rows[StripeEvent]: ...
    @property
    def stripe_calls(self) -> Rows[StripeCall]: ...


class Transaction(Protocol):
    """What an operation sees and changes. All of its changes happen, or none."""

    @property
    def clients(self) -> Table[Client]: ...
    @property
    def accounts(self) -> Table[Account]: ...
    @property
    def keys(self) -> Table[Key]: ...
    @property
    def reservations(self) -> Table[Reservation]: ...
    @property
    def spent(self) -> Table[Spent]: ...
    @property
    def jobs(self) -> Table[Job]: ...
    @property
    def recents(self) -> Table[Recent]: ...
    @property
    def facts(self) -> Table[Fact]: ...
    @property
    def subscriptions(self) -> Table[Subscription]: ...
    @property
    def checkouts(self) -> Table[Checkout]: ...
    @property
    def purchases(self) -> Table[Purchase]: ...
    @property
    def invoices(self) -> Table[Invoice]: ...
    @property
    def stripe_events(self) -> Table[StripeEvent]: ...
    @property
    def stripe_calls(self) -> Table[StripeCall]: ...

    def write_ledger(self, entry: LedgerEntry) -> None:
        """Append to the ledger, for ever."""
        ...

    def write_audit(self, entry: AuditEntry) -> None:
        """Append to the audit log, for ever."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryQuery:
    """A page of the ledger or the audit log, newest first. `before` is a position, exclusive."""

    client_id: str | None = None
    actor: str | None = None
    action: str | None = None
    kind: EntryKind | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class HistoryPage(Generic[E]):
    """`positions[i]` is where `entries[i]` stands: they grow with time and never change."""

    entries: list[E]
    positions: list[int]
    total: int
    has_more: bool


Operation: TypeAlias = Callable[[Transaction], T]
Settle: TypeAlias = Callable[[object, BaseException | None], None]


class StoreObserver(Protocol):
    """Told what the store did, from the thread that did it."""

    def flushed(self, operations: int, seconds: float, entries: list[LedgerEntry]) -> None:
        """One batch became durable, and with it these ledger entries."""
        ...

    def failed(self, reason: str) -> None:
        """A batch could not be made durable; its callers were told so."""
        ...


class StripeObserver(Protocol):
    """Told of what goes on with Stripe, from the loop where it does. Outcomes are words of a closed list."""

    def called(self, endpoint: str, outcome: str) -> None:
        """A call to Stripe ended."""
        ...

    def breaker(self, is_open: bool) -> None:
        """Whether calls are refused without being tried."""
        ...

    def event(self, kind: str, outcome: str) -> None:
        """An event was stored, refused, or settled; `kind` is its type, empty where nobody knows."""
        ...

    def backlog(self, waiting: int, lag_seconds: float, silence_seconds: float | None) -> None:
        """How many events wait, how old the oldest is, and how long ago any was stored."""
        ...


class NoStripeObserver:
    """Nobody listens."""

    def called(self, endpoint: str, outcome: str) -> None: ...
    def breaker(self, is_open: bool) -> None: ...
    def event(self, kind: str, outcome: str) -> None: ...
    def backlog(self, waiting: int, lag_seconds: float, silence_seconds: float | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Health:
    """Whether changes can be made now, and why not. `details` is for the operator only."""

    writable: bool
    reason: str = ""
    details: Mapping[str, str | int] = field(default_factory=dict)


class Store(Protocol):
    """Keeps records and runs operations, several in one durable batch.

    Opened before use and closed once; both may be called again. Every method may be called from any
    thread. An operation that raises changes nothing, and its error reaches its caller alone.
    """

    @property
    def view(self) -> View:
        """The last durable state, with what other processes on this machine had made durable by now."""
        ...

    def open(self) -> None:
        """Load. Raises `StartupError` where serving would be wrong."""
        ...

    def close(self) -> None:
        """Finish what waits, then let go of every file, connection and thread."""
        ...

    def run(self, operation: Operation[T], name: str) -> T:
        """Run one operation and return its answer once it is durable.

        Raises:
            StorageUnavailable: it could not be made durable; nothing was changed.
        """
        ...

    def submit(self, operation: Operation[T], name: str, settle: Settle) -> None:
        """Put an operation in the queue; `settle(answer, error)` is called once it is durable.

        Nothing happens before `flush_soon`; `settle` is called from the writer's thread.
        """
        ...

    def flush_soon(self) -> None:
        """Wake the writer: what was submitted shall become durable."""
        ...

    def flush(self) -> None:
        """The same from an event loop: where the store knows that to be quick, it waits for some milliseconds at most."""
        ...

    def ledger(self, query: HistoryQuery) -> HistoryPage[LedgerEntry]:
        """A page of the ledger.

        Raises:
            CorruptStore: the history is not as it was written.
        """
        ...

    def audit(self, query: HistoryQuery) -> HistoryPage[AuditEntry]:
        """The same of the audit log."""
        ...

    def walk_ledger(self, query: HistoryQuery) -> Iterator[LedgerEntry]:
        """What all pages from this one on hold together, read as it is walked: for exports."""
        ...

    def walk_audit(self, query: HistoryQuery) -> Iterator[AuditEntry]: ...

    def health(self) -> Health: ...


class Limiter(Protocol):
    """Counts calls by key and lets in what `gcra` says, whoever else counts the same key at the same moment.

    A key has one or two limits. A refused call is not counted. What a limiter cannot ask others about it
    judges alone, and says so in `Verdict.degraded`: it never raises for that and never waits for long.
    """

    async def take(self, key: str, limits: Sequence[Limit]) -> Verdict:
        """Judge one call, and count it if it is let in."""
        ...

    async def aclose(self) -> None:
        """Let go of files and connections; the next call opens them again."""
        ...


class LocalLimiter(Limiter, Protocol):
    """A limiter that nobody has to wait for."""

    @property
    def degraded(self) -> bool:
        """Whether it counts alone now what it should count with others."""
        ...

    def take_now(self, key: str, limits: Sequence[Limit], cost: int = 1) -> Verdict:
        """The same at once. With `cost=0` it is a look: could one call come? Nothing is counted."""
        ...

    def state_of(self, key: str) -> object:
        """What a look at the key is judged by, but for the moment: unless it changes, who could come still can.

        None where that is not known.
        """
        ...

    def close(self) -> None:
        """See `aclose`."""
        ...
