"""Files: opened so that nobody can plant, replace or read them, and replaced so that a crash leaves one of two."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from openclaw_billing.errors import BadSettings, CorruptStore, StorageUnavailable

PLANTED = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENOTDIR, errno.EACCES, errno.EPERM})
PROBE = "openclaw_clients.probe.tmp"
UNPROVEN_BYTES_MAX = 8 << 20
"""More than one batch: what stands before that was acknowledged, so the disk took it."""
LOCK_POLL_SECONDS = 0.0001
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs"}
)


class Directory:
    """The data directory, kept open: every file in it is named relative to this descriptor."""

    def __init__(self, path: Path, *, allow_network: bool = False) -> None:
        self.path = path
        self.allow_network = allow_network
        self.fd = -1

    def open(self, *, make: bool = True) -> None:
        """Make the directory (0700) if it is not there and may be made, and check that it is ours alone.

        Raises:
            BadSettings: it is not there, another user owns it, others may write to it, or it is on a network
                file system.
        """
        if self.fd >= 0:
            return
        try:
            made = make and not self.path.exists()
            if made:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if made:
                os.fchmod(self.fd, 0o700)
                _sync_parent(self.path)
        except OSError as error:
            self.close()
            raise BadSettings(f"The directory {self.path} cannot be used: {error.strerror}") from error
        try:
            self._check()
        except BadSettings:
            self.close()
            raise

    def _check(self) -> None:
        status = os.fstat(self.fd)
        if status.st_uid != os.getuid():
            raise BadSettings(f"The data directory {self.path} belongs to another user")
        if status.st_mode & 0o022:
            raise BadSettings(f"Others may write to the data directory {self.path}: chmod 700 it")
        if not self.allow_network and (kind := file_system_of(self.path)) in NETWORK_FILE_SYSTEMS:
            raise BadSettings(
                f"The data directory {self.path} is on {kind}, where locks cannot be trusted "
                "(OPENCLAW_ALLOW_NFS=1 overrides)"
            )

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def sync(self) -> None:
        """Make creations and renames in the directory durable."""
        os.fsync(self.fd)

    def exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def names(self) -> list[str]:
        # Opened anew: on btrfs a descriptor lists what was there when it was opened.
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def open_file(self, name: str, flags: int, *, links_max: int = 1) -> int:
        """A descriptor of a regular file of ours.

        Raises:
            CorruptStore: it is a link, a device, or somebody else's.
        """
        try:
            fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        except OSError as error:
            # What lacks is room, descriptors or a working disk: that may pass, and says nothing of the file.
            if error.errno not in PLANTED:
                raise
            raise CorruptStore(str(self.path / name), f"cannot be opened ({error.strerror})") from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_nlink > links_max:
            os.close(fd)
            raise CorruptStore(str(self.path / name), "is not a plain file of this user")
        if flags & os.O_CREAT and stat.S_IMODE(status.st_mode) != 0o600:
            os.fchmod(fd, 0o600)
        return fd

    def open_or_read(self, name: str, flags: int, *, links_max: int = 1) -> int:
        """The same; where nothing can be written at all, a descriptor to read from, if the file is there."""
        try:
            return self.open_file(name, flags, links_max=links_max)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            return self.open_file(name, os.O_RDONLY, links_max=links_max)

    def read(self, name: str, *, links_max: int = 1) -> bytes:
        fd = self.open_file(name, os.O_RDONLY, links_max=links_max)
        with os.fdopen(fd, "rb") as file:
            return file.read()

    def forget_pages(self, name: str) -> None:
        """Have the file's end read from the disk, and not from memory, next time; but for what is yet to be flushed."""
        with contextlib.suppress(FileNotFoundError):
            fd = self.open_file(name, os.O_RDONLY, links_max=64)
            try:
                begin = max(0, os.fstat(fd).st_size - UNPROVEN_BYTES_MAX)
                os.posix_fadvise(fd, begin, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)

    def write_new(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a whole new file and make its content, but not yet its name, durable. Half a file is removed."""
        self.remove(name)
        fd = self.open_file(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            with os.fdopen(fd, "wb", buffering=1 << 18) as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(fd)
        except BaseException:
            self.remove(name)
            raise

    def try_writing(self) -> None:
        """Write a little durably and remove it. Raises `OSError` where a change could not be made."""
        try:
            self.write_new(PROBE, [bytes(4096)])
        finally:
            self.remove(PROBE)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    def replace(self, old: str, new: str) -> None:
        os.replace(old, new, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def same_file(self, name: str, other: str) -> bool:
        """Whether both are names of one file."""
        one, two = (os.stat(each, dir_fd=self.fd, follow_symlinks=False) for each in (name, other))
        return (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)

    def claim(self, name: str) -> int | None:
        """A descriptor that holds the lock on that file until it is given back; None when somebody holds it."""
        fd = self.open_file(name, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if isinstance(error, BlockingIOError):
                return None
            raise
        return fd

    def is_locked(self, name: str) -> bool:
        fd = self.claim(name)
        if fd is not None:
            give_back(fd)
        return fd is None

    def kept_secret(self, name: str) -> str | None:
        """The secret kept in that file, None where there is none.

        Raises:
            BadSettings: it cannot be read, or is no text of ours.
        """
        try:
            with self._named(name):
                text = self.read(name, links_max=2)
        except BadSettings as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        if not text.isascii() or not text.strip():
            raise BadSettings(f"{self.path / name} {'is not ASCII text' if text.strip() else 'is empty'}")
        return text.decode("ascii").strip()

    def secret(self, name: str, made: str) -> tuple[str, bool]:
        """The same, or `made` written there now; whether it was made now. Raises as that does."""
        if (kept := self.kept_secret(name)) is not None:
            return kept, False
        with self._named(name):
            won = self._make(name, made.encode("ascii") + b"\n")
        text = self.kept_secret(name)
        assert text is not None
        return text, won

    def is_private(self, name: str) -> bool:
        """Whether nobody but its owner may read or write the file."""
        return not os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mode & 0o077

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BadSettings(f"{self.path / name} cannot be read or made: {error.strerror}") from error
        except CorruptStore as error:
            raise BadSettings(error.finding) from error

    def _make(self, name: str, made: bytes) -> bool:
        """Whether it was made here, and not by somebody else at the same time."""
        temporary = f"{name}.{os.getpid()}.tmp"
        self.write_new(temporary, [made])
        try:
            # A hard link fails where the name is taken: of many processes starting at once, one wins.
            os.link(temporary, name, src_dir_fd=self.fd, dst_dir_fd=self.fd, follow_symlinks=False)
            won = True
        except FileExistsError:
            won = False
        finally:
            os.unlink(temporary, dir_fd=self.fd)
        self.sync()
        return won


@contextlib.contextmanager
def refusals_are_told() -> Iterator[None]:
    """What the disk or the system refuses is told as every other storage that is away.

    Raises:
        StorageUnavailable
    """
    try:
        yield
    except OSError as error:
        raise StorageUnavailable from error


def give_back(fd: int) -> None:
    """End a claim, for children forked meanwhile too. Never raises: closing ends it as well."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


class FileLock:
    """The lock on the store: `flock` on a file that is never written, renamed or removed.

    The directory is locked with it. Should somebody remove the file, the next to come would make and lock a
    new one; on the directory it still meets whoever holds the old one. Not shared by forked children.
    """

    def __init__(self, directory: Directory, name: str, seconds_max: float) -> None:
        self._directory, self._name, self._seconds_max = directory, name, seconds_max
        self._fds: list[int] = []
        self.held = False
        self.wanted_since = 0.0
        """Since when we want it and somebody else has it; 0 when it was not so the last time."""

    def acquire(
        self,
        seconds_max: float | None = None,
        *,
        asked_at: float = math.inf,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Wait for the lock; `meanwhile` is called again and again.

        Without `seconds_max` it is waited for as long as the lock was made for, counted since it was asked for
        at `asked_at` and somebody else had it.

        Raises:
            StorageUnavailable: somebody else holds it beyond the deadline.
            OSError: the system gives none.
        """
        deadline = time.monotonic() + (self._seconds_max if seconds_max is None else seconds_max)
        if seconds_max is None and self.wanted_since:
            deadline = min(deadline, max(asked_at, self.wanted_since) + self._seconds_max)
        while not self.acquire_now():
            if time.monotonic() >= deadline:
                raise StorageUnavailable
            meanwhile()
            time.sleep(LOCK_POLL_SECONDS)

    def acquire_now(self) -> bool:
        """Take the lock if nobody else has it; whether it is ours now.

        Raises:
            OSError: the system gives none.
        """
        wanted_since, self.wanted_since = self.wanted_since, 0.0
        try:
            if not self._fds:
                self._open()
            if self._try():
                if self._is_current():
                    self.held = True
                    return True
                # Somebody removed or replaced the file: a lock on the old one excludes nobody.
                self.forget()
        except OSError:
            # One without the other holds nothing, and must keep nobody out.
            self.forget()
            raise
        self.wanted_since = wanted_since or time.monotonic()
        return False

    def waited(self) -> float:
        """For how many seconds by now it has been wanted in vain."""
        since = self.wanted_since
        return time.monotonic() - since if since else 0.0

    def release(self) -> None:
        """Let go of the lock. Never raises: what cannot be unlocked is closed, which ends the lock as well."""
        self.held = False
        try:
            for fd in reversed(self._fds):
                fcntl.flock(fd, fcntl.LOCK_UN)
        except OSError:
            self.forget()

    def forget(self) -> None:
        """Let go of the descriptors; the lock with them, unless a forked child has them too."""
        self.held = False
        while self._fds:
            os.close(self._fds.pop())

    def _open(self) -> None:
        self._fds.append(self._directory.open_or_read(self._name, os.O_RDWR | os.O_CREAT))
        # Network file systems lock only what is open for writing, which no directory is.
        if not self._directory.allow_network:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            self._fds.append(os.open(".", flags, dir_fd=self._directory.fd))

    def _try(self) -> bool:
        try:
            for fd in self._fds:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        return True

    def _is_current(self) -> bool:
        try:
            there = os.stat(self._name, dir_fd=self._directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return there.st_ino == os.fstat(self._fds[0]).st_ino


def file_system_of(path: Path) -> str:
    """The kind of file system that holds `path`, or "" where the system does not say."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for mount in reversed(mounts):
        fields = mount.split(" ")
        if fields[2] == wanted and "-" in fields:
            return fields[fields.index("-") + 1]
    return ""


def _sync_parent(path: Path) -> None:
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
