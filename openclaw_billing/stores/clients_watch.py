"""The watch over the clients file: what somebody else writes there while we run is set aside, never believed or lost."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from openclaw_billing.errors import CorruptStore
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal_files import CLIENTS

log = logging.getLogger(__name__)


class ClientsWatch:
    """Knows how we left the clients file. `foreign` is the name under which somebody else's was kept last."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._seen: tuple[int, ...] | None = None
        self.foreign = ""

    def look(self, name: str = CLIENTS) -> None:
        """The file that has this name now is as we left it, and will keep what tells it apart under its own."""
        self._seen = self._status(name)

    def keep_foreign(self, ours: Collection[str]) -> None:
        """Set the file aside if it is none of ours, whose digests these are."""
        if self._status(CLIENTS) == self._seen:
            return
        try:
            digest = hashlib.sha256(self._directory.read(CLIENTS, links_max=2)).hexdigest()
        except FileNotFoundError:
            return
        except CorruptStore:
            digest = "of a link, or of another user's file"
        if digest in ours:
            return
        self.foreign = foreign_name()
        self._directory.replace(CLIENTS, self.foreign)
        log.error("%s was changed by somebody else: kept as %s, and ours written anew", CLIENTS, self.foreign)

    def _status(self, name: str) -> tuple[int, ...] | None:
        try:
            status = os.stat(name, dir_fd=self._directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def foreign_name() -> str:
    """Under which name a clients file of somebody else's is kept."""
    return f"{CLIENTS}.foreign-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"


def shown_seq(mark: dict[str, Any]) -> int:
    """The line that the clients file which the mark names was true after."""
    seq: int = mark.get("clients_seq", mark.get("seq", -1))
    return seq
