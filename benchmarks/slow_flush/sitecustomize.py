"""A slower disk: every os.fsync and os.fdatasync sleeps first.

Python imports a module of this name from PYTHONPATH at start, so the workers that a server spawns are
slowed as well. SQLite flushes from C and is not reached.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

FLUSH_SECONDS = float(os.environ.get("BENCHMARK_FLUSH_MS", "0")) / 1000


def _slowed(flush: Callable[[int], None]) -> Callable[[int], None]:
    def slow_flush(fd: int) -> None:
        time.sleep(FLUSH_SECONDS)
        flush(fd)

    return slow_flush


if FLUSH_SECONDS > 0:
    os.fsync = _slowed(os.fsync)  # type: ignore[assignment]
    if hasattr(os, "fdatasync"):
        os.fdatasync = _slowed(os.fdatasync)  # type: ignore[assignment]
