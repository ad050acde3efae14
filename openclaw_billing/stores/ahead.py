"""Running ahead: a batch is run before its turn, while another one is made durable.

What a batch comes to depends on the rows that it looked at, and on no others. So it may be run over the state
that is known, with the batch of this process that is being made durable over it. When its turn has come, with
everything taken in that others wrote meanwhile, it holds unless one of those rows was written by them, or the
batch before it failed: then it is run again, as if it had never been.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from openclaw_billing.stores.group_commit import Ticket
from openclaw_billing.stores.layers import NOTHING, Asked, Layer
from openclaw_billing.stores.memory import Ran

RESTS_MAX = 64

Run = Callable[[list[Ticket], Asked, Ran], Ran]


class Ahead:
    """The batch that was run ahead, if any. Where that was in vain of late, it is not tried for some batches."""

    def __init__(self) -> None:
        self._running = threading.Lock()
        self._guard = threading.Lock()
        self._asked: Asked | None = None
        self._ran: Ran | None = None
        self._stale = False
        self._seq = 0
        self._committing = NOTHING
        self._rests = self._rest = 0

    def run(self, tickets: list[Ticket], seq: Callable[[], int], run: Run) -> None:
        """Run them, or those that came since, over the state after line `seq`; not where that is likely in vain."""
        if not tickets or not self._running.acquire(blocking=False):
            return
        try:
            asked = self._begin(tickets, seq)
            if asked is None:
                return
            ran = self._ran or Ran()
            ran = run(tickets[len(ran.outcomes) :], asked, ran)
            with self._guard:
                # Forgotten meanwhile, if it is another.
                if self._asked is asked:
                    self._ran = ran
        finally:
            self._running.release()

    def _begin(self, tickets: list[Ticket], seq: Callable[[], int]) -> Asked | None:
        with self._guard:
            if self._asked is not None:
                goes_on = self._ran is not None and not self._stale and self._ran.is_of(tickets)
                return self._asked if goes_on else None
            if self._rest:
                self._rest -= 1
                return None
            # Known before the first row is looked at: another thread may take in lines meanwhile.
            self._asked, self._stale = Asked(self._committing), False
            self._seq = seq()
            return self._asked

    def see(self, rows: Mapping[str, Mapping[str, object]], seq: int) -> None:
        """These rows were taken in from others, with the lines up to `seq`."""
        with self._guard:
            if self._asked is not None:
                self._stale = self._stale or self._asked.overlaps(rows)
                self._seq = seq

    def committing(self, batch: Layer) -> None:
        """This batch of ours is being made durable."""
        with self._guard:
            self._committing = batch

    def committed(self, batch: Layer, seq: int) -> None:
        """It is, and the base has it: what was run over it is run over the base, which ends with line `seq`."""
        with self._guard:
            self._committing = NOTHING
            if self._asked is not None:
                # Whoever began before `committing` was run beside that batch, and knows nothing of it.
                beside = self._asked.under is not batch
                self._stale = self._stale or (beside and self._asked.overlaps(batch.puts))
                self._asked.under, self._seq = NOTHING, seq

    def failed(self) -> None:
        """It is not: nothing that was run over it holds."""
        with self._guard:
            if self._committing is not NOTHING:
                self._committing = NOTHING
                self._forget()

    def taken(self, tickets: list[Ticket], seq: int) -> Ran | None:
        """What they, or the first of them, come to after line `seq`, where we stand and nobody else writes."""
        # Whoever is running them just now is nearly done.
        with self._running, self._guard:
            ran, stale = self._ran, self._stale or self._seq != seq
            self._forget()
            if ran is None or not ran.is_of(tickets):
                return None
            self._rests = min(2 * self._rests + 1, RESTS_MAX) if stale else 0
            self._rest = self._rests
            return None if stale else ran

    def forget(self) -> None:
        """Nothing was run ahead."""
        with self._guard:
            self._forget()

    def _forget(self) -> None:
        self._asked, self._ran = None, None
