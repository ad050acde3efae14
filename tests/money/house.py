"""A store with the admin at its door, for the tests of clients and keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from openclaw_billing import accounts, keyring
from openclaw_billing.accounts import KeyOutcome
from openclaw_billing.audit import Actor
from openclaw_billing.clock import ManualClock
from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.keys import Peppers, key_of, new_key_text
from openclaw_billing.records import AuditEntry, Client, Key
from openclaw_billing.stores.memory import MemoryStore

T = TypeVar("T")
START = datetime(2026, 2, 19, 10, 30, tzinfo=UTC)
PEPPERS = Peppers([("p1", b"one pepper, long enough to be good")])


class House:
    """A memory store with the admin at the door."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.store = MemoryStore()
        self.store.open()
        self.actor = Actor("admin", "192.0.2.7", "req-1")

    def do(self, operation: Callable[..., T], *args: object, **kwargs: object) -> T:
        now = self.clock.now()
        return self.store.run(
            lambda tx: operation(tx, *args, **kwargs, actor=self.actor, now=now), operation.__name__
        )

    def create(
        self, client_id: str = "acme", email: str = "api@acme.example", key: Key | None = None
    ) -> Client:
        return self.do(
            accounts.create_client, client_id=client_id, name="Acme", email=email, plan_id="pro", key=key
        )

    def new_key(self, key_id: str, client_id: str = "acme", **kwargs: object) -> Key:
        return key_of(
            new_key_text(), PEPPERS, key_id=key_id, client_id=client_id, now=self.clock.now(), **kwargs
        )

    def accepted(self, *keys: Key) -> bool:
        return self.whose([key.digest for key in keys]) is not None

    def whose(self, digests: Sequence[str]) -> tuple[Client, Key] | None:
        return accounts.authenticate(self.store.view, digests, self.clock.now())

    def outcome(self, digest: str) -> KeyOutcome:
        view = self.store.view
        found = keyring.key_outcome(view, keyring.key_with(view, [digest]), self.clock.now())
        assert (found is KeyOutcome.VALID) == (self.whose([digest]) is not None)
        return found

    @property
    def audit(self) -> list[AuditEntry]:
        return self.store.audit(HistoryQuery(limit=1000)).entries[::-1]

    @property
    def actions(self) -> list[str]:
        return [entry.action for entry in self.audit]
