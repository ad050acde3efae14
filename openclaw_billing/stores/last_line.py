"""The last line of a store that is left: written under its lock by who has read all of it, and need not load it again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from openclaw_billing.errors import StartupError
from openclaw_billing.records import Fact
from openclaw_billing.stores.files import Directory, FileLock
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.journal_files import LOCK
from openclaw_billing.stores.json_create import parts_of
from openclaw_billing.stores.json_load import Loaded, check_clients_file
from openclaw_billing.stores.layers import Layer
from openclaw_billing.stores.replica import Replica

LOCK_SECONDS_MAX = 30.0
"""How long the lock is waited for: others hold it while they load."""


class LastLine:
    """Holds the lock, and knows of the store where its journal ends; of its records only what comes meanwhile.

    `known` says where somebody has read the journal up to. No snapshot may be made of this.
    """

    def __init__(self, data_dir: Path, chain_key: bytes | None, known: Loaded) -> None:
        self._directory, self._chain = Directory(data_dir), Chain(chain_key)
        self._lock = FileLock(self._directory, LOCK, LOCK_SECONDS_MAX)
        self._replica = Replica(self._directory, self._chain)
        self._known = known

    def open(self) -> None:
        """Stand where the journal ends.

        Raises:
            StartupError: somebody else wrote the clients file.
            StorageUnavailable: the lock is not to be had, the journal is damaged or the store was moved.
        """
        self._directory.open()
        with self._locked():
            self._replica.join(self._known)
            self._replica.catch_up()
            check_clients_file(self._directory, self._chain, self._replica.loaded)

    def close(self) -> None:
        self._replica.end.close()
        self._lock.forget()
        self._directory.close()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else writes meanwhile, and every line that is there is whole.

        Raises:
            StorageUnavailable: as `open`.
        """
        with self._locked():
            self._replica.catch_up()
            yield

    def write(self, name: str, fact: Fact, after: int) -> None:
        """Make the line durable that puts this fact, right behind line `after`. The lock is held.

        Raises:
            StartupError: that is not the last one.
            OSError: the disk takes no change.
        """
        if self._replica.loaded.seq != after:
            raise StartupError(f"The journal does not end with line {after}: run it again")
        layer = Layer()
        layer.puts["facts"] = {fact.name: fact}
        self._replica.append([(name, parts_of(layer))], layer)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock.acquire()
        try:
            yield
        finally:
            # Bytes that no disk holds stay behind the lock, or others would build on them.
            if not self._replica.end.cut_failed:
                self._lock.release()
