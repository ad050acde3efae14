"""The JSON store: files on one machine, shared by every process that opens the same directory.

The journal is the truth; memory is its last durable state; snapshots make starting quick. Every change is
made by whoever holds the lock, after taking in what the others appended. Readers hold no lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openclaw_billing.contracts import Health, HistoryPage, HistoryQuery, StoreObserver
from openclaw_billing.errors import CorruptStore, StorageUnavailable
from openclaw_billing.records import AuditEntry, LedgerEntry
from openclaw_billing.stores.checkpoint import Position
from openclaw_billing.stores.files import Directory, FileLock
from openclaw_billing.stores.group_commit import GroupCommit, Ticket
from openclaw_billing.stores.history import page_of_history
from openclaw_billing.stores.journal import Chain, Reader
from openclaw_billing.stores.journal_end import JournalEnd
from openclaw_billing.stores.journal_files import CHECKPOINT, CLIENTS, JOURNAL, LOCK, closed_name, history
from openclaw_billing.stores.json_create import Migrate, Parts, begin_segment, create, parts_of, seal_batch
from openclaw_billing.stores.json_load import Loaded, check_clients_file, load, mend, take
from openclaw_billing.stores.memory import entries_of, run_tickets
from openclaw_billing.stores.snapshots import QUIET_SECONDS, Snapshots, foreign_name
from openclaw_billing.stores.tables import Base, Layer

log = logging.getLogger(__name__)

SEGMENT_BYTES_MAX = 64 << 20


class JsonStore(GroupCommit):
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
        self._end = JournalEnd(self.directory)
        self._observer = observer
        self._migrate = migrate
        self._state = threading.RLock()
        self._loaded = Loaded()
        self._generation = 0
        self._appending = False
        self._bytes_behind = 0
        self._bytes_last = 0
        self._clients_seen: tuple[int, ...] | None = None
        self._changed_at = 0.0
        self._snapshots = Snapshots(self)
        _forget_in_children(self)

    # Reading

    @property
    def base(self) -> Base:
        return self._loaded.base

    @property
    def view(self) -> Base:
        # While we append we hold the lock, and the growth that fstat shows is our own.
        if not self._appending and os.fstat(self._end.fd).st_size != self._end.size:
            self._read_on()
        return self._loaded.base

    def ledger(self, query: HistoryQuery) -> HistoryPage[LedgerEntry]:
        return page_of_history(self._history("ledger", LedgerEntry, query), query)

    def audit(self, query: HistoryQuery) -> HistoryPage[AuditEntry]:
        return page_of_history(self._history("audit", AuditEntry, query), query)

    def health(self) -> Health:
        details: dict[str, str | int] = {
            "seq": self._loaded.seq,
            "head": self._loaded.head,
            "segment": self._loaded.segment,
            "bytes": self._end.size,
            "snapshot_seq": self._loaded.marked_seq,
        }
        reason = self._end.poisoned
        return Health(writable=not reason, reason=reason, details=details)

    # Opening and closing

    def open(self) -> None:
        if self._end.fd >= 0:
            return
        self.directory.open()
        self._lock.acquire()
        try:
            self._clear_leftovers()
            if not self.directory.exists(JOURNAL):
                create(self.directory, self._chain, self._migrate)
            self._reload()
            if not check_clients_file(self.directory, self._loaded):
                self._loaded.marked_seq = -1
        finally:
            self._lock.release()
        self._changed_at = time.monotonic()
        self._consider_snapshot(quiet=True)

    def close(self) -> None:
        if self._end.fd < 0:
            return
        self.drain()
        self._snapshots.stop()
        self._read_on()
        if self._is_behind and not self._end.poisoned:
            with contextlib.suppress(StorageUnavailable, OSError):
                self._snapshots.write(paced=False)
        log.info("Closed the store at entry %d, head %s", self._loaded.seq, self._loaded.head)
        self._end.close()
        self._lock.forget()
        self.directory.close()

    # Writing

    def commit(self, tickets: list[Ticket]) -> None:
        begun = time.perf_counter()
        try:
            with self._exclusive():
                batch, changed = run_tickets(tickets, self._loaded.base)
                if changed:
                    self._append([(ticket.name, parts_of(layer)) for ticket, layer in changed], batch)
        except (StorageUnavailable, CorruptStore, OSError) as error:
            self._refuse(tickets, error)
            return
        if self._observer is not None:
            self._observer.flushed(len(tickets), time.perf_counter() - begun, entries_of(changed))
        if self._is_behind:
            self._consider_snapshot(quiet=False)

    def idle(self) -> None:
        self._consider_snapshot(quiet=time.monotonic() - self._changed_at >= QUIET_SECONDS)

    def idle_seconds(self) -> float | None:
        return QUIET_SECONDS if self._is_behind else None

    def snapshot(self) -> bool:
        """Write a snapshot now; whether it was this process that wrote it."""
        return self._snapshots.write(paced=False)

    def frozen(self) -> tuple[Position, dict[str, dict[str, Any]], int]:
        """A copy of every table's rows as of one line, its place, and which loading it belongs to."""
        with self._turn, self._state:
            loaded = self._loaded
            position = Position(loaded.seq, loaded.head, loaded.batch, loaded.segment, self._end.size)
            rows = {name: dict(table.rows) for name, table in loaded.base.tables.items()}
            return position, rows, self._generation

    def publish_snapshot(self, mark: dict[str, Any], generation: int) -> bool:
        """Mark the snapshot that lies under temporary names as ours, and put it in its place."""
        with self._turn, self._exclusive():
            if generation != self._generation:
                return False
            self._keep_foreign()
            self._append([("snapshot", {"mark": mark})], Layer())
            self.directory.replace(f"{CLIENTS}.tmp", CLIENTS)
            self.directory.replace(f"{CHECKPOINT}.tmp", CHECKPOINT)
            self.directory.sync()
            self._clients_seen = self._clients_stat()
            self._bytes_last = os.stat(CHECKPOINT, dir_fd=self.directory.fd).st_size
            self._bytes_behind = 0
            if self._end.size > SEGMENT_BYTES_MAX:
                self._append([("closed", {})], Layer())
                self._begin_segment()
            return True

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the lock, with everything taken in that others appended."""
        if self._end.fd < 0:
            raise StorageUnavailable
        if not self._lock.held:
            self._lock.acquire()
        try:
            if self._end.poisoned:
                self._end.recover(self._loaded.head)
            with self._state:
                if self._end.length() != self._end.size or self._loaded.closed:
                    self._catch_up()
                self._appending = True
            yield
        finally:
            self._appending = False
            # Bytes that no disk holds stay behind the lock, or others would build on them.
            if not self._end.cut_failed:
                self._lock.release()

    def _append(self, lines: list[tuple[str, Parts]], batch: Layer) -> None:
        loaded = self._loaded
        number = loaded.batch + 1
        sealed, seq, head = seal_batch(self._chain, lines, seq=loaded.seq, head=loaded.head, batch=number)
        self._end.append(sealed)
        with self._state:
            batch.publish(loaded.base)
            loaded.seq, loaded.head, loaded.batch = seq, head, number
            mark = lines[-1][1].get("mark")
            if mark is not None:
                loaded.marks = [*loaded.marks[-7:], mark]
                loaded.marked_seq = max(loaded.marked_seq, mark.get("seq", -1))
            elif lines[-1][0] == "closed":
                loaded.closed = True
            else:
                loaded.changed_seq = seq
        self._bytes_behind += len(sealed)
        self._changed_at = time.monotonic()

    def _refuse(self, tickets: list[Ticket], error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(getattr(error, "detail", error))
        log.error("A batch of %d was refused: %s", len(tickets), reason)
        for ticket in tickets:
            ticket.answer, ticket.error = None, StorageUnavailable()
        if self._observer is not None:
            self._observer.failed(reason)

    # Taking in what others wrote

    def _read_on(self) -> None:
        """Take in whole batches of other processes, without the lock."""
        with self._state:
            if not self._appending and self._end.length() > self._end.size:
                self._take_in(whole_batches=True)

    def _catch_up(self) -> None:
        """Take in all that others wrote. The lock is held: what is not whole is torn, or damage."""
        if self._end.length() < self._end.size:
            self._reload()
            return
        self._take_in(whole_batches=False)
        if self._loaded.closed:
            self._begin_segment()
        elif self._end.length() != self._end.size:
            self._mend()

    def _take_in(self, *, whole_batches: bool) -> None:
        loaded, end = self._loaded, self._end
        reader = self._reader()
        pending = []
        for line in reader.lines(end.beyond(), end.size):
            pending.append(line)
            if whole_batches and not line.ends_batch:
                continue
            for each in pending:
                take(each, loaded)
                self._bytes_behind += each.end - end.size
                end.size = each.end
            pending.clear()
            self._changed_at = time.monotonic()
        if loaded.closed and not end.is_current():
            end.open(0)
            loaded.segment += 1
            loaded.closed = False
            self._take_in(whole_batches=whole_batches)

    def _mend(self) -> None:
        reader, end, loaded = self._reader(), self._end, self._loaded
        rest = end.beyond()
        tail = reader.tail(rest, end.size, end.size)
        loaded.size, loaded.torn = end.size, None
        mend(self.directory, reader, tail, rest, loaded)
        end.size = loaded.size
        self._note_cut()

    def _reload(self) -> None:
        with self._state:
            loaded = load(self.directory, self._chain)
            self._end.open(loaded.size)
            self._loaded = loaded
            self._generation += 1
            self._clients_seen = self._clients_stat()
            if loaded.closed:
                self._begin_segment()
            self._note_cut()

    def _note_cut(self) -> None:
        """After a cut, one whole batch of our own: the broken one can then be told from the next."""
        if self._loaded.torn is not None:
            mark = {**self._last_mark(), "cut": self._loaded.torn}
            self._loaded.torn = None
            self._append([("cut", {"mark": mark})], Layer())

    def _reader(self) -> Reader:
        loaded = self._loaded
        path = str(self.directory.path / JOURNAL)
        return Reader(path, self._chain, seq=loaded.seq, head=loaded.head, batch=loaded.batch)

    # Files

    def _begin_segment(self) -> None:
        """Go on in a new segment; the closed one stays for ever as the history."""
        loaded = self._loaded
        lines: list[tuple[str, Parts]] = [("segment", {"mark": self._last_mark()})]
        number = loaded.batch + 1
        sealed, seq, head = seal_batch(self._chain, lines, seq=loaded.seq, head=loaded.head, batch=number)
        begin_segment(self.directory, self._chain, loaded.segment, sealed)
        with self._state:
            self._end.open(len(sealed))
            loaded.seq, loaded.head, loaded.batch = seq, head, number
            loaded.segment, loaded.closed = loaded.segment + 1, False

    def _clear_leftovers(self) -> None:
        for name in self.directory.names():
            if name.startswith("openclaw_clients.") and name.endswith(".tmp"):
                os.unlink(name, dir_fd=self.directory.fd)

    def _keep_foreign(self) -> None:
        """Set aside a clients file that somebody else wrote while we ran."""
        if self._clients_stat() == self._clients_seen:
            return
        with contextlib.suppress(FileNotFoundError):
            digest = hashlib.sha256(self.directory.read(CLIENTS, links_max=2)).hexdigest()
            if digest in [mark.get("clients") for mark in self._loaded.marks]:
                return
            kept = foreign_name()
            self.directory.replace(CLIENTS, kept)
            log.error("%s was changed by somebody else: kept as %s, and ours written anew", CLIENTS, kept)

    def _clients_stat(self) -> tuple[int, ...] | None:
        try:
            status = os.stat(CLIENTS, dir_fd=self.directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def _last_mark(self) -> dict[str, Any]:
        return self._loaded.marks[-1] if self._loaded.marks else {}

    @property
    def _is_behind(self) -> bool:
        return self._loaded.changed_seq > self._loaded.marked_seq

    def _consider_snapshot(self, *, quiet: bool) -> None:
        if self._is_behind:
            self._snapshots.consider(quiet=quiet, bytes_behind=self._bytes_behind, bytes_last=self._bytes_last)

    def _history(self, part: str, record: type, query: HistoryQuery) -> Iterator[tuple[int, Any]]:
        ends = [(JOURNAL, self._end.size)]
        for segment in range(self._loaded.segment - 1, 0, -1):
            name = closed_name(segment)
            ends.append((name, os.stat(name, dir_fd=self.directory.fd).st_size))
        return history(self.directory, ends, part, record, query)

    def after_fork(self) -> None:
        """In a forked child: no thread of ours runs here, and no lock of theirs may bind us."""
        self.forget_threads()
        self._state = threading.RLock()
        self._appending = False
        self._lock.forget()
        self._snapshots = Snapshots(self)


def _forget_in_children(store: JsonStore) -> None:
    known = weakref.ref(store)

    def forget() -> None:
        if (alive := known()) is not None:
            alive.after_fork()

    os.register_at_fork(after_in_child=forget)
