"""Telling the receiver: signed events, in any order, once, twice or never."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from openclaw_billing.testing.world import Obj

TIMEOUT_SECONDS = 10.0

Order = Literal["created", "reversed", "shuffled"]
Receiver = Callable[[bytes, Mapping[str, str]], int]
Drop = Collection[str] | Callable[[Obj], bool]


@dataclass(frozen=True)
class Delivery:
    """One event handed over, and the status it was answered with (0: nobody answered)."""

    event_id: str
    type: str
    status: int


@dataclass
class Mailman:
    """Keeps where events go, and which ones were given up on purpose."""

    targets: list[tuple[str | Receiver, str]] = field(default_factory=list)
    dropped: set[str] = field(default_factory=set)

    def choose(
        self, events: list[Obj], order: Order, drop: Drop, types: Collection[str], seed: int
    ) -> list[Obj]:
        """The events to hand over now, in order; dropped ones are never handed over."""
        waiting = [one for one in events if one["pending_webhooks"] and one["id"] not in self.dropped]
        chosen = []
        for one in waiting:
            if drop(one) if callable(drop) else one["type"] in drop:
                self.dropped.add(one["id"])
            elif not types or one["type"] in types:
                chosen.append(one)
        if order == "reversed":
            chosen.reverse()
        elif order == "shuffled":
            random.Random(seed).shuffle(chosen)  # noqa: S311 - an order, not a secret
        return chosen

    def hand_over(self, event: Obj, at: int | None) -> list[Delivery]:
        """Send one event to every target; it is done with once all of them took it."""
        done = []
        for where, secret in self.targets:
            body, headers = signed(event, secret, at)
            status = _post(where, body, headers) if isinstance(where, str) else where(body, headers)
            done.append(Delivery(event["id"], event["type"], status))
        if done and all(200 <= one.status < 300 for one in done):
            event["pending_webhooks"] = 0
        return done


def signed(event: Obj, secret: str, at: int | None = None) -> tuple[bytes, dict[str, str]]:
    """The body and headers of an event, signed as Stripe signs."""
    body = json.dumps(event, indent=2).encode()
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "Stripe/1.0 (fake)"}
    return body, {**headers, "Stripe-Signature": signature(body, secret, at)}


def signature(body: bytes, secret: str, at: int | None = None) -> str:
    """The `Stripe-Signature` header over a body."""
    moment = int(time.time()) if at is None else at
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("POST", parts.path or "/", body, dict(headers))
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
