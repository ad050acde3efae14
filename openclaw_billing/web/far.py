"""Far stores: what a database is asked for is waited for off the event loop, and at once where it is in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from openclaw_billing.runtime import Runtime
from openclaw_billing.stores.postgres import PostgresStore

T = TypeVar("T")


def far_store(runtime: Runtime) -> PostgresStore | None:
    """The store, if reading it means waiting for another machine."""
    store = runtime.store
    return store if isinstance(store, PostgresStore) else None


async def look(runtime: Runtime, reading: Callable[[], T]) -> T:
    """A short reading, of a few rows."""
    return reading() if far_store(runtime) is None else await asyncio.to_thread(reading)
