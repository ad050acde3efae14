"""Pauses between tries: longer each time, and a little different for each name, so that not all come at once."""

from __future__ import annotations

from datetime import timedelta
from zlib import crc32

PAUSES = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(hours=1),
    timedelta(hours=6),
)
SPREAD = 0.2


def pause(tries: int, name: str) -> timedelta:
    """How long to wait after so many tries in vain before this one; up to a fifth more than for others."""
    share = crc32(f"{name}:{tries}".encode()) / 2**32
    return PAUSES[min(tries, len(PAUSES) - 1)] * (1 + SPREAD * share)
