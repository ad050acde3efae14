"""The system: what the store calls `os`, `fcntl`, `time` and `mmap`, over a simulated disk.

Every call takes time, may let another process go on, may be the process's last, and may fail.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.simulation.disk import Change, Disk, File, Naming
from tests.simulation.turns import Killed, Task, Turns

DIRECTORY_FD = 3
USER = os.getuid()
BORN = datetime(2026, 2, 19, 10, 30, tzinfo=UTC)
CHANGING = frozenset({"write", "create", "ftruncate", "link", "rename", "unlink"})


@dataclass(frozen=True, slots=True)
class Status:
    st_ino: int
    st_size: int
    st_mode: int
    st_nlink: int
    st_mtime_ns: int
    st_uid: int = USER
    st_dev: int = 1


@dataclass(eq=False, slots=True)
class Handle:
    """An open file description: what a descriptor and its copies share. `file` is None for the directory."""

    file: File | None
    flags: int
    failures_told: int = 0
    descriptors: int = 1
    names: tuple[str, ...] = ()
    """What the directory lists through it: on btrfs, what was there when it was opened."""


@dataclass(slots=True)
class Faults:
    """What goes wrong, and how often. Probabilities are for each call."""

    kill: float = 0.0
    power: float = 0.0
    calls: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Which calls fail: with which error, how often."""
    short: float = 0.0
    evict: float = 0.0
    busy_until: float = 0.0


class System:
    """One machine. `os`, `fcntl`, `time` and `mmap` are names for parts of it, as its processes see them."""

    def __init__(self, choice: random.Random) -> None:
        self.choice = choice
        self.turns = Turns(choice)
        self.disk = Disk()
        self.faults = Faults()
        self.skew = timedelta()
        self.calls = 0
        self.power_cut = False
        self.flush_failed: set[int] = set()
        """The processes whose flush or cut failed: what they refused may have happened all the same."""
        self._handles: dict[int, Handle] = {}
        self._owners: dict[int, int] = {}
        self._locks: dict[object, Handle] = {}
        self._next_fd = 10
        self.os = SystemCalls(self)
        self.fcntl = Locks(self)
        self.time = Watch(self)
        self.mmap = Mapping(self)

    def now(self) -> datetime:
        return BORN + timedelta(microseconds=int(self.turns.now * 1_000_000)) + self.skew

    def enter(self, call: str, *, fails: bool = True) -> None:
        """At the door of every call: time passes, and things happen."""
        turns = self.turns
        turns.check()
        self.calls += 1
        turns.now += 0.000_02
        task = turns.current
        if task is None:
            return
        faults = self.faults
        fate = self.choice.random()
        if fate < faults.power:
            self.power_cut = True
            for each in turns.tasks:
                each.dead = True
            raise Killed
        if call == "fdatasync" and self.choice.random() < 20 * faults.kill:
            # Between a write and its flush is where a death does the most, and most of all before a power cut.
            faults.power = max(faults.power, 0.03)
            self.kill(task)
            raise Killed
        if fate < faults.power + faults.kill:
            self.kill(self.choice.choice([each for each in turns.tasks if not each.done]))
            turns.check()
        if fate > 0.85:
            turns.pause()
        if fails and call in faults.calls:
            number, chance = faults.calls[call]
            if self.choice.random() < chance:
                raise OSError(number, os.strerror(number))

    def kill(self, task: Task) -> None:
        """Its descriptors are closed, and so its locks are given back; what it wrote stays in memory."""
        task.dead = True
        for fd in [fd for fd, owner in self._owners.items() if owner == task.number]:
            self.shut(fd)

    def reboot(self) -> None:
        """After a power cut: nothing is open, nothing is locked."""
        self._handles.clear()
        self._owners.clear()
        self._locks.clear()
        self.disk.cut_power(self.choice)
        self.power_cut = False

    def switch_off(self) -> None:
        """Every process is gone; memory is written out in peace."""
        self._handles.clear()
        self._owners.clear()
        self._locks.clear()

    def opened(self, handle: Handle) -> int:
        self._next_fd += 1
        self._handles[self._next_fd] = handle
        self._owners[self._next_fd] = self.turns.current.number if self.turns.current else -1
        return self._next_fd

    def handle(self, fd: int) -> Handle:
        try:
            return self._handles[fd]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def file(self, fd: int) -> File:
        file = self.handle(fd).file
        if file is None:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        return file

    def shut(self, fd: int) -> None:
        handle = self._handles.pop(fd, None)
        self._owners.pop(fd, None)
        if handle is None:
            return
        handle.descriptors -= 1
        if not handle.descriptors:
            for thing in [thing for thing, holder in self._locks.items() if holder is handle]:
                del self._locks[thing]

    def lock(self, fd: int, how: int) -> None:
        handle = self.handle(fd)
        thing: object = handle.file or self.disk
        if how & fcntl.LOCK_UN:
            if self._locks.get(thing) is handle:
                del self._locks[thing]
            return
        assert how == fcntl.LOCK_EX | fcntl.LOCK_NB, "the store never waits in the kernel"
        if self._locks.setdefault(thing, handle) is not handle:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def holds_a_lock(self) -> bool:
        """Whether the process that runs now has any."""
        assert self.turns.current is not None
        mine = [fd for fd, owner in self._owners.items() if owner == self.turns.current.number]
        return any(self._handles[fd] in self._locks.values() for fd in mine)

    def uncertain(self) -> None:
        if self.turns.current is not None:
            self.flush_failed.add(self.turns.current.number)


class SystemCalls:
    """What the store knows as `os`. A call it does not have is a call that nobody simulated: AttributeError."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.strerror, self.major, self.minor = os.strerror, os.major, os.minor

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("O_", "POSIX_FADV_", "SEEK_")):
            return getattr(os, name)
        raise AttributeError(name)

    def getpid(self) -> int:
        task = self._system.turns.current
        return 1000 + (task.number if task else 0)

    def getuid(self) -> int:
        return USER

    def register_at_fork(self, **_: object) -> None:
        """Nobody forks here."""

    def open(self, name: str, flags: int, mode: int = 0o777, *, dir_fd: int) -> int:
        system = self._system
        assert dir_fd == DIRECTORY_FD
        system.enter("open_to_write" if flags & os.O_ACCMODE else "open")
        if name == ".":
            return system.opened(Handle(None, flags, names=tuple(system.disk.names)))
        file = system.disk.names.get(name)
        if file is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            system.enter("create")
            file = system.disk.names.get(name) or system.disk.create(name)
            file.mode = mode
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        if flags & os.O_TRUNC:
            file.change(Change(0, None))
        return system.opened(Handle(file, flags, file.failures))

    def close(self, fd: int) -> None:
        self._system.turns.check()
        if fd != DIRECTORY_FD:
            self._system.handle(fd)
            self._system.shut(fd)

    def dup(self, fd: int) -> int:
        handle = self._system.handle(fd)
        handle.descriptors += 1
        return self._system.opened(handle)

    def dup2(self, fd: int, fd2: int, inheritable: bool = True) -> int:
        system = self._system
        system.turns.check()
        handle = system.handle(fd)
        owner = system._owners.get(fd2, system._owners[fd])
        system.shut(fd2)
        handle.descriptors += 1
        system._handles[fd2], system._owners[fd2] = handle, owner
        return fd2

    def fstat(self, fd: int) -> Status:
        self._system.turns.check()
        return self._status(self._system.file(fd))

    def stat(self, name: str, *, dir_fd: int, follow_symlinks: bool = True) -> Status:
        self._system.enter("stat")
        return self._status(self._named(name))

    def chmod(self, name: str, mode: int, *, dir_fd: int) -> None:
        self._named(name).mode = mode

    def fchmod(self, fd: int, mode: int) -> None:
        self._system.file(fd).mode = mode

    def listdir(self, fd: int) -> list[str]:
        assert fd != DIRECTORY_FD, "an old descriptor lists what was there when it was opened"
        self._system.enter("stat")
        return list(self._system.handle(fd).names)

    def write(self, fd: int, data: bytes) -> int:
        file, handle = self._system.file(fd), self._system.handle(fd)
        assert handle.flags & os.O_APPEND, "only an appending descriptor is written without an offset"
        return self._write(file, None, data)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return self._write(self._system.file(fd), offset, data)

    def pread(self, fd: int, count: int, offset: int) -> bytes:
        self._system.enter("read")
        return bytes(self._system.file(fd).content[offset : offset + count])

    def ftruncate(self, fd: int, length: int) -> None:
        file = self._system.file(fd)
        try:
            self._system.enter("ftruncate")
        except OSError:
            self._system.uncertain()
            raise
        file.change(Change(length, None))
        self._touch(file)

    def fdatasync(self, fd: int) -> None:
        self._flush(fd, "fdatasync")

    def fsync(self, fd: int) -> None:
        if fd != DIRECTORY_FD and self._system.handle(fd).file is not None:
            self._flush(fd, "fsync")
            return
        self._system.enter("fsync")
        self._system.disk.flush_names()

    def posix_fadvise(self, fd: int, offset: int, length: int, advice: int) -> None:
        self._system.enter("read")
        if advice == os.POSIX_FADV_DONTNEED:
            self._system.file(fd).evict()

    def link(self, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int, **_: object) -> None:
        self._system.enter("link")
        if new in self._system.disk.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
        self._system.disk.name(Naming(new, self._named(old)))

    def unlink(self, name: str, *, dir_fd: int) -> None:
        if name not in self._system.disk.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        self._system.enter("unlink")
        self._named(name)
        self._system.disk.name(Naming(None, None, name))

    def replace(self, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        self._system.enter("rename")
        self._system.disk.name(Naming(new, self._named(old), old))

    def fdopen(self, fd: int, mode: str, buffering: int = -1) -> Stream:
        return Stream(self, fd)

    def _named(self, name: str) -> File:
        try:
            return self._system.disk.names[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None

    def _status(self, file: File) -> Status:
        links = self._system.disk.links(file)
        return Status(file.number, len(file.content), stat.S_IFREG | file.mode, links, file.changed_at)

    def _write(self, file: File, offset: int | None, data: bytes) -> int:
        system = self._system
        system.enter("write")
        taken = len(data)
        if system.faults.short and system.choice.random() < system.faults.short:
            taken = system.choice.randrange(taken)
        file.change(Change(len(file.content) if offset is None else offset, bytes(data[:taken])))
        self._touch(file)
        return taken

    def _touch(self, file: File) -> None:
        file.changed_at = int(self._system.turns.now * 1e9)

    def _flush(self, fd: int, call: str) -> None:
        system, handle = self._system, self._system.handle(fd)
        file = system.file(fd)
        try:
            system.enter(call)
        except OSError:
            file.fail_flush(system.choice)
            handle.failures_told = file.failures
            if system.choice.random() < system.faults.evict:
                file.evict()
            if call == "fsync":
                system.uncertain()
            raise
        if handle.failures_told != file.failures:
            # A failure is told once to each who had the file open.
            handle.failures_told = file.failures
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        file.flush()


class Stream:
    """What `os.fdopen` gives: buffered writes, whole reads."""

    def __init__(self, calls: SystemCalls, fd: int) -> None:
        self._calls, self._fd = calls, fd
        self._waiting = bytearray()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            self._calls.close(self._fd)

    def read(self, count: int = -1) -> bytes:
        system = self._calls._system
        system.enter("read")
        content = system.file(self._fd).content
        return bytes(content if count < 0 else content[:count])

    def write(self, data: bytes) -> int:
        self._waiting += data
        return len(data)

    def flush(self) -> None:
        waiting, self._waiting = bytes(self._waiting), bytearray()
        offset = len(self._calls._system.file(self._fd).content)
        while waiting:
            taken = self._calls.pwrite(self._fd, waiting, offset)
            waiting, offset = waiting[taken:], offset + taken


class Locks:
    LOCK_EX, LOCK_NB, LOCK_UN, F_GETFL = fcntl.LOCK_EX, fcntl.LOCK_NB, fcntl.LOCK_UN, fcntl.F_GETFL

    def __init__(self, system: System) -> None:
        self._system = system

    def fcntl(self, fd: int, command: int) -> int:
        assert command == fcntl.F_GETFL
        return self._system.handle(fd).flags

    def flock(self, fd: int, how: int) -> None:
        self._system.enter("unlock" if how & fcntl.LOCK_UN else "flock")
        self._system.lock(fd, how)


class Watch:
    """What the store knows as `time`."""

    def __init__(self, system: System) -> None:
        self._system = system

    def monotonic(self) -> float:
        return self._system.turns.now

    perf_counter = monotonic

    def sleep(self, seconds: float) -> None:
        self._system.turns.check()
        self._system.turns.sleep(seconds)


class Mapping:
    """What the store knows as `mmap`."""

    ACCESS_READ = mmap.ACCESS_READ

    def __init__(self, system: System) -> None:
        self._system = system

    def mmap(self, fd: int, length: int, access: int) -> Mapped:
        return Mapped(self._system.file(fd).content[:length])


class Mapped(bytes):
    def __enter__(self) -> Mapped:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to unmap."""


def calendar(now: Callable[[], datetime]) -> type[datetime]:
    """What the store knows as `datetime`."""

    class Calendar(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return now()

    return Calendar
