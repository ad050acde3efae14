"""Group commit: whatever waits shares one flush.

Callers put tickets in a queue. Whoever holds the turn runs the waiting tickets as one batch: the writer's
thread for those that asked without waiting, or a waiting caller itself, which spares it two hand-overs
between threads. An event loop runs its tickets ahead, and where the disk is quick it waits for the writer,
but never for long. A ticket is settled only after its batch is durable.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar, cast

from openclaw_billing.contracts import Operation, Settle
from openclaw_billing.errors import StorageUnavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

OPERATIONS_PER_BATCH_MAX = 512
OPERATIONS_WAITING_MAX = 20_000
OPERATIONS_AHEAD_MAX = 128
"""How many an event loop runs ahead at once: some milliseconds' worth."""
LOOP_SECONDS_MAX = 0.005
"""How long an event loop waits for a batch that is expected to be quick."""
TURN_SECONDS = 0.05
"""How often a caller that waits for the turn looks whether its own ticket is settled."""


class Ticket:
    """One operation that waits for its batch."""

    __slots__ = ("answer", "asked_at", "done", "error", "name", "operation", "settle")

    def __init__(self, operation: Operation[object], name: str, settle: Settle | None) -> None:
        self.operation = operation
        self.name = name
        self.settle = settle
        self.answer: object = None
        self.error: BaseException | None = None
        self.done = False
        self.asked_at = time.monotonic()

    def finish(self) -> None:
        self.done = True
        if self.settle is None:
            return
        try:
            self.settle(self.answer, self.error)
        except Exception:
            # One caller's callback that fails must not keep the others of its batch waiting.
            log.exception("The answer of %s could not be delivered", self.name)


class GroupCommit(ABC):
    """The queue, the turn and the writer's thread. A store says how a batch is made durable."""

    def __init__(self) -> None:
        self._queue: deque[Ticket] = deque()
        self._turn = threading.Lock()
        self._starting = threading.Lock()
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._writer: threading.Thread | None = None
        self._stopped = False
        self._goes_on = False
        self._awaited: threading.Lock | None = None
        """Let go of when nothing waits any more; there as long as an event loop waited for that, in vain or not."""

    @property
    def another_follows(self) -> bool:
        """Whether the batch that runs now is followed by another at once, in the same turn."""
        return self._goes_on and bool(self._queue)

    def rest(self) -> None:  # noqa: B027 - a store need not
        """Nothing follows any more: let go of what was kept for the next batch. Never raises."""

    @abstractmethod
    def commit(self, tickets: list[Ticket]) -> Callable[[], None] | None:
        """Run the tickets and make them durable; give each its answer or its error. Never raises.

        Those that it postpones are settled with a later batch. What it answers is called once nobody waits for the batch any more.
        """

    def idle(self) -> None:  # noqa: B027 - a store need not do anything when nothing waits
        """Called in the writer's thread when nothing has waited for `idle_seconds`. Never raises."""

    def idle_seconds(self) -> float | None:
        """How long the writer rests before `idle`; None is for ever."""
        return None

    def run(self, operation: Operation[T], name: str) -> T:
        ticket = Ticket(operation, name, None)
        self._enter(ticket)
        while not ticket.done:
            # Whoever has the turn may keep it for long behind somebody's lock, and settle this one long before.
            if self._turn.acquire(timeout=TURN_SECONDS):
                try:
                    if not ticket.done:
                        self._run_batch()
                finally:
                    self._turn.release()
        self._start_writer()
        if ticket.error is not None:
            raise ticket.error
        return cast("T", ticket.answer)

    def submit(self, operation: Operation[T], name: str, settle: Settle) -> None:
        self._enter(Ticket(operation, name, settle))

    def flush_soon(self) -> None:
        self._start_writer()
        if self._stopped:
            self._run_waiting()
        else:
            self._wake.put(True)

    def flush(self) -> None:
        # Here, where what they need is in the processor's cache, and nobody else wants the interpreter's lock.
        self.run_ahead(list(self._queue)[:OPERATIONS_AHEAD_MAX])
        awaited = None
        if self._awaited is None and self.is_quick():
            self._awaited = awaited = threading.Lock()
            awaited.acquire()
        self.flush_soon()
        if awaited is not None:
            # In vain on a disk that has become slow: then nobody waits until the writer has come to its end.
            awaited.acquire(timeout=LOOP_SECONDS_MAX)

    def is_quick(self) -> bool:
        """Whether a batch takes, of late, no longer than it is worth to turn to something else."""
        return False

    def run_ahead(self, tickets: list[Ticket]) -> None:  # noqa: B027 - a store need not
        """Run what waits, though its turn has not come: `commit` may find it done. Never raises."""

    def postpone(self, tickets: list[Ticket], first: int) -> None:
        """Leave those from the `first` on to the next batch, which begins with them: they are none of this one."""
        self._queue.extendleft(reversed(tickets[first:]))
        del tickets[first:]

    def resume(self) -> None:
        """Take operations again after `drain`."""
        self._stopped = False

    def drain(self) -> None:
        """Take no more operations, make durable what waits, then end the writer's thread."""
        self._stopped = True
        with self._starting:
            writer, self._writer = self._writer, None
            self._wake.put(False)
        if writer is not None:
            writer.join()
        self._run_waiting()

    def before_fork(self) -> None:  # noqa: B027 - a store need not
        """No thread changes the state while its memory is copied."""

    def after_fork_in_parent(self) -> None:  # noqa: B027 - a store need not
        """The opposite of `before_fork`."""

    def after_fork_in_child(self) -> None:
        """No thread of ours runs here, and no file or connection of the parent's may be used."""
        self.forget_threads()

    def forget_threads(self) -> None:
        """In a forked child: what waited belongs to the parent, and so does its writer's thread."""
        self._queue = deque()
        self._turn, self._starting = threading.Lock(), threading.Lock()
        self._writer = self._awaited = None

    def _enter(self, ticket: Ticket) -> None:
        if self._stopped:
            raise StorageUnavailable
        if len(self._queue) >= OPERATIONS_WAITING_MAX:
            raise StorageUnavailable(retry_after_seconds=2)
        self._queue.append(ticket)

    def _run_waiting(self) -> None:
        with self._turn:
            try:
                self._goes_on = True
                while self._queue:
                    self._run_batch()
            finally:
                self._goes_on = False
                self.rest()
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            awaited.release()

    def _run_batch(self) -> None:
        if tickets := self._next_batch():
            self._commit_batch(tickets)

    def _next_batch(self) -> list[Ticket]:
        tickets: list[Ticket] = []
        while self._queue and len(tickets) < OPERATIONS_PER_BATCH_MAX:
            tickets.append(self._queue.popleft())
        return tickets

    def _commit_batch(self, tickets: list[Ticket]) -> None:
        proven, after = False, None
        try:
            after = self.commit(tickets)
            proven = True
        except Exception:
            log.exception("A batch of %d broke off", len(tickets))
        finally:
            for ticket in tickets:
                if not proven:
                    # A commit that broke off proved nothing durable: nobody may take it for a yes.
                    ticket.answer, ticket.error = None, StorageUnavailable()
                ticket.finish()
        if after is not None:
            try:
                after()
            except Exception:
                # The batch is durable and answered: what comes after it cannot take that back.
                log.exception("What follows a batch failed")

    def _start_writer(self) -> None:
        if self._writer is not None or self._stopped:
            return
        with self._starting:
            if self._writer is not None or self._stopped:
                return
            self._wake = SimpleQueue()
            self._writer = threading.Thread(
                target=self._write, args=(self._wake,), name="openclaw-billing-writer", daemon=True
            )
            self._writer.start()

    def _write(self, wake: SimpleQueue[bool]) -> None:
        while self._next(wake):
            self._run_waiting()

    def _next(self, wake: SimpleQueue[bool]) -> bool:
        while True:
            try:
                return wake.get(timeout=self.idle_seconds())
            except Empty:
                self.idle()
