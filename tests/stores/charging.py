"""The simplest operations that move credits: what the tests of the stores charge with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from openclaw_billing.contracts import Transaction
from openclaw_billing.records import (
    Account,
    AuditEntry,
    Client,
    EntryKind,
    Key,
    LedgerEntry,
    Lot,
    LotSource,
    Spent,
)

MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def client(client_id: str, email: str = "", *, minute: int = 0) -> Client:
    created = MOMENT + timedelta(minutes=minute)
    email = email or f"{client_id}@example.com"
    return Client(client_id=client_id, name="Acme", email=email, created_at=created, updated_at=created)


def account(client_id: str, credits: int) -> Account:
    return Account(
        client_id=client_id,
        plan_id="pro",
        anchor=MOMENT,
        cycle_number=0,
        cycle_start=MOMENT,
        cycle_end=MOMENT + timedelta(days=30),
        lots=(Lot("lot", LotSource.PROMO, credits),),
    )


def key(digest: str, client_id: str, *, minute: int = 0) -> Key:
    return Key(
        digest=digest,
        key_id=f"key_{digest}",
        client_id=client_id,
        pepper_id="p",
        start="oc_live_abcd",
        last4="wxyz",
        created_at=MOMENT + timedelta(minutes=minute),
    )


def entry(
    client_id: str, number: int, kind: EntryKind = EntryKind.CAPTURE, available: int = -1
) -> LedgerEntry:
    return LedgerEntry(
        client_id=client_id,
        number=number,
        kind=kind,
        time=MOMENT + timedelta(minutes=number),
        operation_id=f"{kind}:{client_id}:{number}",
        available=available,
    )


def audit(action: str, client_id: str | None = None, actor: str = "admin") -> AuditEntry:
    return AuditEntry(time=MOMENT, actor=actor, action=action, client_id=client_id)


def opening(client_id: str, credits: int) -> Callable[[Transaction], None]:
    """A new client with so many credits, and the grant of them in the ledger."""

    def open_account(tx: Transaction) -> None:
        tx.clients.put(client(client_id))
        tx.accounts.put(replace(account(client_id, credits), entries=1))
        tx.write_ledger(entry(client_id, 1, EntryKind.GRANT, credits))

    return open_account


def charging(client_id: str, job_id: str) -> Callable[[Transaction], bool]:
    """Take one credit for the job, once; whether there was one."""

    def charge(tx: Transaction) -> bool:
        if tx.spent.get(job_id) is not None:
            return True
        before = tx.accounts.get(client_id)
        assert before is not None
        if before.available == 0:
            return False
        [lot] = before.lots
        number = before.entries + 1
        tx.accounts.put(replace(before, lots=(replace(lot, left=lot.left - 1),), entries=number))
        tx.spent.put(Spent(spent_id=job_id, fingerprint="f", created_at=MOMENT))
        tx.write_ledger(replace(entry(client_id, number), job_id=job_id))
        return True

    return charge
