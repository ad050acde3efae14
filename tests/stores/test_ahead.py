"""Running ahead: what is run while another process commits holds only if nothing that it looked at was written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import NotFound
from openclaw_billing.stores.json_store import JsonStore
from tests.stores.charging import charging, opening
from tests.stores.conftest import Shop

Until = Callable[[Callable[[], object]], None]
Two = tuple[JsonStore, JsonStore]


@pytest.fixture
def two(shop: Shop) -> Two:
    """Our process's store and another's; clients `c1` and `c2` have one credit each."""
    ours, theirs = shop.open(lock_seconds_max=20), shop.open(lock_seconds_max=20)
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


@contextmanager
def waiting(two: Two, operation: Counted) -> Iterator[list[Any]]:
    """The operation waits in our store for as long as theirs holds the lock; its answer or error, at the end."""
    ours, theirs = two
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(ours.run(operation, "ours"))
        except Exception as error:
            answers.append(error)

    theirs._lock.acquire()
    thread = threading.Thread(target=run)
    thread.start()
    # What theirs runs in the block releases the lock.
    yield answers
    thread.join(timeout=20)
    assert answers


def test_what_others_wrote_elsewhere_changes_nothing(two: Two, until: Until) -> None:
    _, theirs = two
    charge = Counted(charging("c1", "job 1"))
    with waiting(two, charge) as answers:
        until(lambda: charge.times)
        theirs.run(charging("c2", "job 2"), "theirs")
    assert charge.times == 1
    assert answers == [True]
    for store in two:
        assert [store.view.accounts.get(each).available for each in ("c1", "c2")] == [0, 0]


def test_the_last_credit_that_others_took_meanwhile_is_not_given_again(two: Two, until: Until) -> None:
    _, theirs = two
    charge = Counted(charging("c1", "job 1"))
    with waiting(two, charge) as answers:
        until(lambda: charge.times)
        theirs.run(charging("c1", "job 2"), "theirs")
    assert charge.times == 2
    assert answers == [False]
    assert {store.view.accounts.get("c1").entries for store in two} == {2}


def test_a_job_that_others_charged_meanwhile_is_not_charged_again(two: Two, until: Until) -> None:
    ours, theirs = two
    ours.run(opening("c3", 5), "open")
    charge = Counted(charging("c3", "job"))
    with waiting(two, charge) as answers:
        until(lambda: charge.times)
        theirs.run(charging("c3", "job"), "theirs")
    assert answers == [True]
    assert {store.view.accounts.get("c3").available for store in two} == {4}


def test_an_error_that_others_made_untrue_is_not_told(two: Two, until: Until) -> None:
    _, theirs = two

    def available(tx: Transaction) -> int:
        account = tx.accounts.get("c3")
        if account is None:
            raise NotFound("Client")
        return account.available

    look = Counted(available)
    with waiting(two, look) as answers:
        until(lambda: look.times)
        theirs.run(opening("c3", 7), "theirs")
    assert answers == [7]


def test_whoever_looked_at_more_than_single_rows_looks_again(two: Two, until: Until) -> None:
    _, theirs = two
    count = Counted(lambda tx: len(list(tx.accounts)))
    with waiting(two, count) as answers:
        until(lambda: count.times)
        theirs.run(opening("c3", 1), "theirs")
    assert answers == [3]


def test_where_it_was_in_vain_it_is_seldom_tried(two: Two) -> None:
    ours, theirs = two
    ours.run(opening("c9", 1_000), "open")
    times = 0
    for number in range(20):
        charge = Counted(charging("c9", f"ours {number}"))
        with waiting(two, charge):
            theirs.run(charging("c9", f"theirs {number}"), "theirs")
        times += charge.times
    assert times < 30
    assert ours.view.accounts.get("c9").available == 960
