"""The journal's end: bytes become durable there, or leave no trace."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time

from openclaw_billing.errors import StorageUnavailable
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import sealed_end
from openclaw_billing.stores.journal_files import JOURNAL

log = logging.getLogger(__name__)

FLUSHES_OF_LATE = 8
QUICK_SECONDS_MAX = 0.001
"""Up to how long a flush may take, of late, for an event loop to wait for it."""


class JournalEnd:
    """The active segment's descriptor, and how far it has been taken in."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self.fd = -1
        self.size = 0
        self.poisoned = ""
        self.cut_failed = False
        """Bytes that no disk holds may stand behind `size`: nobody may build on them."""
        self.read_only = False
        """The disk could not be written to when the file was opened."""
        self.unproven = False
        """Lines of others were taken in, and nothing was flushed since."""
        self._flush_seconds = 0.0

    @property
    def is_quick(self) -> bool:
        """Whether the disk takes a flush, of late, in less time than it is worth to turn to something else."""
        return self._flush_seconds <= QUICK_SECONDS_MAX

    def open(self, size: int, name: str = JOURNAL) -> None:
        """Stand at byte `size` of the segment that has that name now."""
        fresh = self._directory.open_or_read(name, os.O_RDWR | os.O_APPEND, links_max=2)
        self.read_only = fcntl.fcntl(fresh, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        if self.fd >= 0:
            os.dup2(fresh, self.fd, inheritable=False)
            os.close(fresh)
        else:
            self.fd = fresh
        self.size = size

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        self.poisoned, self.cut_failed, self.unproven = "", False, False

    def length(self) -> int:
        """How long the file is, durable or not."""
        return os.fstat(self.fd).st_size

    def moved(self) -> bool:
        """Whether the file is not as long as we know it. Asked at every reading."""
        try:
            return os.fstat(self.fd).st_size != self.size
        except OSError:
            # Closed: there is nothing to read on from.
            return False

    def beyond(self) -> bytes:
        """What stands behind the part we know."""
        return os.pread(self.fd, max(0, self.length() - self.size), self.size)

    def ends_with(self, head: str) -> bool:
        """Whether the part we know ends with the line of that sum."""
        wanted = sealed_end(head)
        return os.pread(self.fd, len(wanted), max(0, self.size - len(wanted))) == wanted

    def is_current(self) -> bool:
        """Whether the file still has the journal's name."""
        try:
            there = os.stat(JOURNAL, dir_fd=self._directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return there.st_ino == os.fstat(self.fd).st_ino

    def append(self, data: bytes) -> None:
        """Make the bytes durable; `size` is for the caller to move.

        Raises:
            OSError: they are not, and the file was cut back to where it ended before.
        """
        if self.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        try:
            written = os.write(self.fd, data)
        except OSError as error:
            if error.errno == errno.EIO:
                self.poison(f"the disk refused a write ({error.strerror})")
            self._cut_back()
            raise
        if written != len(data):
            # Durably: of two parts of lines, the one over the other, a power cut could leave what looks like damage.
            self._cut_back(durably=True)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._flush()

    def prove(self) -> None:
        """Flush what others wrote, if we build an answer on it.

        Raises:
            OSError: the disk does not hold it.
        """
        if self.unproven:
            self._flush()

    def recover(self) -> None:
        """Go on after a failed flush from what the disk itself shows now; whoever reads it next judges that.

        Raises:
            StorageUnavailable: the disk still refuses.
        """
        try:
            # Only behind the lock that we kept is everything after `size` ours to cut.
            if self.cut_failed:
                os.ftruncate(self.fd, self.size)
            os.fsync(self.fd)
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise StorageUnavailable from error
        log.warning("Changes are accepted again: the disk took what it had refused")
        self.poisoned, self.cut_failed = "", False

    def poison(self, reason: str) -> None:
        """Refuse changes until the disk has proved itself again."""
        log.error("Changes are refused: %s. Reading goes on", reason)
        self.poisoned = reason

    def _flush(self) -> None:
        begun = time.perf_counter()
        try:
            os.fdatasync(self.fd)
        except OSError as error:
            # The kernel may have dropped the pages and called them clean: asking again proves nothing.
            self.poison(f"the disk refused a flush ({error.strerror})")
            self._cut_back()
            raise
        self._flush_seconds += (time.perf_counter() - begun - self._flush_seconds) / FLUSHES_OF_LATE
        self.unproven = False

    def _cut_back(self, *, durably: bool = False) -> None:
        try:
            os.ftruncate(self.fd, self.size)
            if durably or self.poisoned:
                os.fsync(self.fd)
        except OSError as error:
            self.cut_failed = True
            self.poison(f"the journal cannot be cut back ({error.strerror})")
