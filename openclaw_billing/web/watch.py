"""The watch: metrics of a process say how its store and its limits are, however little is asked of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from openclaw_billing.errors import StartupError
from openclaw_billing.metrics import DEGRADED, STORE_REFUSING
from openclaw_billing.runtime import Runtime

WATCH_SECONDS = 2.0
"""Shorter than what lies between two scrapes, which ask one worker of several."""
HEAD_SECONDS = 3600.0
"""How often the log is told where the journal ends."""


@contextlib.asynccontextmanager
async def watching(runtime: Runtime) -> AsyncIterator[None]:
    """The watch, for as long as the block lasts."""
    task = asyncio.create_task(_watch(runtime))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def look(runtime: Runtime) -> None:
    """Find out how things are now, and tell the metrics."""
    STORE_REFUSING.told(not await runtime.read(lambda: _is_writable(runtime)))
    DEGRADED.told(runtime.limits.degraded)


def _is_writable(runtime: Runtime) -> bool:
    try:
        return runtime.store.health().writable
    except StartupError:
        return False


def tell_head(runtime: Runtime) -> None:
    """Note in the log how far the journal goes: it is kept elsewhere, and finds an end that was cut off."""
    details = runtime.store.health().details
    if "head" in details:
        runtime.log.info("The journal stands at %d:%s", details["seq"], details["head"])


async def _watch(runtime: Runtime) -> None:
    told_at = -HEAD_SECONDS
    while True:
        try:
            await look(runtime)
            if time.monotonic() >= told_at + HEAD_SECONDS:
                told_at = time.monotonic()
                await runtime.read(lambda: tell_head(runtime))
        except Exception:
            # The outermost edge of this task: it must outlive its own bugs.
            runtime.log.exception("The watch stumbled and goes on")
        await asyncio.sleep(WATCH_SECONDS)
