"""The ledger against the model, on every store."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.money.machine import Money, StoreFactory, memory_store

STORES = {"memory": memory_store}


@pytest.mark.parametrize("store_factory", STORES.values(), ids=STORES)
def test_whatever_happens_the_credits_are_what_the_model_says(store_factory: StoreFactory) -> None:
    machine = type("MoneyOnAStore", (Money,), {"factory": staticmethod(store_factory)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
