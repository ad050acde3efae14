"""Replies: an operation asked twice under one Idempotency-Key is run once and answers the same twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from openclaw_billing.contracts import Query, Transaction, View
from openclaw_billing.errors import IdMismatch
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
    known = tx.spent.get(asked.spent_id)
    if known is not None and now - known.created_at < LIFE:
        if known.fingerprint != asked.fingerprint:
            raise IdMismatch("This Idempotency-Key was used before with another body")
        return Reply(json.loads(known.answer), replayed=True)
    body = dict(operation(tx))
    tx.spent.put(
        Spent(
            spent_id=asked.spent_id,
            fingerprint=asked.fingerprint,
            created_at=now,
            answer=json.dumps(body),
            keep=False,
        )
    )
    return Reply(body)


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
