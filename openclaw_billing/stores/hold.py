"""The hold on the store: its lock, with everything taken in that others appended.

It is for one batch, or for several that follow each other at once while nobody else is seen to want it. Who
waits for it behind somebody else waits so long and no longer, whichever batch it is in.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from openclaw_billing.errors import StorageUnavailable
from openclaw_billing.stores.files import FileLock
from openclaw_billing.stores.group_commit import Ticket
from openclaw_billing.stores.replica import Replica

KEPT_SECONDS_MAX = 0.02
"""How long batches that follow each other at once may share the lock, before others have their chance."""
ALONE_SECONDS = 1.0
"""How long no other process must have written for that."""
TOGETHER_SECONDS = 0.1
"""Who came within so short a time is refused together."""


class Hold:
    """`run_ahead` is given something to do while another process commits; see `GroupCommit`."""

    def __init__(self, lock: FileLock, replica: Replica, run_ahead: Callable[[list[Ticket]], None]) -> None:
        self._lock, self._replica, self._run_ahead = lock, replica, run_ahead
        self._kept_since = 0.0

    def take(self, tickets: list[Ticket], seconds_max: float | None = None) -> None:
        """Wait for the lock. While another process commits its batch, ours is run ahead, and theirs taken in.

        Raises:
            StorageUnavailable: somebody else holds it, and the first ticket has waited long enough.
            OSError: the system gives none.
        """
        if not self._lock.acquire_now():
            self._run_ahead(tickets)
            asked_at = tickets[0].asked_at if tickets else time.monotonic()
            self._lock.acquire(seconds_max, asked_at=asked_at, meanwhile=self._replica.read_on)

    def waited_enough(self, tickets: Sequence[Ticket]) -> int:
        """How many of the tickets, which stand in the order they came, a refusal of the first is for."""
        if not self._lock.wanted_since:
            # It is not the lock that they could not have.
            return len(tickets)
        first = max(tickets[0].asked_at, self._lock.wanted_since)
        return sum(ticket.asked_at <= first + TOGETHER_SECONDS for ticket in tickets)

    @contextlib.contextmanager
    def held(
        self, tickets: list[Ticket], another_follows: Callable[[], bool], seconds_max: float | None = None
    ) -> Iterator[None]:
        """Hold the lock, and stand where the journal ends. The tickets are what it is for."""
        replica = self._replica
        if replica.end.fd < 0:
            raise StorageUnavailable
        if not self._lock.held:
            self.take(tickets, seconds_max)
        try:
            with replica.state:
                if not self._kept_since:
                    replica.catch_up()
                replica.appending = True
            yield
        finally:
            replica.appending = False
            # Bytes that no disk holds stay behind the lock, or others would build on them.
            if replica.end.cut_failed or not self._may_go_on(another_follows):
                self.end()

    def end(self) -> None:
        """Let go of the lock, unless bytes stand there that no disk holds. Never raises."""
        self._kept_since = 0.0
        if self._lock.held and not self._replica.end.cut_failed:
            self._lock.release()

    def _may_go_on(self, another_follows: Callable[[], bool]) -> bool:
        """Whether to keep the lock for the batch that follows at once: nobody else was seen to want it."""
        now = time.monotonic()
        if (
            not another_follows()
            or now - self._replica.others_at < ALONE_SECONDS
            or self._replica.end.poisoned
        ):
            return False
        self._kept_since = self._kept_since or now
        return now - self._kept_since < KEPT_SECONDS_MAX
