"""Running ahead: what is run while another process commits holds only if nothing that it looked at was written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import NotFound
from openclaw_billing.stores.json_store import JsonStore
from tests.stores.charging import charging, opening
from tests.stores.conftest import Shop

Two = tuple[JsonStore, JsonStore]


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
