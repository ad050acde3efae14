"""The breaker: after several failures in a row nobody waits for Stripe until a while has passed."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from threading import Lock

FAILURES_MAX = 5
OPEN_SECONDS = 30.0
MISCONFIGURED_SECONDS = 300.0


class Gate(StrEnum):
    """What a call that wants to begin is told."""

    GO = "go"
    UNAVAILABLE = "unavailable"
    MISCONFIGURED = "misconfigured"


class Breaker:
    """Shared by all event loops of a process. After the pause one call tries; the others wait for its end."""

    def __init__(self, seconds: Callable[[], float], told: Callable[[bool], None]) -> None:
        self._seconds = seconds
        self._told = told
        self._lock = Lock()
        self._failures = 0
        self._shut_until: float | None = None
        self._reason = Gate.UNAVAILABLE
        self._trying = False

    def ask(self) -> Gate:
        """Whether a call may begin. One that may must tell how it ended: `good`, `bad`, `refused` or `unknown`."""
        with self._lock:
            if self._shut_until is None:
                return Gate.GO
            if self._trying or self._seconds() < self._shut_until:
                return self._reason
            self._trying = True
            return Gate.GO

    def wait_seconds(self) -> int:
        """How long it is sensible to wait before asking again."""
        with self._lock:
            until = self._shut_until
            return 1 if until is None else max(1, math.ceil(until - self._seconds()))

    def good(self) -> None:
        """Stripe answered, whatever it said of the request."""
        with self._lock:
            self._failures, self._trying = 0, False
            was, self._shut_until = self._shut_until, None
        if was is not None:
            self._told(False)

    def bad(self) -> None:
        """Stripe did not answer, or said that it cannot."""
        with self._lock:
            self._failures += 1
            tried, self._trying = self._trying, False
            if not tried and self._failures < FAILURES_MAX:
                return
        self._stop(Gate.UNAVAILABLE, OPEN_SECONDS)

    def refused(self) -> None:
        """Stripe does not accept our key; only the operator can mend that."""
        self._stop(Gate.MISCONFIGURED, MISCONFIGURED_SECONDS)

    def unknown(self) -> None:
        """The call was given up for a reason of our own."""
        with self._lock:
            self._trying = False

    def _stop(self, reason: Gate, seconds: float) -> None:
        with self._lock:
            self._trying = False
            self._reason = reason
            self._shut_until = self._seconds() + seconds
        self._told(True)
