"""Guessing: a batch of charges in one round trip, over the rows as this gateway wrote them last.

Most of what a gateway charges nobody else has touched since. So a batch is first run over the accounts that
are remembered; jobs and the like, which come under ids of their own, are taken for new. Then all is sent at
once: the accounts are locked if they still are the versions that were remembered, and only then is anything
written. What was taken for new is inserted, and the database refuses it where it was not.

Whatever cannot be guessed, or was guessed wrong, is done again the sure way, by `postgres_batch`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from openclaw_billing.stores.group_commit import Ticket
from openclaw_billing.stores.layers import Layer, LayeredTransaction
from openclaw_billing.stores.postgres_batch import (
    OUT_OF_ORDER_LOCK,
    Attempt,
    InDoubt,
    Missing,
    announced,
    keepable,
)
from openclaw_billing.stores.postgres_sql import IF_UNCHANGED, sql
from openclaw_billing.stores.schema import TABLES, TableSpec
from openclaw_billing.stores.tables import Base, BaseTable

REMEMBERED = "accounts"
"""The table whose rows are read and written again and again."""
TAKEN_FOR_NEW = frozenset({"jobs", "reservations", "spent"})
ROWS_MAX = 20_000
RESTS_MAX = 15
XIDS = 1 << 32


class Memory:
    """The newest versions of accounts that this gateway knows of. Where they were wrong of late, less is guessed."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[Any, str]] = {}
        self._rests = self._rest = 0

    def get(self, key: str) -> tuple[Any, str] | None:
        """The record and the version of its row."""
        return self._rows.get(key)

    def keep(self, batch: Layer, transaction: int) -> None:
        """What that transaction has written and committed is known from now on."""
        # A row says in 32 bits which transaction wrote it.
        version = str(transaction % XIDS)
        for key, record in batch.puts.get(REMEMBERED, {}).items():
            self._rows.pop(key, None)
            if record is not None:
                self._rows[key] = (record, version)
        while len(self._rows) > ROWS_MAX:
            # The one that was written longest ago.
            del self._rows[next(iter(self._rows))]

    def forget(self) -> None:
        self._rows.clear()

    def may_guess(self) -> bool:
        """Whether to guess now."""
        if self._rest:
            self._rest -= 1
            return False
        return True

    def was_right(self, right: bool, keys: set[str]) -> None:
        """Whether a guess about these accounts was right."""
        self._rests = 0 if right else min(2 * self._rests + 1, RESTS_MAX)
        self._rest = self._rests
        if not right:
            for key in keys:
                self._rows.pop(key, None)


class Guess(Attempt):
    """One batch over remembered rows: `runs` first, then `holds`."""

    def __init__(self, connection: Any, tickets: list[Ticket], memory: Memory) -> None:
        super().__init__(connection, tickets)
        self._memory = memory
        self._absent: set[tuple[str, str]] = set()
        """What tickets that have changed nothing took for new."""
        self.guessed = Guesses(memory)

    @property
    def keys(self) -> set[str]:
        """The accounts that were remembered and looked at."""
        return set(self.guessed.versions)

    def runs(self) -> bool:
        """Run every ticket; whether all that they looked at could be guessed, and can be checked."""
        guessed = self.guessed
        tx = LayeredTransaction(guessed, self.batch)
        written: set[tuple[str, str]] = set()
        try:
            for ticket in self._tickets:
                tx.begin()
                taken = guessed.taken_for_new = set[tuple[str, str]]()
                (written if self._run_in(tx, ticket) else self._absent).update(taken)
        except Missing:
            return False
        puts = self.batch.puts
        new = all(puts.get(name, {}).get(key) is not None for name, key in written)
        gone = any(record is None for rows in puts.values() for record in rows.values())
        # What other gateways must be told of is left to the sure way.
        return new and not gone and not announced(self.batch)

    def holds(self, batch_id: str, before: str) -> bool:
        """Write what was changed and make it durable, if the accounts are as they were remembered.

        Raises:
            InDoubt, psycopg.Error
            ValueError, TypeError: a record cannot be kept.
        """
        keys = sorted(self.guessed.versions)
        versions = [self.guessed.versions[key] for key in keys]
        execute = self._connection.execute
        writes = self._writes(self.guessed, IF_UNCHANGED)
        try:
            with self._connection.pipeline():
                execute("BEGIN")
                checked = execute(sql("unchanged"), {"keys": keys, "versions": versions, "count": len(keys)})
                for name in sorted({name for name, _ in self._absent}):
                    looked_for = [key for table, key in self._absent if table == name]
                    checked = execute(sql("and absent", name), {"keys": looked_for})
                if self.changed:
                    execute(OUT_OF_ORDER_LOCK)
                    for text, values in writes:
                        execute(text, values)
                    # Should the answer get lost: of a guess that was wrong nothing is found that came about.
                    execute(sql("batch if unchanged"), {"batch_id": batch_id, "before": before})
                    written = execute(sql("transaction"))
                execute("COMMIT")
            unchanged: bool = checked.fetchone()[0] == "true"
        except Exception as error:
            if self._connection.closed:
                raise InDoubt(self.changed, self.batch) from error
            raise
        if unchanged and self.changed:
            self._memory.keep(self.batch, written.fetchone()[0])
        return unchanged


class Guesses(Base):
    """The rows of one batch, as they are guessed to be."""

    def __init__(self, memory: Memory) -> None:
        self.versions: dict[str, str] = {}
        self.taken_for_new: set[tuple[str, str]] = set()
        """Of the ticket that runs now."""
        self.absent: set[tuple[str, str]] = set()
        self.memory = memory
        self.tables: dict[str, BaseTable[Any]] = {
            name: _GuessedTable(spec, self) for name, spec in TABLES.items()
        }


class _EveryRow(dict[str, Any]):
    """Every row of a table, which nobody can guess."""

    def __iter__(self) -> Iterator[str]:
        raise Missing


class _GuessedTable(BaseTable[Any]):
    def __init__(self, spec: TableSpec, guesses: Guesses) -> None:
        self.spec = spec
        self.rows = _EveryRow()
        self._guesses = guesses

    def get(self, key: str) -> Any:
        name, guesses = self.spec.name, self._guesses
        if not keepable(key):
            return None
        if name in TAKEN_FOR_NEW:
            guesses.taken_for_new.add((name, key))
            guesses.absent.add((name, key))
            return None
        found = guesses.memory.get(key) if name == REMEMBERED else None
        if found is None:
            raise Missing
        record, guesses.versions[key] = found
        return record

    def keys_by(self, index: str, value: str) -> list[str]:  # noqa: ARG002
        raise Missing

    def knows_absent(self, key: str) -> bool:
        """Whether the key was taken for new."""
        return (self.spec.name, key) in self._guesses.absent
