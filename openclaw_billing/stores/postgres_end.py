"""A PostgreSQL store as one end of a move: filled from a journal, a piece at a time, and read whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from openclaw_billing.errors import BadSettings, StartupError
from openclaw_billing.records import Fact
from openclaw_billing.stores.digests import HISTORIES, Histories, Progress, counted
from openclaw_billing.stores.layers import Layer
from openclaw_billing.stores.postgres_batch import load
from openclaw_billing.stores.postgres_line import connect, driver, first_line
from openclaw_billing.stores.postgres_schema import check_version
from openclaw_billing.stores.postgres_sql import sql, unpacked
from openclaw_billing.stores.schema import FILLING, MOVED, TABLES

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

    def history(self, name: str) -> Iterator[Any]:
        """The entries of `ledger` or `audit`, the oldest first."""
        after = 0
        while True:
            page = self.connection.execute(
                sql("history from", name), {"after": after, "limit": ROWS_PER_PAGE}
            ).fetchall()
            for (row,) in page:
                after = row.pop("position")
                yield unpacked(name, row)
            if len(page) < ROWS_PER_PAGE:
                return

    def histories(self, progress: Progress) -> Histories:
        found = Histories()
        for name in HISTORIES:
            for entry in counted(self.history(name), progress):
                found.add(name, entry)
        return found

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
        """Make changes durable, with how far they go."""
        mark = Fact(name=FILLING, value=json.dumps({"source": source, "seq": seq, "head": head}))
        changes.puts.setdefault("facts", {})[FILLING] = mark
        with self.connection.transaction():
            load(self.connection, changes)

    def finish(self) -> None:
        """The store is whole: gateways may use it."""
        self.connection.execute("DELETE FROM facts WHERE name = %s", [FILLING])
        self.connection.execute("ANALYZE")

    # Being read

    def hold_still(self) -> None:
        """Let nobody change anything until the transaction ends; readers are not held up."""
        self.connection.execute("BEGIN")
        for name in (*TABLES, *HISTORIES, "batches"):
            self.connection.execute(f'LOCK TABLE "{name}" IN SHARE MODE')

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


def shown(url: str) -> str:
    """The database's address without who asks and how."""
    parts = driver().conninfo.conninfo_to_dict(url)
    port = f":{parts['port']}" if "port" in parts else ""
    return f"postgresql://{parts.get('host', 'localhost')}{port}/{parts.get('dbname', '')}"
