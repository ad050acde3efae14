"""Creating: the first segment of an empty directory, of one that holds the seed's own file, and the next segment."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

from openclaw_billing.contracts import Operation
from openclaw_billing.errors import BadSettings, CorruptStore, StartupError
from openclaw_billing.stores.anchors import backups_of
from openclaw_billing.stores.codec import encode, moment_text, quoted, row_text
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.group_commit import Ticket
from openclaw_billing.stores.journal import NO_SUM, VERSION, Chain
from openclaw_billing.stores.journal_files import BEGUN, CLIENTS, JOURNAL, LOCK, TURN, closed_name
from openclaw_billing.stores.layers import Layer
from openclaw_billing.stores.memory import run_tickets
from openclaw_billing.stores.packing import pack
from openclaw_billing.stores.schema import TABLES
from openclaw_billing.stores.tables import Base

Parts: TypeAlias = str
"""The text of a line between its name and its sum."""
Migrate: TypeAlias = Callable[[bytes], Operation[object]]
BACKUP = f"{CLIENTS}.v0.bak"


def create(directory: Directory, chain: Chain, migrate: Migrate | None) -> None:
    """Make the store; nothing of one may be there but a clients file in the seed's format.

    A lock, a pepper and an admin token are there before the journal, and stay where a first start dies between.

    Raises:
        CorruptStore: parts of a store or backups are there, but not its journal.
    """
    names = [name for name in directory.names() if name.startswith("openclaw_clients.")]
    if BEGUN in names:
        raise StartupError(f"A move into {directory.path} is not finished: run `move` again")
    rest = [name for name in names if name not in (LOCK, CLIENTS, BACKUP)] or backups_of(directory)
    if rest:
        raise CorruptStore(str(directory.path / JOURNAL), f"is missing beside {rest[-1]}")
    lines: list[tuple[str, Parts]] = [("genesis", "")]
    if CLIENTS in names:
        lines = _taken_over(directory, migrate)
    sealed, _, _ = seal_batch(chain, lines, seq=0, head=NO_SUM, batch=1)
    directory.write_new(f"{JOURNAL}.tmp", [sealed])
    directory.replace(f"{JOURNAL}.tmp", JOURNAL)
    directory.sync()
    # From now on it says, too, that a store was here.
    os.close(directory.open_file(TURN, os.O_RDWR | os.O_CREAT))


def begin_segment(directory: Directory, segment: int, sealed: bytes) -> None:
    """Give the active file its closed name, and put a new one that begins with `sealed` in its place.

    Raises:
        CorruptStore: another file has the closed name.
    """
    closed = closed_name(segment)
    directory.write_new(f"{JOURNAL}.tmp", [sealed])
    try:
        os.link(JOURNAL, closed, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
    except FileExistsError as error:
        if not directory.same_file(JOURNAL, closed):
            raise CorruptStore(str(directory.path / closed), "is there before it was written") from error
    # The closed name first: on a disk that holds only the rename, the history would have no name at all.
    directory.sync()
    directory.replace(f"{JOURNAL}.tmp", JOURNAL)
    directory.sync()


def clear_leftovers(directory: Directory) -> None:
    """Remove what a process that died left half written. The caller holds the lock."""
    # A living process may be writing its snapshot just now: it holds the turn, and not the lock.
    for name in directory.names():
        if not name.startswith("openclaw_clients.") or not name.endswith(".tmp"):
            continue
        try:
            if name == f"{JOURNAL}.tmp" or not directory.is_locked(TURN):
                directory.remove(name)
        except OSError as error:
            # They do no harm; a disk that takes no change can still be read.
            if error.errno != errno.EROFS:
                raise


def seal_batch(
    chain: Chain, lines: list[tuple[str, Parts]], *, seq: int, head: str, batch: int
) -> tuple[bytes, int, str]:
    """The lines of one batch that follows line `seq` with sum `head`; then the last one's seq and sum."""
    moment = moment_text(datetime.now(UTC))
    of = len(lines)
    sealed: list[bytes] = []
    for index, (name, parts) in enumerate(lines, 1):
        seq += 1
        body = (
            f'{{"v":{VERSION},"seq":{seq},"prev":"{head}","batch":[{batch},{index},{of}],'
            f'"time":"{moment}","op":{encode(name)}{parts}'
        )
        raw, head = chain.seal(body.encode("ascii"))
        sealed.append(raw)
    return b"".join(sealed), seq, head


def marked(mark: dict[str, Any]) -> Parts:
    """What a line that only says something about the files holds."""
    return f',"mark":{encode(mark)}'


def parts_of(layer: Layer) -> Parts:
    """What one operation changed, as a journal line says it."""
    puts, places, gone = [], [], {}
    for name, rows in layer.puts.items():
        spec = TABLES[name]
        indexes = spec.indexes.values()
        kept = []
        for key, record in rows.items():
            if record is None:
                continue
            text = row_text(record)
            kept.append(text)
            values = [value_of(record) or "" for value_of in indexes]
            if spec.seldom_read:
                layer.packed[id(record)] = pack(values, text.encode("ascii"))
            shown = "".join([f",{quoted(value)}" for value in values])
            places.append(f'["{name}",{len(text)},{quoted(key)}{shown}]')
        if kept:
            puts.append(f'"{name}":[{",".join(kept)}]')
        if len(kept) != len(rows):
            gone[name] = [key for key, record in rows.items() if record is None]
    # Where every row is only put, others need not parse the line to find it.
    parts = f',"rows":[{",".join(places)}]' if puts and not gone else ""
    if puts:
        parts += f',"put":{{{",".join(puts)}}}'
    if gone:
        parts += f',"del":{encode(gone)}'
    if layer.ledger:
        parts += f',"ledger":[{",".join([row_text(entry) for entry in layer.ledger])}]'
    if layer.audit:
        parts += f',"audit":[{",".join([row_text(entry) for entry in layer.audit])}]'
    return parts


def _taken_over(directory: Directory, migrate: Migrate | None) -> list[tuple[str, Parts]]:
    path = str(directory.path / CLIENTS)
    if migrate is None:
        raise CorruptStore(path, "its journal is missing")
    data = directory.read(CLIENTS, links_max=2)
    ticket = Ticket(migrate(data), "migrate", None)
    ran = run_tickets([ticket], Base(), parts_of)
    ran.tell()
    if isinstance(ticket.error, StartupError):
        raise BadSettings(f"{path}: {ticket.error}") from ticket.error
    if ticket.error is not None:
        raise CorruptStore(path, f"cannot be taken over ({ticket.error})") from ticket.error
    if directory.exists(BACKUP):
        if directory.read(BACKUP, links_max=2) != data:
            raise CorruptStore(path, f"cannot be taken over: {BACKUP} holds another file already")
    else:
        os.link(CLIENTS, BACKUP, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
        os.chmod(BACKUP, 0o600, dir_fd=directory.fd)
        directory.sync()
    mark = marked({"clients": hashlib.sha256(data).hexdigest()})
    return [("genesis", mark), *ran.written]
