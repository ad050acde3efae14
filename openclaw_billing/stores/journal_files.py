"""The journal's files: the active segment and the closed ones behind it, oldest first, one chain through all."""

from __future__ import annotations

import re

from openclaw_billing.stores.files import Directory

CLIENTS = "openclaw_clients.json"
JOURNAL = "openclaw_clients.journal"
LOCK = "openclaw_clients.lock"
CHECKPOINT = "openclaw_clients.checkpoint"
TURN = f"{CHECKPOINT}.turn"
"""Locked while a snapshot is written. Its file is made beside a durable journal: it says that a store was here."""
BEGUN = "openclaw_clients.moving"
"""Stands in a directory for as long as the store there is not whole."""
_CLOSED = re.compile(rf"^{re.escape(JOURNAL)}\.(\d{{6}})$")


def closed_name(segment: int) -> str:
    return f"{JOURNAL}.{segment:06d}"


def closed_segments(directory: Directory) -> list[int]:
    """The numbers of the closed segments, oldest first."""
    return [int(found[1]) for name in directory.names() if (found := _CLOSED.match(name))]


def segment_name(segment: int, active: int) -> str:
    return JOURNAL if segment == active else closed_name(segment)
