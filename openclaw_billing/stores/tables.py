"""Tables in memory: the last durable state.

A row loaded from disk stays the bytes it was until somebody asks for it: loading is quick, a client costs
less than three kilobytes, and the garbage collector has nothing to walk.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, Generic, TypeVar

from openclaw_billing.contracts import Page, Query
from openclaw_billing.stores.codec import from_row, parsed
from openclaw_billing.stores.packing import row_of, values_of
from openclaw_billing.stores.schema import TABLES, TableSpec

R = TypeVar("R")


class BaseTable(Generic[R]):
    """One table's durable rows with its indexes. Written by one thread, read by any."""

    def __init__(self, spec: TableSpec, guard: threading.Lock) -> None:
        self.spec = spec
        self.guard = guard
        self.rows: dict[str, R | bytes] = {}
        self.indexes: dict[str, dict[str, str | dict[str, None]]] = {name: {} for name in spec.indexes}
        self._value_of = tuple(spec.indexes.values())

    def get(self, key: str) -> R | None:
        row = self.rows.get(key)
        if type(row) is bytes:
            return self._unpack(key, row)
        return row  # type: ignore[return-value]

    def by(self, index: str, value: str) -> list[R]:
        found = [row for key in self.keys_by(index, value) if (row := self.get(key)) is not None]
        return oldest_first(found, self.spec)

    def keys_by(self, index: str, value: str) -> list[str]:
        found = self.indexes[index].get(value)
        if found is None:
            return []
        return [found] if isinstance(found, str) else list(found)

    def upto(self, index: str, value: str, limit: int) -> list[R]:
        values = heapq.nsmallest(limit, [each for each in list(self.indexes[index]) if each <= value])
        keys = (key for each in values for key in self.keys_by(index, each))
        return list(islice((row for key in keys if (row := self.get(key)) is not None), limit))

    def page(self, query: Query) -> Page[R]:
        return page_of(self, query, self.spec)

    def walk(self, query: Query) -> Iterator[R]:
        return walk_of(self, query, self.spec)

    def __iter__(self) -> Iterator[R]:
        for key in list(self.rows):
            if (row := self.get(key)) is not None:
                yield row

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, key: str, values: list[str], packed: bytes) -> None:
        """Take in a row as it stands on disk: the values of its indexes, then its JSON, tabs between."""
        self.rows[key] = packed
        for name, value in zip(self.indexes, values, strict=True):
            if value:
                self._index(name, value, key)

    def replace_all(self, rows: Mapping[str, R | bytes | None], packed: Mapping[int, bytes]) -> None:
        """Put each row there, packed or not; None takes what is there away. See `Layer.packed`."""
        if self.indexes:
            for key, row in rows.items():
                self._reindex(key, row)
        with self.guard:
            mine = self.rows
            for key, row in rows.items():
                if row is None:
                    mine.pop(key, None)
                else:
                    mine[key] = packed.get(id(row), row)

    def _reindex(self, key: str, row: R | bytes | None) -> None:
        before = self.rows.get(key)
        if before is None:
            for name, new in zip(self.indexes, self._values(row), strict=True):
                if new is not None:
                    self._index(name, new, key)
            return
        for name, old, new in zip(self.indexes, self._values(before), self._values(row), strict=True):
            if old != new:
                self._move(name, key, old, new)

    def _values(self, row: R | bytes | None) -> list[str | None]:
        if row is None:
            return [None] * len(self.indexes)
        if type(row) is bytes:
            return values_of(row, len(self.indexes))
        return [value_of(row) for value_of in self._value_of]

    def unpacked(self, packed: bytes) -> R:
        """The record that was loaded as these bytes."""
        record: R = from_row(self.spec.record, parsed(row_of(packed, len(self.indexes))))
        return record

    def pack(self, key: str, record: R, packed: bytes) -> None:
        """Keep these bytes, which `load` would take, in place of that version of the row."""
        with self.guard:
            if self.rows.get(key) is record:
                self.rows[key] = packed

    def _unpack(self, key: str, packed: bytes) -> R:
        record = self.unpacked(packed)
        # The writer may have replaced the row meanwhile: only the bytes we read may give way.
        with self.guard:
            if self.rows.get(key) is packed:
                self.rows[key] = record
        return record

    def _move(self, name: str, key: str, old: str | None, new: str | None) -> None:
        if old is not None:
            found = self.indexes[name].get(old)
            if isinstance(found, dict):
                found.pop(key, None)
                if not found:
                    del self.indexes[name][old]
            elif found == key:
                del self.indexes[name][old]
        if new is not None:
            self._index(name, new, key)

    def _index(self, name: str, value: str, key: str) -> None:
        index = self.indexes[name]
        found = index.get(value)
        if found is None:
            index[value] = key
        elif isinstance(found, dict):
            found[key] = None
        elif found != key:
            index[value] = {found: None, key: None}


def oldest_first(found: list[R], spec: TableSpec) -> list[R]:
    if len(found) > 1:
        found.sort(key=lambda row: (getattr(row, spec.newest_by), spec.key_of(row)))
    return found


def page_of(rows: Any, query: Query, spec: TableSpec) -> Page[Any]:
    """The page that `query` asks for, from rows that can be walked and looked up by index."""
    wanted = list(_wanted(rows, query, spec))
    wanted.sort(key=lambda row: (getattr(row, spec.newest_by), spec.key_of(row)), reverse=True)
    total = len(wanted)
    if query.after is not None:
        wanted = [row for row in wanted if (getattr(row, spec.newest_by), spec.key_of(row)) < query.after]
    return Page(wanted[: query.limit], total, len(wanted) > query.limit)


def walk_of(rows: Any, query: Query, spec: TableSpec) -> Iterator[Any]:
    """The rows behind `query.after`, each looked up when its turn comes: only where they stand is kept."""
    places = [(getattr(row, spec.newest_by), spec.key_of(row)) for row in _wanted(rows, query, spec)]
    places.sort(reverse=True)
    for place in places:
        if query.after is None or place < query.after:
            row = rows.get(place[1])
            if row is not None:
                yield row


def _wanted(rows: Any, query: Query, spec: TableSpec) -> Iterator[Any]:
    owner = query.equals.get("client_id")
    walk = rows.by("client", owner) if isinstance(owner, str) and "client" in spec.indexes else rows
    walk = walk if query.within is None else rows.by(*query.within)
    return (row for row in walk if _matches(row, query, spec))


def _matches(row: object, query: Query, spec: TableSpec) -> bool:
    for name, value in query.equals.items():
        if getattr(row, name) != value:
            return False
    moment: datetime | str = getattr(row, spec.newest_by)
    if isinstance(moment, datetime):
        if query.since is not None and moment < query.since:
            return False
        if query.until is not None and moment >= query.until:
            return False
    if not query.text:
        return True
    text = query.text.casefold()
    return any(text in str(getattr(row, name)).casefold() for name in query.text_fields)


class Base:
    """Every table's durable rows."""

    def __init__(self) -> None:
        guard = threading.Lock()
        self.tables: dict[str, BaseTable[Any]] = {
            name: BaseTable(spec, guard) for name, spec in TABLES.items()
        }
        for name, table in self.tables.items():
            setattr(self, name, table)

    def forget_threads(self) -> None:
        """In a forked child: a thread that is not here may have held the guard."""
        guard = threading.Lock()
        for table in self.tables.values():
            table.guard = guard

    clients: BaseTable[Any]
    accounts: BaseTable[Any]
    keys: BaseTable[Any]
    reservations: BaseTable[Any]
    spent: BaseTable[Any]
    jobs: BaseTable[Any]
    recents: BaseTable[Any]
    facts: BaseTable[Any]
    subscriptions: BaseTable[Any]
    checkouts: BaseTable[Any]
    purchases: BaseTable[Any]
    invoices: BaseTable[Any]
    stripe_events: BaseTable[Any]
    stripe_calls: BaseTable[Any]
