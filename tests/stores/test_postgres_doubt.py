"""Commits that nobody answered: found out about and settled, once, whichever way the batch was run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.errors import StorageUnavailable
from openclaw_billing.stores import postgres
from openclaw_billing.stores.postgres import PostgresStore
from tests.stores.postgres_proxy import Cut, Proxy, between
from tests.stores.test_postgres_guess import charged, left, opened, sure

__all__ = ["sure"]

AWAY_SECONDS = 0.3
"""How long a caller waits here for a database that stays away."""


@pytest.fixture
def wire(postgres_url: str) -> Iterator[tuple[Proxy, str]]:
    if "host=" not in postgres_url or os.environ.get("TEST_DATABASE_URL"):
        pytest.skip(
            "the wire can be cut to a PostgreSQL of our own only, and TEST_DATABASE_URL names another"
        )
    with between(postgres_url) as (proxy, url):
        yield proxy, url


@pytest.fixture
def proxy(wire: tuple[Proxy, str]) -> Proxy:
    return wire[0]


@pytest.fixture
def store(wire: tuple[Proxy, str]) -> Iterator[PostgresStore]:
    """Its gateway has charged before, often enough that its statements have names."""
    store = PostgresStore(wire[1])
    store.open()
    store.run(opened("c1", 20), "open")
    for number in range(10):
        assert charged(store, "c1", f"warm-{number}")
    yield store
    store.close()


@pytest.fixture
def there(postgres_url: str) -> Iterator[PostgresStore]:
    """Another gateway, whose wire is whole."""
    store = PostgresStore(postgres_url)
    store.open()
    yield store
    store.close()


@pytest.fixture(params=["guessed", "sure"])
def way(request: pytest.FixtureRequest, store: PostgresStore, sure: Callable[[], int]) -> str:
    """How the batch is run that is in doubt."""
    if request.param == "sure":
        store._memory.forget()
    way: str = request.param
    return way


def times(store: PostgresStore, job_id: str) -> int:
    """How often the job was charged."""
    entries = store.ledger(HistoryQuery(client_id="c1", limit=1000)).entries
    return [each.job_id for each in entries].count(job_id)


def test_a_commit_that_did_not_arrive_is_done_again_once(
    store: PostgresStore,
    there: PostgresStore,
    proxy: Proxy,
    way: str,
    sure: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    sure()
    proxy.cut = Cut.BEFORE
    assert charged(store, "c1", "job")
    assert proxy.cuts == 1
    assert "A batch in doubt was not committed" in caplog.text
    # What was guessed is run again the sure way; what was sure is run twice.
    assert sure() == {"guessed": 1, "sure": 2}[way]
    assert (times(there, "job"), left(there, "c1")) == (1, 9)


def test_a_commit_whose_answer_got_lost_is_answered_as_done_and_not_done_again(
    store: PostgresStore,
    there: PostgresStore,
    proxy: Proxy,
    way: str,
    sure: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    sure()
    proxy.cut = Cut.AFTER
    assert charged(store, "c1", "job")
    assert proxy.cuts == 1
    assert "A batch in doubt was committed" in caplog.text
    assert sure() == {"guessed": 0, "sure": 1}[way]
    assert (times(there, "job"), left(there, "c1")) == (1, 9)
    # What is remembered of the account is what was committed.
    assert charged(store, "c1", "next")
    assert left(there, "c1") == 8


@pytest.mark.parametrize("cut", list(Cut))
def test_while_the_database_stays_away_it_is_503_and_settled_later_once(
    store: PostgresStore,
    there: PostgresStore,
    proxy: Proxy,
    way: str,
    cut: Cut,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    until: Callable[[Callable[[], object]], None],
) -> None:
    monkeypatch.setattr(postgres, "DOUBT_SECONDS_MAX", AWAY_SECONDS)
    proxy.cut, proxy.away_after_cut = cut, True
    with pytest.raises(StorageUnavailable):
        charged(store, "c1", "job")
    assert proxy.cuts == 1
    assert "in doubt was" not in caplog.text
    with pytest.raises(StorageUnavailable):
        charged(store, "c1", "other")
    proxy.come_back()
    until(lambda: store.health().writable)
    # Whoever got no answer asks again.
    assert charged(store, "c1", "job")
    assert caplog.text.count("in doubt was") == 1
    assert ("A batch in doubt was committed" in caplog.text) == (cut is Cut.AFTER)
    assert (times(there, "job"), times(there, "other"), left(there, "c1")) == (1, 0, 9)


@pytest.mark.parametrize("cut", list(Cut))
def test_a_guess_that_was_wrong_and_whose_answer_got_lost_is_not_taken_for_done(
    store: PostgresStore, there: PostgresStore, proxy: Proxy, cut: Cut
) -> None:
    # By what this gateway remembers of the account the job can be charged so; another has charged it since.
    assert charged(there, "c1", "theirs")
    proxy.cut = cut
    assert charged(store, "c1", "job")
    assert (proxy.cuts, times(there, "job"), left(there, "c1")) == (1, 1, 8)


@pytest.mark.parametrize("cut", list(Cut))
def test_the_last_credit_is_one_job_whatever_becomes_of_its_commit(
    store: PostgresStore, there: PostgresStore, proxy: Proxy, way: str, cut: Cut
) -> None:
    for number in range(9):
        assert charged(there, "c1", f"theirs-{number}")
    proxy.cut = cut
    assert charged(store, "c1", "job")
    assert not charged(store, "c1", "one more")
    assert charged(store, "c1", "job"), "asked again, it is the answer that was given"
    assert (proxy.cuts, times(there, "job"), left(there, "c1")) == (1, 1, 0)
