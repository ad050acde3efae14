"""The limiter of one process: a dictionary."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from openclaw_billing.gcra import Limit, Verdict, judge

KEYS_MAX = 100_000
LIMITS_MAX = 2
"""How many limits one key may have, in every limiter."""
_NEVER = (0,) * LIMITS_MAX


class MemoryLimiter:
    """See `contracts.LocalLimiter`."""

    degraded = False

    def __init__(self, ticks: Callable[[], int]) -> None:
        self._ticks = ticks
        self._times: dict[str, Sequence[int]] = {}
        self._guard = threading.Lock()

    async def take(self, key: str, limits: Sequence[Limit]) -> Verdict:
        return self.take_now(key, limits)

    def take_now(self, key: str, limits: Sequence[Limit], cost: int = 1) -> Verdict:
        with self._guard:
            stored = self._times.get(key, ())
            verdict = judge(limits, (*stored, *_NEVER)[: len(limits)], self._ticks(), cost)
            if cost and verdict.allowed:
                if key not in self._times and len(self._times) >= KEYS_MAX:
                    self._make_room(verdict.now)
                self._times[key] = verdict.times
            return verdict

    def state_of(self, key: str) -> object:
        return (*self._times.get(key, ()), *_NEVER)

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        self._times.clear()

    def _make_room(self, now: int) -> None:
        """Forget who would not be refused anyhow, and if that is nobody, who came first."""
        self._times = {key: times for key, times in self._times.items() if max(times) > now}
        while len(self._times) >= KEYS_MAX:
            del self._times[next(iter(self._times))]
