"""Running ahead: a batch is run while another process of the machine still commits its own.

What a batch comes to depends on the rows that it looked at, and on no others. So it may be run over the state
that is known before the lock is there. Under the lock, with everything taken in that others wrote meanwhile,
it holds unless one of those rows was written: then it is run again, as if it had never been.
"""

from __future__ import annotations

from collections.abc import Mapping

from openclaw_billing.stores.group_commit import Ticket
from openclaw_billing.stores.layers import Asked
from openclaw_billing.stores.memory import Ran, Run

RESTS_MAX = 64


class Ahead:
    """The batch that was run ahead, if any. Where that was in vain of late, it is not tried for some batches."""

    def __init__(self) -> None:
        self._tickets: list[Ticket] = []
        self._asked: Asked | None = None
        self._ran: Ran | None = None
        self._stale = False
        self._seq = 0
        self._rests = self._rest = 0

    def run(self, tickets: list[Ticket], seq: int, run: Run) -> None:
        """Run them over the state after line `seq`, unless that is likely to be in vain."""
        self.forget()
        if self._rest:
            self._rest -= 1
            return
        self._tickets, self._seq, self._stale = tickets, seq, False
        # Known before the first row is looked at: another thread may take in lines meanwhile.
        self._asked = asked = Asked()
        self._ran = run(tickets, asked)

    def see(self, rows: Mapping[str, Mapping[str, object]], seq: int) -> None:
        """These rows were taken in, with the lines up to `seq`."""
        if self._asked is not None:
            self._stale = self._stale or self._asked.overlaps(rows)
            self._seq = seq

    def taken(self, tickets: list[Ticket], seq: int) -> Ran | None:
        """What they came to, if they come to the same after line `seq`, where we stand under the lock."""
        ran, fits = self._ran, self._tickets == tickets
        stale = self._stale or self._seq != seq
        self.forget()
        if ran is None or not fits:
            return None
        self._rests = min(2 * self._rests + 1, RESTS_MAX) if stale else 0
        self._rest = self._rests
        return None if stale else ran

    def forget(self) -> None:
        """Nothing was run ahead."""
        self._tickets, self._asked, self._ran = [], None, None
