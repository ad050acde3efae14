"""A PostgreSQL store as one end of a move: filled from a journal, a piece at a time, and read whole."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from openclaw_billing.errors import BadSettings, StartupError
from openclaw_billing.records import Fact
from openclaw_billing.stores.digests import HISTORIES, Digests, Histories, Progress, counted
from openclaw_billing.stores.layers import Layer
from openclaw_billing.stores.postgres_batch import load
from openclaw_billing.stores.postgres_line import connect, driver, first_line
from openclaw_billing.stores.postgres_schema import check_version
from openclaw_billing.stores.postgres_sql import filled, sql, unpacked
from openclaw_billing.stores.schema import FILLING, MOVED, OWN_FACTS, TABLES

ROWS_PER_PAGE = 5_000
STATEMENT_SECONDS_MAX = 600.0
REFUSED_STATE = "57P03"
"""What gateways on a store that was moved are told: it cannot be used now, and nothing was changed."""


class PostgresEnd:
    """One connection to the database, its schema checked."""

    def __init__(self, url: str) -> None:
        try:
            self.connection = connect(url, statement_seconds=STATEMENT_SECONDS_MAX)
            self.connection.execute("SET idle_in_transaction_session_timeout = 0")
        except driver().Error as error:
            raise StartupError(f"The database cannot be used: {first_line(error)}") from error
        check_version(self.connection)
        self._histories = Histories()
        self._read_to = dict.fromkeys(HISTORIES, 0)
        self._written: _Written | None = None

    def close(self) -> None:
        self.connection.close()

    def how_many(self) -> int:
        """The rows of all tables and both histories."""
        found = [
            self.connection.execute(sql("all counted", name)).fetchone() for name in (*TABLES, *HISTORIES)
        ]
        return sum(count for (count,) in found)

    def rows(self, table: str) -> Iterator[Any]:
        after = ""
        while True:
            # By the key alone: no row is walked over twice, however many there are.
            page = self.connection.execute(
                sql("some", table), {"after": after, "limit": ROWS_PER_PAGE}
            ).fetchall()
            yield from (unpacked(table, row) for _, row in page)
            if len(page) < ROWS_PER_PAGE:
                return
            after = page[-1][0]

    def some(self, table: str, keys: Iterable[str]) -> dict[str, Any]:
        found, wanted, key_of = {}, list(keys), TABLES[table].key_of
        for first in range(0, len(wanted), ROWS_PER_PAGE):
            asked = {"keys": wanted[first : first + ROWS_PER_PAGE]}
            for (row,) in self.connection.execute(sql("get some", table), asked):
                record = unpacked(table, row)
                found[key_of(record)] = record
        return found

    def history(self, name: str) -> Iterator[Any]:
        """The entries of `ledger` or `audit`, the oldest first."""
        return (entry for _, entry in self._entries(name, 0))

    def histories(self, progress: Progress) -> Histories:
        for name in HISTORIES:
            for position, entry in counted(self._entries(name, self._read_to[name]), progress):
                self._read_to[name] = position
                self._histories.add(name, entry)
        return self._histories

    def _entries(self, name: str, after: int) -> Iterator[tuple[int, Any]]:
        while True:
            page = self.connection.execute(
                sql("history from", name), {"after": after, "limit": ROWS_PER_PAGE}
            ).fetchall()
            for (row,) in page:
                after = row.pop("position")
                yield after, unpacked(name, row)
            if len(page) < ROWS_PER_PAGE:
                return

    def fact(self, name: str) -> str | None:
        """What the store notes of itself under that name."""
        found = self.connection.execute("SELECT value FROM facts WHERE name = %s", [name]).fetchone()
        return None if found is None else found[0]

    # Filling

    def begin(self, source: str) -> tuple[int, str]:
        """Where the journal that begins with the line `source` was copied up to: its line and that line's sum.

        Raises:
            StartupError: the database holds something else.
        """
        mark = self.fact(FILLING)
        if mark is None:
            for name in (*TABLES, *HISTORIES):
                if self.connection.execute(sql("any", name)).fetchone() is not None:
                    raise BadSettings("The database is not empty: a store is moved into an empty one only")
            return 0, ""
        begun = json.loads(mark)
        if begun["source"] != source:
            raise StartupError(
                "The database holds a part of another store, whose move was not finished: empty it first"
            )
        return begun["seq"], begun["head"]

    def take(self, changes: Layer, source: str, seq: int, head: str) -> None:
        """Make changes durable, or a part of what is held, with how far they go."""
        if self._written is not None:
            self._written.note(changes)
        mark = Fact(name=FILLING, value=json.dumps({"source": source, "seq": seq, "head": head}))
        changes.puts.setdefault("facts", {})[FILLING] = mark
        with self.connection.transaction():
            load(self.connection, changes)

    def hold_to_compare(self) -> None:
        """Let nobody else change what is compared now; what is taken from now on comes to stay with `commit`."""
        self.connection.execute("ANALYZE")
        self.hold_still()
        # Whatever the database does by itself it shall do before that is compared.
        self.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        self._written = _Written()

    def strange(self, digests: Digests) -> list[str]:
        """The tables in which the database itself has written more or other rows, since the hold, than were taken.

        The rows are counted, not read: a trigger may have changed one that nobody has a reason to compare again.
        """
        assert self._written is not None
        self.connection.execute("SET LOCAL enable_seqscan = on")
        found = []
        for name, each in digests.sums.items():
            wanted = [f"NOT starts_with(name, '{OWN_FACTS}')"] if name == "facts" else []
            there = self.connection.execute(filled("written", name, wanted)).fetchone()
            if there != (each.records, self._written.rows_of(name)):
                found.append(name)
        return found

    def commit(self) -> None:
        """Make durable what was taken since the hold, which ends."""
        self.connection.execute("COMMIT")

    def finish(self) -> None:
        """The store is whole: gateways may use it."""
        self.connection.execute("DELETE FROM facts WHERE name = %s", [FILLING])

    # Being read

    def hold_still(self) -> None:
        """Let nobody else change anything until the transaction ends; readers are not held up."""
        self.connection.execute("BEGIN")
        for name in (*TABLES, *HISTORIES, "batches"):
            self.connection.execute(f'LOCK TABLE "{name}" IN SHARE ROW EXCLUSIVE MODE')

    def freeze_view(self) -> None:
        """See until the transaction ends what is there now, whatever others change."""
        self.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def leave(self, target: str) -> None:
        """Refuse every change from now on: the records are elsewhere."""
        self.connection.execute(
            "INSERT INTO facts (name, value) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value",
            [MOVED, target],
        )
        for statement in sql("leave").split("\n\n"):
            self.connection.execute(statement)
        self.connection.execute("COMMIT")


class _Written:
    """Which rows a transaction has written, by table, and how many entries."""

    def __init__(self) -> None:
        self._keys: dict[str, set[str]] = {name: set() for name in TABLES}
        self._entries: Counter[str] = Counter()

    def note(self, changes: Layer) -> None:
        for name, rows in changes.puts.items():
            for key, record in rows.items():
                (self._keys[name].discard if record is None else self._keys[name].add)(key)
        self._entries.update(ledger=len(changes.ledger), audit=len(changes.audit))

    def rows_of(self, name: str) -> int:
        return self._entries[name] if name in HISTORIES else len(self._keys[name])


def shown(url: str) -> str:
    """The database's address without who asks and how."""
    parts = driver().conninfo.conninfo_to_dict(url)
    port = f":{parts['port']}" if "port" in parts else ""
    return f"postgresql://{parts.get('host', 'localhost')}{port}/{parts.get('dbname', '')}"
