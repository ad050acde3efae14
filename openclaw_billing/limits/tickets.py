"""Tickets: at most so many in any span, exactly, for what is counted seldom.

Each ticket is a limit of its own that lets in one in a span. Who shares the limiter shares the tickets, so that
no span ever sees more than there are. A process remembers until when each was taken when it last looked: none
comes back sooner, so it looks at one only when that may be free.
"""

from __future__ import annotations

import threading
from heapq import heappop, heappush

from openclaw_billing.contracts import LocalLimiter
from openclaw_billing.gcra import SLACK_US, Limit, Verdict


class Tickets:
    """The tickets of that key: `count` of them in any `span_us`. `name` is the limit's, for whoever is refused."""

    def __init__(self, limiter: LocalLimiter, key: str, name: str, count: int, span_us: int) -> None:
        self._limiter, self._key, self._count = limiter, key, count
        self._limit = Limit(name, 1, span_us, 1)
        self._guard = threading.Lock()
        self._seen: list[tuple[int, int]] = []
        """A heap of the tickets that were looked at: until when each was taken, and which it is."""
        self._free: tuple[str, object] = ("", None)
        """A ticket's key that was found free, and what that was judged by."""

    def take(self, now: int) -> Verdict | None:
        """Use one up; the verdict if there is none."""
        return self._find(now, cost=1)

    def look(self, now: int) -> Verdict | None:
        """The same, and nothing is used up."""
        key, state = self._free
        if state is not None and self._limiter.state_of(key) == state:
            return None
        return self._find(now, cost=0)

    def _find(self, now: int, cost: int) -> Verdict | None:
        limits = (self._limit,)
        with self._guard:
            while True:
                ticket = self._candidate(now)
                if ticket is None:
                    return Verdict(limits, (self._seen[0][0],), now, limits)
                key = f"{self._key} {ticket}"
                state = self._limiter.state_of(key)
                verdict = self._limiter.take_now(key, limits, cost)
                heappush(self._seen, (verdict.times[0], ticket))
                if verdict.allowed:
                    self._free = (key, state)
                    return None

    def _candidate(self, now: int) -> int | None:
        """A ticket that may be free, for whoever puts it back among those that were looked at."""
        if self._seen:
            until, ticket = self._seen[0]
            # Further ahead than a span it was not taken by this clock.
            if not now < until <= now + self._limit.span_us + SLACK_US:
                heappop(self._seen)
                return ticket
        return len(self._seen) if len(self._seen) < self._count else None
