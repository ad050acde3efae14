"""Reading PostgreSQL outside of transactions: the durable state, and clients and keys kept for a moment.

A kept row is forgotten when another gateway says that it changed it, and when nobody has proved for a second
that such words arrive: so a revocation is known everywhere within a second, even where the word of it was lost.
What is changed by hand, in SQL, nobody tells of: no row is kept for longer than ten.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from openclaw_billing.contracts import E, HistoryPage, HistoryQuery, Page, Query
from openclaw_billing.errors import StorageUnavailable
from openclaw_billing.stores.postgres_batch import ANNOUNCED, EVERYTHING, keepable
from openclaw_billing.stores.postgres_line import Line
from openclaw_billing.stores.postgres_sql import columns_of, filled, quoted_name, record_of, sql, unpacked
from openclaw_billing.stores.schema import TABLES, TableSpec
from openclaw_billing.stores.tables import oldest_first

R = TypeVar("R")

AGE_SECONDS_MAX = 1.0
"""How old may be what proves a row: the reading of it, or an answer on the line that carries the words."""
KEPT_SECONDS_MAX = 10.0
KEPT_MAX = 50_000
WALKED_AT_ONCE = 5_000


class Kept:
    """Rows of a few tables, each proved within the last second."""

    def __init__(self, away_seconds_max: float = 0.0) -> None:
        self.away_seconds_max = away_seconds_max
        """How old a row may be that is believed because the database does not answer."""
        self._rows: dict[tuple[str, str], tuple[float, Any]] = {}
        self._guard = threading.Lock()
        self._changes = 0
        self._proved_at = float("-inf")

    def get(self, name: str, key: str) -> Any:
        found = self._rows.get((name, key))
        if found is None:
            return None
        read_at, now = found[0], time.monotonic()
        if now - read_at <= AGE_SECONDS_MAX:
            return found[1]
        proved = now - self._proved_at <= AGE_SECONDS_MAX and now - read_at <= KEPT_SECONDS_MAX
        return found[1] if proved else None

    def prove(self, moment: float) -> None:
        """Every word that was given until that moment has been heard."""
        self._proved_at = moment

    def believed(self, name: str, key: str) -> Any:
        """The row while the database is away."""
        found = self._rows.get((name, key))
        if found is None or time.monotonic() - found[0] > self.away_seconds_max:
            return None
        return found[1]

    def changes(self) -> int:
        """How often rows were forgotten: to be asked before a row is read that shall be kept."""
        return self._changes

    def keep(self, name: str, key: str, record: Any, read_at: float, changes: int) -> None:
        """Keep a row, unless what was read may have been forgotten meanwhile."""
        with self._guard:
            if changes != self._changes:
                return
            self._rows.pop((name, key), None)
            if len(self._rows) >= KEPT_MAX:
                # The one that was read longest ago.
                del self._rows[next(iter(self._rows))]
            self._rows[name, key] = (read_at, record)

    def hear(self, word: str | None) -> None:
        """Another gateway's word of a change; None where some may have been missed."""
        with self._guard:
            self._changes += 1
            if word is None or word == EVERYTHING:
                self._rows.clear()
                return
            name, _, key = word.partition(" ")
            self._rows.pop((name, key), None)


class ViewTable(Generic[R]):
    """See `contracts.Rows`."""

    def __init__(self, spec: TableSpec, line: Line, kept: Kept) -> None:
        self.spec, self._line, self._kept = spec, line, kept
        self._moments = any(
            field.name == spec.newest_by and field.type == "datetime"
            for field in dataclasses.fields(spec.record)
        )
        self.folding = ""

    def get(self, key: str) -> R | None:
        name = self.spec.name
        if not keepable(key):
            return None
        if name not in ANNOUNCED:
            return self._read_one(key)
        found: R | None = self._kept.get(name, key)
        if found is None:
            changes, read_at = self._kept.changes(), time.monotonic()
            try:
                found = self._read_one(key)
            except StorageUnavailable:
                found = self._kept.believed(name, key)
                if found is None:
                    raise
                return found
            if found is not None:
                self._kept.keep(name, key, found, read_at, changes)
        return found

    def by(self, index: str, value: str) -> list[R]:
        if not keepable(value):
            return []
        rows = self._line.read(sql("by", self.spec.name, index), {"value": value})
        return oldest_first([unpacked(self.spec.name, row) for (row,) in rows], self.spec)

    def upto(self, index: str, value: str, limit: int) -> list[R]:
        rows = self._line.read(sql("up to", self.spec.name, index), {"value": value, "limit": limit})
        return [unpacked(self.spec.name, row) for (row,) in rows]

    def page(self, query: Query) -> Page[R]:
        wanted, values = self._wanted(query)
        [(total,)] = self._line.read(filled("count", self.spec.name, wanted), values)
        found = self._rows_behind(query, query.limit + 1)
        return Page(found[: query.limit], total, len(found) > query.limit)

    def walk(self, query: Query) -> Iterator[R]:
        while True:
            found = self._rows_behind(query, WALKED_AT_ONCE)
            yield from found
            if len(found) < WALKED_AT_ONCE:
                return
            last = found[-1]
            query = dataclasses.replace(
                query, after=(getattr(last, self.spec.newest_by), self.spec.key_of(last))
            )

    def __iter__(self) -> Iterator[R]:
        after = ""
        while True:
            values = {"after": after, "limit": WALKED_AT_ONCE}
            rows = self._line.read(sql("some", self.spec.name), values)
            for _, row in rows:
                yield unpacked(self.spec.name, row)
            if len(rows) < WALKED_AT_ONCE:
                return
            after = rows[-1][0]

    def _rows_behind(self, query: Query, limit: int) -> list[R]:
        """So many rows of the query, newest first, from behind `query.after` on."""
        name = self.spec.name
        wanted, values = self._wanted(query)
        if query.after is not None:
            newest, key = quoted_name(self.spec.newest_by), quoted_name(self.spec.primary_key)
            wanted.append(f"({newest}, {key}) < (%(after_newest)s, %(after_key)s)")
            values["after_newest"], values["after_key"] = query.after
        rows = self._line.read(filled("page", name, wanted), {**values, "limit": limit})
        return [unpacked(name, row) for (row,) in rows]

    def _read_one(self, key: str) -> R | None:
        rows = self._line.read(sql("get", self.spec.name), {"key": key})
        return unpacked(self.spec.name, rows[0][0]) if rows else None

    def _wanted(self, query: Query) -> tuple[list[str], dict[str, Any]]:
        """The conditions, and their values."""
        wanted: list[str] = []
        values: dict[str, Any] = {}
        for place, (name, value) in enumerate(query.equals.items()):
            assert name in columns_of(self.spec.name), name
            if value is None:
                wanted.append(f"{quoted_name(name)} IS NULL")
                continue
            values[f"equals_{place}"] = value if isinstance(value, bool) else str(value)
            column = "by_client" if name == "client_id" and "client" in self.spec.indexes else name
            wanted.append(f"{quoted_name(column)} = %(equals_{place})s")
        if query.within is not None:
            index, values["within"] = query.within
            assert index in self.spec.indexes, index
            wanted.append(f"by_{index} = %(within)s")
        if query.text:
            values["text"] = query.text
            fold = f" COLLATE {self.folding}" if self.folding else ""
            each = [
                f"position(lower(%(text)s::text{fold}) IN lower({quoted_name(name)}{fold})) > 0"
                for name in query.text_fields
                if name in columns_of(self.spec.name)
            ]
            wanted.append(f"({' OR '.join(each) or 'false'})")
        if self._moments:
            wanted += _between(self.spec.newest_by, query, values)
        return wanted, values


class PostgresView:
    """See `contracts.View`."""

    def __init__(self, line: Line, kept: Kept) -> None:
        self._line, self._kept = line, kept
        self.tables: dict[str, ViewTable[Any]] = {
            name: ViewTable(spec, line, kept) for name, spec in TABLES.items()
        }
        for name, table in self.tables.items():
            setattr(self, name, table)

    def at_hand(self, digests: list[str]) -> bool:
        """Whether nobody waits for the database who asks for the key with one of these digests."""
        return bool(self._line.away) or any(self._kept.get("keys", each) for each in digests)

    def fold_with(self, collation: str) -> None:
        """Compare searched text as this collation folds it."""
        for table in self.tables.values():
            table.folding = collation

    clients: ViewTable[Any]
    accounts: ViewTable[Any]
    keys: ViewTable[Any]
    reservations: ViewTable[Any]
    spent: ViewTable[Any]
    jobs: ViewTable[Any]
    recents: ViewTable[Any]
    facts: ViewTable[Any]
    subscriptions: ViewTable[Any]
    checkouts: ViewTable[Any]
    purchases: ViewTable[Any]
    invoices: ViewTable[Any]
    stripe_events: ViewTable[Any]
    stripe_calls: ViewTable[Any]


def history_page(line: Line, name: str, kind: type[E], query: HistoryQuery) -> HistoryPage[E]:
    """A page of the ledger or the audit log."""
    assert record_of(name) is kind
    wanted, values = _wanted_of_history(name, query)
    [(total,)] = line.read(filled("count", name, wanted), values)
    found = _entries_before(line, name, query, query.limit + 1)
    shown = found[: query.limit]
    return HistoryPage(
        [entry for _, entry in shown], [position for position, _ in shown], total, len(found) > query.limit
    )


def history_walk(line: Line, name: str, query: HistoryQuery) -> Iterator[Any]:
    """All of the ledger or the audit log that is asked for, newest first."""
    while True:
        found = _entries_before(line, name, query, WALKED_AT_ONCE)
        yield from (entry for _, entry in found)
        if len(found) < WALKED_AT_ONCE:
            return
        query = dataclasses.replace(query, before=found[-1][0])


def _entries_before(line: Line, name: str, query: HistoryQuery, limit: int) -> list[tuple[int, Any]]:
    """So many entries of the query, newest first, from before `query.before` on, with their positions."""
    wanted, values = _wanted_of_history(name, query)
    if query.before is not None:
        wanted.append("position < %(before)s")
        values["before"] = query.before
    rows = line.read(filled("history", name, wanted), {**values, "limit": limit})
    return [(row.pop("position"), unpacked(name, row)) for (row,) in rows]


def _wanted_of_history(name: str, query: HistoryQuery) -> tuple[list[str], dict[str, Any]]:
    """The conditions, and their values."""
    wanted, values = [], dict[str, Any]()
    for each in ("client_id", "actor", "action", "kind"):
        value = getattr(query, each)
        if value is None:
            continue
        known = each in columns_of(name) and keepable(value)
        wanted.append(f"{quoted_name(each)} = %({each})s" if known else "false")
        values[each] = str(value) if known else ""
    return [*wanted, *_between("time", query, values)], values


def _between(column: str, query: Query | HistoryQuery, values: dict[str, Any]) -> list[str]:
    wanted = []
    for name, comparison in (("since", ">="), ("until", "<")):
        moment = getattr(query, name)
        if moment is not None:
            wanted.append(f"{quoted_name(column)} {comparison} %({name})s")
            values[name] = moment
    return wanted
