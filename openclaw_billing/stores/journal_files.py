"""The journal's files: the active segment and the closed ones behind it, oldest first, one chain through all."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterator
from typing import Any

from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.stores.codec import encode, from_row
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.history import matches, position_of

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


def history(
    directory: Directory,
    active: tuple[int, int],
    closed: list[str],
    part: str,
    record: type,
    query: HistoryQuery,
) -> Iterator[tuple[int, Any]]:
    """The entries of `part` ("ledger" or "audit") that match, newest first, with their positions.

    `active` is a descriptor of the active segment, which is closed when done, and how far to read it;
    `closed` names the closed segments, newest first.
    """
    marker = f'"{part}":['.encode()
    for raw in _lines_of_segments(directory, active, closed, query):
        if marker in raw:
            yield from _entries(raw, part, record, query)


def _lines_of_segments(
    directory: Directory, active: tuple[int, int], closed: list[str], query: HistoryQuery
) -> Iterator[bytes]:
    needle = b"" if query.client_id is None else f'"client_id":{encode(query.client_id)}'.encode("ascii")
    fd, end = active
    try:
        yield from _lines_backwards(fd, end, needle)
    finally:
        os.close(fd)
    for name in closed:
        fd = directory.open_file(name, os.O_RDONLY, links_max=64)
        try:
            yield from _lines_backwards(fd, os.fstat(fd).st_size, needle)
        finally:
            os.close(fd)


def _entries(raw: bytes, part: str, record: type, query: HistoryQuery) -> Iterator[tuple[int, Any]]:
    line = json.loads(raw)
    rows = line.get(part, ())
    for index in range(len(rows) - 1, -1, -1):
        entry: Any = from_row(record, rows[index])
        if matches(entry, query):
            yield position_of(line["seq"], index), entry


def _lines_backwards(fd: int, end: int, needle: bytes) -> Iterator[bytes]:
    # The file may have been cut since: a mapping that reaches behind its end cannot be read.
    end = min(end, os.fstat(fd).st_size)
    if end == 0:
        return
    with mmap.mmap(fd, end, access=mmap.ACCESS_READ) as data:
        before = end
        while before > 0:
            # Jump from hit to hit: the lines of other clients are never looked at.
            hit = data.rfind(needle, 0, before) if needle else before - 1
            if hit < 0:
                return
            start = data.rfind(b"\n", 0, hit) + 1
            stop = data.find(b"\n", hit)
            yield data[start : stop if stop >= 0 else end]
            before = start
