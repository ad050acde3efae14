"""History: pages of the ledger and the audit log, newest first, for the stores that read it line by line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from openclaw_billing.contracts import E, HistoryPage, HistoryQuery
from openclaw_billing.records import AuditEntry, LedgerEntry

PARTS: Mapping[type, str] = MappingProxyType({LedgerEntry: "ledger", AuditEntry: "audit"})
"""The part of a line that holds entries of a kind."""


class LineHistory(ABC):
    """The history of a store that reads it line by line."""

    @abstractmethod
    def entries(self, record: type[E], query: HistoryQuery) -> Iterator[tuple[int, E]]:
        """The entries of that kind that match, newest first, with their positions."""

    def ledger(self, query: HistoryQuery) -> HistoryPage[LedgerEntry]:
        return page_of_history(self.entries(LedgerEntry, query), query)

    def audit(self, query: HistoryQuery) -> HistoryPage[AuditEntry]:
        return page_of_history(self.entries(AuditEntry, query), query)

    def walk_ledger(self, query: HistoryQuery) -> Iterator[LedgerEntry]:
        return _walk(self.entries(LedgerEntry, query), query)

    def walk_audit(self, query: HistoryQuery) -> Iterator[AuditEntry]:
        return _walk(self.entries(AuditEntry, query), query)


def matches(entry: object, query: HistoryQuery) -> bool:
    """Whether the entry is asked for, its position aside."""
    for name in ("client_id", "actor", "action", "kind"):
        wanted = getattr(query, name)
        if wanted is not None and getattr(entry, name, None) != wanted:
            return False
    moment = getattr(entry, "time")  # noqa: B009 - both kinds of entry have one
    if query.since is not None and moment < query.since:
        return False
    return query.until is None or moment < query.until


def position_of(seq: int, index: int) -> int:
    """Where the entry `index` of line `seq` stands among all. A take-over may write a million in one line."""
    return (seq << 20) + index


def page_of_history(newest_first: Iterable[tuple[int, E]], query: HistoryQuery) -> HistoryPage[E]:
    """The page of those that match, counting all of them."""
    entries: list[E] = []
    positions: list[int] = []
    total = 0
    has_more = False
    for position, entry in newest_first:
        total += 1
        if query.before is not None and position >= query.before:
            continue
        if len(entries) == query.limit:
            has_more = True
            continue
        entries.append(entry)
        positions.append(position)
    return HistoryPage(entries, positions, total, has_more)


def _walk(newest_first: Iterable[tuple[int, E]], query: HistoryQuery) -> Iterator[E]:
    return (entry for position, entry in newest_first if query.before is None or position < query.before)
