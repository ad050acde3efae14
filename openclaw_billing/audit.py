"""Audit: who did what to what, when, from where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from openclaw_billing.contracts import Transaction
from openclaw_billing.records import AuditEntry


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks: an admin, a client's key, or a part of the house; and from where."""

    name: str
    address: str | None = None
    request_id: str | None = None


def note(
    tx: Transaction,
    actor: Actor,
    action: str,
    *,
    client_id: str | None = None,
    object_id: str | None = None,
    reason: str = "",
    before: Mapping[str, str] | None = None,
    after: Mapping[str, str] | None = None,
    now: datetime,
) -> None:
    """Write one audit entry. Neither `before` nor `after` may hold a secret."""
    tx.write_audit(
        AuditEntry(
            time=now,
            actor=actor.name,
            action=action,
            client_id=client_id,
            object_id=object_id,
            address=actor.address,
            request_id=actor.request_id,
            reason=reason,
            before=dict(before or {}),
            after=dict(after or {}),
        )
    )
