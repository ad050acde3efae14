"""Layers: what a batch and each of its operations change, laid over the durable rows until they are durable too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any, Generic, TypeVar

from openclaw_billing.contracts import Duplicate, Page, Query
from openclaw_billing.records import AuditEntry, LedgerEntry
from openclaw_billing.stores.schema import TABLES
from openclaw_billing.stores.tables import Base, BaseTable, oldest_first, page_of, walk_of

R = TypeVar("R")


class Layer:
    """Changes laid over a base, or over another layer: `puts[table][key]` is a record, packed or not, or None where deleted."""

    __slots__ = ("audit", "claims", "ledger", "packed", "puts", "wrote")

    def __init__(self) -> None:
        self.puts: dict[str, dict[str, Any]] = {}
        self.claims: dict[tuple[str, str, str], str | None] = {}
        self.ledger: list[LedgerEntry] = []
        self.audit: list[AuditEntry] = []
        self.wrote = False
        self.packed: dict[int, bytes] = {}
        """Records of the past by their `id`, which lasts as long as the layer, as the bytes to keep of them."""

    @property
    def empty(self) -> bool:
        return not (self.puts or self.ledger or self.audit or self.wrote)

    def absorb(self, other: Layer) -> None:
        for name, rows in other.puts.items():
            mine = self.puts.get(name)
            if mine is None:
                # A copy: what later operations put must not appear in this one's journal line.
                self.puts[name] = dict(rows)
            else:
                mine.update(rows)
        if other.claims:
            self.claims.update(other.claims)
        if other.packed:
            self.packed.update(other.packed)
        # A batch that wrote history has changed something, even where every row ends as it was.
        self.wrote |= other.wrote or bool(other.ledger or other.audit)

    def publish(self, base: Base) -> None:
        """Make these rows the base's."""
        for name, rows in self.puts.items():
            base.tables[name].replace_all(rows, self.packed)


NOTHING = Layer()
"""A layer that changes nothing."""


class Asked:
    """Which rows below a batch were looked at: by key, or a table as a whole where more than keys was asked for.

    `under` is the batch before, as long as it is being made durable: it lies between this one and the base.
    """

    __slots__ = ("keys", "under", "whole")

    def __init__(self, under: Layer | None = None) -> None:
        self.keys: dict[str, set[str]] = {name: set() for name in TABLES}
        self.whole: set[str] = set()
        self.under = under or NOTHING

    def overlaps(self, rows: Mapping[str, Mapping[str, object]]) -> bool:
        """Whether one of these rows, new or changed, could have made a difference."""
        return any(name in self.whole or not self.keys[name].isdisjoint(put) for name, put in rows.items())


class LayeredTable(Generic[R]):
    """One table as an operation sees it: its own changes over the batch's over the durable rows."""

    __slots__ = ("_asked", "_base", "_batch", "_key_of", "_keys", "_layer", "_name", "_own", "_spec")

    def __init__(self, base: BaseTable[R], batch: Layer, layer: Layer, asked: Asked) -> None:
        self._base, self._batch, self._asked = base, batch, asked
        self._spec = base.spec
        self._name = base.spec.name
        self._key_of = _KEY_OF[self._name]
        self._keys = asked.keys[self._name]
        self.begin(layer)

    def begin(self, layer: Layer) -> None:
        """Go on with the next operation of the batch."""
        self._layer = layer
        self._own: dict[str, R | None] = {}

    def get(self, key: str) -> R | None:
        if key in self._own:
            return self._own[key]
        rows = self._batch.puts.get(self._name)
        if rows is not None and key in rows:
            record: R | None = rows[key]
            return record
        # Noted first: a row that another thread takes in meanwhile may be the one that is read.
        self._keys.add(key)
        under = self._asked.under
        if under is not NOTHING and (rows := under.puts.get(self._name)) is not None and key in rows:
            found: R | None = rows[key]
            return found
        return self._base.get(key)

    def by(self, index: str, value: str) -> list[R]:
        self._asked.whole.add(self._name)
        over = self._over()
        value_of = self._spec.indexes[index]
        below = [key for key in self._base.keys_by(index, value) if key not in over]
        found = [row for key in below if (row := self._base.get(key)) is not None]
        found += [row for row in over.values() if row is not None and value_of(row) == value]
        return oldest_first(found, self._spec)

    def upto(self, index: str, value: str, limit: int) -> list[R]:
        value_of = self._spec.indexes[index]
        found = [(each, row) for row in self if (each := value_of(row)) is not None and each <= value]
        return [row for _, row in sorted(found, key=lambda pair: pair[0])[:limit]]

    def page(self, query: Query) -> Page[R]:
        return page_of(self, query, self._spec)

    def walk(self, query: Query) -> Iterator[R]:
        return walk_of(self, query, self._spec)

    def __iter__(self) -> Iterator[R]:
        self._asked.whole.add(self._name)
        over = self._over()
        for key in list(self._base.rows):
            if key not in over and (row := self._base.get(key)) is not None:
                yield row
        yield from (row for row in over.values() if row is not None)

    def put(self, record: R) -> None:
        key = self._key_of(record)
        if self._spec.unique:
            self._claim(key, record)
        self._set(key, record)

    def delete(self, key: str) -> None:
        before = self.get(key)
        if before is None:
            return
        for index in self._spec.unique:
            if (value := self._spec.indexes[index](before)) is not None:
                self._layer.claims[(self._name, index, value)] = None
        self._set(key, None)

    def _set(self, key: str, record: R | None) -> None:
        if not self._own:
            self._layer.puts[self._name] = self._own
        self._own[key] = record

    def _over(self) -> dict[str, R | None]:
        name = self._name
        return {**self._asked.under.puts.get(name, {}), **self._batch.puts.get(name, {}), **self._own}

    def _claim(self, key: str, record: R) -> None:
        before = self.get(key)
        for index in self._spec.unique:
            value_of: Callable[[Any], str | None] = self._spec.indexes[index]
            old = None if before is None else value_of(before)
            new = value_of(record)
            if old == new:
                continue
            if new is not None:
                if self._owner(index, new) not in (None, key):
                    raise Duplicate(index)
                self._layer.claims[(self._name, index, new)] = key
            if old is not None:
                self._layer.claims[(self._name, index, old)] = None

    def _owner(self, index: str, value: str) -> str | None:
        claim = (self._name, index, value)
        self._asked.whole.add(self._name)
        for layer in (self._layer, self._batch, self._asked.under):
            if claim in layer.claims:
                return layer.claims[claim]
        return next(iter(self._base.keys_by(index, value)), None)


class LayeredTransaction:
    """The transaction of the stores that keep their tables in memory: one for a batch, one operation at a time."""

    __slots__ = ("_asked", "_base", "_batch", "_used", "layer", *TABLES)

    layer: Layer
    """What the operation that runs now has changed."""
    clients: LayeredTable[Any]
    accounts: LayeredTable[Any]
    keys: LayeredTable[Any]
    reservations: LayeredTable[Any]
    spent: LayeredTable[Any]
    jobs: LayeredTable[Any]
    recents: LayeredTable[Any]
    facts: LayeredTable[Any]
    subscriptions: LayeredTable[Any]
    checkouts: LayeredTable[Any]
    purchases: LayeredTable[Any]
    invoices: LayeredTable[Any]
    stripe_events: LayeredTable[Any]
    stripe_calls: LayeredTable[Any]

    def __init__(self, base: Base, batch: Layer, asked: Asked | None = None) -> None:
        self._base, self._batch, self._asked = base, batch, asked or Asked()
        self._used: list[LayeredTable[Any]] = []
        self.layer = Layer()

    def begin(self) -> None:
        """Go on with the next operation, which has changed nothing yet."""
        self.layer = layer = Layer()
        for table in self._used:
            table.begin(layer)

    def __getattr__(self, name: str) -> LayeredTable[Any]:
        # Asked for the first time: a job needs three tables, and the others are not made.
        if name not in TABLES:
            raise AttributeError(name)
        table: LayeredTable[Any] = LayeredTable(self._base.tables[name], self._batch, self.layer, self._asked)
        setattr(self, name, table)
        self._used.append(table)
        return table

    def write_ledger(self, entry: LedgerEntry) -> None:
        self.layer.ledger.append(entry)

    def write_audit(self, entry: AuditEntry) -> None:
        self.layer.audit.append(entry)


_KEY_OF: dict[str, Callable[[Any], str]] = {
    name: attrgetter(spec.primary_key) for name, spec in TABLES.items()
}
