"""Guessing: a batch over remembered rows is believed only where nobody else has written them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from openclaw_billing import ledger
from openclaw_billing.contracts import HistoryQuery, Transaction
from openclaw_billing.errors import BillingError, QuotaExceeded
from openclaw_billing.stores import postgres, postgres_guess
from openclaw_billing.stores.postgres import PostgresStore
from openclaw_billing.stores.postgres_batch import Run
from openclaw_billing.stores.postgres_line import connect
from tests.stores.charging import MOMENT, client

Gateways = Callable[[], PostgresStore]


class Counted(Run):
    """The sure way, counted."""

    times = 0

    def go(self, known: set[tuple[str, str, str]]) -> None:
        type(self).times += 1
        super().go(known)


@pytest.fixture
def sure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """How often the sure way was gone since it was asked last."""
    monkeypatch.setattr(postgres, "Run", Counted)
    Counted.times = 0

    def asked() -> int:
        times, Counted.times = Counted.times, 0
        return times

    return asked


def opened(client_id: str, credits: int) -> Callable[[Transaction], None]:
    """A client on the free plan with so many credits."""

    def operation(tx: Transaction) -> None:
        tx.clients.put(client(client_id))
        ledger.open_account(tx, client_id, "free", MOMENT)
        if credits != 5:
            name = f"adjust:{client_id}"
            ledger.adjust(tx, client_id, credits - 5, reason="test", operation_id=name, now=MOMENT)

    return operation


def charged(store: PostgresStore, client_id: str, job_id: str) -> bool:
    try:
        store.run(lambda tx: ledger.charge(tx, client_id, job_id=job_id, now=MOMENT), "charge")
    except QuotaExceeded:
        return False
    return True


def left(store: PostgresStore, client_id: str) -> int:
    found = store.view.accounts.get(client_id)
    assert found is not None
    entries = store.ledger(HistoryQuery(client_id=client_id, limit=1000)).entries
    assert sum(each.available for each in entries) == found.available
    assert sorted(each.number for each in entries) == list(range(1, found.entries + 1))
    return found.available


def test_what_a_gateway_wrote_itself_is_not_read_again(gateways: Gateways, sure: Callable[[], int]) -> None:
    store = gateways()
    store.run(opened("c1", 5), "open")
    assert sure() == 1
    assert [charged(store, "c1", f"job {number}") for number in range(6)] == [True] * 5 + [False]
    assert sure() == 0
    assert left(store, "c1") == 0


def test_what_another_gateway_wrote_meanwhile_is_read(gateways: Gateways, sure: Callable[[], int]) -> None:
    ours, theirs = gateways(), gateways()
    ours.run(opened("c1", 2), "open")
    assert charged(theirs, "c1", "theirs 1")
    assert charged(theirs, "c1", "theirs 2")
    sure()
    # By what it remembers there are two credits left.
    assert not charged(ours, "c1", "ours")
    assert sure() == 1
    assert left(ours, "c1") == left(theirs, "c1") == 0


def test_a_refusal_that_another_gateway_made_untrue_is_not_told(gateways: Gateways) -> None:
    ours, theirs = gateways(), gateways()
    ours.run(opened("c1", 0), "open")
    assert not charged(ours, "c1", "early")
    theirs.run(
        lambda tx: ledger.adjust(tx, "c1", 1, reason="gift", operation_id="adjust:gift", now=MOMENT), "adjust"
    )
    assert charged(ours, "c1", "late")
    assert left(ours, "c1") == 0


def test_a_job_that_was_taken_for_new_and_is_not_is_charged_once(
    gateways: Gateways, sure: Callable[[], int]
) -> None:
    ours, theirs = gateways(), gateways()
    ours.run(opened("c1", 5), "open")
    assert all(charged(store, "c1", "job") for store in (ours, theirs, ours, theirs))
    assert left(ours, "c1") == 4
    # Where there is no credit left it is still the answer that was given before.
    for number in range(4):
        assert charged(ours, "c1", f"job {number}")
    sure()
    assert charged(ours, "c1", "job")
    assert sure() == 1
    assert left(ours, "c1") == 0


def test_one_wrong_guess_of_a_batch_harms_none_of_the_others(gateways: Gateways) -> None:
    ours, theirs = gateways(), gateways()
    for client_id in ("c1", "c2", "c3"):
        ours.run(opened(client_id, 1), "open")
    assert charged(theirs, "c2", "theirs")
    answers: dict[str, BillingError | None] = {}

    def settle_of(client_id: str) -> Callable[[object, BaseException | None], None]:
        def settle(_answer: object, error: BaseException | None) -> None:
            assert error is None or isinstance(error, BillingError)
            answers[client_id] = error

        return settle

    with ours._turn:
        for client_id in ("c1", "c2", "c3"):
            ours.submit(
                lambda tx, client_id=client_id: ledger.charge(tx, client_id, job_id="ours", now=MOMENT),
                "charge",
                settle_of(client_id),
            )
    ours.run(lambda tx: tx.facts.get("anything"), "look")
    assert [type(answers[each]) for each in ("c1", "c2", "c3")] == [type(None), QuotaExceeded, type(None)]
    assert [left(ours, each) for each in ("c1", "c2", "c3")] == [0, 0, 0]


def test_of_the_batches_that_are_done_one_is_remembered_whatever_was_guessed(
    gateways: Gateways, postgres_url: str
) -> None:
    ours, theirs = gateways(), gateways()
    ours.run(opened("c1", 3), "open")
    for number in range(3):
        assert charged(ours, "c1", f"job {number}")
    assert not charged(ours, "c1", "one more")
    theirs.run(
        lambda tx: ledger.adjust(tx, "c1", 1, reason="", operation_id="adjust:1", now=MOMENT), "adjust"
    )
    assert charged(ours, "c1", "one more")
    with connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM batches").fetchone() == (2,)


def test_a_row_changed_by_hand_is_read(gateways: Gateways, postgres_url: str) -> None:
    store = gateways()
    store.run(opened("c1", 5), "open")
    assert charged(store, "c1", "job 1")
    with connect(postgres_url) as connection:
        connection.execute("UPDATE accounts SET owed = 0 WHERE client_id = 'c1'")
    assert charged(store, "c1", "job 2")
    assert left(store, "c1") == 3


def test_guesses_that_were_wrong_are_tried_less_often(gateways: Gateways) -> None:
    memory = postgres_guess.Memory()
    tried = 0
    for _ in range(64):
        if memory.may_guess():
            tried += 1
            memory.was_right(False, set())
    assert tried < 10
    while not memory.may_guess():
        pass
    memory.was_right(True, set())
    assert memory.may_guess()


def test_no_more_is_remembered_than_its_limit(monkeypatch: pytest.MonkeyPatch, gateways: Gateways) -> None:
    monkeypatch.setattr(postgres_guess, "ROWS_MAX", 2)
    store = gateways()
    for number in range(5):
        store.run(opened(f"c{number}", 5), "open")
    assert [store._memory.get(f"c{number}") is not None for number in range(5)] == [False] * 3 + [True] * 2
    assert all(charged(store, f"c{number}", "job") for number in range(5))
