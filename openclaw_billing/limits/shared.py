"""The limiter of one machine: a mapped file that every worker counts in, exact between them.

The file is a table of buckets. A key's digest tells its bucket; the bucket is locked, searched and written,
and let go. The lock is on the bucket's bytes, belongs to the open file, and ends with its process, however
that ends. Nothing in the file is worth keeping: whoever would not be refused may be forgotten, and of a file
that is gone or foreign a new one is made.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import mmap
import os
import secrets
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from openclaw_billing.errors import StartupError
from openclaw_billing.gcra import Limit, Verdict, judge
from openclaw_billing.limits.memory import LIMITS_MAX, MemoryLimiter
from openclaw_billing.stores.files import Directory

FILE = "rate_limits"
BUCKETS = 4096
SLOTS = 16
LOCK_SECONDS_MAX = 0.25
"""How long a call waits for a bucket: a holder that stands still has been stopped by somebody."""
STUCK_US = 5_000_000
FOREIGN_US = 86_400_000_000
"""No limit reaches a day ahead: such a time was written before the machine was started anew."""

_HEADER = 4096
_DIGEST = 16
_DIGESTS = SLOTS * _DIGEST
_TIMES = struct.Struct(f"<{LIMITS_MAX}q")
_ALL_TIMES = struct.Struct(f"<{SLOTS * LIMITS_MAX}q")
_NEVER = (0,) * LIMITS_MAX
_BUCKET = _DIGESTS + _ALL_TIMES.size
_FILE_BYTES = _HEADER + BUCKETS * _BUCKET
# The header: the id of this machine's gateway, how many gateways there were when last told, since when they
# count together, and when that had a gap last.
_ID = slice(0, 16)
_GATEWAYS, _BEGAN, _GAP = 16, 24, 32
_COUNT = struct.Struct("<q")
# A lock on a range that belongs to the open file and not to the process: Linux has it, others lock it whole.
# The words of it are laid out as 64-bit Linux has them.
_OFD = getattr(fcntl, "F_OFD_SETLK", None) if sys.platform == "linux" and struct.calcsize("P") == 8 else None
_RANGE = struct.Struct("hhqqi4x")

log = logging.getLogger(__name__)


class SharedLimiter:
    """See `contracts.LocalLimiter`. Where the file cannot be had, this process counts alone, and says so."""

    def __init__(self, directory: Path, ticks: Callable[[], int]) -> None:
        self._path = directory
        self._ticks = ticks
        self._alone = MemoryLimiter(ticks)
        self._guard = threading.Lock()
        self._stuck: dict[int, int] = {}
        self._fd = -1
        self._map: mmap.mmap | None = None
        self._opened = False
        _watch_forks(self)

    async def take(self, key: str, limits: Sequence[Limit]) -> Verdict:
        return self.take_now(key, limits)

    def take_now(self, key: str, limits: Sequence[Limit], cost: int = 1) -> Verdict:
        digest, bucket, lock, unlock = _place_of(key)
        with self._guard:
            table = self._map
            if table is None:
                table = self._open()
            if table is None or not self._lock(bucket, lock):
                return self._alone.take_now(key, limits, cost)._replace(degraded=True)
            try:
                return self._judge(table, digest, bucket, limits, cost)
            finally:
                try:
                    _let_go(self._fd, unlock)
                except OSError:
                    # Closing gives it back as well; the next call opens the file again.
                    self._shut()

    def state_of(self, key: str) -> object:
        # Without the lock: half written, it is neither what it was nor what it will be.
        _, bucket, *_ = _place_of(key)
        with self._guard:
            table = self._map
            return None if table is None or self._stuck else table[bucket : bucket + _BUCKET]

    def _judge(
        self, table: mmap.mmap, digest: bytes, bucket: int, limits: Sequence[Limit], cost: int
    ) -> Verdict:
        # The moment is taken under the lock: with an older one than the bucket's, nothing would fit.
        now = self._ticks()
        at = _times_of(table, digest, bucket)
        stored = _TIMES.unpack_from(table, at) if at else _NEVER
        verdict = judge(limits, stored[: len(limits)], now, cost)
        if cost and not verdict.refused_by:
            at = at or _claim(table, digest, bucket, now)
            _TIMES.pack_into(table, at, *verdict.times, *stored[len(limits) :])
        return verdict

    @property
    def degraded(self) -> bool:
        """Whether this process counts alone now, or some calls of it."""
        now = self._ticks()
        return (self._opened and self._map is None) or any(until > now for until in self._stuck.values())

    @property
    def gateway_id(self) -> str:
        """The name of this machine's gateway, the same for all of its workers."""
        with self._guard:
            table = self._map or self._open()
            return secrets.token_hex(16) if table is None else table[_ID].hex()

    @property
    def gateways(self) -> int:
        """How many gateways there were when last told; at least this one."""
        return max(self._noted(_GATEWAYS), 1)

    @gateways.setter
    def gateways(self, number: int) -> None:
        self._note(_GATEWAYS, number)

    def counted_together_since(self, began: int) -> None:
        """What counts for all gateways began then. If that is not as it was told before, something is forgotten."""
        known = self._noted(_BEGAN)
        if known != began:
            self._note(_BEGAN, began)
            if known:
                self.had_gap()

    def had_gap(self) -> None:
        """Until now what was let in here, or elsewhere, was not counted for all gateways."""
        self._note(_GAP, self._ticks())

    def gap_within(self, span_us: int) -> bool:
        """Whether that was so at any time in the span before now."""
        gap = self._noted(_GAP)
        return bool(gap) and 0 <= self._ticks() - gap <= span_us

    def _noted(self, at: int) -> int:
        return 0 if self._map is None else int(_COUNT.unpack_from(self._map, at)[0])

    def _note(self, at: int, number: int) -> None:
        if self._map is not None:
            _COUNT.pack_into(self._map, at, number)

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        with self._guard:
            self._shut()

    def _shut(self) -> None:
        self._opened = False
        table, self._map = self._map, None
        if table is not None:
            table.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> mmap.mmap | None:
        if self._opened:
            return None
        self._opened = True
        directory = Directory(self._path, allow_network=True)
        try:
            directory.open()
            self._fd = _open_file(directory)
            table = mmap.mmap(self._fd, _FILE_BYTES)
            if not any(table[_ID]):
                self._name_gateway(table)
            self._map = table
        except (OSError, StartupError) as error:
            log.warning("Each worker counts its own calls: %s", error)
        finally:
            directory.close()
        return self._map

    def _name_gateway(self, table: mmap.mmap) -> None:
        *_, lock, unlock = _ranged(0)
        if self._lock(0, lock):
            if not any(table[_ID]):
                table[_ID] = secrets.token_bytes(16)
            _let_go(self._fd, unlock)

    def _lock(self, bucket: int, lock: bytes) -> bool:
        """Whether the bucket is ours now."""
        if self._stuck and self._stuck.get(bucket, 0) > self._ticks():
            return False
        try:
            _grab(self._fd, lock)
        except OSError as error:
            return self._wait_for(bucket, lock, error)
        return True

    def _wait_for(self, bucket: int, lock: bytes, error: OSError) -> bool:
        deadline = time.monotonic() + LOCK_SECONDS_MAX
        while isinstance(error, BlockingIOError) and time.monotonic() < deadline:
            os.sched_yield()
            try:
                _grab(self._fd, lock)
            except OSError as again:
                error = again
            else:
                return True
        self._stuck[bucket] = self._ticks() + STUCK_US
        log.warning("This worker counts some calls alone, a part of %s is held: %s", self._path / FILE, error)
        return False

    def _in_child(self) -> None:
        """A forked child would share its parent's locks: it opens the file for itself."""
        self._guard = threading.Lock()
        self.close()


def _open_file(directory: Directory) -> int:
    fd = directory.open_file(FILE, os.O_RDWR | os.O_CREAT)
    if os.fstat(fd).st_size not in (0, _FILE_BYTES):
        # Of another version: whoever has it mapped keeps it until they end.
        os.close(fd)
        directory.remove(FILE)
        fd = directory.open_file(FILE, os.O_RDWR | os.O_CREAT)
    try:
        # Room for every page: writing to a mapped page that a full disk has no room for would end the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, _FILE_BYTES)
        elif os.fstat(fd).st_size == 0:
            os.pwrite(fd, bytes(_FILE_BYTES), 0)
    except OSError:
        os.close(fd)
        raise
    return fd


@lru_cache(maxsize=8192)
def _place_of(key: str) -> tuple[bytes, int, bytes, bytes]:
    """The key's digest, where its bucket begins, and the words that lock and unlock it."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()
    bucket = _HEADER + int.from_bytes(digest[:4]) % BUCKETS * _BUCKET
    return digest, *_ranged(bucket)


def _ranged(start: int) -> tuple[int, bytes, bytes]:
    lock, unlock = (_RANGE.pack(kind, os.SEEK_SET, start, 1, 0) for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK))
    return start, lock, unlock


def _grab(fd: int, lock: bytes) -> None:
    """Raises `BlockingIOError` where somebody holds it."""
    if _OFD is None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        fcntl.fcntl(fd, _OFD, lock)


def _let_go(fd: int, unlock: bytes) -> None:
    if _OFD is None:
        fcntl.flock(fd, fcntl.LOCK_UN)
    else:
        fcntl.fcntl(fd, _OFD, unlock)


def _times_of(table: mmap.mmap, digest: bytes, bucket: int) -> int:
    """Where in the bucket the key's times stand; 0 for nowhere."""
    at = table.find(digest, bucket, bucket + _DIGESTS)
    while at >= 0 and (at - bucket) % _DIGEST:
        at = table.find(digest, at + 1, bucket + _DIGESTS)
    return 0 if at < 0 else bucket + _DIGESTS + (at - bucket) // _DIGEST * _TIMES.size


def _claim(table: mmap.mmap, digest: bytes, bucket: int, now: int) -> int:
    """Make a slot the key's: one that says nothing any more or, in a full bucket, the one that says least."""
    times = _ALL_TIMES.unpack_from(table, bucket + _DIGESTS)
    ahead = [max(times[each * LIMITS_MAX : (each + 1) * LIMITS_MAX]) - now for each in range(SLOTS)]
    slot = min(range(SLOTS), key=lambda each: 0 if ahead[each] > FOREIGN_US else max(ahead[each], 0))
    at = bucket + _DIGESTS + slot * _TIMES.size
    # The times first: killed between the two, the slot's last owner has forgotten its calls, and nobody else.
    _TIMES.pack_into(table, at, *_NEVER)
    table[bucket + slot * _DIGEST : bucket + (slot + 1) * _DIGEST] = digest
    return at


def _watch_forks(limiter: SharedLimiter) -> None:
    found = weakref.ref(limiter)

    def in_child() -> None:
        living = found()
        if living is not None:
            living._in_child()

    os.register_at_fork(after_in_child=in_child)
