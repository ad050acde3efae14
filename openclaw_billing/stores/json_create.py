"""Creating: the first segment of an empty directory, of one that holds the seed's own file, and the next segment."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

from openclaw_billing.contracts import Operation
from openclaw_billing.errors import CorruptStore, StartupError
from openclaw_billing.stores.codec import moment_text, to_row
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.group_commit import Ticket
from openclaw_billing.stores.journal import NO_SUM, VERSION, Chain
from openclaw_billing.stores.journal_files import CLIENTS, JOURNAL, LOCK, closed_name
from openclaw_billing.stores.memory import run_tickets
from openclaw_billing.stores.tables import Base, Layer

Parts: TypeAlias = dict[str, Any]
Migrate: TypeAlias = Callable[[bytes], Operation[object]]
BACKUP = f"{CLIENTS}.v0.bak"


def create(directory: Directory, chain: Chain, migrate: Migrate | None) -> None:
    """Make the store; nothing of one may be there but a clients file in the seed's format.

    Raises:
        CorruptStore: parts of a store are there, but not its journal.
    """
    names = [name for name in directory.names() if name.startswith("openclaw_clients.")]
    rest = [name for name in names if name not in (LOCK, CLIENTS, BACKUP) and not name.endswith(".turn")]
    if rest:
        raise CorruptStore(str(directory.path / JOURNAL), f"is missing beside {rest[0]}")
    lines: list[tuple[str, Parts]] = [("genesis", {})]
    if CLIENTS in names:
        lines = _taken_over(directory, migrate)
    sealed, _, _ = seal_batch(chain, lines, seq=0, head=NO_SUM, batch=1)
    directory.write_new(f"{JOURNAL}.tmp", [sealed])
    directory.replace(f"{JOURNAL}.tmp", JOURNAL)
    directory.sync()


def begin_segment(directory: Directory, chain: Chain, segment: int, sealed: bytes) -> None:
    """Give the active file its closed name, and put a new one that begins with `sealed` in its place."""
    directory.write_new(f"{JOURNAL}.tmp", [sealed])
    with contextlib.suppress(FileExistsError):
        os.link(JOURNAL, closed_name(segment), src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
    directory.replace(f"{JOURNAL}.tmp", JOURNAL)
    directory.sync()


def seal_batch(
    chain: Chain, lines: list[tuple[str, Parts]], *, seq: int, head: str, batch: int
) -> tuple[bytes, int, str]:
    """The lines of one batch that follows line `seq` with sum `head`; then the last one's seq and sum."""
    moment = moment_text(datetime.now(UTC))
    of = len(lines)
    sealed: list[bytes] = []
    for index, (name, parts) in enumerate(lines, 1):
        seq += 1
        line = {"v": VERSION, "seq": seq, "prev": head, "batch": [batch, index, of], "time": moment, "op": name}
        line.update(parts)
        raw, head = chain.seal(line)
        sealed.append(raw)
    return b"".join(sealed), seq, head


def parts_of(layer: Layer) -> Parts:
    """What one operation changed, as a journal line says it."""
    parts: Parts = {}
    for name, rows in layer.puts.items():
        kept = [to_row(record) for record in rows.values() if record is not None]
        if kept:
            parts.setdefault("put", {})[name] = kept
        if len(kept) != len(rows):
            parts.setdefault("del", {})[name] = [key for key, record in rows.items() if record is None]
    if layer.ledger:
        parts["ledger"] = [to_row(entry) for entry in layer.ledger]
    if layer.audit:
        parts["audit"] = [to_row(entry) for entry in layer.audit]
    return parts


def _taken_over(directory: Directory, migrate: Migrate | None) -> list[tuple[str, Parts]]:
    path = str(directory.path / CLIENTS)
    if migrate is None:
        raise CorruptStore(path, "its journal is missing")
    data = directory.read(CLIENTS, links_max=2)
    ticket = Ticket(migrate(data), "migrate", None)
    _, changed = run_tickets([ticket], Base())
    if isinstance(ticket.error, StartupError):
        raise ticket.error
    if ticket.error is not None:
        raise CorruptStore(path, f"cannot be taken over ({ticket.error})") from ticket.error
    if not directory.exists(BACKUP):
        os.link(CLIENTS, BACKUP, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
        os.chmod(BACKUP, 0o600, dir_fd=directory.fd)
        directory.sync()
    mark = {"mark": {"clients": hashlib.sha256(data).hexdigest()}}
    return [("genesis", mark), *(("migrate", parts_of(layer)) for _, layer in changed)]
