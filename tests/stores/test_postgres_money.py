"""The ledger against its model on PostgreSQL: the same machine as on the stores that need no server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from openclaw_billing.contracts import Store
from openclaw_billing.stores.postgres import PostgresStore
from openclaw_billing.stores.postgres_verify import verify
from tests.money.machine import Money, Opened
from tests.stores import postgres_server

EXAMPLES = 5


def test_whatever_happens_the_credits_are_what_the_model_says(postgres_address: str) -> None:
    @contextmanager
    def postgres_store() -> Iterator[Opened]:
        """A schema of its own; reopened, it is another store on the same one."""
        opened: list[PostgresStore] = []
        with postgres_server.schema(postgres_address) as url:

            def reopen() -> Store:
                for store in opened:
                    store.close()
                opened.append(PostgresStore(url))
                opened[-1].open()
                return opened[-1]

            yield reopen(), reopen
            opened[-1].close()
            assert verify(url).problems == []

    machine = type("MoneyOnPostgres", (Money,), {"factory": staticmethod(postgres_store)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
