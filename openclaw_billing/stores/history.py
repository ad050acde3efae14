"""History: pages of the ledger and the audit log, newest first, for the stores that read it line by line."""

from __future__ import annotations

from collections.abc import Iterable

from openclaw_billing.contracts import E, HistoryPage, HistoryQuery


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
