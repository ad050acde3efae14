"""Failures: wrong keys and admin tokens, counted by address and over all addresses.

Whoever is over a limit is refused before the secret is looked at. A caller who was let in from an address
with a secret goes on with both: neighbours behind one address, and a crowd of strangers, lock nobody out who
is at work. What is remembered of a secret is a number that tells nothing and opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from openclaw_billing.contracts import LocalLimiter
from openclaw_billing.gcra import Limit, Verdict

WINDOW_US = 300_000_000
LOOK_US = 100_000
"""How long an address that is under its limit is not looked up again."""
KNOWN_MAX = 10_000

ADDRESS, OVERALL = "address", "overall"


class Failures:
    """Counts on a limiter of this machine, so that all of its workers count together. 0 is no limit."""

    def __init__(
        self, limiter: LocalLimiter, ticks: Callable[[], int], *, per_address: int, overall: int
    ) -> None:
        self._limiter = limiter
        self._ticks = ticks
        self._by_address = _limit(ADDRESS, per_address)
        self._by_all = _limit(OVERALL, overall)
        self._under: dict[str, int] = {}
        self._known: dict[int, None] = {}

    def refusal(self, address: str, secret: str) -> Verdict | None:
        """Why the secret may not even be tried from there; None where it may."""
        # Whether this very pair was right before is known without any digest.
        if hash((address, secret)) in self._known:
            return None
        now = self._ticks()
        if self._under.get(address, 0) > now:
            return None
        verdict = self._count(address, cost=0)
        if verdict is None:
            _keep(self._under, address, now + LOOK_US)
        return verdict

    def failed(self, address: str, secret: str) -> Verdict | None:
        """Count a wrong secret; the verdict if it was one too many."""
        self._known.pop(hash((address, secret)), None)
        self._under.pop(address, None)
        return self._count(address, cost=1)

    def passed(self, address: str, secret: str) -> None:
        """The secret was right, from there."""
        pair = hash((address, secret))
        if pair not in self._known:
            _keep(self._known, pair, None)

    def _count(self, address: str, cost: int) -> Verdict | None:
        for key, limits in ((f"failures of {address}", self._by_address), ("failures", self._by_all)):
            if limits:
                verdict = self._limiter.take_now(key, limits, cost)
                if verdict.refused_by:
                    return verdict
        return None


def _limit(name: str, count: int) -> tuple[Limit, ...]:
    return (Limit(name, count, WINDOW_US, count),) if count else ()


def _keep(kept: dict[Any, Any], key: object, value: object) -> None:
    """Keep one more; of too many, the oldest half is forgotten."""
    kept[key] = value
    if len(kept) > KNOWN_MAX:
        for old in list(islice(kept, KNOWN_MAX // 2)):
            kept.pop(old, None)
