"""The JSON store: files on one machine, shared by every process that opens the same directory.

The journal is the truth; memory is its last durable state; snapshots make starting quick. Every change is
made by whoever holds the lock, after taking in what the others appended. Readers hold no lock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from openclaw_billing.contracts import E, Health, HistoryQuery, StoreObserver
from openclaw_billing.errors import BadSettings, CorruptStore, StorageUnavailable
from openclaw_billing.stores.checkpoint import Position
from openclaw_billing.stores.clients_watch import ClientsWatch, shown_seq
from openclaw_billing.stores.files import Directory, FileLock, refusals_are_told
from openclaw_billing.stores.forks import survive_forks
from openclaw_billing.stores.group_commit import GroupCommit, Ticket
from openclaw_billing.stores.history import PARTS, LineHistory
from openclaw_billing.stores.hold import Hold
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.journal_files import CHECKPOINT, CLIENTS, JOURNAL, LOCK
from openclaw_billing.stores.json_create import Migrate, clear_leftovers, create, parts_of
from openclaw_billing.stores.json_load import check_clients_file
from openclaw_billing.stores.layers import Asked, Layer
from openclaw_billing.stores.memory import Ran, numbers_are_new, observed, run_tickets
from openclaw_billing.stores.replica import Replica
from openclaw_billing.stores.snapshots import QUIET_SECONDS, Snapshots
from openclaw_billing.stores.tables import Base

log = logging.getLogger(__name__)

SEGMENT_BYTES_MAX = 64 << 20
OPENING_SECONDS_MAX = 30.0
"""How long a start waits for the lock: the processes before it may be loading."""
CLOSING_SECONDS_MAX = 5.0
READY_SECONDS_MAX = 0.1
"""How long the turn is kept for anything but a change, while somebody else has the lock."""
LOCKED = "the lock is held by another process"


class JsonStore(LineHistory, GroupCommit):
    """See `contracts.Store`. `migrate` makes an operation of a clients file in the seed's own format."""

    def __init__(
        self,
        path: Path,
        *,
        chain_key: bytes | None = None,
        lock_seconds_max: float = 2.0,
        allow_network: bool = False,
        observer: StoreObserver | None = None,
        migrate: Migrate | None = None,
    ) -> None:
        super().__init__()
        self.directory = Directory(path, allow_network=allow_network)
        self._chain = Chain(chain_key)
        self._lock = FileLock(self.directory, LOCK, lock_seconds_max)
        self._replica = Replica(self.directory, self._chain)
        self._hold = Hold(self._lock, self._replica, self.run_ahead)
        self._observer = observer
        self._migrate = migrate
        self._resyncing = False
        self._refused = ""
        self._committed_at = 0.0
        self._clients = ClientsWatch(self.directory)
        self._snapshots = Snapshots(self)
        survive_forks(self)

    # Reading

    @property
    def base(self) -> Base:
        return self._replica.loaded.base

    @property
    def view(self) -> Base:
        replica = self._replica
        # While we append we hold the lock, and the growth that fstat shows is our own.
        if not replica.appending and replica.end.moved() and not replica.read_on():
            self._resync()
        return replica.loaded.base

    def health(self) -> Health:
        loaded, end = self._replica.loaded, self._replica.end
        details: dict[str, str | int] = {
            "seq": loaded.seq,
            "head": loaded.head,
            "segment": loaded.segment,
            "bytes": end.size,
            "snapshot_seq": loaded.marked_seq,
        }
        if self._clients.foreign:
            details["foreign_file"] = self._clients.foreign
        reason = self._obstacle() if end.fd >= 0 else "the store is closed"
        return Health(writable=not reason, reason=reason, details=details)

    def _obstacle(self) -> str:
        """Why a change would be refused now: all of one is done but the change."""
        if not self._turn.acquire(timeout=READY_SECONDS_MAX):
            # Batch follows batch, or somebody has been waiting for all that time.
            busy = time.monotonic() - self._committed_at < 1 and self._lock.waited() < READY_SECONDS_MAX
            return "" if busy else LOCKED
        end = self._replica.end
        try:
            with self._exclusive(seconds_max=READY_SECONDS_MAX):
                if self._refused or end.read_only:
                    self.directory.try_writing()
            self._refused = ""
        except StorageUnavailable:
            return self._replica.refusal or end.poisoned or LOCKED
        except OSError as error:
            return end.poisoned or f"the disk takes no change ({error.strerror})"
        finally:
            self._turn.release()
        return ""

    # Opening and closing

    def open(self) -> None:
        if self._replica.end.fd >= 0:
            return
        with self._turn:
            try:
                self._open_files()
            except BaseException as error:
                self._let_go()
                if isinstance(error, OSError | StorageUnavailable):
                    reason = LOCKED if isinstance(error, StorageUnavailable) else error.strerror or error
                    raise BadSettings(
                        f"The store in {self.directory.path} cannot be opened: {reason}"
                    ) from error
                raise
        self.resume()
        self._consider_snapshot(quiet=True)

    def close(self) -> None:
        if self._replica.end.fd < 0:
            return
        self.drain()
        self._snapshots.stop()
        self._replica.read_on()
        if self.is_behind and not self._replica.end.poisoned:
            with contextlib.suppress(StorageUnavailable, CorruptStore, OSError):
                self._snapshots.write(paced=False, wait_seconds=CLOSING_SECONDS_MAX)
        loaded = self._replica.loaded
        log.info("Closed the store at %d:%s", loaded.seq, loaded.head)
        # Whoever still holds the turn is using the descriptors.
        with self._turn:
            self._let_go()

    def _open_files(self) -> None:
        self.directory.open()
        replica = self._replica
        self._lock.acquire(OPENING_SECONDS_MAX)
        try:
            clear_leftovers(self.directory)
            if not self.directory.exists(JOURNAL):
                create(self.directory, self._chain, self._migrate)
            replica.open()
            self._clients.look()
            if not check_clients_file(self.directory, self._chain, replica.loaded):
                replica.loaded.marked_seq = -1
        finally:
            self._lock.release()

    def _let_go(self) -> None:
        replica = self._replica
        with replica.state:
            if replica.end.cut_failed:
                # The last chance to take back what no disk holds, before others may build on it.
                with contextlib.suppress(StorageUnavailable):
                    replica.end.recover()
            replica.end.close()
        self._lock.forget()
        self.directory.close()

    # Writing

    def commit(self, tickets: list[Ticket]) -> Callable[[], None] | None:
        begun = time.perf_counter()
        try:
            with self._exclusive(tickets):
                ran = self._ran(tickets)
                assert numbers_are_new(ran, self.base)
                if ran.changed:
                    self._replica.append(ran.written, ran.batch)
                else:
                    self._replica.prove()
        except (StorageUnavailable, OSError) as error:
            # Who came later waits on, each as long as the others.
            self.postpone(tickets, self._hold.waited_enough(tickets))
            self._refuse(tickets, error)
            return None
        ran.tell()
        seconds, self._committed_at = time.perf_counter() - begun, time.monotonic()
        if ran.changed:
            self._refused = ""
        return partial(self._committed, len(tickets), seconds, ran.changed)

    def is_quick(self) -> bool:
        end = self._replica.end
        return end.is_quick and not end.poisoned

    def run_ahead(self, tickets: list[Ticket]) -> None:
        replica = self._replica
        if not replica.end.poisoned:
            replica.ahead.run(tickets, lambda: replica.loaded.seq, self._run)

    def _ran(self, tickets: list[Ticket]) -> Ran:
        """What the tickets come to now."""
        replica = self._replica
        ran = replica.ahead.taken(tickets, replica.loaded.seq) or Ran()
        return self._run(tickets[len(ran.outcomes) :], None, ran)

    def _run(self, tickets: list[Ticket], asked: Asked | None, after: Ran) -> Ran:
        return run_tickets(tickets, self._replica.loaded.base, parts_of, asked=asked, after=after)

    def _committed(self, operations: int, seconds: float, changed: list[tuple[Ticket, Layer]]) -> None:
        observed(self._observer, operations, seconds, changed)
        if self.is_behind:
            self._consider_snapshot(quiet=False)

    def idle(self) -> None:
        replica = self._replica
        if replica.end.moved():
            replica.read_on()
        self._consider_snapshot(quiet=time.monotonic() - replica.changed_at >= QUIET_SECONDS)

    def idle_seconds(self) -> float | None:
        return QUIET_SECONDS

    @property
    def is_behind(self) -> bool:
        """Whether there are changes that no snapshot holds, and one could be written."""
        return self._replica.is_behind and not self._replica.refusal

    def snapshot(self, *, whole: bool = True) -> bool:
        """Write a snapshot now, or its checkpoint alone; whether it was this process that wrote it."""
        return self._snapshots.write(paced=False, wait_seconds=CLOSING_SECONDS_MAX, whole=whole)

    def last_mark(self) -> dict[str, Any]:
        """What the journal says of the newest snapshot."""
        return self._replica.last_mark()

    def frozen(self) -> tuple[Position, dict[str, dict[str, Any]], int]:
        """A copy of every table's rows as of one line, its place, and which loading it belongs to."""
        replica = self._replica
        with self._turn, replica.state:
            replica.read_on()
            loaded = replica.loaded
            position = Position(loaded.seq, loaded.head, loaded.batch, loaded.segment, replica.end.size)
            rows = {name: dict(table.rows) for name, table in loaded.base.tables.items()}
            return position, rows, replica.generation

    def publish_snapshot(self, mark: dict[str, Any], generation: int) -> bool:
        """Mark the snapshot that lies under temporary names as ours, and put it in its place."""
        replica = self._replica
        with self._turn, self._exclusive(seconds_max=READY_SECONDS_MAX):
            if generation != replica.generation:
                return False
            whole = "clients_seq" not in mark
            if whole:
                self._clients.keep_foreign(replica.loaded.known_clients())
            # Should the renames not reach the disk together, the file before is known all the same.
            if mark.get("clients_before") not in replica.loaded.known_clients():
                mark = {name: value for name, value in mark.items() if name != "clients_before"}
            replica.append_mark("snapshot", mark)
            if whole:
                # Before it has its name: from then on somebody may edit it.
                self._clients.look(f"{CLIENTS}.tmp")
                self.directory.replace(f"{CLIENTS}.tmp", CLIENTS)
            self.directory.replace(f"{CHECKPOINT}.tmp", CHECKPOINT)
            self.directory.sync()
            replica.loaded.marked_seq = max(replica.loaded.marked_seq, shown_seq(mark))
            if replica.end.size > SEGMENT_BYTES_MAX:
                replica.close_segment()
            return True

    def _exclusive(
        self, tickets: list[Ticket] | None = None, seconds_max: float | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Hold the lock, with everything taken in that others appended. The tickets are what it is for."""
        return self._hold.held(tickets or [], lambda: self.another_follows, seconds_max)

    def rest(self) -> None:
        self._hold.end()

    def _refuse(self, tickets: list[Ticket], error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(getattr(error, "detail", error))
        log.error("A batch of %d was refused: %s", len(tickets), reason)
        if isinstance(error, OSError):
            self._refused = reason
        for ticket in tickets:
            ticket.answer, ticket.error = None, StorageUnavailable()
        if self._observer is not None:
            self._observer.failed(reason)

    def _resync(self) -> None:
        """Have the writer's thread find out, under the lock, what the journal holds now. Nobody waits for it."""
        if self._resyncing:
            return
        self._resyncing = True

        def settle(_answer: object, _error: BaseException | None) -> None:
            self._resyncing = False

        try:
            self.submit(lambda _tx: None, "resync", settle)
            self.flush_soon()
        except StorageUnavailable:
            self._resyncing = False

    def _consider_snapshot(self, *, quiet: bool) -> None:
        if self.is_behind:
            self._snapshots.consider(quiet=quiet, bytes_behind=self._replica.loaded.bytes_behind)

    def entries(self, record: type[E], query: HistoryQuery) -> Iterator[tuple[int, E]]:
        replica = self._replica
        if replica.end.fd < 0:
            raise StorageUnavailable
        with refusals_are_told():
            if replica.end.moved() and not replica.read_on():
                self._resync()
            with replica.state:
                # A descriptor of our own stays at this segment, whatever is closed meanwhile.
                active, number = (os.dup(replica.end.fd), replica.end.size), replica.loaded.segment
            yield from replica.history.entries(active, number, PARTS[record], record, query)

    # Forking

    def before_fork(self) -> None:
        self._replica.state.acquire()

    def after_fork_in_parent(self) -> None:
        self._replica.state.release()

    def after_fork_in_child(self) -> None:
        self.forget_threads()
        self._replica.forget_threads()
        self._lock.forget()
        self._snapshots.forget()
        self._snapshots = Snapshots(self)
        self._resyncing = False
