"""Several gateways on one database, and an operation that the database will not have."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from openclaw_billing import accounts, ledger
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import Duplicate, HistoryQuery, Query, Transaction
from openclaw_billing.errors import BillingError, QuotaExceeded
from openclaw_billing.records import Fact, KeyState, Recent
from openclaw_billing.stores.postgres import PostgresStore, RecordRefused
from openclaw_billing.stores.postgres_line import connect
from openclaw_billing.stores.postgres_view import AGE_SECONDS_MAX, KEPT_SECONDS_MAX, Kept
from tests.stores.charging import MOMENT, account, audit, charging, client, entry, key, opening

ADMIN = Actor("admin")


def balance_is_the_ledgers_sum(store: PostgresStore, client_id: str) -> bool:
    found = store.view.accounts.get(client_id)
    assert found is not None
    entries = store.ledger(HistoryQuery(client_id=client_id, limit=10**6)).entries
    assert sorted(each.number for each in entries) == list(range(1, found.entries + 1))
    return sum(each.available for each in entries) == found.available


# Several gateways


def test_eight_jobs_at_once_on_the_last_credit_are_one_job(gateways: Callable[[], PostgresStore]) -> None:
    first, second = gateways(), gateways()
    first.run(lambda tx: ledger.open_account(with_client(tx), "c1", "free", MOMENT), "open")
    first.run(
        lambda tx: ledger.adjust(tx, "c1", -4, reason="one left", operation_id="adjust:1", now=MOMENT), "take"
    )
    begin = threading.Barrier(8)

    def submit(number: int) -> bool:
        store = (first, second)[number % 2]
        begin.wait()
        try:
            store.run(lambda tx: ledger.charge(tx, "c1", job_id=f"job-{number}", now=MOMENT), "charge")
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        accepted = list(pool.map(submit, range(8)))
    assert accepted.count(True) == 1
    assert balance_is_the_ledgers_sum(second, "c1")


def with_client(tx: Transaction) -> Transaction:
    tx.clients.put(client("c1"))
    return tx


def test_one_job_submitted_to_both_at_once_is_charged_once(gateways: Callable[[], PostgresStore]) -> None:
    first, second = gateways(), gateways()
    first.run(opening("c1", 100), "open")

    def submit(number: int) -> bool:
        return (first, second)[number % 2].run(charging("c1", f"job-{number // 2}"), "charge")

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(submit, range(80)))
    found = first.view.accounts.get("c1")
    assert found is not None
    assert found.available == 60
    assert balance_is_the_ledgers_sum(first, "c1")


def test_operations_that_take_rows_in_opposite_orders_all_end_and_lose_nothing(
    gateways: Callable[[], PostgresStore],
) -> None:
    stores = [gateways(), gateways(), gateways()]
    names = [f"c{n}" for n in range(6)]
    for name in names:
        stores[0].run(opening(name, 1000), "open")

    def hand_over(giver: str, taker: str) -> Callable[[Transaction], None]:
        def move(tx: Transaction) -> None:
            changes = ((giver, -1), (taker, 1))
            for name, change in changes:
                before = tx.accounts.get(name)
                assert before is not None
                [lot] = before.lots
                number = before.entries + 1
                lots = (replace(lot, left=lot.left + change),)
                tx.accounts.put(replace(before, lots=lots, entries=number))
                tx.write_ledger(entry(name, number, available=change))

        return move

    def work(number: int) -> None:
        giver, taker = names[number % 6], names[(number * 5 + 1) % 6]
        if giver != taker:
            stores[number % 3].run(hand_over(giver, taker), "hand_over")

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(300)))
    left = [stores[0].view.accounts.get(name) for name in names]
    assert sum(each.available for each in left if each is not None) == 6000
    assert all(balance_is_the_ledgers_sum(stores[1], name) for name in names)


def test_whoever_finds_a_thing_absent_at_both_gateways_writes_it_once(
    gateways: Callable[[], PostgresStore],
) -> None:
    """Each operation writes one fact only where it does not find the other."""
    first, second = gateways(), gateways()

    def unless(other: str, mine: str) -> Callable[[Transaction], None]:
        def put(tx: Transaction) -> None:
            if tx.facts.get(other) is None:
                tx.facts.put(Fact(name=mine, value="1"))

        return put

    with ThreadPoolExecutor(2) as pool:
        for number in range(40):
            a, b = f"a{number}", f"b{number}"
            jobs = [
                pool.submit(first.run, unless(b, a), "a"),
                pool.submit(second.run, unless(a, b), "b"),
            ]
            assert [job.result() for job in jobs] == [None, None]
    assert len(list(first.view.facts)) == 40


def test_an_email_taken_at_another_gateway_is_refused_as_taken(gateways: Callable[[], PostgresStore]) -> None:
    first, second = gateways(), gateways()
    begin = threading.Barrier(2)

    def create(store: PostgresStore, client_id: str) -> bool:
        begin.wait()
        try:
            store.run(lambda tx: tx.clients.put(client(client_id, "Same@example.com")), "put")
        except Duplicate:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        for number in range(20):
            made = [pool.submit(create, first, f"a{number}"), pool.submit(create, second, f"b{number}")]
            assert sorted(each.result() for each in made) == [False, True]
            for name in (f"a{number}", f"b{number}"):
                first.run(lambda tx, name=name: tx.clients.delete(name), "delete")


def test_clients_may_exchange_their_addresses_in_one_operation(gateways: Callable[[], PostgresStore]) -> None:
    store = gateways()
    store.run(
        lambda tx: [tx.clients.put(client("a", "1@x.de")), tx.clients.put(client("b", "2@x.de"))], "put"
    )

    def exchange(tx: Transaction) -> None:
        tx.clients.put(client("a", "3@x.de"))
        tx.clients.put(client("b", "1@x.de"))
        tx.clients.put(client("a", "2@x.de"))

    store.run(exchange, "exchange")
    assert [each.client_id for each in store.view.clients.by("email", "1@x.de")] == ["b"]


# Keys that are kept for a moment


def test_a_key_revoked_at_one_gateway_is_refused_by_the_other_within_a_second(
    gateways: Callable[[], PostgresStore],
) -> None:
    first, second = gateways(), gateways()
    first.run(opening("c1", 5), "open")
    first.run(lambda tx: accounts.issue_key(tx, "c1", key("d1", "c1"), actor=ADMIN, now=MOMENT), "issue")
    assert accounts.authenticate(second.view, ["d1"], MOMENT) is not None
    first.run(lambda tx: accounts.revoke_key(tx, "c1", "key_d1", actor=ADMIN, now=MOMENT), "revoke")
    assert accounts.authenticate(first.view, ["d1"], MOMENT) is None, "at once where it was done"
    revoked_at = time.monotonic()
    while accounts.authenticate(second.view, ["d1"], MOMENT) is not None:
        assert time.monotonic() - revoked_at < 1
        time.sleep(0.005)


def test_a_client_switched_off_elsewhere_is_refused_within_a_second(
    gateways: Callable[[], PostgresStore],
) -> None:
    first, second = gateways(), gateways()
    first.run(opening("c1", 5), "open")
    first.run(lambda tx: accounts.issue_key(tx, "c1", key("d1", "c1"), actor=ADMIN, now=MOMENT), "issue")
    assert accounts.authenticate(second.view, ["d1"], MOMENT) is not None
    first.run(lambda tx: accounts.deactivate(tx, "c1", actor=ADMIN, now=MOMENT), "deactivate")
    switched_at = time.monotonic()
    while accounts.authenticate(second.view, ["d1"], MOMENT) is not None:
        assert time.monotonic() - switched_at < 1
        time.sleep(0.005)


def test_a_kept_row_is_forgotten_after_a_second_without_any_word() -> None:
    kept = Kept()
    now = time.monotonic()
    kept.keep("keys", "fresh", "row", now, kept.changes())
    kept.keep("keys", "old", "row", now - AGE_SECONDS_MAX - 0.01, kept.changes())
    assert (kept.get("keys", "fresh"), kept.get("keys", "old")) == ("row", None)


def test_a_kept_row_that_is_proved_is_kept_for_ten_seconds_and_no_longer() -> None:
    kept = Kept()
    now = time.monotonic()
    kept.keep("keys", "old", "row", now - AGE_SECONDS_MAX - 0.01, kept.changes())
    kept.keep("keys", "too old", "row", now - KEPT_SECONDS_MAX - 0.01, kept.changes())
    kept.prove(now)
    assert (kept.get("keys", "old"), kept.get("keys", "too old")) == ("row", None)
    kept.prove(now - AGE_SECONDS_MAX - 0.01)
    assert kept.get("keys", "old") is None


def test_what_was_committed_is_heard_before_what_is_kept_counts_as_proved(
    gateways: Callable[[], PostgresStore],
) -> None:
    """The watch's other turns are stopped: only its question proves anything, and it hears first."""
    first, second = gateways(), gateways()
    first.run(opening("c1", 5), "open")
    line, heard = second._line, list[str | None]()
    line._ended.set()
    assert line._watch is not None
    line._watch.join()
    line._ended.clear()
    line._heard = heard.append
    proved: list[int] = []
    line._proved = lambda _: proved.append(len(heard))
    with connect(second.url) as connection:
        connection.execute(f'LISTEN "{line.channel}"')
        for number in range(1, 50):
            changed = key(f"d{number}", "c1")
            first.run(lambda tx, changed=changed: tx.keys.put(changed), "put")
            line._ping(connection)
            assert heard[-1] == f"keys d{number}"
            assert proved[-1] == number


def test_a_row_read_before_the_word_of_its_change_is_not_kept_after_it() -> None:
    kept = Kept()
    changes = kept.changes()
    kept.hear("keys d1")
    kept.keep("keys", "d1", "older", time.monotonic(), changes)
    assert kept.get("keys", "d1") is None


def test_a_change_of_very_many_keys_is_told_as_a_change_of_everything(
    gateways: Callable[[], PostgresStore],
) -> None:
    first, second = gateways(), gateways()
    first.run(opening("c1", 5), "open")
    keys = [key(f"d{n}", "c1") for n in range(300)]
    first.run(lambda tx: [tx.keys.put(each) for each in keys], "put")
    assert second.view.keys.get("d7") is not None
    first.run(lambda tx: [tx.keys.put(replace(each, state=KeyState.REVOKED)) for each in keys], "revoke all")
    changed_at = time.monotonic()
    while (found := second.view.keys.get("d7")) and found.state is not KeyState.REVOKED:
        assert time.monotonic() - changed_at < 1
        time.sleep(0.005)


# What the database refuses


def test_what_the_database_refuses_fails_alone(
    gateways: Callable[[], PostgresStore], caplog: pytest.LogCaptureFixture
) -> None:
    store = gateways()
    store.run(opening("c1", 5), "open")
    answers: dict[str, tuple[object, BaseException | None]] = {}
    done = threading.Semaphore(0)

    def submit(name: str, operation: Callable[[Transaction], object]) -> None:
        def settle(answer: object, error: BaseException | None) -> None:
            answers[name] = (answer, error)
            done.release()

        store.submit(operation, name, settle)

    submit("before", charging("c1", "j1"))
    submit("negative", lambda tx: tx.accounts.put(replace(account("c1", -1))))
    submit("reserved", lambda tx: tx.accounts.put(replace(account("c1", 1), reserved=-1)))
    submit("stranger", lambda tx: tx.accounts.put(account("nobody", 1)))
    submit("twice", lambda tx: tx.write_ledger(entry("c1", 1)))
    submit("nul", lambda tx: tx.facts.put(Fact(name="a\0b", value="")))
    submit("half a character", lambda tx: tx.facts.put(Fact(name="a", value="\ud800")))
    submit("too large", lambda tx: tx.accounts.put(replace(account("c1", 1), used=2**70)))
    submit("after", charging("c1", "j2"))
    store.flush_soon()
    for _ in range(9):
        assert done.acquire(timeout=20)
    assert answers.pop("before") == (True, None)
    assert answers.pop("after") == (True, None)
    assert {name: type(error) for name, (_, error) in answers.items()} == dict.fromkeys(
        answers, RecordRefused
    )
    assert balance_is_the_ledgers_sum(store, "c1")
    assert list(store.view.facts) == []


def test_text_that_cannot_be_kept_is_not_there(gateways: Callable[[], PostgresStore]) -> None:
    store = gateways()
    for text in ("a\0b", "\ud800"):
        assert store.view.clients.get(text) is None
        assert store.view.clients.by("email", text) == []
        assert store.run(
            lambda tx, text=text: (tx.clients.get(text), tx.clients.by("email", text)), "get"
        ) == (
            None,
            [],
        )
        assert store.audit(HistoryQuery(actor=text)).total == 0


def test_text_that_only_looks_so_is_kept(gateways: Callable[[], PostgresStore]) -> None:
    store = gateways()
    values = ["\\u0000", "\\ud800", "😀", "a\\\\u0000"]
    store.run(lambda tx: [tx.facts.put(Fact(name=str(n), value=v)) for n, v in enumerate(values)], "put")
    assert [each.value for each in sorted(store.view.facts, key=lambda fact: fact.name)] == values


# Operations of every shape


def test_an_operation_may_read_as_deep_as_it_likes(gateways: Callable[[], PostgresStore]) -> None:
    store = gateways()
    store.run(lambda tx: [tx.facts.put(Fact(name=f"f{n}", value=f"f{n + 1}")) for n in range(50)], "put")

    def follow(tx: Transaction) -> str:
        name = "f0"
        while (fact := tx.facts.get(name)) is not None:
            name = fact.value
        tx.facts.put(Fact(name="end", value=name))
        return name

    assert store.run(follow, "follow") == "f50"
    assert store.view.facts.get("end") == Fact(name="end", value="f50")


def test_an_operation_may_walk_a_table_while_others_write_it(gateways: Callable[[], PostgresStore]) -> None:
    first, second = gateways(), gateways()
    first.run(lambda tx: tx.facts.put(Fact(name="f0", value="0")), "put")

    def count(tx: Transaction) -> None:
        number = len(list(tx.facts))
        tx.facts.put(Fact(name=f"f{number}", value=str(number)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: (first, second)[n % 2].run(count, "count"), range(60)))
    assert len(list(first.view.facts)) == 61


def test_a_walk_of_more_rows_than_are_read_at_once_gives_each_once(
    gateways: Callable[[], PostgresStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    from openclaw_billing.stores import postgres_view

    monkeypatch.setattr(postgres_view, "WALKED_AT_ONCE", 7)
    store = gateways()
    store.run(lambda tx: [tx.facts.put(Fact(name=f"f{n}", value="")) for n in range(21)], "put")
    assert sorted(each.name for each in store.view.facts) == sorted(f"f{n}" for n in range(21))


def test_searched_text_is_found_in_any_case_beyond_ascii(gateways: Callable[[], PostgresStore]) -> None:
    store = gateways()
    store.run(lambda tx: tx.clients.put(replace(client("c1"), name="Müller 100%_")), "put")
    for text in ("MÜLLER", "100%_"):
        assert store.view.clients.page(Query(text=text, text_fields=("name", "email"))).total == 1
    for text in ("%", "M_ller"):
        assert store.view.clients.page(Query(text=text, text_fields=("name",))).total == (text == "%")


def test_times_keep_their_microseconds_and_their_order(gateways: Callable[[], PostgresStore]) -> None:
    store = gateways()
    moment = MOMENT + timedelta(microseconds=123_456)
    store.run(lambda tx: tx.write_audit(replace(audit("a"), time=moment, before={"k": "v"})), "write")
    [found] = store.audit(HistoryQuery()).entries
    assert (found.time, found.before, found.after) == (moment, {"k": "v"}, {})
    store.run(lambda tx: tx.recents.put(Recent(client_id="x")), "put")


def test_an_error_of_the_operation_leaves_no_lock_behind(gateways: Callable[[], PostgresStore]) -> None:
    first, second = gateways(), gateways()
    first.run(opening("c1", 1), "open")

    def fail(tx: Transaction) -> None:
        tx.accounts.get("c1")
        raise BillingError("no")

    with pytest.raises(BillingError):
        first.run(fail, "fail")
    assert second.run(charging("c1", "j1"), "charge") is True


def test_of_the_batches_that_are_done_only_the_newest_is_remembered(
    gateways: Callable[[], PostgresStore], postgres_url: str
) -> None:
    store = gateways()
    store.run(opening("c1", 50), "open")
    for number in range(20):
        store.run(charging("c1", f"j{number}"), "charge")
    with connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM batches").fetchone() == (1,)
