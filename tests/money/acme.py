"""One client, for the tests that tell the ledger's promises."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from openclaw_billing import ledger
from openclaw_billing.clock import ManualClock
from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.records import (
    Account,
    LedgerEntry,
    LotSource,
)
from openclaw_billing.stores.memory import MemoryStore

T = TypeVar("T")
START = datetime(2026, 2, 19, 10, 30, tzinfo=UTC)


class Acme:
    """One client of a memory store, and the clock that its operations are told."""

    def __init__(self, plan_id: str) -> None:
        self.clock = ManualClock(START)
        self.store = MemoryStore()
        self.store.open()
        self.do(ledger.open_account, plan_id)

    def do(self, operation: Callable[..., T], *args: object, **kwargs: object) -> T:
        now = self.clock.now()
        return self.store.run(lambda tx: operation(tx, "acme", *args, **kwargs, now=now), operation.__name__)

    @property
    def account(self) -> Account:
        account = self.store.view.accounts.get("acme")
        assert account is not None
        return account

    @property
    def available(self) -> int:
        return self.do(ledger.touch).available

    @property
    def entries(self) -> list[LedgerEntry]:
        return self.store.ledger(HistoryQuery(client_id="acme", limit=10_000)).entries[::-1]

    def kinds(self) -> list[str]:
        return [entry.kind.value for entry in self.entries]

    def buy(self, credits: int, operation_id: str) -> ledger.Adjusted:
        return self.do(
            ledger.grant, credits, source=LotSource.PURCHASED, reason="pack", operation_id=operation_id
        )

    def adjust(self, credits: int, operation_id: str, reason: str = "promo") -> ledger.Adjusted:
        return self.do(ledger.adjust, credits, reason=reason, operation_id=operation_id)

    def claw_back(self, credits: int, operation_id: str) -> ledger.Adjusted:
        return self.do(ledger.claw_back, credits, reason="dispute", operation_id=operation_id)
