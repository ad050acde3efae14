"""Mending: what can be done about a damaged or edited file, and only when somebody says so."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from openclaw_billing.errors import BadSettings, CorruptStore
from openclaw_billing.stores.anchors import Anchor
from openclaw_billing.stores.backups import verify
from openclaw_billing.stores.clients_watch import foreign_name
from openclaw_billing.stores.files import Directory, FileLock
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.journal_files import CHECKPOINT, CLIENTS, LOCK
from openclaw_billing.stores.json_load import Differing, ForeignEdit, check_clients_file, load

FOREIGN_BYTES_MAX = 256 << 20
UNREPAIRABLE = (
    "The journal is the truth and cannot be rebuilt: restore the newest backup into an empty directory with "
    "`python -m openclaw_billing restore`. Nothing was changed."
)


@dataclass(frozen=True, slots=True)
class SetAside:
    """An edited clients file: where it is kept, what it holds, and what of that is not ours."""

    path: Path
    data: bytes
    differing: Differing


@dataclass(frozen=True, slots=True)
class Repair:
    """What is wrong with the store's files, in sentences. Not `mendable` is a journal that is not whole."""

    sentences: list[str]
    mendable: bool = True


def repair(path: Path, chain: Chain, *, really: bool, head: Anchor | None = None) -> Repair:
    """What is wrong with the files that are made of the journal; they are made anew when `really`.

    Nothing is made of a journal that is damaged, or shorter than the directory or `head` knows it.
    """
    with _locked(path) as directory:
        found = verify(directory, chain, head=head)
        if found.problems:
            return Repair([*found.problems, UNREPAIRABLE], mendable=False)
        said = _repair_derived(directory, chain, really=really)
        return Repair(said or ["All files are as they were written."])


def set_aside(path: Path, chain: Chain) -> SetAside | None:
    """Put the clients file under another name if somebody edited it; None where it is as we left it."""
    with _locked(path) as directory:
        try:
            check_clients_file(directory, chain, load(directory, chain))
        except ForeignEdit as edit:
            data, name = directory.read(CLIENTS, links_max=2), foreign_name()
            directory.replace(CLIENTS, name)
            directory.sync()
            return SetAside(path / name, data, edit.differing)
        return None


def read_foreign(file: Path) -> tuple[bytes, int]:
    """A file of somebody else's making, and its owner's id. Links are not followed.

    Raises:
        BadSettings: it is no plain file, or too large to be a clients file.
    """
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise BadSettings(f"{file} cannot be read: {error.strerror}") from error
    with os.fdopen(fd, "rb") as opened:
        data = opened.read(FOREIGN_BYTES_MAX + 1)
        owner = os.fstat(fd).st_uid
    if len(data) > FOREIGN_BYTES_MAX:
        raise BadSettings(f"{file} is too large for a clients file")
    return data, owner


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Directory]:
    """The directory of a store, which nobody changes meanwhile."""
    directory = Directory(path, allow_network=True)
    directory.open(make=False)
    lock = FileLock(directory, LOCK, 2.0)
    try:
        lock.acquire()
        yield directory
    finally:
        lock.forget()
        directory.close()


def _repair_derived(directory: Directory, chain: Chain, *, really: bool) -> list[str]:
    said: list[str] = []
    try:
        loaded = load(directory, chain)
    except CorruptStore as error:
        said.append(f"{error.finding} It is rebuilt from the journal.")
        if really:
            directory.replace(CHECKPOINT, f"{CHECKPOINT}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
            directory.sync()
        loaded = load(directory, chain, believe_checkpoint=False)
    try:
        check_clients_file(directory, chain, loaded)
    except ForeignEdit as error:
        said.append(str(error))
    return said
