"""The ledger against the model, on every store that needs no server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from openclaw_billing.contracts import Store
from openclaw_billing.stores.json_store import JsonStore
from tests.money.machine import Money, Opened, StoreFactory, memory_store


@contextmanager
def json_store() -> Iterator[Opened]:
    """A store of files; reopened, it is another object that reads what the first one wrote."""
    with tempfile.TemporaryDirectory() as directory:
        opened: list[JsonStore] = []

        def reopen() -> Store:
            for store in opened:
                store.close()
            opened.append(JsonStore(Path(directory)))
            opened[-1].open()
            return opened[-1]

        yield reopen(), reopen
        opened[-1].close()


STORES = {"memory": (memory_store, 60), "json": (json_store, 40)}


@pytest.mark.parametrize(("store_factory", "examples"), STORES.values(), ids=STORES)
def test_whatever_happens_the_credits_are_what_the_model_says(
    store_factory: StoreFactory, examples: int
) -> None:
    machine = type("MoneyOnAStore", (Money,), {"factory": staticmethod(store_factory)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
