"""The journal's files: the active segment and the closed ones behind it, oldest first, one chain through all."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterator
from typing import Any

from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.stores.codec import from_row
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.history import matches

CLIENTS = "openclaw_clients.json"
JOURNAL = "openclaw_clients.journal"
LOCK = "openclaw_clients.lock"
CHECKPOINT = "openclaw_clients.checkpoint"
_CLOSED = re.compile(rf"^{re.escape(JOURNAL)}\.(\d{{6}})$")


def closed_name(segment: int) -> str:
    return f"{JOURNAL}.{segment:06d}"


def closed_segments(directory: Directory) -> list[int]:
    """The numbers of the closed segments, oldest first."""
    return [int(found[1]) for name in directory.names() if (found := _CLOSED.match(name))]


def segment_name(directory: Directory, segment: int, active: int) -> str:
    return JOURNAL if segment == active else closed_name(segment)


def history(
    directory: Directory, ends: list[tuple[str, int]], part: str, record: type, query: HistoryQuery
) -> Iterator[tuple[int, Any]]:
    """The entries of `part` ("ledger" or "audit") that match, newest first, with their positions.

    `ends` names the segments, newest first, and how far each is known to be durable.
    """
    needle = f'"client_id":"{query.client_id}"'.encode() if query.client_id is not None else b""
    marker = f'"{part}":['.encode()
    for name, end in ends:
        for raw in _lines_backwards(directory, name, end, needle):
            if marker not in raw:
                continue
            yield from _entries(raw, part, record, query)


def _entries(raw: bytes, part: str, record: type, query: HistoryQuery) -> Iterator[tuple[int, Any]]:
    line = json.loads(raw)
    rows = line.get(part, ())
    for index in range(len(rows) - 1, -1, -1):
        entry = from_row(record, rows[index])
        if matches(entry, query):
            yield (line["seq"] << 12) + index, entry


def _lines_backwards(directory: Directory, name: str, end: int, needle: bytes) -> Iterator[bytes]:
    if end == 0:
        return
    fd = directory.open_file(name, os.O_RDONLY, links_max=64)
    try:
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
    finally:
        os.close(fd)
