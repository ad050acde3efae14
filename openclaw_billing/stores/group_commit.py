"""Group commit: whatever waits shares one flush.

Callers put tickets in a queue. Whoever holds the turn runs the waiting tickets as one batch: the writer's
thread for those that asked without waiting, or a waiting caller itself, which spares it two hand-overs
between threads. A ticket is settled only after its batch is durable.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import TypeVar, cast

from openclaw_billing.contracts import Operation, Settle
from openclaw_billing.errors import StorageUnavailable

T = TypeVar("T")

OPERATIONS_PER_BATCH_MAX = 512
OPERATIONS_WAITING_MAX = 20_000


class Ticket:
    """One operation that waits for its batch."""

    __slots__ = ("answer", "done", "error", "name", "operation", "settle")

    def __init__(self, operation: Operation[object], name: str, settle: Settle | None) -> None:
        self.operation = operation
        self.name = name
        self.settle = settle
        self.answer: object = None
        self.error: BaseException | None = None
        self.done = False

    def finish(self) -> None:
        self.done = True
        if self.settle is not None:
            self.settle(self.answer, self.error)


class GroupCommit:
    """The queue, the turn and the writer's thread. A store says how a batch is made durable."""

    def __init__(self) -> None:
        self._queue: deque[Ticket] = deque()
        self._turn = threading.Lock()
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._writer: threading.Thread | None = None
        self._writer_pid = 0

    def commit(self, tickets: list[Ticket]) -> None:
        """Run the tickets and make them durable; give each its answer or its error. Never raises."""
        raise NotImplementedError

    def idle(self) -> None:
        """Called in the writer's thread when nothing has waited for `idle_seconds`."""

    def idle_seconds(self) -> float | None:
        """How long the writer rests before `idle`; None is for ever."""
        return None

    def run(self, operation: Operation[T], name: str) -> T:
        ticket = Ticket(operation, name, None)
        self._enter(ticket)
        with self._turn:
            while not ticket.done:
                self._run_batch()
        self._start_writer()
        if ticket.error is not None:
            raise ticket.error
        return cast("T", ticket.answer)

    def submit(self, operation: Operation[T], name: str, settle: Settle) -> None:
        self._enter(Ticket(operation, name, settle))

    def flush_soon(self) -> None:
        self._start_writer()
        self._wake.put(True)

    def drain(self) -> None:
        """Make durable what waits, then end the writer's thread."""
        writer, self._writer = self._writer, None
        if writer is not None and self._writer_pid == os.getpid():
            self._wake.put(False)
            writer.join()
        with self._turn:
            while self._queue:
                self._run_batch()

    def forget_threads(self) -> None:
        """In a forked child: what waited belongs to the parent."""
        self._queue.clear()
        self._turn = threading.Lock()
        self._writer = None

    def _enter(self, ticket: Ticket) -> None:
        if len(self._queue) >= OPERATIONS_WAITING_MAX:
            raise StorageUnavailable(retry_after_seconds=2)
        self._queue.append(ticket)

    def _run_batch(self) -> None:
        tickets: list[Ticket] = []
        while self._queue and len(tickets) < OPERATIONS_PER_BATCH_MAX:
            tickets.append(self._queue.popleft())
        if not tickets:
            return
        try:
            self.commit(tickets)
        except BaseException:
            # A commit that broke off proved nothing durable: nobody may take it for a yes.
            for ticket in tickets:
                ticket.error = StorageUnavailable()
            raise
        finally:
            for ticket in tickets:
                ticket.finish()

    def _start_writer(self) -> None:
        # A forked child inherits the object but not the thread.
        if self._writer is not None and self._writer_pid == os.getpid():
            return
        with self._turn:
            if self._writer is not None and self._writer_pid == os.getpid():
                return
            self._wake = SimpleQueue()
            self._writer_pid = os.getpid()
            self._writer = threading.Thread(target=self._write, name="openclaw-billing-writer", daemon=True)
            self._writer.start()

    def _write(self) -> None:
        wake = self._wake
        while True:
            if not self._next(wake):
                return
            with self._turn:
                while self._queue:
                    self._run_batch()

    def _next(self, wake: SimpleQueue[bool]) -> bool:
        while True:
            try:
                return wake.get(timeout=self.idle_seconds())
            except Empty:
                self.idle()
