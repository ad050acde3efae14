"""Backups: generations of the journal, verified line by line, restored to any entry or moment.

The journal alone is enough: the checkpoint and the clients file are made of it. A backup also holds the
pepper, if it is a file of ours, because without it no key would be known again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openclaw_billing.errors import BadSettings, CorruptStore, StartupError
from openclaw_billing.stores.anchors import MANIFEST, Anchor, Heads, anchors_of, manifest_of
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import Chain, Line, Reader
from openclaw_billing.stores.journal_files import JOURNAL, closed_name, closed_segments
from openclaw_billing.stores.json_load import apply
from openclaw_billing.stores.tables import Base

SECRETS = ("pepper",)
COPIES_MAX = 10


@dataclass(slots=True)
class Verified:
    """What a walk through the whole journal found. `problems` is empty when all is well."""

    seq: int = 0
    head: str = ""
    clients: int = 0
    entries: int = 0
    problems: list[str] = field(default_factory=list)


def walk(directory: Directory, chain: Chain, progress: Callable[[int], None] | None = None) -> Iterator[Line]:
    """Every line from the first, each checked against the one before.

    Raises:
        CorruptStore: the first that does not fit, with file, byte and entry.
    """
    closed = closed_segments(directory)
    names = [closed_name(number) for number in closed]
    if not closed or not _same_file(directory, names[-1]):
        names.append(JOURNAL)
    reader = Reader("", chain)
    for name in names:
        reader.path = str(directory.path / name)
        try:
            data = directory.read(name, links_max=64)
        except FileNotFoundError as error:
            raise CorruptStore(reader.path, "is missing") from error
        good = 0
        for line in reader.lines(data, 0):
            good = line.end
            yield line
        reader.tail(data, 0, good)
        if progress is not None:
            progress(len(data))


def verify(
    directory: Directory,
    chain: Chain,
    progress: Callable[[int], None] | None = None,
    *,
    head: Anchor | None = None,
) -> Verified:
    """Whether the chain is whole, ends no sooner than is known, and every balance is the sum of its ledger.

    `head` is a line that it must hold; what the directory itself knows is asked for as well.
    """
    verified = Verified()
    # Known before the journal is read: a gateway that runs meanwhile only adds to it.
    heads = Heads([*anchors_of(directory), *([] if head is None else [head])])
    base = Base()
    sums: dict[str, list[int]] = {}
    try:
        manifest = manifest_of(directory)
        for line in walk(directory, chain, progress):
            apply(base, line)
            heads.see(line)
            verified.seq, verified.head = line.seq, line.sum
            for entry in line.data.get("ledger", ()):
                verified.entries += 1
                total = sums.setdefault(entry["client_id"], [0, 0])
                total[0] += entry.get("available", 0)
                total[1] += entry.get("reserved", 0)
    except CorruptStore as error:
        verified.problems.append(error.finding)
        return verified
    verified.problems += heads.problems(verified.seq)
    if manifest not in (None, (verified.seq, verified.head)):
        verified.problems.append("The backup does not end where its manifest says.")
    for account in base.accounts:
        verified.clients += 1
        available, reserved = sums.get(account.client_id, [0, 0])
        if (available, reserved) != (account.available, account.reserved):
            verified.problems.append(
                f"Client {account.client_id}: the ledger says {available} + {reserved} reserved, "
                f"the account {account.available} + {account.reserved}"
            )
    return verified


def backup(directory: Directory, chain: Chain, target: Path) -> dict[str, Any]:
    """Copy the journal as it is durable now into a new directory; what the manifest says."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.mkdir(mode=0o700)
    with _filled(target, is_new=True) as copied:
        _copy_journal(directory, copied)
        for name in SECRETS:
            if directory.exists(name):
                _copy(directory, copied, name)
        verified = verify(copied, chain)
        if verified.problems:
            raise StartupError(f"{verified.problems[0]} No backup was made.")
        manifest = {"seq": verified.seq, "head": verified.head, "made_at": datetime.now(UTC).isoformat()}
        copied.write_new(MANIFEST, [json.dumps(manifest, indent=1).encode() + b"\n"])
        copied.sync()
        return manifest


def restore(source: Path, target: Path, chain: Chain, *, to: int | datetime | None = None) -> Verified:
    """Make an empty directory the store that `source` was at entry or moment `to`; all of it when None.

    Raises:
        BadSettings: the target is not empty, or the source does not reach to that point.
        StartupError: the backup does not pass its own chain, or its tail was cut.
    """
    if target.exists() and any(target.iterdir()):
        raise BadSettings(f"{target} is not empty: a store is restored into an empty directory only")
    here = Directory(source, allow_network=True)
    here.open(make=False)
    try:
        _check_point(here, chain, to, _checked(here, chain))
        with _filled(target, is_new=not target.exists()) as there:
            there.write_new(f"{JOURNAL}.tmp", _kept(here, chain, to))
            there.replace(f"{JOURNAL}.tmp", JOURNAL)
            for name in SECRETS:
                if here.exists(name):
                    _copy(here, there, name)
            there.sync()
            return verify(there, chain)
    finally:
        here.close()


@contextlib.contextmanager
def _filled(target: Path, *, is_new: bool) -> Iterator[Directory]:
    """An empty directory to fill. Where that fails it is left as it was: secrets lie about nowhere."""
    there = Directory(target, allow_network=True)
    there.open()
    try:
        yield there
    except BaseException:
        for name in there.names():
            there.remove(name)
        if is_new:
            target.rmdir()
        raise
    finally:
        there.close()


def _copy_journal(directory: Directory, copied: Directory) -> None:
    for _ in range(COPIES_MAX):
        closed = closed_segments(directory)
        for name in [*map(closed_name, closed), JOURNAL]:
            _copy(directory, copied, name)
        # A segment closed meanwhile would be missing from what we copied.
        if closed == closed_segments(directory):
            return
    raise CorruptStore(str(directory.path), "segments are closed faster than they can be copied")


def _checked(directory: Directory, chain: Chain) -> tuple[Verified, datetime]:
    """What the source holds, and up to which moment it does."""
    verified = verify(directory, chain)
    if verified.problems:
        raise StartupError(f"{verified.problems[0]} Nothing was restored.")
    if not directory.exists(MANIFEST):
        return verified, datetime.now(UTC)
    return verified, datetime.fromisoformat(json.loads(directory.read(MANIFEST))["made_at"])


def _check_point(
    directory: Directory, chain: Chain, to: int | datetime | None, checked: tuple[Verified, datetime]
) -> None:
    verified, until = checked
    since = datetime.fromisoformat(next(walk(directory, chain)).data["time"])
    if isinstance(to, int) and not 1 <= to <= verified.seq:
        raise BadSettings(f"{directory.path} holds the entries 1 to {verified.seq}, and no entry {to}")
    if isinstance(to, datetime) and not since <= to <= until:
        raise BadSettings(f"{directory.path} tells of {since} to {until}, and not of {to}")


def _kept(directory: Directory, chain: Chain, to: int | datetime | None) -> Iterator[bytes]:
    closed = [closed_name(number) for number in closed_segments(directory)]
    if closed and _same_file(directory, closed[-1]):
        closed.pop()
    reader = Reader("", chain)
    for name in [*closed, JOURNAL]:
        reader.path = str(directory.path / name)
        data = directory.read(name, links_max=64)
        for line in reader.lines(data, 0):
            if isinstance(to, int) and line.seq > to:
                return
            if isinstance(to, datetime) and datetime.fromisoformat(line.data["time"]) > to:
                return
            yield data[line.start : line.end]


def _copy(here: Directory, there: Directory, name: str) -> None:
    source = here.open_file(name, os.O_RDONLY, links_max=64)
    with os.fdopen(source, "rb") as file:
        there.write_new(name, iter(lambda: file.read(1 << 20), b""))


def _same_file(directory: Directory, closed: str) -> bool:
    """Whether a closed segment still is the active file too: a crash between two steps of closing it."""
    try:
        active = os.stat(JOURNAL, dir_fd=directory.fd)
    except FileNotFoundError:
        return False
    return active.st_ino == os.stat(closed, dir_fd=directory.fd).st_ino
