"""The journal as history: entries read backwards, once its chain was followed forwards to where they stand.

A start believes the checkpoint and reads only what is behind it. So whoever asks for the history first has
all of it checked; from then on what was added since is, and each line that is told of.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.errors import CorruptStore
from openclaw_billing.stores.codec import encode, from_row, parsed
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.history import matches, position_of
from openclaw_billing.stores.journal import NO_SUM, Chain, Reader
from openclaw_billing.stores.journal_files import JOURNAL, closed_name


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as far as it shall be read. `changed_at` is 0 while lines are added to it."""

    path: str
    data: mmap.mmap | bytes
    inode: int
    changed_at: int


@dataclass(frozen=True, slots=True)
class Followed:
    """How far the chain was followed in a segment, and the line there."""

    inode: int = 0
    changed_at: int = 0
    offset: int = 0
    seq: int = 0
    head: str = NO_SUM

    def is_of(self, segment: Segment) -> bool:
        """Whether it still tells of that file: once closed, it must not have been changed since."""
        return self.inode == segment.inode and self.changed_at in (0, segment.changed_at)


class JournalHistory:
    """The ledger and the audit log in one directory, for one opening of it in one process."""

    def __init__(self, directory: Directory, chain: Chain) -> None:
        self._directory, self._chain = directory, chain
        self._followed: dict[int, Followed] = {}
        self._following = threading.Lock()

    def entries(
        self, active: tuple[int, int], number: int, part: str, record: type, query: HistoryQuery
    ) -> Iterator[tuple[int, Any]]:
        """The entries of `part` ("ledger" or "audit") that match, newest first, with their positions.

        `active` is a descriptor of segment `number`, which is closed when done, and how far to read it.

        Raises:
            CorruptStore: a line is not as it was written, with file, byte and entry.
        """
        marker = f'"{part}":['.encode()
        needle = b"" if query.client_id is None else f'"client_id":{encode(query.client_id)}'.encode("ascii")
        with ExitStack() as opened:
            segments = [self._closed(each, opened) for each in range(1, number)]
            segments.append(self._active(*active, opened))
            with self._following:
                self._follow(segments)
            for segment in reversed(segments):
                for start, raw in _lines_backwards(segment.data, needle):
                    if marker in raw:
                        yield from self._read(segment, start, raw, part, record, query)

    def _closed(self, number: int, opened: ExitStack) -> Segment:
        name = closed_name(number)
        fd = self._directory.open_file(name, os.O_RDONLY, links_max=64)
        try:
            found = os.fstat(fd)
            path = str(self._directory.path / name)
            return Segment(path, _mapped(fd, found.st_size, opened), found.st_ino, found.st_mtime_ns)
        finally:
            os.close(fd)

    def _active(self, fd: int, end: int, opened: ExitStack) -> Segment:
        try:
            found = os.fstat(fd)
            # The file may have been cut since: a mapping that reaches behind its end cannot be read.
            return Segment(
                str(self._directory.path / JOURNAL),
                _mapped(fd, min(end, found.st_size), opened),
                found.st_ino,
                0,
            )
        finally:
            os.close(fd)

    def _follow(self, segments: list[Segment]) -> None:
        try:
            self._go_on(segments)
        except CorruptStore:
            # What had been followed may have been cut since by its writer, and other lines put there.
            self._followed.clear()
            self._go_on(segments)

    def _go_on(self, segments: list[Segment]) -> None:
        """Follow the chain from where that ended last, in each segment."""
        before = Followed()
        for number, segment in enumerate(segments, 1):
            known = self._followed.get(number)
            if known is None or not known.is_of(segment):
                known = Followed(segment.inode, segment.changed_at, 0, before.seq, before.head)
            if known.offset < len(segment.data) or known.changed_at != segment.changed_at:
                reader = Reader(segment.path, self._chain, seq=known.seq, head=known.head)
                reader.follow(segment.data, known.offset)
                size = max(known.offset, len(segment.data))
                known = Followed(segment.inode, segment.changed_at, size, reader.seq, reader.head)
                self._followed[number] = known
            before = known

    def _read(
        self, segment: Segment, start: int, raw: bytes, part: str, record: type, query: HistoryQuery
    ) -> Iterator[tuple[int, Any]]:
        if not self._chain.is_sealed(raw):
            raise CorruptStore(segment.path, "its sum does not fit", offset=start)
        line = parsed(raw)
        rows = line.get(part, ())
        for index in range(len(rows) - 1, -1, -1):
            try:
                entry: Any = from_row(record, rows[index])
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                reason = f"it holds a record that cannot be read ({type(error).__name__})"
                raise CorruptStore(segment.path, reason, offset=start, seq=line["seq"]) from error
            if matches(entry, query):
                yield position_of(line["seq"], index), entry


def _mapped(fd: int, size: int, opened: ExitStack) -> mmap.mmap | bytes:
    return opened.enter_context(mmap.mmap(fd, size, access=mmap.ACCESS_READ)) if size else b""


def _lines_backwards(data: mmap.mmap | bytes, needle: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that hold the needle, the last first, each with where it begins."""
    before = len(data)
    while before > 0:
        # Jump from hit to hit: the lines of other clients are not looked at.
        hit = data.rfind(needle, 0, before) if needle else before - 1
        if hit < 0:
            return
        start = data.rfind(b"\n", 0, hit) + 1
        stop = data.find(b"\n", hit)
        yield start, data[start : stop if stop >= 0 else len(data)]
        before = start
