"""Alerts: what an operator is to be told when it comes about, and not again while nothing changes.

An operation gives them back; whoever had it run tells them once it is durable.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from openclaw_billing.contracts import Transaction
from openclaw_billing.records import Spent


@dataclass(frozen=True, slots=True)
class Alert:
    """One sentence. `urgent`: somebody has to do something about it; else it is only worth knowing."""

    sentence: str
    urgent: bool = True


Alerts: TypeAlias = tuple[Alert, ...]


def once(tx: Transaction, fact: str, alert: Alert, now: datetime) -> Alerts:
    """That alert, unless one was given of this fact before."""
    told_id = f"told:{fact}"
    if tx.spent.get(told_id) is not None:
        return ()
    tx.spent.put(Spent(spent_id=told_id, fingerprint="", created_at=now))
    return (alert,)
