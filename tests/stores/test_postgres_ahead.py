"""Guessing ahead: what is run while the server works on another batch is believed only if that one came about."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from openclaw_billing import ledger
from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import QuotaExceeded
from openclaw_billing.gate import Gate
from openclaw_billing.stores.postgres import PostgresStore
from openclaw_billing.stores.postgres_line import connect
from tests.stores.charging import MOMENT
from tests.stores.test_postgres_guess import Gateways, charged, left, opened, sure

__all__ = ["sure"]

Until = Callable[[Callable[[], object]], None]


class Calls:
    """Operations that wait for their answers, and how often each was run."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self.runs = Counter[str]()
        self.answers: dict[str, object] = {}
        self._sent: list[threading.Thread] = []

    def submit(self, name: str, operation: Callable[[Transaction], object]) -> None:
        """As an event loop does it: whatever waits is run ahead if the turn is not there."""

        def counted(tx: Transaction) -> object:
            self.runs[name] += 1
            return operation(tx)

        def settle(answer: object, error: BaseException | None) -> None:
            self.answers[name] = error or answer

        self._store.submit(counted, name, settle)
        self._store.flush()

    def charge(self, name: str, *client_ids: str) -> None:
        def operation(tx: Transaction) -> bool:
            for client_id in client_ids:
                ledger.charge(tx, client_id, job_id=f"{name} {client_id}", now=MOMENT)
            return True

        self.submit(name, operation)


@contextmanager
def held_up(url: str, client_id: str, until: Until) -> Iterator[Callable[[], None]]:
    """Somebody holds the account's row; what is yielded waits until a batch waits for it."""

    def wait() -> None:
        with connect(url) as asking:
            until(lambda: asking.execute(WAITING).fetchone()[0])

    with connect(url) as holding:
        holding.execute("BEGIN")
        holding.execute("SELECT FROM accounts WHERE client_id = %s FOR UPDATE", [client_id])
        yield wait
        holding.execute("ROLLBACK")


WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


def test_what_waits_is_run_once_over_the_batch_that_the_server_works_on(
    gateways: Gateways, sure: Callable[[], int], postgres_url: str, until: Until
) -> None:
    store = gateways()
    store.run(opened("c1", 5), "open")
    sure()
    calls = Calls(store)
    with held_up(postgres_url, "c1", until) as wait:
        calls.charge("first", "c1")
        wait()
        calls.charge("second", "c1")
        calls.charge("third", "c1")
        assert calls.runs == {"first": 1, "second": 1, "third": 1}
        assert calls.answers == {}
    until(lambda: len(calls.answers) == 3)
    assert calls.answers == {"first": True, "second": True, "third": True}
    # Nothing was run, nor read, again.
    assert calls.runs == {"first": 1, "second": 1, "third": 1}
    assert sure() == 0
    assert left(store, "c1") == 2


def test_the_last_credit_is_not_given_twice(gateways: Gateways, postgres_url: str, until: Until) -> None:
    store = gateways()
    store.run(opened("c1", 1), "open")
    calls = Calls(store)
    with held_up(postgres_url, "c1", until) as wait:
        calls.charge("first", "c1")
        wait()
        calls.charge("second", "c1")
    until(lambda: len(calls.answers) == 2)
    assert calls.answers["first"] is True
    assert isinstance(calls.answers["second"], QuotaExceeded)
    assert calls.runs["second"] == 1
    assert left(store, "c1") == 0


def test_over_a_batch_that_did_not_come_about_nothing_is_told(
    gateways: Gateways, postgres_url: str, until: Until
) -> None:
    ours, theirs = gateways(), gateways()
    ours.run(opened("c0", 5), "open")
    ours.run(opened("c1", 1), "open")
    calls = Calls(ours)
    with held_up(postgres_url, "c0", until) as wait:
        calls.charge("first", "c0", "c1")
        wait()
        # By what is guessed the first has the last credit, and there is none for this one.
        calls.charge("second", "c1")
        assert calls.runs["second"] == 1
        theirs.run(
            lambda tx: ledger.adjust(tx, "c1", 1, reason="gift", operation_id="adjust:gift", now=MOMENT),
            "adjust",
        )
    until(lambda: len(calls.answers) == 2)
    assert calls.answers == {"first": True, "second": True}
    assert calls.runs["second"] > 1
    assert (left(ours, "c0"), left(theirs, "c1")) == (4, 0)


def test_what_looks_at_a_job_of_the_batch_before_waits_for_it(
    gateways: Gateways, sure: Callable[[], int], postgres_url: str, until: Until
) -> None:
    store = gateways()
    store.run(opened("c1", 1), "open")
    sure()
    calls = Calls(store)
    with held_up(postgres_url, "c1", until) as wait:
        calls.charge("job", "c1")
        wait()
        # The same job again: it was charged by then, and is not charged twice.
        calls.submit("again", lambda tx: ledger.charge(tx, "c1", job_id="job c1", now=MOMENT))
    until(lambda: len(calls.answers) == 2)
    assert calls.answers["job"] is True
    assert not isinstance(calls.answers["again"], BaseException)
    assert sure() == 1
    assert left(store, "c1") == 0


def test_many_at_once_at_two_gateways_are_charged_once_each(
    gateways: Gateways, request: pytest.FixtureRequest
) -> None:
    clients, callers, times = 5, 12, 25
    ours, theirs = gateways(), gateways()
    for number in range(clients):
        ours.run(opened(f"c{number}", callers * times // 5), "open")
    # Threads take each other's place nearly everywhere.
    switched = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    request.addfinalizer(lambda: sys.setswitchinterval(switched))
    told = Counter[Any]()

    async def call(store: PostgresStore, gate: Gate, caller: int) -> None:
        for number in range(times):
            await asyncio.sleep(random.choice((0, 0, 0.001)))
            client_id = f"c{(caller + number) % clients}"
            job_id = f"{id(store)} {caller} {number}"
            try:
                await gate.write(
                    lambda tx, client_id=client_id, job_id=job_id: ledger.charge(
                        tx, client_id, job_id=job_id, now=MOMENT
                    ),
                    "charge",
                )
                told[client_id] += 1
            except QuotaExceeded:
                told[client_id, "refused"] += 1

    async def work(store: PostgresStore) -> None:
        gate = Gate(asyncio.get_running_loop(), store)
        await asyncio.gather(*(call(store, gate, caller) for caller in range(callers)))

    other = threading.Thread(target=lambda: asyncio.run(work(theirs)))
    other.start()
    asyncio.run(work(ours))
    other.join()
    assert sum(told.values()) == 2 * callers * times
    for number in range(clients):
        # Twice as many were asked for as there were credits: all of these are gone, and no more.
        assert told[f"c{number}"] == callers * times // 5
        assert left(theirs, f"c{number}") == 0


def test_a_lone_charge_after_many_is_guessed_as_ever(gateways: Gateways, sure: Callable[[], int]) -> None:
    store = gateways()
    store.run(opened("c1", 5), "open")
    calls = Calls(store)
    for number in range(3):
        calls.charge(f"{number}", "c1")
    deadline = time.monotonic() + 10
    while len(calls.answers) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    sure()
    assert charged(store, "c1", "lone")
    assert sure() == 0
    assert left(store, "c1") == 1
