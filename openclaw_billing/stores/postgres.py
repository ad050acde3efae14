"""The PostgreSQL store: for several gateways, on one machine or many, that share one database.

Each gateway commits what waits in it as one transaction; the rows that an operation reads are locked until
then, so what it decided upon is still true when it becomes durable. How is told in `postgres_batch.py`.
"""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from openclaw_billing.contracts import Health, HistoryPage, HistoryQuery, StoreObserver
from openclaw_billing.errors import StartupError, StorageUnavailable
from openclaw_billing.records import AuditEntry, LedgerEntry
from openclaw_billing.stores.forks import survive_forks
from openclaw_billing.stores.group_commit import GroupCommit, Ticket
from openclaw_billing.stores.layers import Layer
from openclaw_billing.stores.memory import observed
from openclaw_billing.stores.postgres_batch import Appeared, InDoubt, Run, Wish, announced
from openclaw_billing.stores.postgres_guess import Guess, Memory
from openclaw_billing.stores.postgres_line import Line, connect, driver, first_line, unanswered
from openclaw_billing.stores.postgres_schema import check_version
from openclaw_billing.stores.postgres_sql import sql
from openclaw_billing.stores.postgres_view import Kept, PostgresView, history_page, history_walk
from openclaw_billing.stores.schema import FILLING, MOVED

log = logging.getLogger(__name__)

RETRIES_MAX = 3
CONTENDED_SECONDS_MAX = 2.0
"""How long one operation that others are in the way of is tried before it is refused."""
DOUBT_SECONDS_MAX = 2.0
"""How long the callers of a batch whose commit nobody answered wait to hear whether it came about."""

# Serialization failure, deadlock, lock not available; and a unique value that another wrote first.
UNIQUE = "23505"
CONTENDED = frozenset({"40001", "40P01", "55P03", UNIQUE})
# Out of resources, an operator's or a time limit's doing, a standby, failures of the system itself.
UNAVAILABLE = ("53", "57", "58", "25006", "08", "XX")

Changed = list[tuple[Ticket, Layer]]

_INHERITED: list[Line] = []


class RecordRefused(Exception):
    """The database's own rules refused what an operation wrote: the operation has a fault."""


class PostgresStore(GroupCommit):
    """See `contracts.Store`."""

    def __init__(
        self, url: str, *, observer: StoreObserver | None = None, keys_seconds_away: float = 0.0
    ) -> None:
        """`keys_seconds_away`: how old a key may be that is believed while the database is away."""
        super().__init__()
        driver()
        self.url = url
        self._observer = observer
        self._kept = Kept(keys_seconds_away)
        self._line = Line(url, self._kept.hear, self._kept.prove)
        self.view = PostgresView(self._line, self._kept)
        self._version = self._folding = ""
        self._last_batch = ""
        self._memory = Memory()
        self._doubts: list[tuple[str, Changed]] = []
        self._opened = False
        survive_forks(self)

    # Reading

    def ledger(self, query: HistoryQuery) -> HistoryPage[LedgerEntry]:
        return history_page(self._line, "ledger", LedgerEntry, query)

    def audit(self, query: HistoryQuery) -> HistoryPage[AuditEntry]:
        return history_page(self._line, "audit", AuditEntry, query)

    def walk_ledger(self, query: HistoryQuery) -> Iterator[LedgerEntry]:
        return history_walk(self._line, "ledger", query)

    def walk_audit(self, query: HistoryQuery) -> Iterator[AuditEntry]:
        return history_walk(self._line, "audit", query)

    def health(self) -> Health:
        reason = self._line.away or self._line.moved
        return Health(writable=not reason, reason=reason, details={"schema": self._version})

    # Opening and closing

    def open(self) -> None:
        if self._opened:
            return
        psycopg = driver()
        try:
            with connect(self.url) as connection:
                self._version = check_version(connection)
                [schema] = connection.execute("SELECT current_schema()").fetchone()
                folding = connection.execute(sql("folding")).fetchone()
                _check_whole(connection)
                connection.execute(sql("old batches"))
        except psycopg.Error as error:
            raise StartupError(f"The database cannot be used: {first_line(error)}") from error
        self._folding = "" if folding is None else folding[0]
        self.view.fold_with(self._folding)
        self._line.open(f"openclaw_billing_{schema}")
        self._opened = True
        self.resume()

    def close(self) -> None:
        if not self._opened:
            return
        self.drain()
        # Whoever still holds the turn is using the connection.
        with self._turn:
            self._opened = False
            self._line.close()
            self._kept.hear(None)
            self._memory.forget()

    # Writing

    def commit(self, tickets: list[Ticket]) -> Callable[[], None] | None:
        begun = time.perf_counter()
        try:
            self._settle_doubts()
            changed = self._commit(tickets)
        except StorageUnavailable as error:
            self._refuse(tickets, first_line(error.__cause__ or error))
            return None
        except BaseException:
            # Nobody knows what state its transaction is in.
            self._line.drop_writer()
            raise
        seconds = time.perf_counter() - begun
        return partial(observed, self._observer, len(tickets), seconds, changed)

    def _commit(self, tickets: list[Ticket]) -> Changed:
        """Run the tickets in one transaction; what changed.

        Raises:
            StorageUnavailable
        """
        psycopg = driver()
        if (changed := self._guessed(tickets)) is not None:
            return changed
        known: set[Wish] = set()
        taken: Exception | None = None
        attempt, deadline = 0, time.monotonic() + CONTENDED_SECONDS_MAX
        while True:
            connection = self._line.writer()
            run = Run(connection, tickets)
            try:
                run.go(known)
                return self._finish(run)
            except (psycopg.Error, Appeared, ValueError, TypeError) as error:
                known = run.reads.known
                if not self._may_retry(connection, error):
                    return self._one_by_one(tickets, error)
                taken = error if getattr(error, "sqlstate", None) == UNIQUE else None
            attempt += 1
            waits = len(tickets) == 1 and taken is None and time.monotonic() < deadline
            if attempt > RETRIES_MAX and not waits:
                return self._one_by_one(tickets, taken)
            time.sleep(random.uniform(0, 0.005 * 2 ** min(attempt, RETRIES_MAX)))  # noqa: S311 - no secret

    def _guessed(self, tickets: list[Ticket]) -> Changed | None:
        """What changed, if all could be guessed and was guessed right.

        Raises:
            StorageUnavailable
        """
        if not self._memory.may_guess():
            return None
        connection = self._line.writer()
        guess = Guess(connection, tickets, self._memory)
        if not guess.runs():
            return None
        batch_id, right = secrets.token_hex(16), False
        try:
            right = guess.holds(batch_id, self._last_batch)
            if guess.changed:
                self._last_batch = batch_id
        except InDoubt as doubt:
            right = self._learn(batch_id, doubt)
        except (driver().Error, ValueError, TypeError) as error:
            self._may_retry(connection, error)
        self._memory.was_right(right, guess.keys)
        return guess.changed if right else None

    def _finish(self, run: Run) -> Changed:
        if not run.changed:
            run.end()
            return []
        batch_id = secrets.token_hex(16)
        try:
            self._memory.keep(run.batch, run.commit(batch_id, self._last_batch, self._line.channel))
            self._last_batch = batch_id
        except InDoubt as doubt:
            if not self._learn(batch_id, doubt):
                raise Appeared from doubt
        for word in announced(run.batch):
            # Here at once, elsewhere when the word arrives.
            self._kept.hear(word)
        return run.changed

    def _may_retry(self, connection: Any, error: Exception) -> bool:
        """End the failed attempt; whether another may succeed.

        Raises:
            StorageUnavailable: none can.
        """
        if isinstance(error, unanswered()):
            self._line.lose(first_line(error))
        lost = connection.closed
        if not lost:
            with contextlib.suppress(driver().Error):
                # Waited for, so that the next attempt meets no locks of this one.
                connection.execute("ROLLBACK")
        # psycopg takes for prepared what a pipeline that failed has skipped.
        self._line.drop_writer()
        if lost:
            return True
        state = getattr(error, "sqlstate", None) or ""
        if state.startswith(UNAVAILABLE):
            raise StorageUnavailable from error
        return isinstance(error, Appeared) or state in CONTENDED

    def _one_by_one(self, tickets: list[Ticket], error: Exception | None) -> Changed:
        """One of the operations is at fault, or in the way: the others shall not suffer for it."""
        if len(tickets) > 1:
            return [each for ticket in tickets for each in self._alone(ticket)]
        if error is None:
            raise StorageUnavailable
        [ticket] = tickets
        log.error("The database refused what %s wrote: %s", ticket.name, first_line(error))
        refused = RecordRefused(first_line(error))
        refused.__cause__ = error
        ticket.answer, ticket.error = None, refused
        return []

    def _alone(self, ticket: Ticket) -> Changed:
        try:
            return self._commit([ticket])
        except StorageUnavailable as error:
            self._refuse([ticket], first_line(error.__cause__ or error))
            return []

    def _refuse(self, tickets: list[Ticket], reason: str) -> None:
        # That the database is away was said when it went; one line for each caller since would bury it.
        log.log(
            logging.DEBUG if self._line.away else logging.ERROR,
            "A batch of %d was refused: %s",
            len(tickets),
            reason,
        )
        for ticket in tickets:
            ticket.answer, ticket.error = None, StorageUnavailable()
        if self._observer is not None:
            self._observer.failed(reason)

    # Doubt

    def _learn(self, batch_id: str, doubt: InDoubt) -> bool:
        """The same once the connection is gone, with what follows from it."""
        self._line.drop_writer()
        # Which versions its rows have is not known.
        self._memory.forget()
        came = self._came_about(batch_id, doubt)
        if came:
            self._last_batch = batch_id
        return came

    def _came_about(self, batch_id: str, doubt: InDoubt) -> bool:
        """Whether a commit that nobody answered came about; if not, it never will.

        Raises:
            StorageUnavailable: the database stays away. It is asked again before the next batch.
        """
        deadline = time.monotonic() + DOUBT_SECONDS_MAX
        if isinstance(doubt.__cause__, unanswered()):
            # They have waited already.
            self._line.lose(first_line(doubt.__cause__))
            deadline = 0.0
        while time.monotonic() < deadline:
            try:
                with connect(self.url) as connection:
                    return self._fence(connection, batch_id)
            except driver().Error as error:
                log.warning("Whether a batch was committed cannot be known yet: %s", first_line(error))
                time.sleep(0.05)
        self._doubts.append((batch_id, doubt.changed))
        raise StorageUnavailable from doubt

    def _fence(self, connection: Any, batch_id: str) -> bool:
        # Waits for a transaction that is still at work on the server, and bars one that is not there yet.
        barred = connection.execute(sql("fence"), {"batch_id": batch_id}).fetchone()
        log.warning("A batch in doubt %s committed", "was not" if barred else "was")
        return barred is None

    def _settle_doubts(self) -> None:
        """Find out about batches whose callers could not be told. Their ids keep what they did single."""
        while self._doubts:
            batch_id, changed = self._doubts[0]
            try:
                came = self._fence(self._line.writer(), batch_id)
            except driver().Error as error:
                self._line.drop_writer()
                raise StorageUnavailable from error
            self._doubts.pop(0)
            if came:
                self._kept.hear(None)
                self._memory.forget()
                observed(self._observer, len(changed), 0.0, changed)

    # Forking

    def after_fork_in_child(self) -> None:
        """The connections and threads are the parent's."""
        inherited, self._kept = self._line, Kept(self._kept.away_seconds_max)
        # Kept alive: what closes it here would close it there.
        _INHERITED.append(inherited)
        self.forget_threads()
        self._doubts = []
        self._memory.forget()
        self._line = Line(self.url, self._kept.hear, self._kept.prove)
        self.view = PostgresView(self._line, self._kept)
        self.view.fold_with(self._folding)
        if self._opened:
            self._line.open(inherited.channel)


def _check_whole(connection: Any) -> None:
    found = dict(connection.execute(sql("own facts"), {"names": [FILLING, MOVED]}).fetchall())
    if FILLING in found:
        raise StartupError("A move into this database is not finished: run `move` again")
    if MOVED in found:
        raise StartupError(f"The store in this database was moved to {found[MOVED]}: use that")
