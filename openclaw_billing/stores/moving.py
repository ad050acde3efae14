"""Moving a store: everything copied, digested on both sides, and only then used from its new place.

To PostgreSQL the journal is followed while gateways work on it; what they add meanwhile is brought over by the
next run. From PostgreSQL everything is read in one transaction. `switch` makes the last step of either: under
the store's own lock the rest is brought over and compared, and the store takes no change any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import StartupError
from openclaw_billing.records import Fact
from openclaw_billing.stores.digests import Digests, counted, digest
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.json_end import JsonEnd, carry_secrets, fill, prepare, records_of
from openclaw_billing.stores.json_store import JsonStore
from openclaw_billing.stores.layers import Layer
from openclaw_billing.stores.postgres_end import PostgresEnd, shown
from openclaw_billing.stores.schema import MOVED

LINES_AT_ONCE = 1_000

Step = Callable[[str, int], Callable[[int], None]]
"""Told of each step by its name and how many there are to do; what it answers is told how many more are done."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What is now at both ends, and whether it is the same."""

    source: Digests
    target: Digests
    seq: int = 0
    """The journal's line that it is as of; 0 where the source has none."""

    @property
    def problems(self) -> list[str]:
        """Why the target must not be used, in sentences; none where it may."""
        wrong = [
            f"{name} differs: {self.source.sums[name].records} and {self.target.sums[name].records} records"
            for name in self.source.differences(self.target)
        ]
        return wrong + self.source.problems + self.target.problems


class NotTheSame(StartupError):
    """Both ends were compared and differ; the store stays where it was."""


def to_postgres(data_dir: Path, chain_key: bytes | None, url: str, step: Step, *, switch: bool) -> Moved:
    """Bring what the journal holds by now to an empty database, or to one where that was begun.

    Raises:
        StartupError: one of them is not what it must be, or they differ at the end.
    """
    directory = Directory(data_dir, allow_network=True)
    directory.open()
    here, there = JsonEnd(directory, Chain(chain_key)), PostgresEnd(url)
    try:
        moved = _bring_over(here, there, step)
        already = here.base.facts.get(MOVED)
        if moved.problems:
            raise NotTheSame(moved.problems[0])
        if already is not None and already.value != shown(url):
            raise StartupError(f"The store in {data_dir} was moved to {already.value} before")
        if switch and already is None:
            moved = _switch(JsonStore(data_dir, chain_key=chain_key), here, there, shown(url), step)
        if switch:
            there.finish()
        return moved
    finally:
        there.close()
        directory.close()


def to_json(
    url: str, target: Path, secrets_dir: Path, chain_key: bytes | None, step: Step, *, switch: bool
) -> Moved:
    """Write what the database holds into an empty directory, or one where that broke off.

    Raises:
        StartupError: one of them is not what it must be, or they differ at the end.
    """
    there = prepare(target)
    here = PostgresEnd(url)
    try:
        if switch:
            here.hold_still()
        else:
            here.freeze_view()
        carry_secrets(secrets_dir, there)
        fill(there, Chain(chain_key), here, step("Copying", here.how_many()))
        written = JsonEnd(there, Chain(chain_key))
        told = step("Reading the new journal", written.ahead())
        for _ in counted(written.new_lines(), told):
            pass
        moved = Moved(
            digest(here, step("Reading the database", here.how_many())),
            digest(written, step("Comparing", written.rows_held)),
        )
        if moved.problems:
            raise NotTheSame(moved.problems[0])
        # Opened once, so that the next start finds a snapshot to begin from.
        store = JsonStore(target, chain_key=chain_key)
        store.open()
        store.snapshot()
        store.close()
        if switch:
            here.leave(str(target))
        return moved
    finally:
        here.close()
        there.close()


def _bring_over(here: JsonEnd, there: PostgresEnd, step: Step) -> Moved:
    _copy(here, there, step("Copying", here.ahead()))
    target = digest(there, step("Reading the database", there.how_many()))
    return Moved(digest(here, step("Comparing", here.rows_held)), target, here.seq)


def _copy(here: JsonEnd, there: PostgresEnd, told: Callable[[int], None]) -> None:
    """Bring over the lines that are not there yet, some at once; each piece says how far it goes."""
    mark: tuple[int, str] | None = None
    piece, lines = Layer(), 0
    for line in counted(here.new_lines(), told):
        if mark is None:
            mark = there.begin(here.first)
        if line.seq <= mark[0]:
            if line.seq == mark[0] and line.sum != mark[1]:
                raise StartupError(
                    "The journal is not the one that was copied before: empty the database first"
                )
            continue
        changes = records_of(line)
        piece.absorb(changes)
        piece.ledger += changes.ledger
        piece.audit += changes.audit
        lines += 1
        if lines == LINES_AT_ONCE:
            there.take(piece, here.first, here.seq, here.head)
            piece, lines = Layer(), 0
    if lines:
        there.take(piece, here.first, here.seq, here.head)


def _switch(store: JsonStore, here: JsonEnd, there: PostgresEnd, target: str, step: Step) -> Moved:
    """The last step: an operation of the store, so that nobody changes it between the last line and the note."""

    def operation(tx: Transaction) -> Moved:
        moved = _bring_over(here, there, step)
        if moved.problems:
            raise NotTheSame(moved.problems[0])
        tx.facts.put(Fact(name=MOVED, value=target))
        return moved

    store.open()
    try:
        return store.run(operation, "move")
    finally:
        store.close()
