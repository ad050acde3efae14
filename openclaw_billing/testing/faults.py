"""Things that go wrong between the fake and its caller, ordered in advance."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from threading import Lock
from typing import Literal, get_args

FaultKind = Literal[
    "hang",
    "drip",
    "reset",
    "reply_lost",
    "rate_limit",
    "conflict",
    "error",
    "html",
    "garbled",
    "unauthorized",
    "forbidden",
]

# An answer in place of the right one: status, error type, code, sentence.
ANSWERS: dict[str, tuple[int, str, str | None, str]] = {
    "rate_limit": (429, "invalid_request_error", "rate_limit", "Request rate limit exceeded."),
    "conflict": (409, "invalid_request_error", "lock_timeout", "This object cannot be accessed right now."),
    "error": (500, "api_error", None, "Sorry! There was an error while talking to the fake."),
    "unauthorized": (401, "invalid_request_error", None, "Invalid API Key provided: sk_test_****"),
    "forbidden": (
        403,
        "invalid_request_error",
        None,
        "The provided key does not have the required permissions.",
    ),
}
HTML = b"<html><head><title>503 Service Unavailable</title></head><body>503</body></html>"


@dataclass
class Fault:
    """One order: what goes wrong, for which requests, and how often (None is always)."""

    kind: FaultKind
    times: int | None = 1
    method: str | None = None
    path: str = "*"
    after: int = 0
    should_retry: bool | None = None
    retry_after: int | None = None
    seconds: float | None = None
    kept: bool = True

    def wants(self, method: str, path: str) -> bool:
        """Whether this request is one the order names."""
        return self.method in (None, method) and fnmatchcase(path, self.path) and self.times != 0


@dataclass
class Faults:
    """The orders still open, taken in the order they were given."""

    orders: list[Fault] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def order(self, fault: Fault) -> None:
        """Add an order, refusing a kind of trouble nobody knows."""
        if fault.kind not in get_args(FaultKind):
            raise ValueError(f"unknown fault {fault.kind!r}; a refused connection is made by `down()`")
        with self._lock:
            self.orders.append(fault)

    def clear(self) -> None:
        """Drop all orders."""
        with self._lock:
            self.orders.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault this request meets, if any; an order may let some requests pass first."""
        with self._lock:
            for order in self.orders:
                if not order.wants(method, path):
                    continue
                if order.after:
                    order.after -= 1
                    continue
                if order.times is not None:
                    order.times -= 1
                return order
        return None
