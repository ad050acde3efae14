"""Running ahead: what is run before its turn holds only if nothing that it looked at was written since."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import NotFound, StorageUnavailable
from openclaw_billing.gate import Gate
from openclaw_billing.stores import backups, journal_end
from openclaw_billing.stores.json_store import JsonStore
from tests.stores.charging import charging, opening
from tests.stores.conftest import Shop

Two = tuple[JsonStore, JsonStore]
Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def two(shop: Shop) -> Two:
    """Our process's store and another's; clients `c1` and `c2` have one credit each."""
    ours, theirs = shop.open(lock_seconds_max=20), shop.open(lock_seconds_max=20)
    for store in (ours, theirs):
        # Nobody else asks for the lock.
        store._snapshots.consider = lambda **_: None
        store._snapshots.stop()
    for client_id in ("c1", "c2"):
        ours.run(opening(client_id, 1), "open")
    return ours, theirs


class Counted:
    """An operation that counts how often it is run."""

    def __init__(self, operation: Callable[[Transaction], Any]) -> None:
        self.operation = operation
        self.times = 0

    def __call__(self, tx: Transaction) -> Any:
        self.times += 1
        return self.operation(tx)


def answer_of(
    two: Two, operation: Counted, theirs_meanwhile: Callable[[Transaction], Any], patience: float = 20
) -> Any:
    """What our store answers when it is asked while theirs commits: a batch that ends once ours was run ahead."""
    ours, theirs = two
    begun = threading.Event()

    def slow(tx: Transaction) -> Any:
        begun.set()
        deadline = time.monotonic() + patience
        while not operation.times and time.monotonic() < deadline:
            time.sleep(0.001)
        return theirs_meanwhile(tx)

    thread = threading.Thread(target=theirs.run, args=(slow, "theirs"))
    thread.start()
    assert begun.wait(timeout=20)
    try:
        return ours.run(operation, "ours")
    finally:
        thread.join(timeout=20)


def test_what_others_wrote_elsewhere_changes_nothing(two: Two) -> None:
    charge = Counted(charging("c1", "job 1"))
    assert answer_of(two, charge, charging("c2", "job 2")) is True
    assert charge.times == 1
    for store in two:
        assert [store.view.accounts.get(each).available for each in ("c1", "c2")] == [0, 0]


def test_the_last_credit_that_others_took_meanwhile_is_not_given_again(two: Two) -> None:
    charge = Counted(charging("c1", "job 1"))
    assert answer_of(two, charge, charging("c1", "job 2")) is False
    assert charge.times == 2
    assert {store.view.accounts.get("c1").entries for store in two} == {2}


def test_a_job_that_others_charged_meanwhile_is_not_charged_again(two: Two) -> None:
    ours, _ = two
    ours.run(opening("c3", 5), "open")
    charge = Counted(charging("c3", "job"))
    assert answer_of(two, charge, charging("c3", "job")) is True
    assert {store.view.accounts.get("c3").available for store in two} == {4}


def test_an_error_that_others_made_untrue_is_not_told(two: Two) -> None:
    def available(tx: Transaction) -> int:
        account = tx.accounts.get("c3")
        if account is None:
            raise NotFound("Client")
        return account.available

    look = Counted(available)
    assert answer_of(two, look, opening("c3", 7)) == 7
    assert look.times == 2


def test_whoever_looked_at_more_than_single_rows_looks_again(two: Two) -> None:
    count = Counted(lambda tx: len(list(tx.accounts)))
    assert answer_of(two, count, opening("c3", 1)) == 3


def test_where_it_was_in_vain_it_is_seldom_tried(two: Two) -> None:
    ours, _ = two
    ours.run(opening("c9", 1_000), "open")
    times = 0
    for number in range(20):
        charge = Counted(charging("c9", f"ours {number}"))
        assert answer_of(two, charge, charging("c9", f"theirs {number}"), patience=0.02) is True
        times += charge.times
    assert times < 30
    assert ours.view.accounts.get("c9").available == 960


# Behind a batch of our own


class Held:
    """The `os` of a store whose flush takes as long as the test likes, and may fail once."""

    def __init__(self, store: JsonStore) -> None:
        self.begun, self.end = threading.Event(), threading.Event()
        self.fails = False
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fdatasync(self, fd: int) -> None:
        if fd == self._store._replica.end.fd:
            self.begun.set()
            assert self.end.wait(timeout=20)
            if self.fails:
                self.fails = False
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fdatasync(fd)


@pytest.fixture
def held(two: Two, monkeypatch: pytest.MonkeyPatch) -> Held:
    """Our store's next flush waits for `end`."""
    held = Held(two[0])
    monkeypatch.setattr(journal_end, "os", held)
    return held


@contextmanager
def behind(store: JsonStore, first: Callable[[Transaction], Any], held: Held) -> Iterator[list[Any]]:
    """In the block the first batch is being flushed; its answer or error is there at the end."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(store.run(first, "first"))
        except StorageUnavailable as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert held.begun.wait(timeout=20)
    yield answers
    held.end.set()
    thread.join(timeout=20)
    assert answers


def submitted(store: JsonStore, operation: Callable[[Transaction], Any]) -> list[Any]:
    """Asked as an event loop asks; the answer or the error comes here."""
    answers: list[Any] = []
    store.submit(operation, "second", lambda answer, error: answers.append(error or answer))
    store.flush()
    return answers


def test_what_waits_for_a_flush_of_ours_is_run_meanwhile_and_answered_after_its_own(
    two: Two, held: Held, until: Until
) -> None:
    ours, theirs = two
    theirs.run(opening("c3", 2), "open")
    charge = Counted(charging("c3", "job 2"))
    with behind(ours, charging("c3", "job 1"), held) as first:
        second = submitted(ours, charge)
        assert charge.times == 1
        assert (first, second) == ([], [])
    until(lambda: second)
    assert (first, second, charge.times) == ([True], [True], 1)
    for store in two:
        assert store.view.accounts.get("c3").available == 0
    assert theirs.run(charging("c3", "job 3"), "third") is False


def test_the_last_credit_is_not_given_to_who_was_run_behind_its_charge(
    two: Two, held: Held, until: Until
) -> None:
    ours, _ = two
    charge = Counted(charging("c1", "job 2"))
    with behind(ours, charging("c1", "job 1"), held) as first:
        second = submitted(ours, charge)
    until(lambda: second)
    assert (first, second, charge.times) == ([True], [False], 1)


def test_what_was_run_behind_a_batch_that_failed_knows_nothing_of_it(
    two: Two, held: Held, until: Until
) -> None:
    ours, theirs = two
    held.fails = True
    charge = Counted(charging("c1", "job 2"))
    with behind(ours, charging("c1", "job 1"), held) as first:
        second = submitted(ours, charge)
        assert charge.times == 1
    until(lambda: second)
    assert isinstance(first[0], StorageUnavailable)
    assert (second, charge.times) == ([True], 2)
    assert theirs.view.spent.get("job 1") is None
    assert theirs.view.spent.get("job 2") is not None


def test_a_store_whose_batches_follow_each_other_lets_others_have_their_turn(two: Two, until: Until) -> None:
    ours, theirs = two
    ours.run(opening("c3", 10**6), "open")
    over = threading.Event()

    def again(_answer: object, _error: BaseException | None) -> None:
        if not over.is_set():
            ours.submit(charging("c3", f"job {time.perf_counter_ns()}"), "again", again)

    for _ in range(2):
        again(None, None)
    ours.flush_soon()
    try:
        for number in range(10):
            begun = time.monotonic()
            assert theirs.run(charging("c3", f"theirs {number}"), "theirs")
            assert time.monotonic() - begun < 2
    finally:
        over.set()
    until(lambda: not ours._lock.held)


@pytest.mark.parametrize("clients", [1, 3, 50])
def test_on_a_slow_disk_every_charge_of_many_is_in_the_ledger_and_in_the_balance(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, clients: int
) -> None:
    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def fdatasync(self, fd: int) -> None:
            time.sleep(0.0015)
            os.fdatasync(fd)

    monkeypatch.setattr(journal_end, "os", Slow())
    # Threads take each other's place nearly everywhere.
    switched = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    request.addfinalizer(lambda: sys.setswitchinterval(switched))
    ours, theirs = shop.open(), shop.open()
    for number in range(clients):
        ours.run(opening(f"c{number}", 10**6), "open")
    told = Counter[str]()

    async def call(store: JsonStore, gate: Gate, caller: int) -> None:
        for number in range(60):
            await asyncio.sleep(random.choice((0, 0, 0.001)))
            client_id = f"c{(caller + number) % clients}"
            assert await gate.write(charging(client_id, f"{id(store)} {caller} {number}"), "charge")
            told[client_id] += 1

    async def work(store: JsonStore) -> None:
        gate = Gate(asyncio.get_running_loop(), store)
        await asyncio.gather(*(call(store, gate, caller) for caller in range(16)))

    other = threading.Thread(target=lambda: asyncio.run(work(theirs)))
    other.start()
    asyncio.run(work(ours))
    other.join()
    assert backups.verify(ours.directory, ours._chain).problems == []
    for client_id, times in told.items():
        assert ours.view.accounts.get(client_id).available == 10**6 - times
    assert sum(told.values()) == 2 * 16 * 60
