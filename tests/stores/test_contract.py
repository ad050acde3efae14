"""What every store promises, whatever it keeps its records in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from openclaw_billing.contracts import Duplicate, HistoryQuery, Query, Store, Transaction
from openclaw_billing.errors import StorageUnavailable
from openclaw_billing.records import EntryKind, Fact, Recent
from tests.stores.charging import MOMENT, account, audit, charging, client, entry, key, opening


class Answers:
    """Collects what `submit` was answered."""

    def __init__(self) -> None:
        self.given: list[tuple[object, BaseException | None]] = []
        self.came = threading.Semaphore(0)

    def settle(self, answer: object, error: BaseException | None) -> None:
        self.given.append((answer, error))
        self.came.release()

    def wait(self, count: int) -> list[tuple[object, BaseException | None]]:
        for _ in range(count):
            assert self.came.acquire(timeout=10)
        return self.given


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def batch(store: Store, answers: Answers) -> Callable[..., list[tuple[object, BaseException | None]]]:
    """Run operations as one batch."""

    def run(*operations: Callable[[Transaction], object]) -> list[tuple[object, BaseException | None]]:
        for operation in operations:
            store.submit(operation, "op", answers.settle)
        store.flush_soon()
        return answers.wait(len(operations))

    return run


# Records


def test_a_record_put_is_found_by_its_key_by_its_index_and_in_the_walk(store: Store) -> None:
    acme = client("c1", "Api@Acme.example")
    assert store.run(lambda tx: tx.clients.put(acme), "put") is None
    assert store.view.clients.get("c1") == acme
    assert store.view.clients.by("email", "api@acme.example") == [acme]
    assert list(store.view.clients) == [acme]


def test_a_record_that_is_not_there_is_none_and_never_an_error(store: Store) -> None:
    assert store.view.clients.get("nobody") is None
    assert store.view.clients.by("email", "nobody@example.com") == []
    store.run(lambda tx: tx.clients.delete("nobody"), "delete")
    assert list(store.view.clients) == []


def test_a_put_over_the_same_key_replaces_and_moves_the_index(store: Store) -> None:
    store.run(lambda tx: tx.clients.put(client("c1", "old@example.com")), "put")
    store.run(lambda tx: tx.clients.put(client("c1", "new@example.com")), "put")
    assert store.view.clients.by("email", "old@example.com") == []
    assert [each.client_id for each in store.view.clients.by("email", "new@example.com")] == ["c1"]


def test_a_deleted_record_is_gone_from_everywhere(store: Store) -> None:
    store.run(lambda tx: tx.keys.put(key("d1", "c1")), "put")
    store.run(lambda tx: tx.keys.delete("d1"), "delete")
    assert store.view.keys.get("d1") is None
    assert store.view.keys.by("client", "c1") == []
    assert list(store.view.keys) == []


def test_an_index_gives_every_record_oldest_first(store: Store) -> None:
    def two(tx: Transaction) -> list[str]:
        tx.keys.put(key("b", "c1", minute=2))
        tx.keys.put(key("a", "c1", minute=1))
        return [each.digest for each in tx.keys.by("client", "c1")]

    assert store.run(two, "two") == ["a", "b"]
    store.run(lambda tx: tx.keys.put(replace(key("a", "c1", minute=1), name="renamed")), "rename")
    assert [each.digest for each in store.view.keys.by("client", "c1")] == ["a", "b"]


def test_an_operation_sees_its_own_changes_and_those_of_the_batch_before_it(
    store: Store, batch: Callable[..., list[tuple[object, BaseException | None]]]
) -> None:
    seen = batch(
        lambda tx: tx.facts.put(Fact(name="a", value="1")),
        lambda tx: tx.facts.put(Fact(name="b", value="2")),
        lambda tx: (sorted(each.name for each in tx.facts), tx.facts.delete("a"), tx.facts.get("a")),
        lambda tx: [each.name for each in tx.facts],
    )
    assert [answer for answer, _ in seen[2:]] == [(["a", "b"], None, None), ["b"]]
    assert [each.name for each in store.view.facts] == ["b"]


def test_every_field_of_a_record_comes_back_as_it_was(store: Store) -> None:
    odd = replace(
        client('ü\t\n"\\ ☃', "snow@example.com"),
        metadata={"a": "b"},
        active=False,
        stripe_customer_id="cus_1",
        version=7,
    )
    plain = replace(account("c1", 3), due_at=MOMENT, spent_usd_micros=10**15, reserved=2)

    def put(tx: Transaction) -> None:
        tx.clients.put(odd)
        tx.accounts.put(plain)
        tx.recents.put(Recent(client_id="c1"))

    store.run(put, "put")
    assert store.view.clients.get(odd.client_id) == odd
    assert store.view.accounts.get("c1") == plain
    assert store.view.recents.get("c1") == Recent(client_id="c1")


def test_an_operation_may_have_any_name(store: Store) -> None:
    for name in ("closed", "genesis", 'with "quotes" and \n☃'):
        store.run(lambda tx, n=name: tx.facts.put(Fact(name=n, value="1")), name)
    store.close()
    store.open()
    store.run(lambda tx: tx.facts.put(Fact(name="last", value="1")), "closed")
    assert len(list(store.view.facts)) == 4


# Pages


def test_pages_come_newest_first_and_go_on_after_the_last_row(store: Store) -> None:
    store.run(lambda tx: [tx.clients.put(client(f"c{n}", minute=n)) for n in range(5)], "put")
    first = store.view.clients.page(Query(limit=2))
    assert [each.client_id for each in first.rows] == ["c4", "c3"]
    assert (first.total, first.has_more) == (5, True)
    last = first.rows[-1]
    rest = store.view.clients.page(Query(limit=3, after=(last.created_at, last.client_id)))
    assert [each.client_id for each in rest.rows] == ["c2", "c1", "c0"]
    assert (rest.total, rest.has_more) == (5, False)


def test_a_row_added_meanwhile_neither_repeats_nor_hides_one_of_the_next_page(store: Store) -> None:
    store.run(lambda tx: [tx.clients.put(client(f"c{n}", minute=n)) for n in range(4)], "put")
    last = store.view.clients.page(Query(limit=2)).rows[-1]
    store.run(lambda tx: tx.clients.put(client("new", minute=99)), "put")
    rest = store.view.clients.page(Query(limit=9, after=(last.created_at, last.client_id)))
    assert [each.client_id for each in rest.rows] == ["c1", "c0"]


def test_a_page_filters_by_fields_text_and_time(store: Store) -> None:
    def put(tx: Transaction) -> None:
        tx.clients.put(replace(client("a", minute=1), name="Snow Ltd"))
        tx.clients.put(replace(client("b", minute=2), name="Rain Ltd", active=False))
        tx.clients.put(replace(client("c", minute=3), name="snowflake"))

    store.run(put, "put")
    page = store.view.clients.page
    assert [each.client_id for each in page(Query(equals={"active": False})).rows] == ["b"]
    assert [each.client_id for each in page(Query(text="SNOW", text_fields=("name",))).rows] == ["c", "a"]
    since, until = MOMENT + timedelta(minutes=2), MOMENT + timedelta(minutes=3)
    assert [each.client_id for each in page(Query(since=since, until=until)).rows] == ["b"]
    assert page(Query(text="nothing", text_fields=("name",))).total == 0
    assert [each.client_id for each in page(Query(within=("email", "b@example.com"))).rows] == ["b"]
    assert page(Query(within=("email", "b@example.com"), until=MOMENT)).total == 0


def test_the_first_rows_up_to_a_value_of_an_index_come_in_its_order(store: Store) -> None:
    def put(tx: Transaction) -> list[str]:
        for number in (3, 1, 4, 2, 0):
            tx.clients.put(client(f"c{number}"))
            due = MOMENT + timedelta(minutes=number)
            tx.accounts.put(replace(account(f"c{number}", 1), due_at=due if number else None))
        return [each.client_id for each in tx.accounts.upto("due", "2026-03-01T12:03", 2)]

    assert store.run(put, "put") == ["c1", "c2"]
    first = store.view.accounts.upto
    assert [each.client_id for each in first("due", "2026-03-01T12:03", 9)] == ["c1", "c2", "c3"]
    assert [each.client_id for each in first("due", "2026-03-01T12:03", 2)] == ["c1", "c2"]
    assert first("due", "2026-03-01T12:00", 9) == []
    store.run(lambda tx: tx.accounts.put(replace(account("c1", 1), active=False, due_at=MOMENT)), "off")
    assert [each.client_id for each in first("due", "2026-03-01T12:03", 9)] == ["c2", "c3"]


def test_a_walk_is_what_all_pages_hold_together(store: Store) -> None:
    store.run(lambda tx: [tx.clients.put(client(f"c{n}", minute=n // 2)) for n in range(9)], "put")
    walk = store.view.clients.walk
    assert [each.client_id for each in walk(Query(limit=2))] == [f"c{n}" for n in range(8, -1, -1)]
    page = store.view.clients.page(Query(limit=3))
    behind = Query(after=(page.rows[-1].created_at, page.rows[-1].client_id), since=MOMENT)
    assert [each.client_id for each in walk(behind)] == [f"c{n}" for n in range(5, -1, -1)]
    assert store.run(lambda tx: [each.client_id for each in tx.clients.walk(behind)][:2], "walk") == [
        "c5",
        "c4",
    ]
    assert [each.client_id for each in walk(Query(text="C3", text_fields=("client_id",)))] == ["c3"]


def test_a_walk_goes_on_while_rows_come_and_go(store: Store) -> None:
    store.run(lambda tx: [tx.clients.put(client(f"c{n}", minute=n)) for n in range(4)], "put")
    walk = store.view.clients.walk(Query())
    seen = [next(walk).client_id]
    store.run(lambda tx: (tx.clients.delete("c3"), tx.clients.put(client("new", minute=99))), "change")
    assert [*seen, *(each.client_id for each in walk)] == ["c3", "c2", "c1", "c0"]


# Unique values


def test_a_taken_value_is_refused_within_one_operation(store: Store) -> None:
    def twice(tx: Transaction) -> None:
        tx.clients.put(client("c1", "same@example.com"))
        tx.clients.put(client("c2", "Same@example.com"))

    with pytest.raises(Duplicate) as refused:
        store.run(twice, "twice")
    assert refused.value.index == "email"
    assert list(store.view.clients) == []


def test_a_taken_value_is_refused_within_one_batch_and_the_first_keeps_it(
    store: Store, batch: Callable[..., list[tuple[object, BaseException | None]]]
) -> None:
    first, second, third = batch(
        lambda tx: tx.clients.put(client("c1", "same@example.com")),
        lambda tx: tx.clients.put(client("c2", "same@example.com")),
        lambda tx: tx.clients.put(client("c3", "other@example.com")),
    )
    assert (first, third) == ((None, None), (None, None))
    assert isinstance(second[1], Duplicate)
    assert sorted(each.client_id for each in store.view.clients) == ["c1", "c3"]


def test_a_value_is_free_again_after_its_record_is_deleted_or_changed(store: Store) -> None:
    store.run(lambda tx: tx.clients.put(client("c1", "one@example.com")), "put")

    def hand_over(tx: Transaction) -> None:
        tx.clients.put(client("c1", "two@example.com"))
        tx.clients.put(client("c2", "one@example.com"))

    store.run(hand_over, "hand_over")
    store.run(lambda tx: tx.clients.delete("c1"), "delete")
    store.run(lambda tx: tx.clients.put(client("c3", "two@example.com")), "put")
    assert [each.client_id for each in store.view.clients.by("email", "two@example.com")] == ["c3"]
    with pytest.raises(Duplicate):
        store.run(lambda tx: tx.clients.put(client("c4", "one@example.com")), "put")


def test_a_claim_of_an_operation_that_failed_binds_nobody(
    store: Store, batch: Callable[..., list[tuple[object, BaseException | None]]]
) -> None:
    def fail(tx: Transaction) -> None:
        tx.clients.put(client("c1", "same@example.com"))
        raise ValueError

    failed, kept = batch(fail, lambda tx: tx.clients.put(client("c2", "same@example.com")))
    assert isinstance(failed[1], ValueError)
    assert kept == (None, None)


# Operations


def test_an_operation_that_raises_changes_nothing_and_its_neighbours_survive(
    store: Store, batch: Callable[..., list[tuple[object, BaseException | None]]]
) -> None:
    def fail(tx: Transaction) -> None:
        opening("bad", 1)(tx)
        tx.write_audit(audit("bad"))
        raise LookupError("mine")

    before, failed, after = batch(opening("c1", 3), fail, charging("c1", "j1"))
    assert before == (None, None)
    assert isinstance(failed[1], LookupError)
    assert after == (True, None)
    assert [each.client_id for each in store.view.clients] == ["c1"]
    assert store.ledger(HistoryQuery()).total == 2
    assert store.audit(HistoryQuery()).total == 0


def test_the_error_of_an_operation_reaches_who_ran_it(store: Store) -> None:
    def fail(_tx: Transaction) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        store.run(fail, "fail")


def test_submitted_operations_wait_for_the_flush_and_answer_after_it(store: Store, answers: Answers) -> None:
    store.submit(opening("c1", 1), "open", answers.settle)
    assert store.view.accounts.get("c1") is None
    seen: list[object] = []

    def look(_answer: object, _error: BaseException | None) -> None:
        seen.append(store.view.spent.get("j1"))
        answers.came.release()

    store.submit(charging("c1", "j1"), "charge", look)
    store.flush_soon()
    answers.wait(2)
    assert seen != [None]


def test_a_callback_that_fails_keeps_no_other_waiting(store: Store, answers: Answers) -> None:
    def broken(_answer: object, _error: BaseException | None) -> None:
        raise RuntimeError("the loop is closed")

    store.submit(opening("c1", 5), "open", broken)
    store.submit(charging("c1", "j1"), "charge", answers.settle)
    store.flush_soon()
    assert answers.wait(1) == [(True, None)]
    store.submit(charging("c1", "j2"), "charge", answers.settle)
    store.flush_soon()
    assert answers.wait(1)[1:] == [(True, None)]


def test_what_was_submitted_is_durable_when_the_store_closes(store: Store, answers: Answers) -> None:
    store.submit(opening("c1", 1), "open", answers.settle)
    store.close()
    assert answers.wait(1) == [(None, None)]


def test_a_closed_store_refuses_and_an_opened_one_goes_on(store: Store) -> None:
    store.run(opening("c1", 1), "open")
    store.close()
    store.close()
    with pytest.raises(StorageUnavailable):
        store.run(charging("c1", "j1"), "charge")
    store.open()
    store.open()
    assert store.run(charging("c1", "j1"), "charge") is True
    assert store.health().writable


def test_many_threads_at_once_are_charged_exactly(store: Store) -> None:
    store.run(opening("c1", 150), "open")
    with ThreadPoolExecutor(16) as pool:
        accepted = list(pool.map(lambda n: store.run(charging("c1", f"j{n}"), "charge"), range(400)))
    assert accepted.count(True) == 150
    found = store.view.accounts.get("c1")
    assert found is not None
    assert (found.available, found.entries) == (0, 151)
    assert sum(each.available for each in store.ledger(HistoryQuery(limit=1000)).entries) == 0


def test_waiting_and_submitting_callers_share_one_order(store: Store, answers: Answers) -> None:
    store.run(opening("c1", 50), "open")

    def submit(_n: int) -> None:
        for n in range(40):
            store.submit(charging("c1", f"s{_n}-{n}"), "charge", answers.settle)
            store.flush_soon()

    def run(_n: int) -> list[bool]:
        return [store.run(charging("c1", f"r{_n}-{n}"), "charge") for n in range(40)]

    with ThreadPoolExecutor(4) as pool:
        submitted = [pool.submit(submit, n) for n in range(2)]
        ran = [pool.submit(run, n) for n in range(2)]
    assert all(each.exception() is None for each in submitted)
    accepted = [answer for answer, _ in answers.wait(80)] + [yes for each in ran for yes in each.result()]
    assert accepted.count(True) == 50


# History


def test_the_ledger_comes_newest_first_in_pages_whose_positions_never_change(store: Store) -> None:
    for number in range(1, 6):
        store.run(lambda tx, n=number: tx.write_ledger(entry("c1", n)), "write")
    first = store.ledger(HistoryQuery(limit=2))
    assert [each.number for each in first.entries] == [5, 4]
    assert (first.total, first.has_more) == (5, True)
    assert first.positions == sorted(first.positions, reverse=True)
    store.run(lambda tx: tx.write_ledger(entry("c1", 6)), "write")
    rest = store.ledger(HistoryQuery(limit=9, before=first.positions[-1]))
    assert [each.number for each in rest.entries] == [3, 2, 1]
    assert (rest.total, rest.has_more) == (6, False)
    assert store.ledger(HistoryQuery(limit=9)).positions[1:3] == first.positions


def test_entries_of_one_operation_keep_their_order_and_each_its_own_position(store: Store) -> None:
    store.run(lambda tx: [tx.write_ledger(entry("c1", n)) for n in range(1, 5001)], "write")
    store.run(lambda tx: tx.write_ledger(entry("c1", 5001)), "write")
    found = store.ledger(HistoryQuery(limit=6000))
    assert [each.number for each in found.entries] == list(range(5001, 0, -1))
    assert len(set(found.positions)) == 5001
    assert found.positions == sorted(found.positions, reverse=True)


def test_the_ledger_filters_by_client_kind_and_time(store: Store) -> None:
    def write(tx: Transaction) -> None:
        tx.write_ledger(entry("c1", 1, EntryKind.GRANT, 5))
        tx.write_ledger(entry("c2", 2, EntryKind.GRANT, 5))
        tx.write_ledger(entry("c1", 3))
        tx.write_ledger(entry('c☃"1', 4))

    store.run(write, "write")

    def numbers(**query: object) -> list[int]:
        return [each.number for each in store.ledger(HistoryQuery(**query)).entries]  # type: ignore[arg-type]

    assert numbers(client_id="c1") == [3, 1]
    assert numbers(client_id='c☃"1') == [4]
    assert numbers(client_id="c") == []
    assert numbers(kind=EntryKind.GRANT) == [2, 1]
    assert numbers(client_id="c1", kind=EntryKind.GRANT) == [1]
    assert numbers(since=MOMENT + timedelta(minutes=2), until=MOMENT + timedelta(minutes=4)) == [3, 2]


def test_the_audit_log_filters_by_client_actor_and_action(store: Store) -> None:
    def write(tx: Transaction) -> None:
        tx.write_audit(audit("create", "c1"))
        tx.write_audit(audit("create", "c2", actor="ops"))
        tx.write_audit(audit("login"))

    store.run(write, "write")

    def actions(**query: str) -> list[tuple[str, str | None]]:
        return [(each.action, each.client_id) for each in store.audit(HistoryQuery(**query)).entries]  # type: ignore[arg-type]

    assert actions() == [("login", None), ("create", "c2"), ("create", "c1")]
    assert actions(client_id="c1") == [("create", "c1")]
    assert actions(actor="ops") == [("create", "c2")]
    assert actions(action="login") == [("login", None)]
    assert store.ledger(HistoryQuery()).total == 0


def test_a_walk_of_the_history_is_what_all_pages_hold_together(store: Store) -> None:
    for number in range(1, 6):
        store.run(lambda tx, n=number: tx.write_ledger(entry("c1", n)), "write")
    store.run(lambda tx: [tx.write_audit(audit("create", "c1")), tx.write_audit(audit("login"))], "write")
    assert [each.number for each in store.walk_ledger(HistoryQuery(limit=2))] == [5, 4, 3, 2, 1]
    behind = store.ledger(HistoryQuery(limit=2)).positions[-1]
    walk = store.walk_ledger(HistoryQuery(before=behind))
    seen = [next(walk).number]
    store.run(lambda tx: tx.write_ledger(entry("c1", 6)), "write")
    assert [*seen, *(each.number for each in walk)] == [3, 2, 1]
    assert list(store.walk_ledger(HistoryQuery(client_id="c2"))) == []
    assert [each.action for each in store.walk_audit(HistoryQuery())] == ["login", "create"]
    assert [each.action for each in store.walk_audit(HistoryQuery(client_id="c1"))] == ["create"]
