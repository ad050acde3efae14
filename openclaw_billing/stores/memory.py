"""The memory store: for tests, a gateway's own included. Nothing outlives the process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from openclaw_billing.contracts import Health, HistoryPage, HistoryQuery, StoreObserver
from openclaw_billing.records import AuditEntry, LedgerEntry
from openclaw_billing.stores.group_commit import GroupCommit, Ticket
from openclaw_billing.stores.history import matches, page_of_history, position_of
from openclaw_billing.stores.layers import Asked, Layer, LayeredTransaction
from openclaw_billing.stores.tables import Base

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Ran:
    """A batch as it was run. Its tickets know of nothing before `tell`."""

    batch: Layer = field(default_factory=Layer)
    outcomes: list[tuple[Ticket, object, BaseException | None]] = field(default_factory=list)
    changed: list[tuple[Ticket, Layer]] = field(default_factory=list)
    written: list[tuple[str, str]] = field(default_factory=list)
    """For each ticket that changed anything its name, and the text of what it changed."""

    def is_of(self, tickets: list[Ticket]) -> bool:
        """Whether these tickets begin with the ones that were run."""
        return len(self.outcomes) <= len(tickets) and all(
            ran is ticket for (ran, _, _), ticket in zip(self.outcomes, tickets, strict=False)
        )

    def tell(self) -> None:
        for ticket, answer, error in self.outcomes:
            ticket.answer, ticket.error = answer, error


def run_tickets(
    tickets: list[Ticket],
    base: Base,
    write: Callable[[Layer], str] = lambda _layer: "",
    *,
    asked: Asked | None = None,
    after: Ran | None = None,
) -> Ran:
    """Run each ticket over the ones before it, and those of `after`, whose tickets they follow in one batch.

    `write` makes the text of what an operation changed; what cannot be written is that operation's failure.
    `asked` notes at which rows they looked.
    """
    ran = after or Ran()
    tx = LayeredTransaction(base, ran.batch, asked)
    for ticket in tickets:
        tx.begin()
        layer = tx.layer
        try:
            answer = ticket.operation(tx)
            text = "" if layer.empty else write(layer)
        except Exception as error:  # noqa: BLE001 - an operation's error belongs to its caller, whatever it is
            ran.outcomes.append((ticket, None, error))
            continue
        ran.outcomes.append((ticket, answer, None))
        if not layer.empty:
            ran.batch.absorb(layer)
            ran.changed.append((ticket, layer))
            ran.written.append((ticket.name, text))
    return ran


def numbers_are_new(ran: Ran, base: Base) -> bool:
    """Whether no ledger entry of the batch has a number that its client's account has counted already.

    The second half of the assertion that a charge is over the newest account: PostgreSQL has it as UNIQUE.
    """
    counted: dict[str, int] = {}
    for _, layer in ran.changed:
        for entry in layer.ledger:
            client_id = entry.client_id
            before = counted.get(client_id)
            if before is None:
                account = base.accounts.get(client_id)
                before = 0 if account is None else account.entries
            if entry.number <= before:
                return False
            counted[client_id] = entry.number
    return True


def observed(
    observer: StoreObserver | None, operations: int, seconds: float, changed: list[tuple[Ticket, Layer]]
) -> None:
    """Tell the observer of a durable batch. What it makes of that cannot undo the batch."""
    if observer is None:
        return
    try:
        observer.flushed(operations, seconds, [entry for _, layer in changed for entry in layer.ledger])
    except Exception:
        log.exception("The store's observer failed")


class MemoryStore(GroupCommit):
    def __init__(self, observer: StoreObserver | None = None) -> None:
        super().__init__()
        self.view = Base()
        self._observer = observer
        self._lines: list[tuple[list[LedgerEntry], list[AuditEntry]]] = []
        self._lock = threading.Lock()

    def open(self) -> None:
        """Nothing to load."""
        self.resume()

    def close(self) -> None:
        self.drain()

    def commit(self, tickets: list[Ticket]) -> Callable[[], None]:
        begun = time.perf_counter()
        ran = run_tickets(tickets, self.view)
        assert numbers_are_new(ran, self.view)
        with self._lock:
            ran.batch.publish(self.view)
            self._lines.extend((layer.ledger, layer.audit) for _, layer in ran.changed)
        ran.tell()
        return partial(observed, self._observer, len(tickets), time.perf_counter() - begun, ran.changed)

    def ledger(self, query: HistoryQuery) -> HistoryPage[LedgerEntry]:
        return self._history(0, query)

    def audit(self, query: HistoryQuery) -> HistoryPage[AuditEntry]:
        return self._history(1, query)

    def health(self) -> Health:
        return Health(writable=True)

    def _history(self, which: int, query: HistoryQuery) -> HistoryPage[Any]:
        with self._lock:
            lines = list(self._lines)
        newest_first = (
            (position, entry)
            for seq in range(len(lines) - 1, -1, -1)
            for position, entry in numbered(seq, lines[seq][which])
            if matches(entry, query)
        )
        return page_of_history(newest_first, query)


def numbered(seq: int, entries: list[Any]) -> list[tuple[int, Any]]:
    """The entries of one line, newest first, each with its position."""
    return [(position_of(seq, index), entry) for index, entry in reversed(list(enumerate(entries)))]
