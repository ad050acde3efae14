"""Replies: what was asked twice under one Idempotency-Key is done once, for a day."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from openclaw_billing import replies
from openclaw_billing.clock import ManualClock
from openclaw_billing.contracts import Store, Transaction
from openclaw_billing.errors import BadRequest, IdMismatch, InFlight
from openclaw_billing.records import Spent
from openclaw_billing.replies import Asked, Reply
from openclaw_billing.stores.memory import MemoryStore

ASKED = Asked("client:a", "POST", "/api/intake", "key-1", b"{}")

Ask = Callable[..., Reply]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 2, 19, 10, 30, tzinfo=UTC))


@pytest.fixture
def store() -> Store:
    made = MemoryStore()
    made.open()
    return made


@pytest.fixture
def ask(store: Store, clock: ManualClock) -> Ask:
    """Asks; the answer is how often the operation has run."""
    ran: list[int] = []

    def operation(_: Transaction) -> Mapping[str, object]:
        ran.append(1)
        return {"ran": len(ran)}

    def asking(asked: Asked | None = ASKED, **changes: object) -> Reply:
        asked = asked and replace(asked, **changes)  # type: ignore[arg-type]
        return store.run(lambda tx: replies.once(tx, asked, operation, now=clock.now()), "ask")

    return asking


def test_the_first_answer_is_given_again(ask: Ask) -> None:
    assert ask() == Reply({"ran": 1})
    assert ask() == ask() == Reply({"ran": 1}, replayed=True)


def test_without_a_key_each_asking_counts(ask: Ask) -> None:
    assert [ask(None).body["ran"] for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    "other",
    [
        {"principal": "client:b"},
        {"principal": "admin"},
        {"method": "PUT"},
        {"path": "/api/intake/"},
        {"idempotency_key": "key-2"},
        {"idempotency_key": "KEY-1"},
    ],
)
def test_another_asker_method_path_or_key_is_another_request(ask: Ask, other: dict[str, str]) -> None:
    ask()
    assert ask(**other) == Reply({"ran": 2})


def test_parts_cannot_be_shifted_into_one_another(ask: Ask) -> None:
    ask(principal='a","POST', method="b", idempotency_key="c")
    assert not ask(principal="a", method='POST","b', idempotency_key="c").replayed


def test_the_same_key_with_another_body_is_refused_and_runs_nothing(ask: Ask) -> None:
    ask()
    with pytest.raises(IdMismatch):
        ask(body=b'{"more": 1}')
    assert ask() == Reply({"ran": 1}, replayed=True)


def test_a_reply_lasts_a_day_and_not_a_moment_longer(ask: Ask, clock: ManualClock) -> None:
    ask()
    clock.advance(hours=24, microseconds=-1)
    assert ask().replayed
    clock.advance(microseconds=1)
    assert ask() == Reply({"ran": 2})
    assert ask(body=ASKED.body).replayed


def test_after_a_day_the_key_is_free_for_another_body(ask: Ask, clock: ManualClock) -> None:
    ask()
    clock.advance(hours=24)
    assert ask(body=b"other") == Reply({"ran": 2})


def test_a_clock_set_back_repeats_nothing(ask: Ask, clock: ManualClock) -> None:
    ask()
    clock.advance(days=-400)
    assert ask().replayed


def test_what_failed_is_not_remembered(ask: Ask, store: Store, clock: ManualClock) -> None:
    def fail(_: Transaction) -> Mapping[str, object]:
        raise BadRequest

    with pytest.raises(BadRequest):
        store.run(lambda tx: replies.once(tx, ASKED, fail, now=clock.now()), "fail")
    assert ask() == Reply({"ran": 1})


def test_old_replies_are_forgotten_and_what_must_last_is_not(
    ask: Ask, store: Store, clock: ManualClock
) -> None:
    for number in range(25):
        ask(idempotency_key=f"old-{number}")
    kept = Spent(spent_id="adjust:x", fingerprint="", created_at=clock.now(), answer="", keep=True)
    store.run(lambda tx: tx.spent.put(kept), "keep")
    clock.advance(hours=24)
    ask(idempotency_key="new")

    def forget() -> int:
        ids = replies.old(store.view, now=clock.now(), limit=10)
        return store.run(lambda tx: replies.forget(tx, ids, now=clock.now()), "forget")

    assert [forget() for _ in range(4)] == [10, 10, 5, 0]
    assert {each.spent_id for each in store.view.spent} == {
        "adjust:x",
        replace(ASKED, idempotency_key="new").spent_id,
    }
    assert ask(idempotency_key="new").replayed


def test_a_reply_a_moment_too_young_is_not_forgotten(ask: Ask, store: Store, clock: ManualClock) -> None:
    ask()
    young = clock.now() + timedelta(hours=24, microseconds=-1)
    assert replies.old(store.view, now=young) == []
    ids = [each.spent_id for each in store.view.spent]
    assert store.run(lambda tx: replies.forget(tx, ids, now=young), "forget") == 0
    assert ask().replayed


LEASE = timedelta(seconds=20)


@pytest.fixture
def claim(store: Store, clock: ManualClock) -> Callable[..., Reply | Spent]:
    def claiming(**changes: object) -> Reply | Spent:
        asked = replace(ASKED, **changes)  # type: ignore[arg-type]
        return store.run(lambda tx: replies.claim(tx, asked, LEASE, now=clock.now()), "claim")

    return claiming


@pytest.fixture
def settle(store: Store, clock: ManualClock) -> Callable[[Spent, Mapping[str, object] | None], None]:
    def settling(claimed: Spent, body: Mapping[str, object] | None) -> None:
        store.run(lambda tx: replies.settle(tx, claimed, body, now=clock.now()), "settle")

    return settling


def test_work_between_operations_is_done_by_one_and_answered_again(claim, settle, clock) -> None:
    mine = claim()
    with pytest.raises(InFlight) as refused:
        claim()
    assert (refused.value.status_code, refused.value.headers) == (409, {"Retry-After": "1"})
    settle(mine, {"done": 1})
    assert claim() == Reply({"done": 1}, replayed=True)
    clock.advance(hours=24, microseconds=-1)
    assert claim() == Reply({"done": 1}, replayed=True)
    clock.advance(microseconds=1)
    assert isinstance(claim(), Spent)


def test_a_claimed_key_takes_no_other_body(claim, settle) -> None:
    mine = claim()
    with pytest.raises(IdMismatch):
        claim(body=b"other")
    settle(mine, {})
    with pytest.raises(IdMismatch):
        claim(body=b"other")


def test_work_that_came_to_nothing_gives_the_key_back(claim, settle, store: Store) -> None:
    settle(claim(), None)
    assert list(store.view.spent) == []
    assert isinstance(claim(body=b"other"), Spent)


def test_who_died_holding_a_key_holds_it_no_longer_than_the_lease(claim, settle, clock) -> None:
    lost = claim()
    clock.advance(seconds=20, microseconds=-1)
    with pytest.raises(InFlight):
        claim()
    clock.advance(microseconds=1)
    mine = claim()
    assert isinstance(mine, Spent)
    for late in ({"done": "late"}, None):
        settle(lost, late)
        with pytest.raises(InFlight):
            claim()
    settle(mine, {"done": 1})
    assert claim() == Reply({"done": 1}, replayed=True)


def test_an_empty_answer_is_an_answer(claim, settle) -> None:
    settle(claim(), {})
    assert claim() == Reply({}, replayed=True)


def test_a_claim_that_nobody_settled_is_forgotten_after_a_day(claim, store: Store, clock) -> None:
    claim()
    clock.advance(hours=24)
    ids = replies.old(store.view, now=clock.now())
    assert store.run(lambda tx: replies.forget(tx, ids, now=clock.now()), "forget") == 1
