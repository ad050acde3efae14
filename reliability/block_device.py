"""A disk that remembers: a file of the kernel's FUSE, served from memory by this process, under a loop device.

Every write and every flush that a file system sends to the loop device is an event here, in the order in which
they came; so is each line that the writer puts into the file `told` beside it. The disk can die.

The kernel's protocol is spoken as it is, over /dev/fuse, so that no library is needed. One process only: whoever
serves must never touch the file system on top of it, or it would wait for itself.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import select
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from reliability.figure import Skipped

SECTOR = 512
ROOT_NODE, DISK_NODE, TOLD_NODE = 1, 2, 3
NODES = {b"disk": DISK_NODE, b"told": TOLD_NODE}
# What the kernel asks for, by its numbers.
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS = 1, 2, 3, 4, 14, 15, 16, 17
RELEASE, FSYNC, FLUSH, INIT, INTERRUPT, BATCH_FORGET = 18, 20, 25, 26, 36, 42
UNANSWERED = frozenset({FORGET, BATCH_FORGET, INTERRUPT})
BIG_WRITES, MAX_PAGES, DIRECT_IO = 1 << 5, 1 << 22, 1
WRITE_BYTES_MAX = 1 << 20
BLKFLSBUF = 0x1261
HEADER, ASKED = struct.Struct("<IiQ"), struct.Struct("<IIQQIIIHH")


@dataclass(frozen=True, slots=True)
class Write:
    """`before` is what stood there: with it the write can be taken back."""

    offset: int
    data: bytes
    before: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    """All that was written before is on the disk."""


@dataclass(frozen=True, slots=True)
class Told:
    """The writer has told its caller so."""

    line: str


Event = Write | Flush | Told


@dataclass
class Disk:
    """What the device holds, and what was done to it."""

    content: mmap.mmap
    events: list[Event] = field(default_factory=list)
    flushes_left: int = -1
    """After so many it is dead: it answers every write and every flush with EIO. Below 0 it lives for ever."""

    @property
    def dead(self) -> bool:
        return self.flushes_left == 0

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        self.events.append(Write(offset, data, self.content[offset:end]))
        self.content[offset:end] = data

    def take_back(self, since: int) -> list[Event]:
        """Make undone, and forgotten, what was done since that many events; what it was."""
        done = self.events[since:]
        for event in reversed(done):
            if isinstance(event, Write):
                self.content[event.offset : event.offset + len(event.before)] = event.before
        del self.events[since:]
        return done


class Device:
    """The FUSE file system with the disk in it, mounted; `serve` answers the kernel."""

    def __init__(self, disk: Disk, mounted: Path) -> None:
        self.disk = disk
        self.mounted = mounted
        self._fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fuse},rootmode=40000,user_id=0,group_id=0,allow_other"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"openclaw", str(mounted).encode(), b"fuse", 0, options.encode()):
            number = ctypes.get_errno()
            os.close(self._fuse)
            raise Skipped(f"no right to mount a file system of our own ({os.strerror(number)})")

    @property
    def file(self) -> Path:
        return self.mounted / "disk"

    def serve(self, until: int) -> None:
        """Answer until that descriptor has something to read, or has ended."""
        poll = select.poll()
        poll.register(self._fuse, select.POLLIN)
        poll.register(until, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            # What the kernel asks goes first: the events of a process come before what it says of them.
            if self._fuse in ready:
                self._answer(os.read(self._fuse, WRITE_BYTES_MAX + 4096))
            elif until in ready:
                return

    def close(self) -> None:
        """The kernel ends what still waits; the file system must not be in use any more."""
        os.close(self._fuse)
        subprocess.run(["umount", "--lazy", str(self.mounted)], check=False, capture_output=True)

    def _answer(self, asked: bytes) -> None:
        _, code, unique, node, *_ = ASKED.unpack_from(asked)
        if code in UNANSWERED:
            return
        answer = self._answer_to(code, node, memoryview(asked)[ASKED.size :])
        error, body = (-answer, b"") if isinstance(answer, int) else (0, answer)
        os.writev(self._fuse, [HEADER.pack(HEADER.size + len(body), error, unique), body])

    def _answer_to(self, code: int, node: int, asked: memoryview) -> bytes | int:
        """What the kernel is answered; an error's number where it is one."""
        disk = self.disk
        if code == WRITE:
            _, offset, size = struct.unpack_from("<QQI", asked)
            data = bytes(asked[40 : 40 + size])
            if node == TOLD_NODE:
                disk.events.extend(Told(line) for line in data.decode().splitlines())
            elif disk.dead:
                return errno.EIO
            else:
                disk.write(offset, data)
            return struct.pack("<II", size, 0)
        if code == READ:
            _, offset, size = struct.unpack_from("<QQI", asked)
            return disk.content[offset : offset + size] if node == DISK_NODE else b""
        if code == FSYNC:
            if disk.dead:
                return errno.EIO
            disk.events.append(Flush())
            disk.flushes_left -= disk.flushes_left > 0
            return b""
        return self._about_files(code, node, bytes(asked))

    def _about_files(self, code: int, node: int, asked: bytes) -> bytes | int:
        if code == INIT:
            flags = BIG_WRITES | MAX_PAGES
            pages = WRITE_BYTES_MAX // 4096
            return struct.pack(
                "<IIIIHHIIHHI28x", 7, 31, WRITE_BYTES_MAX, flags, 16, 12, WRITE_BYTES_MAX, 1, pages, 0, 0
            )
        if code == LOOKUP:
            found = NODES.get(asked.rstrip(b"\0"))
            return (
                errno.ENOENT
                if found is None
                else struct.pack("<4QII", found, 0, 1, 1, 0, 0) + self._status(found)
            )
        if code in (GETATTR, SETATTR):
            return struct.pack("<QII", 1, 0, 0) + self._status(node)
        if code == OPEN:
            return struct.pack("<QII", 0, DIRECT_IO, 0)
        if code == STATFS:
            return bytes(80)
        return b"" if code in (RELEASE, FLUSH) else errno.ENOSYS

    def _status(self, node: int) -> bytes:
        size = len(self.disk.content) if node == DISK_NODE else 0
        mode = 0o040700 if node == ROOT_NODE else 0o100600
        return struct.pack("<6Q10I", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


@contextmanager
def looped(file: Path) -> Iterator[str]:
    """A loop device on that file; its name. Whoever serves the file must do so meanwhile."""
    done = subprocess.run(
        ["losetup", "--find", "--show", str(file)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Skipped(f"no loop device ({done.stderr.strip()})")
    name = done.stdout.strip()
    try:
        yield name
    finally:
        subprocess.run(["losetup", "--detach", name], check=False)


def forget_blocks(device: str) -> None:
    """Have every block read from the disk again.

    The kernel does so when nobody has the device open any more; but somebody else may, like a monitor that lists
    disks, and then a file system would be mounted from blocks of the state before.
    """
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, BLKFLSBUF)
    finally:
        os.close(fd)
