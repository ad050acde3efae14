"""Moving a store: everything copied, digested on both sides, and only then used from its new place.

To PostgreSQL the journal is followed while gateways work on it; what they add meanwhile is brought over by the
next run. From PostgreSQL everything is read in one transaction. `switch` makes the last step of either: under
the store's own lock the rest is brought over and compared, and the store takes no change any more.

The last step to PostgreSQL is short. From the comparison on the database is held, so that nothing there changes but
by what is brought over; so of both sides only the rows that the rest touches, and its entries, are compared again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from openclaw_billing.errors import StartupError
from openclaw_billing.records import Fact
from openclaw_billing.stores.digests import Digests, counted, digest
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.json_end import JsonEnd, carry_secrets, fill, prepare, records_of
from openclaw_billing.stores.json_store import JsonStore
from openclaw_billing.stores.last_line import LastLine
from openclaw_billing.stores.layers import Layer
from openclaw_billing.stores.postgres_end import PostgresEnd, shown
from openclaw_billing.stores.postgres_line import driver, first_line
from openclaw_billing.stores.schema import MOVED

LINES_AT_ONCE = 1_000
ROUNDS_MAX = 10
"""How often what came meanwhile is brought over before the last step is made, however much is left."""

Step = Callable[[str, int], Callable[[int], None]]
"""Told of each step by its name and how many there are to do; what it answers is told how many more are done."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What is now at both ends, and whether it is the same."""

    source: Digests
    target: Digests

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
        _copy(here, there, step("Copying", here.ahead()))
        there.hold_to_compare()
        moved = _compared(here, there, step)
        already = here.base.facts.get(MOVED)
        if already is not None and already.value != shown(url):
            raise StartupError(f"The store in {data_dir} was moved to {already.value} before")
        if switch and already is None:
            _switch(LastLine(data_dir, chain_key, here.place()), here, there, moved, shown(url), step)
        elif switch:
            there.commit()
            there.finish()
        return moved
    except driver().Error as error:
        raise StartupError(f"The database cannot be used: {first_line(error)}") from error
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
    except driver().Error as error:
        raise StartupError(f"The database cannot be used: {first_line(error)}") from error
    finally:
        here.close()
        there.close()


def _compared(here: JsonEnd, there: PostgresEnd, step: Step) -> Moved:
    """What both ends hold now, all of it read; from here on the rows that change are noted."""
    here.changed()
    target = digest(there, step("Reading the database", there.how_many()))
    moved = Moved(digest(here, step("Comparing", here.rows_held)), target)
    if moved.problems:
        raise NotTheSame(moved.problems[0])
    return moved


def _copy(here: JsonEnd, there: PostgresEnd, told: Callable[[int], None]) -> int:
    """Bring over the lines that are not there yet, some at once; each piece says how far it goes. How many it were."""
    copied = 0
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
            copied += lines
            piece, lines = Layer(), 0
    if lines:
        there.take(piece, here.first, here.seq, here.head)
    return copied + lines


def _catch_up(here: JsonEnd, there: PostgresEnd, moved: Moved, told: Callable[[int], None]) -> int:
    """Bring over what is new since the last comparison, and compare that."""
    lines = _copy(here, there, told)
    changed = here.changed()
    moved.source.follow(here, changed)
    moved.target.follow(there, changed)
    if moved.problems:
        raise NotTheSame(moved.problems[0])
    return lines


def _switch(last: LastLine, here: JsonEnd, there: PostgresEnd, moved: Moved, target: str, step: Step) -> None:
    """The last step, under the store's lock, so that nobody changes it between the last line and the note."""
    try:
        last.open()
        told = step("Catching up", here.ahead())
        for _ in range(ROUNDS_MAX):
            if _catch_up(here, there, moved, told) < LINES_AT_ONCE:
                break
        told = step("Switching", here.ahead())
        with last.held():
            _catch_up(here, there, moved, told)
            if strange := there.strange(moved.target):
                raise NotTheSame(f"{strange[0]} holds rows that the database has changed by itself")
            there.commit()
            last.write("move", Fact(name=MOVED, value=target), here.seq)
            there.finish()
    finally:
        last.close()
