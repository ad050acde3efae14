"""Stores for every test here: `store` is each kind in turn, `shop` the JSON store's directory with helpers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from openclaw_billing.contracts import Store
from openclaw_billing.stores.json_store import JsonStore
from openclaw_billing.stores.memory import MemoryStore
from openclaw_billing.stores.postgres import PostgresStore
from tests.stores import postgres_server


@dataclass
class Shop:
    """One data directory, and every store opened on it."""

    path: Path
    stores: list[JsonStore] = field(default_factory=list)

    def make(self, *, chain_key: bytes | None = None, lock_seconds_max: float = 2.0) -> JsonStore:
        store = JsonStore(self.path, chain_key=chain_key, lock_seconds_max=lock_seconds_max)
        self.stores.append(store)
        return store

    def open(self, *, chain_key: bytes | None = None, lock_seconds_max: float = 2.0) -> JsonStore:
        store = self.make(chain_key=chain_key, lock_seconds_max=lock_seconds_max)
        store.open()
        return store

    def names(self) -> set[str]:
        return {each.name for each in self.path.iterdir()}

    @property
    def journal(self) -> Path:
        return self.path / "openclaw_clients.journal"

    @property
    def clients(self) -> Path:
        return self.path / "openclaw_clients.json"

    @property
    def checkpoint(self) -> Path:
        return self.path / "openclaw_clients.checkpoint"

    @property
    def lock(self) -> Path:
        return self.path / "openclaw_clients.lock"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path / "data")
    yield shop
    for store in shop.stores:
        store.close()


@pytest.fixture(scope="session")
def postgres_address() -> Iterator[str]:
    """A PostgreSQL to test with; without one, what needs it is skipped and says how to get one."""
    with ExitStack() as stack:
        try:
            address = stack.enter_context(postgres_server.address())
        except postgres_server.NotInstalled as reason:
            pytest.skip(str(reason))
        yield address


@pytest.fixture
def postgres_url(postgres_address: str) -> Iterator[str]:
    """A migrated schema of this test's own."""
    with postgres_server.schema(postgres_address) as url:
        yield url


@pytest.fixture
def postgres_records(postgres_url: str) -> str:
    """The same for records that belong to nobody: the suite of the contract tests stores, not rules."""
    postgres_server.drop_foreign_keys(postgres_url)
    return postgres_url


@pytest.fixture(params=["memory", "json", "postgres"])
def store(request: pytest.FixtureRequest, shop: Shop) -> Iterator[Store]:
    store: Store
    if request.param == "postgres":
        store = PostgresStore(request.getfixturevalue("postgres_records"))
    else:
        store = MemoryStore() if request.param == "memory" else shop.make()
    store.open()
    yield store
    store.close()


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Wait until something is true, ten seconds at most."""

    def wait(true: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while not true():
            assert time.monotonic() < deadline, "it did not happen within ten seconds"
            time.sleep(0.01)

    return wait


@pytest.fixture
def gateways(postgres_url: str) -> Iterator[Callable[[], PostgresStore]]:
    """Each call is another gateway on the same database."""
    with ExitStack() as stack:

        def another() -> PostgresStore:
            store = PostgresStore(postgres_url)
            store.open()
            stack.callback(store.close)
            return store

        yield another
