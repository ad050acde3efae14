"""Failures: wrong keys and admin tokens, counted by address and over all addresses.

In any five minutes no more than so many are answered, and whoever is over a limit is refused before the secret
is looked at. A caller who was let in from an address with a secret goes on with both: neighbours behind one
address, and a crowd of strangers, lock nobody out who is at work. What is remembered of a secret is a number
that tells nothing and opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from openclaw_billing.contracts import LocalLimiter
from openclaw_billing.gcra import Verdict
from openclaw_billing.limits.tickets import Tickets

WINDOW_US = 300_000_000
KNOWN_MAX = 10_000

ADDRESS, OVERALL = "address", "overall"


class Failures:
    """Counts on a limiter of this machine, so that all of its workers count together. 0 is no limit."""

    def __init__(
        self, limiter: LocalLimiter, ticks: Callable[[], int], *, per_address: int, overall: int
    ) -> None:
        self._limiter = limiter
        self._ticks = ticks
        self._per_address = per_address
        self._by_address: dict[str, Tickets] = {}
        self._by_all = Tickets(limiter, "failure", OVERALL, overall, WINDOW_US) if overall else None
        self._known: dict[int, None] = {}

    def refusal(self, address: str, secret: str) -> Verdict | None:
        """Why the secret may not even be tried from there; None where it may."""
        # Whether this very pair was right before is known without any digest.
        return None if hash((address, secret)) in self._known else self._count(address, Tickets.look)

    def failed(self, address: str, secret: str) -> Verdict | None:
        """Count a wrong secret; the verdict if it was one too many."""
        self._known.pop(hash((address, secret)), None)
        return self._count(address, Tickets.take)

    def passed(self, address: str, secret: str) -> Verdict | None:
        """The secret was right, from there; the verdict if too many that came with it were wrong meanwhile."""
        pair = hash((address, secret))
        if pair in self._known:
            return None
        verdict = self._count(address, Tickets.look)
        if verdict is None:
            _keep(self._known, pair, None)
        return verdict

    def _count(self, address: str, ask: Callable[[Tickets, int], Verdict | None]) -> Verdict | None:
        now = self._ticks()
        if self._per_address and (verdict := ask(self._tickets_of(address), now)) is not None:
            return verdict
        return None if self._by_all is None else ask(self._by_all, now)

    def _tickets_of(self, address: str) -> Tickets:
        found = self._by_address.get(address)
        if found is None:
            found = Tickets(self._limiter, f"failure of {address}", ADDRESS, self._per_address, WINDOW_US)
            _keep(self._by_address, address, found)
        return found


def _keep(kept: dict[Any, Any], key: object, value: object) -> None:
    """Keep one more; of too many, the oldest half is forgotten."""
    kept[key] = value
    if len(kept) > KNOWN_MAX:
        for old in list(islice(kept, KNOWN_MAX // 2)):
            kept.pop(old, None)
