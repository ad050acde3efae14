"""Snapshots: the checkpoint and the clients file, written beside the running store and never in its way.

In this order, so that after any crash each file is the newest mark's or the one before: both files under
temporary names and fsynced; a mark with their digests in the journal, flushed; two renames; the directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from openclaw_billing.errors import StorageUnavailable
from openclaw_billing.stores.checkpoint import write_checkpoint
from openclaw_billing.stores.clients_file import clients_file
from openclaw_billing.stores.journal_files import CHECKPOINT, CLIENTS
from openclaw_billing.stores.tables import Base

if TYPE_CHECKING:
    from openclaw_billing.stores.json_store import JsonStore

log = logging.getLogger(__name__)

QUIET_SECONDS = 0.5
BYTES_BEHIND_MIN = 8 << 20
PAUSE_SECONDS = 0.002
REST_FACTOR = 10
ROWS_WITHOUT_PAUSE = 2_000


class Snapshots:
    """Decides when a snapshot pays, and makes it in a thread of its own."""

    def __init__(self, store: JsonStore) -> None:
        self._store = store
        self._thread: threading.Thread | None = None
        self._not_before = 0.0
        self._stopping = False
        self.seconds_last = 0.0

    def consider(self, *, quiet: bool, bytes_behind: int, bytes_last: int) -> None:
        """Begin one if it pays: after a moment of quiet, or when the journal has grown as much as a snapshot."""
        if time.monotonic() < self._not_before:
            return
        if self._thread is not None and self._thread.is_alive():
            return
        if quiet or bytes_behind > max(BYTES_BEHIND_MIN, 2 * bytes_last):
            self._thread = threading.Thread(target=self._run, name="openclaw-billing-snapshot", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Let a running snapshot hurry to its end."""
        self._stopping = True
        if self._thread is not None:
            self._thread.join()
        self._stopping = False

    def _run(self) -> None:
        try:
            self.write(paced=True)
        except (StorageUnavailable, OSError) as error:
            # The journal is the truth: a snapshot that failed costs nothing but a longer start.
            log.warning("Snapshot not written: %s", getattr(error, "detail", error))
            self._not_before = time.monotonic() + 5

    def write(self, *, paced: bool) -> bool:
        """Write one now. False when another process is at it, or the store was reloaded meanwhile."""
        begun = time.monotonic()
        turn_file = self._claim()
        if turn_file is None:
            return False
        try:
            position, rows, generation = self._store.frozen()
            few = sum(len(table) for table in rows.values()) < ROWS_WITHOUT_PAUSE
            pause = 0.0 if not paced or few else PAUSE_SECONDS
            checkpoint = self._write(f"{CHECKPOINT}.tmp", write_checkpoint(position, rows), pause)
            clients = self._write(f"{CLIENTS}.tmp", shown_clients(rows, self._store.base), pause)
            mark = {"seq": position.seq, "head": position.head, "checkpoint": checkpoint, "clients": clients}
            written = self._store.publish_snapshot(mark, generation)
        finally:
            os.close(turn_file)
        self.seconds_last = time.monotonic() - begun
        self._not_before = time.monotonic() + REST_FACTOR * self.seconds_last
        return written

    def _claim(self) -> int | None:
        """One process at a time writes the temporary files; a dead one's claim dies with it."""
        fd = self._store.directory.open_file(f"{CHECKPOINT}.turn", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def _write(self, name: str, chunks: Iterable[bytes], pause: float) -> str:
        digest = hashlib.sha256()

        def digested() -> Iterator[bytes]:
            for index, chunk in enumerate(chunks):
                digest.update(chunk)
                yield chunk
                if pause and not self._stopping and index % 4 == 3:
                    time.sleep(pause)

        self._store.directory.write_new(name, digested())
        return digest.hexdigest()


def shown_clients(rows: dict[str, dict[str, Any]], base: Base) -> Iterator[bytes]:
    """The clients file for these rows, which may still be packed."""
    tables = base.tables

    def record(name: str, key: str) -> Any:
        row = rows[name].get(key)
        return tables[name].unpacked(row) if isinstance(row, bytes) else row

    def each() -> Iterator[Any]:
        for client_id in rows["clients"]:
            account = record("accounts", client_id)
            if account is None:
                continue
            keys = [key for digest in tables["keys"].keys_by("client", client_id) if (key := record("keys", digest))]
            yield record("clients", client_id), account, keys, record("recents", client_id)

    return clients_file(each())


def foreign_name() -> str:
    return f"{CLIENTS}.foreign-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
