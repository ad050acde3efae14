"""One batch in one transaction: operations run over rows that are read, and locked, as they ask for them.

An operation that asks for a row which is not here yet is stopped; the others of the batch run on, to say
what they will ask for; then all of it is read in one round trip and the operations are run again. So a batch
needs as many round trips as its deepest operation has reads that depend on each other, however many
operations it has. Operations are functions of a transaction and a moment: running one twice does no harm.

Why no update is lost between gateways:
- A row that was found is locked until the end, so nobody changes what was decided upon.
- A row that was looked for and is written is inserted, never replaced: who comes second is refused, and
  runs his batch again.
- A row that was looked for in vain and is not written is looked for again before the commit, with its
  table held still.
- What an index gives is locked row by row. A row that another adds to it meanwhile is not seen: operations
  that count an index's rows read the row that these belong to as well, and so wait for each other.

Locks are taken in one order, by table and by key. Where the order cannot be kept, because a row was asked
for late, a batch waits briefly, then begins again with all of its rows in order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from openclaw_billing.records import AuditEntry, LedgerEntry
from openclaw_billing.stores.group_commit import Ticket
from openclaw_billing.stores.layers import Layer, LayeredTransaction
from openclaw_billing.stores.postgres_sql import defaults_of, rows_of, sql, unpacked
from openclaw_billing.stores.schema import TABLES, TableSpec
from openclaw_billing.stores.tables import Base, BaseTable

T = TypeVar("T")

PASSES_MAX = 8
"""How often a batch is stopped to read; after that each row is read when it is asked for."""
OUT_OF_ORDER_LOCK = "SET LOCAL lock_timeout = '100ms'"
ANNOUNCED_MAX = 100
ANNOUNCED_LENGTH_MAX = 2_000
EVERYTHING = "*"
ANNOUNCED = ("clients", "keys")
"""The tables whose rows gateways keep for a moment, and are told of."""

# What is asked of a table: a key, an index with a value, or every row.
Wish = tuple[str, str, str]
BY_KEY, ALL = "", "*"


Written = tuple[str, dict[str, Any]]


class Missing(BaseException):
    """An operation asked for a row that is not here yet. No operation may catch it."""


class Appeared(Exception):
    """A row that was looked for in vain is there now."""


class InDoubt(Exception):
    """The connection was lost while the batch was committed: nobody knows whether it was."""

    def __init__(self, changed: list[tuple[Ticket, Layer]], batch: Layer) -> None:
        super().__init__()
        self.changed, self.batch = changed, batch


class Reads(Base):
    """The rows of one transaction, as far as they were asked for."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.begun = False
        self.direct = False
        self.missing: set[Wish] = set()
        self.known: set[Wish] = set()
        self.absent: set[tuple[str, str]] = set()
        """What the operation that runs now has looked for in vain."""
        self.tables: dict[str, BaseTable[Any]] = {
            name: _ReadTable(spec, self) for name, spec in TABLES.items()
        }

    def miss(self, wish: Wish) -> None:
        """Read it now, or stop the operation that asks.

        Raises:
            Missing
        """
        if not self.direct:
            self.missing.add(wish)
            raise Missing
        self.fetch({wish})

    def fetch(self, wishes: set[Wish]) -> None:
        """Read and lock, in order, in one round trip."""
        with self._connection.pipeline():
            first = not self.begun
            self.begin()
            asked = [(*each, self._ask(*each)) for each in _in_order(wishes)]
            if first:
                self._connection.execute(OUT_OF_ORDER_LOCK)
        for name, index, values, cursor in asked:
            self.tables[name].take(index, values, [row for (row,) in cursor])  # type: ignore[attr-defined]
        self.known |= wishes

    def begin(self) -> None:
        if not self.begun:
            self._connection.execute("BEGIN")
            self.begun = True

    def _ask(self, name: str, index: str, values: list[str]) -> Any:
        if index == ALL:
            self._connection.execute(sql("lock all", name))
            return self._connection.execute(sql("all", name))
        if index == BY_KEY:
            return self._connection.execute(sql("lock", name), {"keys": values})
        return self._connection.execute(sql("lock by", name, index), {"values": values})


class _EveryRow(dict[str, Any]):
    """Rows of which some are here; walking them reads the others."""

    def __init__(self, table: _ReadTable) -> None:
        super().__init__()
        self._table = table

    def __iter__(self) -> Iterator[str]:
        self._table.want_all()
        return super().__iter__()


class _ReadTable(BaseTable[Any]):
    def __init__(self, spec: TableSpec, reads: Reads) -> None:
        self.spec = spec
        self.rows = _EveryRow(self)
        self._reads = reads
        self._found: dict[tuple[str, str], list[str]] = {}
        self._whole = False

    def get(self, key: str) -> Any:
        if key not in self.rows and not self._whole:
            if not keepable(key):
                return None
            self._reads.miss((self.spec.name, BY_KEY, key))
        record = self.rows.get(key)
        if record is None:
            self._reads.absent.add((self.spec.name, key))
        return record

    def keys_by(self, index: str, value: str) -> list[str]:
        if not keepable(value):
            return []
        if (index, value) not in self._found:
            self._reads.miss((self.spec.name, index, value))
        return self._found[index, value]

    def want_all(self) -> None:
        if not self._whole:
            self._reads.miss((self.spec.name, ALL, ""))

    def knows_absent(self, key: str) -> bool:
        """Whether the key was looked for in vain."""
        return self.rows.get(key, self) is None

    def take(self, index: str, values: list[str], rows: list[dict[str, Any]]) -> None:
        """Keep what the database answered to a wish."""
        records = [unpacked(self.spec.name, row) for row in rows]
        for record in records:
            self.rows[self.spec.key_of(record)] = record
        if index == BY_KEY:
            for key in values:
                self.rows.setdefault(key, None)
        elif index == ALL:
            self._whole = True
        else:
            for value in values:
                self._found[index, value] = []
            for record in records:
                value = str(self.spec.indexes[index](record))
                self._found.setdefault((index, value), []).append(self.spec.key_of(record))


class Attempt:
    """One attempt at one batch: what its tickets have changed so far."""

    def __init__(self, connection: Any, tickets: list[Ticket]) -> None:
        self._connection = connection
        self._tickets = tickets
        self.batch = Layer()
        self.changed: list[tuple[Ticket, Layer]] = []

    def _run_in(self, tx: LayeredTransaction, ticket: Ticket) -> bool:
        """Run the ticket over the ones before it; whether it changed anything."""
        ticket.answer = ticket.error = None
        try:
            answer = ticket.operation(tx)
        except Exception as error:  # noqa: BLE001 - an operation's error belongs to its caller, whatever it is
            ticket.error = error
            return False
        ticket.answer = answer
        if tx.layer.empty:
            return False
        self.batch.absorb(tx.layer)
        self.changed.append((ticket, tx.layer))
        return True

    def _writes(self, reads: Base, only_if: str = "true") -> list[Written]:
        return list(_writes_of(self.batch, reads, self.changed, only_if))


class Run(Attempt):
    """The sure way: `go`, then `commit` or `end`."""

    def __init__(self, connection: Any, tickets: list[Ticket]) -> None:
        super().__init__(connection, tickets)
        self.reads = Reads(connection)
        self._absent: set[tuple[str, str]] = set()

    def go(self, known: set[Wish]) -> None:
        """Run every ticket, with what an attempt before this one has read taken in order first."""
        if known:
            self.reads.fetch(known)
        start, satisfied = 0, set[int]()
        for _ in range(PASSES_MAX):
            start = self._pass(start, satisfied)
            if start == len(self._tickets):
                return
            wishes, self.reads.missing = self.reads.missing, set()
            self.reads.fetch(wishes)
        self.reads.direct = True
        self._pass(start, satisfied)

    def _pass(self, start: int, satisfied: set[int]) -> int:
        """Run tickets until one is stopped, and let the rest tell what they need; where to go on."""
        stopped = -1
        for index in range(start, len(self._tickets)):
            if stopped >= 0 and index in satisfied:
                continue
            try:
                if stopped < 0:
                    self._run(self._tickets[index])
                else:
                    self._try(self._tickets[index])
                    satisfied.add(index)
            except Missing:
                stopped = index if stopped < 0 else stopped
        return len(self._tickets) if stopped < 0 else stopped

    def _run(self, ticket: Ticket) -> None:
        self.reads.absent = set()
        if self._run_in(LayeredTransaction(self.reads, self.batch), ticket):
            self._absent |= self.reads.absent

    def _try(self, ticket: Ticket) -> None:
        # Whatever fails is run again when all before it were, and may fail then.
        with contextlib.suppress(Exception):
            ticket.operation(LayeredTransaction(self.reads, self.batch))

    def commit(self, batch_id: str, before: str, channel: str) -> int:
        """Write what was changed, and make it durable; which transaction that was.

        Raises:
            InDoubt, Appeared, psycopg.Error
        """
        writes = self._writes(self.reads)
        try:
            self._look_again()
            with self._connection.pipeline():
                self.reads.begin()
                for text, values in writes:
                    self._connection.execute(text, values)
                self._connection.execute(sql("batch"), {"batch_id": batch_id, "before": before})
                if words := announced(self.batch):
                    self._connection.execute(sql("notify"), {"channel": channel, "words": words})
                written = self._connection.execute(sql("transaction"))
                self._connection.execute("COMMIT")
            transaction: int = written.fetchone()[0]
            return transaction
        except Exception as error:
            if self._connection.closed:
                raise InDoubt(self.changed, self.batch) from error
            raise

    def end(self) -> None:
        """Nothing was changed: let go of the rows."""
        if self.reads.begun:
            self._connection.execute("COMMIT")

    def _look_again(self) -> None:
        tables = self.reads.tables
        left: dict[str, list[str]] = {}
        for name, key in sorted(self._absent):
            if self.batch.puts.get(name, {}).get(key) is None and not tables[name]._whole:  # type: ignore[attr-defined]
                left.setdefault(name, []).append(key)
        for name, keys in left.items():
            self.reads.begin()
            self._connection.execute(sql("still absent", name))
            if self._connection.execute(sql("appeared", name), {"keys": keys}).fetchall():
                raise Appeared


def announced(batch: Layer) -> list[str]:
    """What the other gateways are told of: the rows that they may hold older versions of."""
    words = [f"{name} {key}" for name in ANNOUNCED for key in batch.puts.get(name, ())]
    if len(words) > ANNOUNCED_MAX or any(len(word) > ANNOUNCED_LENGTH_MAX for word in words):
        return [EVERYTHING]
    return words


def keepable(text: str) -> bool:
    """Whether PostgreSQL can hold the text: what it cannot hold is not there."""
    try:
        return "\0" not in text and bool(text.encode() or True)
    except UnicodeEncodeError:
        return False


def load(connection: Any, batch: Layer) -> None:
    """Write rows and history as they are, within a transaction of the caller's."""
    reads = Reads(connection)
    for text, values in _writes_of(batch, reads, [(None, batch)]):
        connection.execute(text, values)


def _writes_of(
    batch: Layer, reads: Base, changed: Iterable[tuple[Any, Layer]], only_if: str = "true"
) -> Iterator[Written]:
    """The statements that write the batch: what goes first, so that what comes finds its place free."""
    for name in reversed(list(TABLES)):
        gone = [key for key, record in batch.puts.get(name, {}).items() if record is None]
        if gone:
            yield sql("delete", name), {"keys": sorted(gone)}
    for name in TABLES:
        rows, table = batch.puts.get(name), reads.tables[name]
        if rows is None:
            continue
        new: list[Any] = []
        old: list[Any] = []
        for key in sorted(rows):
            if (record := rows[key]) is not None:
                (new if table.knows_absent(key) else old).append(record)  # type: ignore[attr-defined]
        if old:
            written = {"defaults": defaults_of(name), "rows": rows_of(name, old)}
            yield sql("write", name, only_if=only_if), written
        if new:
            inserted = {"defaults": defaults_of(name), "rows": rows_of(name, new)}
            yield sql("insert", name, only_if=only_if), inserted
    ledger: list[LedgerEntry] = [entry for _, layer in changed for entry in layer.ledger]
    audit: list[AuditEntry] = [entry for _, layer in changed for entry in layer.audit]
    for name, entries in (("ledger", ledger), ("audit", audit)):
        if entries:
            appended = {"defaults": defaults_of(name), "rows": rows_of(name, entries)}
            yield sql("insert", name, only_if=only_if), appended


def _in_order(wishes: set[Wish]) -> Iterator[tuple[str, str, list[str]]]:
    """The wishes, by table in the schema's order: whole tables, then keys, then indexes; each asked once."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for name, index, value in wishes:
        grouped.setdefault((name, index), []).append(value)
    places = {name: place for place, name in enumerate(TABLES)}
    for name, index in sorted(grouped, key=lambda pair: (places[pair[0]], pair[1] != ALL, pair[1])):
        yield name, index, sorted(grouped[name, index])
