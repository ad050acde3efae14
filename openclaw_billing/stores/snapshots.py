"""Snapshots: the checkpoint and the clients file, written beside the running store and never in its way.

In this order, so that after any crash each file is the newest mark's or the one before: both files under
temporary names and fsynced; a mark with their digests in the journal, flushed; two renames; the directory.

The checkpoint is what makes a start quick, the clients file is for people. Under load the first is written each
time the journal has outgrown it, the second for a small share of the time only: the mark then names the one
that is there, and the line that it was true after.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from openclaw_billing.errors import CorruptStore, StorageUnavailable
from openclaw_billing.stores.checkpoint import write_checkpoint
from openclaw_billing.stores.clients_file import clients_file
from openclaw_billing.stores.clients_watch import shown_seq
from openclaw_billing.stores.files import give_back
from openclaw_billing.stores.journal_files import CHECKPOINT, CLIENTS, TURN
from openclaw_billing.stores.tables import Base

if TYPE_CHECKING:
    from openclaw_billing.stores.json_store import JsonStore

log = logging.getLogger(__name__)

QUIET_SECONDS = 0.5
BYTES_BEHIND_MIN = 32 << 20
PAUSE_SECONDS = 0.002
PUBLISHING_SECONDS_MAX = 2.0
REST_FACTOR = 10
ROWS_WITHOUT_PAUSE = 2_000
CLIENTS_REST_FACTOR = 30
"""Under load the clients file is not written again for so many times as long as it took."""


class Snapshots:
    """Decides when a snapshot pays, and makes it in a thread of its own."""

    def __init__(self, store: JsonStore) -> None:
        self._store = store
        self._thread: threading.Thread | None = None
        self._not_before = self._clients_not_before = 0.0
        self._stopping = False
        self._turn_fd: int | None = None
        self.seconds_last = 0.0

    def consider(self, *, quiet: bool, bytes_behind: int) -> None:
        """Begin one if it pays: after a moment of quiet, or when the journal has outgrown the last one."""
        if time.monotonic() < self._not_before:
            return
        if self._thread is not None and self._thread.is_alive():
            return
        if quiet or (bytes_behind > BYTES_BEHIND_MIN and bytes_behind > 2 * self._bytes_there()):
            self._thread = threading.Thread(
                target=self._run, args=(quiet,), name="openclaw-billing-snapshot", daemon=True
            )
            self._thread.start()

    def _bytes_there(self) -> int:
        """How long the checkpoint is that is there, whichever process wrote it."""
        try:
            return os.stat(CHECKPOINT, dir_fd=self._store.directory.fd).st_size
        except OSError:
            return 0

    def stop(self) -> None:
        """Let a running snapshot hurry to its end."""
        self._stopping = True
        if self._thread is not None:
            self._thread.join()
        self._stopping = False

    def _run(self, quiet: bool) -> None:
        whole = quiet or time.monotonic() >= self._clients_not_before
        try:
            if not self.write(paced=True, whole=whole):
                # Another process is at it: its mark will tell when it is done.
                self._not_before = time.monotonic() + QUIET_SECONDS
        except (StorageUnavailable, CorruptStore, OSError) as error:
            # The journal is the truth: a snapshot that failed costs nothing but a longer start.
            log.warning("Snapshot not written: %s", getattr(error, "detail", error))
            self._not_before = time.monotonic() + 5

    def write(self, *, paced: bool, wait_seconds: float = 0.0, whole: bool = True) -> bool:
        """Write one now, without the clients file where it need not be whole.

        False when another process was quicker, or the store was reloaded meanwhile.
        """
        begun = time.monotonic()
        turn_fd = self._claim(begun + wait_seconds)
        if turn_fd is None:
            return False
        self._turn_fd = turn_fd
        try:
            position, rows, generation = self._store.frozen()
            if not self._store.is_behind:
                return False
            few = sum(len(table) for table in rows.values()) < ROWS_WITHOUT_PAUSE
            pause = 0.0 if not paced or few else PAUSE_SECONDS
            checkpoint = self._write(
                f"{CHECKPOINT}.tmp", write_checkpoint(position, rows, self._store.base), pause
            )
            mark = {"seq": position.seq, "head": position.head, "checkpoint": checkpoint}
            mark |= (None if whole else self._clients_there()) or self._write_clients(rows, pause)
            written = self._publish(mark, generation)
        finally:
            self._turn_fd = None
            give_back(turn_fd)
        self.seconds_last = time.monotonic() - begun
        self._not_before = time.monotonic() + REST_FACTOR * self.seconds_last
        return written

    def _publish(self, mark: dict[str, Any], generation: int) -> bool:
        # Each try is short: meanwhile callers wait for their turn as well, though somebody else has the lock.
        deadline = time.monotonic() + PUBLISHING_SECONDS_MAX
        while True:
            try:
                return self._store.publish_snapshot(mark, generation)
            except StorageUnavailable:
                if time.monotonic() >= deadline or not self._store.is_behind:
                    raise
            time.sleep(PAUSE_SECONDS)

    def _write_clients(self, rows: dict[str, dict[str, Any]], pause: float) -> dict[str, Any]:
        begun = time.monotonic()
        mark = {"clients": self._write(f"{CLIENTS}.tmp", shown_clients(rows, self._store.base), pause)}
        if (before := self._before()) is not None:
            mark["clients_before"] = before
        ended = time.monotonic()
        self._clients_not_before = ended + CLIENTS_REST_FACTOR * (ended - begun)
        return mark

    def _clients_there(self) -> dict[str, Any] | None:
        """What a mark says of the clients file that is there already; None where no mark has named one."""
        last = self._store.last_mark()
        if "clients" not in last or "seq" not in last:
            return None
        kept: dict[str, Any] = {name: last[name] for name in ("clients", "clients_before") if name in last}
        return {**kept, "clients_seq": shown_seq(last)}

    def forget(self) -> None:
        """In a forked child: the parent's turn must not last as long as we do."""
        if self._turn_fd is not None:
            os.close(self._turn_fd)

    def _claim(self, deadline: float) -> int | None:
        """One process at a time writes the temporary files; a dead one's claim dies with it."""
        while (fd := self._store.directory.claim(TURN)) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return fd

    def _before(self) -> str | None:
        """The digest of the clients file that will be there if the next one's name does not reach the disk."""
        directory = self._store.directory
        # Somebody's last one may have a name in memory only: from here on it is the disk's too.
        directory.sync()
        try:
            return hashlib.sha256(directory.read(CLIENTS, links_max=2)).hexdigest()
        except (FileNotFoundError, CorruptStore):
            return None

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
            keys = [
                key
                for digest in tables["keys"].keys_by("client", client_id)
                if (key := record("keys", digest))
            ]
            yield record("clients", client_id), account, keys, record("recents", client_id)

    return clients_file(each())
