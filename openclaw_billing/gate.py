"""The gate: takes one event loop's operations to the store, and their answers back to who awaits them."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from functools import partial
from typing import Any, TypeVar

from openclaw_billing.contracts import Operation, Store

T = TypeVar("T")

CORK_TURNS = 3


class Gate:
    """One event loop's. All answers of a batch come back in one hop, or in none where the loop waits for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, store: Store) -> None:
        self.store = store
        # The registry of gates holds the loop weakly; a strong one here would keep both for ever.
        self._loop = weakref.proxy(loop)
        self._known = weakref.ref(loop)
        self._corked = False
        self._flushing = False
        self._hopping = False
        self._ready: deque[tuple[asyncio.Future[Any], object, BaseException | None]] = deque()

    def is_of(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self._known() is loop

    def write(self, operation: Operation[T], name: str) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()
        self.store.submit(operation, name, partial(self._settled, future))
        if not self._corked:
            # A few turns of the loop let the other requests of this moment into the same flush.
            self._corked = True
            self._loop.call_soon(self._turn, CORK_TURNS)
        return future

    def _turn(self, left: int) -> None:
        if left:
            self._loop.call_soon(self._turn, left - 1)
            return
        self._corked = False
        self._flushing = True
        try:
            self.store.flush()
        finally:
            self._flushing = False
            self._deliver()

    def _settled(self, future: asyncio.Future[Any], answer: object, error: BaseException | None) -> None:
        # In this order: a loop that has just given up waiting finds the answer, or is told of it.
        self._ready.append((future, answer, error))
        if not self._flushing and not self._hopping:
            self._hopping = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except (RuntimeError, ReferenceError):
                # The loop is closed: whoever asked is gone, and what was durable stays so.
                self._ready.clear()

    def _deliver(self) -> None:
        self._hopping = False
        while self._ready:
            _settle(*self._ready.popleft())


def _settle(future: asyncio.Future[Any], answer: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(answer)
    else:
        future.set_exception(error)
