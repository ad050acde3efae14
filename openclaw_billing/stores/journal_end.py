"""The journal's end: bytes become durable there, or leave no trace."""

from __future__ import annotations

import errno
import logging
import os

from openclaw_billing.errors import StorageUnavailable
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal_files import JOURNAL

log = logging.getLogger(__name__)


class JournalEnd:
    """The active segment's descriptor and how far it is known to be durable."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self.fd = -1
        self.size = 0
        self.poisoned = ""
        self.cut_failed = False
        """Bytes that no disk holds may stand behind `size`: nobody may build on them."""

    def open(self, size: int) -> None:
        """Stand at byte `size` of the segment that has the journal's name now."""
        fresh = self._directory.open_file(JOURNAL, os.O_RDWR | os.O_APPEND, links_max=2)
        if self.fd >= 0:
            os.dup2(fresh, self.fd, inheritable=False)
            os.close(fresh)
        else:
            self.fd = fresh
        self.size = size

    def close(self) -> None:
        os.close(self.fd)
        self.fd = -1

    def length(self) -> int:
        """How long the file is, durable or not."""
        return os.fstat(self.fd).st_size

    def beyond(self) -> bytes:
        """What stands behind the part we know."""
        return os.pread(self.fd, max(0, self.length() - self.size), self.size)

    def is_current(self) -> bool:
        """Whether the file still has the journal's name."""
        there = os.stat(JOURNAL, dir_fd=self._directory.fd, follow_symlinks=False)
        return there.st_ino == os.fstat(self.fd).st_ino

    def append(self, data: bytes) -> None:
        """Make the bytes durable.

        Raises:
            OSError: they are not, and the file was cut back to where it ended before.
        """
        try:
            written = os.write(self.fd, data)
        except OSError as error:
            if error.errno == errno.EIO:
                self._poison(f"the disk refused a write ({error.strerror})")
            self._cut_back()
            raise
        if written != len(data):
            self._cut_back()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            os.fdatasync(self.fd)
        except OSError as error:
            # The kernel may have dropped the pages and called them clean: asking again proves nothing.
            self._poison(f"the disk refused a flush ({error.strerror})")
            self._cut_back()
            raise
        self.size += len(data)

    def recover(self, head: str) -> None:
        """Write again only after the disk has shown, past the page cache, the last line we know to be durable.

        Raises:
            StorageUnavailable: it has not.
        """
        try:
            os.ftruncate(self.fd, self.size)
            os.fsync(self.fd)
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            last = os.pread(self.fd, 4096, max(0, self.size - 4096))
        except OSError as error:
            raise StorageUnavailable from error
        if not last.endswith(b'"sum":"' + head.encode() + b'"}\n'):
            raise StorageUnavailable
        log.warning("Changes are accepted again: the journal was read back as it was written")
        self.poisoned, self.cut_failed = "", False

    def _cut_back(self) -> None:
        try:
            os.ftruncate(self.fd, self.size)
            if self.poisoned:
                os.fsync(self.fd)
        except OSError as error:
            self.cut_failed = True
            self._poison(f"the journal cannot be cut back ({error.strerror})")

    def _poison(self, reason: str) -> None:
        log.error("Changes are refused: %s. Reading goes on", reason)
        self.poisoned = reason
