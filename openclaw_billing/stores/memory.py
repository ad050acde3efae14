"""The memory store: for tests, a gateway's own included. Nothing outlives the process."""

from __future__ import annotations

import threading
import time
from typing import Any

from openclaw_billing.contracts import Health, HistoryPage, HistoryQuery, StoreObserver
from openclaw_billing.records import AuditEntry, LedgerEntry
from openclaw_billing.stores.group_commit import GroupCommit, Ticket
from openclaw_billing.stores.history import matches, page_of_history
from openclaw_billing.stores.tables import Base, Layer, LayeredTransaction


def run_tickets(tickets: list[Ticket], base: Base) -> tuple[Layer, list[tuple[Ticket, Layer]]]:
    """Run each ticket over the ones before it: the batch's changes, and those of each that changed anything."""
    batch = Layer()
    changed: list[tuple[Ticket, Layer]] = []
    for ticket in tickets:
        tx = LayeredTransaction(base, batch)
        try:
            ticket.answer = ticket.operation(tx)
        except Exception as error:  # noqa: BLE001 - an operation's error belongs to its caller, whatever it is
            ticket.error = error
            continue
        if not tx.layer.empty:
            batch.absorb(tx.layer)
            changed.append((ticket, tx.layer))
    return batch, changed


def entries_of(changed: list[tuple[Ticket, Layer]]) -> list[LedgerEntry]:
    """Every ledger entry of a batch, in order."""
    return [entry for _, layer in changed for entry in layer.ledger]


class MemoryStore(GroupCommit):
    def __init__(self, observer: StoreObserver | None = None) -> None:
        super().__init__()
        self.view = Base()
        self._observer = observer
        self._lines: list[tuple[list[LedgerEntry], list[AuditEntry]]] = []
        self._lock = threading.Lock()

    def open(self) -> None:
        """Nothing to load."""

    def close(self) -> None:
        self.drain()

    def commit(self, tickets: list[Ticket]) -> None:
        begun = time.perf_counter()
        batch, changed = run_tickets(tickets, self.view)
        with self._lock:
            batch.publish(self.view)
            self._lines.extend((layer.ledger, layer.audit) for _, layer in changed)
        if self._observer is not None:
            self._observer.flushed(len(tickets), time.perf_counter() - begun, entries_of(changed))

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
    return [((seq << 12) + index, entry) for index, entry in reversed(list(enumerate(entries)))]
