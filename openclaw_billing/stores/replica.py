"""The replica: the journal as this process has it in memory, kept up with what every process appends.

Lines that others append are read on without the lock, a whole batch at a time. Only under the lock is it
decided what a line that does not fit means: a torn tail, a cut that somebody made, or damage.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from typing import Any

from openclaw_billing.errors import BadSettings, CorruptStore, StorageUnavailable
from openclaw_billing.stores.ahead import Ahead
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import Chain, Line, Reader
from openclaw_billing.stores.journal_end import JournalEnd
from openclaw_billing.stores.journal_files import JOURNAL, closed_name
from openclaw_billing.stores.journal_history import JournalHistory
from openclaw_billing.stores.json_create import Parts, begin_segment, marked, seal_batch
from openclaw_billing.stores.json_load import Loaded, load, mend, take
from openclaw_billing.stores.layers import Layer
from openclaw_billing.stores.schema import MOVED

log = logging.getLogger(__name__)


class Replica:
    """The state after the last line taken in. `state` guards every change of it; `generation` counts loadings."""

    def __init__(self, directory: Directory, chain: Chain) -> None:
        self._directory, self._chain = directory, chain
        self._path = str(directory.path / JOURNAL)
        self.end = JournalEnd(directory)
        self.loaded = Loaded()
        self.ahead = Ahead()
        self.history = JournalHistory(directory, chain)
        self.state = threading.RLock()
        self.generation = 0
        self.appending = False
        self.changed_at = 0.0
        self.others_at = 0.0
        """When lines of another process were taken in last."""
        self.damaged = ""
        self._proven_seq = 0
        self._names_proven = True

    @property
    def is_behind(self) -> bool:
        """Whether there are changes that no snapshot holds."""
        return self.loaded.changed_seq > self.loaded.marked_seq

    @property
    def refusal(self) -> str:
        """Why no change is taken any more; empty while they are."""
        moved = self.loaded.base.facts.get(MOVED)
        return self.damaged if moved is None else f"the store was moved to {moved.value}"

    def last_mark(self) -> dict[str, Any]:
        return self.loaded.marks[-1] if self.loaded.marks else {}

    def open(self) -> None:
        """Load, with nothing known before. The lock is held."""
        self.damaged, self._proven_seq = "", 0
        self.history = JournalHistory(self._directory, self._chain)
        self.reload()
        if self.refusal:
            raise BadSettings(f"The store in {self._directory.path} cannot be used: {self.refusal}")
        self.changed_at = time.monotonic()

    def join(self, known: Loaded) -> None:
        """Begin where somebody has read the journal up to, instead of loading. The lock is held."""
        with self.state:
            self.end.open(known.size)
            self.loaded = known
            self.generation += 1

    def read_on(self) -> bool:
        """Take in whole batches of others, without the lock. False when only the lock can tell what happened."""
        with self.state:
            end = self.end
            # Bytes that could not be cut back are on no disk: nobody shall see them.
            if self.appending or self.damaged or end.fd < 0 or end.cut_failed:
                return True
            try:
                length = end.length()
                if length < end.size:
                    return False
                return length == end.size or self._take_in(whole_batches=True)
            except (CorruptStore, OSError):
                return False

    def reload(self) -> None:
        """Read the files again. The lock is held.

        Raises:
            CorruptStore: they cannot be what we wrote, or lack what was durable before.
        """
        with self.state:
            # Pages that a failed flush left in memory are on no disk: what is believed is read from there.
            self._directory.forget_pages(JOURNAL)
            loaded = load(self._directory, self._chain)
            if loaded.seq < self._proven_seq:
                raise CorruptStore(
                    self._path, "ends before entries that were durable", offset=loaded.size, seq=loaded.seq
                )
            self.end.open(loaded.size)
            self.loaded = loaded
            self.ahead.forget()
            self.generation += 1
            self._names_proven = False
            self._settle()
            self._prove_names()
            self._proven_seq = loaded.seq

    def catch_up(self) -> None:
        """Stand where the journal ends. The lock is held: what is not whole is torn, or damage.

        Raises:
            StorageUnavailable: the journal is damaged, or the store was moved; nothing is written from now on.
        """
        with self.state:
            if self.damaged:
                raise StorageUnavailable
            try:
                if self.end.poisoned:
                    self.end.recover()
                if self.end.read_only:
                    # By now somebody may have made the disk writable.
                    self.end.open(self.end.size)
                self._follow()
                self._prove_names()
                if self.refusal:
                    raise StorageUnavailable
            except CorruptStore as error:
                self.damaged = str(error)
                log.error("Changes are refused until a restart: %s Reading goes on", error)
                raise StorageUnavailable from error
            except OSError as error:
                if error.errno == errno.EIO:
                    self.end.poison(f"the disk refused ({error.strerror})")
                raise

    def append_mark(self, name: str, mark: dict[str, Any]) -> None:
        """Make a line durable that says something about the files and changes no record."""
        self.append([(name, marked(mark))], Layer(), mark=mark)

    def close_segment(self) -> None:
        """End the active segment and go on in a new one."""
        self.append([("closed", "")], Layer())
        self._begin_segment()

    def append(
        self, lines: list[tuple[str, Parts]], batch: Layer, *, mark: dict[str, Any] | None = None
    ) -> None:
        """Make one batch durable, then visible. The lock is held, and we stand where the journal ends."""
        loaded, end = self.loaded, self.end
        number = loaded.batch + 1
        sealed, seq, head = seal_batch(self._chain, lines, seq=loaded.seq, head=loaded.head, batch=number)
        self.ahead.committing(batch)
        try:
            end.append(sealed)
        except BaseException:
            self.ahead.failed()
            raise
        with self.state:
            batch.publish(loaded.base)
            self.ahead.committed(batch, seq)
            loaded.seq, loaded.head, loaded.batch = seq, head, number
            loaded.bytes_behind += len(sealed)
            loaded.unfinished = False
            if mark is not None:
                loaded.marks = loaded.marks[-7:]
                loaded.note_mark(mark)
            elif lines[-1] == ("closed", ""):
                loaded.closed = True
            else:
                loaded.changed_seq = seq
            # Last, so that a thread interrupted before this line reads its own batch again from the file.
            end.size += len(sealed)
            self._proven_seq = seq
        self.changed_at = time.monotonic()

    def prove(self) -> None:
        """Make sure that all we have read is durable: its writer may have died before its flush."""
        self.end.prove()
        self._proven_seq = self.loaded.seq

    def _begin_segment(self) -> None:
        """Go on in a new segment; the closed one stays for ever as the history. The lock is held."""
        loaded = self.loaded
        self.end.prove()
        lines: list[tuple[str, Parts]] = [("segment", marked(self.last_mark()))]
        number = loaded.batch + 1
        sealed, seq, head = seal_batch(self._chain, lines, seq=loaded.seq, head=loaded.head, batch=number)
        begin_segment(self._directory, loaded.segment, sealed)
        with self.state:
            self.end.open(len(sealed))
            loaded.seq, loaded.head, loaded.batch = seq, head, number
            loaded.segment, loaded.closed = loaded.segment + 1, False
            loaded.torn, loaded.unfinished = None, False
            self._proven_seq = seq

    def _follow(self) -> None:
        end, loaded = self.end, self.loaded
        path = self._path
        ours = end.ends_with(loaded.head)
        if (
            ours
            and end.length() == end.size
            and not (loaded.closed or loaded.unfinished or loaded.torn is not None)
        ):
            if not end.is_current():
                raise CorruptStore(path, "was removed or replaced while it was in use")
            return
        try:
            if not ours:
                raise CorruptStore(
                    path, "does not hold what was read from it", offset=end.size, seq=loaded.seq
                )
            self._take_in(whole_batches=False)
            self._settle()
        except CorruptStore:
            # What we read ahead may have been cut since by its writer: only the files can be called damaged.
            if not end.is_current():
                raise
            self.reload()
        if not end.is_current():
            raise CorruptStore(path, "was removed or replaced while it was in use")

    def _take_in(self, *, whole_batches: bool) -> bool:
        """Take in what stands behind our end, through as many segments as were begun since."""
        while True:
            fits = self._take_lines(whole_batches=whole_batches)
            if not self.loaded.closed or self.end.is_current():
                return fits
            self._open_next()

    def _take_lines(self, *, whole_batches: bool) -> bool:
        data, start = self.end.beyond(), self.end.size
        good = start
        pending: list[Line] = []
        for line in self._reader(sparing=True).lines(data, start):
            good = line.end
            pending.append(line)
            if line.ends_batch:
                self._take(pending)
                pending.clear()
        if not whole_batches:
            self._take(pending)
        # A line without its end is being written; one with its end that does not fit is something else.
        return b"\n" not in data[good - start :]

    def _take(self, lines: list[Line]) -> None:
        if not lines:
            return
        end = self.end
        end.unproven = True
        layer = take(lines, self.loaded, self._path)
        self.ahead.see(layer.puts, self.loaded.seq)
        end.size = lines[-1].end
        self.changed_at = self.others_at = time.monotonic()

    def _open_next(self) -> None:
        number = self.loaded.segment + 1
        self.end.open(0)
        # The one after ours may itself be closed by now: asked in this order, no step of others is missed.
        if self._directory.exists(closed_name(number)):
            self.end.open(0, closed_name(number))
        self.loaded.segment, self.loaded.closed = number, False
        self._names_proven = False

    def _settle(self) -> None:
        """Cut a torn tail, go on from a closed segment, and end a batch that its writer left unfinished."""
        loaded, end = self.loaded, self.end
        if end.length() != end.size:
            self._mend()
        if loaded.closed:
            self._begin_segment()
        elif loaded.torn is not None or loaded.unfinished:
            # One whole batch of our own: the broken one can then be told from the next.
            mark = {**self.last_mark(), "cut": end.size}
            self.append_mark("cut", mark)
            loaded.torn = None

    def _mend(self) -> None:
        reader, end, loaded = self._reader(), self.end, self.loaded
        rest = end.beyond()
        tail = reader.tail(rest, end.size, end.size)
        loaded.size = end.size
        mend(self._directory, reader, tail, rest, loaded)
        end.size = loaded.size

    def _prove_names(self) -> None:
        """A file begun by somebody who died at once has its name in memory only, until the directory is flushed."""
        if not self._names_proven:
            self._directory.sync()
            self._names_proven = True

    def _reader(self, *, sparing: bool = False) -> Reader:
        loaded = self.loaded
        return Reader(
            self._path,
            self._chain,
            seq=loaded.seq,
            head=loaded.head,
            batch=loaded.batch,
            unfinished=loaded.unfinished,
            sparing=sparing,
        )

    def forget_threads(self) -> None:
        """In a forked child: the threads that held these locks are not here."""
        self.state = threading.RLock()
        self.ahead = Ahead()
        self.history = JournalHistory(self._directory, self._chain)
        self.loaded.base.forget_threads()
        self.appending = False
