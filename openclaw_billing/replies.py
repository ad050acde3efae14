"""Replies: what is asked twice under one Idempotency-Key is done once and answered the same twice.

An operation stores its reply with what it does. Work that leaves the store in between claims the key first, and
settles it afterwards; who dies meanwhile holds it no longer than a lease.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from openclaw_billing.contracts import Query, Transaction, View
from openclaw_billing.errors import IdMismatch, InFlight
from openclaw_billing.records import Spent

LIFE = timedelta(hours=24)
MOMENT = timedelta(microseconds=1)
FORGOTTEN_MAX = 1000
"""How many replies one operation forgets, so that it stays short."""


@dataclass(frozen=True, slots=True)
class Reply:
    """`body` is what was answered; `replayed` tells that nothing was done this time."""

    body: dict[str, object]
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asked for what under which key of their own making."""

    principal: str
    method: str
    path: str
    idempotency_key: str
    body: bytes

    @property
    def digest(self) -> str:
        """What the request is remembered by; the key itself is kept nowhere, whatever its maker put into it."""
        scope = json.dumps([self.principal, self.method, self.path, self.idempotency_key])
        return hashlib.sha256(scope.encode()).hexdigest()

    @property
    def spent_id(self) -> str:
        return f"reply:{self.digest}"

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


def once(
    tx: Transaction,
    asked: Asked | None,
    operation: Callable[[Transaction], Mapping[str, object]],
    *,
    now: datetime,
) -> Reply:
    """Run the operation unless it was run under this key within a day; its answer must hold no secret.

    Raises:
        IdMismatch: the key was used with another body.
    """
    if asked is None:
        return Reply(dict(operation(tx)))
    known = _known(tx, asked, now)
    if known is not None:
        return Reply(json.loads(known.answer), replayed=True)
    body = dict(operation(tx))
    tx.spent.put(replace(_unanswered(asked, now), answer=json.dumps(body)))
    return Reply(body)


def claim(tx: Transaction, asked: Asked, lease: timedelta, *, now: datetime) -> Reply | Spent:
    """The key, taken for work that is to be settled; or the reply, where the work was done within a day.

    Raises:
        IdMismatch: the key was used with another body.
        InFlight: somebody has taken it, less than a lease ago.
    """
    known = _known(tx, asked, now)
    if known is not None and known.answer:
        return Reply(json.loads(known.answer), replayed=True)
    if known is not None and now - known.created_at < lease:
        raise InFlight
    claimed = _unanswered(asked, now)
    tx.spent.put(claimed)
    return claimed


def settle(tx: Transaction, claimed: Spent, body: Mapping[str, object] | None, *, now: datetime) -> None:  # noqa: ARG001
    """Keep what was answered, which must hold no secret; None gives the key back, because nothing was done."""
    if tx.spent.get(claimed.spent_id) != claimed:
        return  # The lease was over, and another has taken the key.
    if body is None:
        tx.spent.delete(claimed.spent_id)
    else:
        tx.spent.put(replace(claimed, answer=json.dumps(body)))


def old(view: View, *, now: datetime, limit: int = FORGOTTEN_MAX) -> list[str]:
    """The ids of some replies older than a day. Looked for by reading, which holds up nobody."""
    until = now - LIFE + MOMENT
    page = view.spent.page(Query(within=("forgettable", "yes"), until=until, limit=limit))
    return [spent.spent_id for spent in page.rows]


def forget(tx: Transaction, spent_ids: Sequence[str], *, now: datetime) -> int:
    """Drop those of them that are older than a day; how many went. What they did stays in the ledger for ever."""
    gone = 0
    for spent_id in spent_ids:
        spent = tx.spent.get(spent_id)
        if spent is not None and not spent.keep and now - spent.created_at >= LIFE:
            tx.spent.delete(spent_id)
            gone += 1
    return gone


def _known(tx: Transaction, asked: Asked, now: datetime) -> Spent | None:
    """What the key was used for within a day."""
    known = tx.spent.get(asked.spent_id)
    if known is None or now - known.created_at >= LIFE:
        return None
    if known.fingerprint != asked.fingerprint:
        raise IdMismatch("This Idempotency-Key was used before with another body")
    return known


def _unanswered(asked: Asked, now: datetime) -> Spent:
    return Spent(spent_id=asked.spent_id, fingerprint=asked.fingerprint, created_at=now, keep=False)
