from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest

from openclaw_billing import accounts, ledger
from openclaw_billing.accounts import KeyOutcome, SeedClient
from openclaw_billing.audit import Actor
from openclaw_billing.clock import ManualClock
from openclaw_billing.contracts import HistoryQuery, Query
from openclaw_billing.errors import (
    Conflict,
    DuplicateEmail,
    NotFound,
    QuotaExceeded,
    StaleVersion,
    UnknownPlan,
    UnlimitedPlan,
    Unprocessable,
)
from openclaw_billing.keys import Peppers, key_of, new_key_text
from openclaw_billing.records import AuditEntry, Client, Key, KeyState
from openclaw_billing.stores.memory import MemoryStore

T = TypeVar("T")
START = datetime(2026, 2, 19, 10, 30, tzinfo=UTC)
PEPPERS = Peppers([("p1", b"one pepper, long enough to be good")])


class House:
    """A memory store with the admin at the door."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.store = MemoryStore()
        self.store.open()
        self.actor = Actor("admin", "192.0.2.7", "req-1")

    def do(self, operation: Callable[..., T], *args: object, **kwargs: object) -> T:
        now = self.clock.now()
        return self.store.run(
            lambda tx: operation(tx, *args, **kwargs, actor=self.actor, now=now), operation.__name__
        )

    def create(
        self, client_id: str = "acme", email: str = "api@acme.example", key: Key | None = None
    ) -> Client:
        return self.do(
            accounts.create_client, client_id=client_id, name="Acme", email=email, plan_id="pro", key=key
        )

    def new_key(self, key_id: str, client_id: str = "acme", **kwargs: object) -> Key:
        return key_of(
            new_key_text(), PEPPERS, key_id=key_id, client_id=client_id, now=self.clock.now(), **kwargs
        )

    def accepted(self, *keys: Key) -> bool:
        return self.whose([key.digest for key in keys]) is not None

    def whose(self, digests: Sequence[str]) -> tuple[Client, Key] | None:
        return accounts.authenticate(self.store.view, digests, self.clock.now())

    def outcome(self, digest: str) -> KeyOutcome:
        found = accounts.key_outcome(self.store.view, [digest], self.clock.now())
        assert (found is KeyOutcome.VALID) == (self.whose([digest]) is not None)
        return found

    @property
    def audit(self) -> list[AuditEntry]:
        return self.store.audit(HistoryQuery(limit=1000)).entries[::-1]

    @property
    def actions(self) -> list[str]:
        return [entry.action for entry in self.audit]


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def key(house: House) -> Key:
    key = house.new_key("k1")
    house.create(key=key)
    return key


def test_a_new_client_has_its_credits_and_its_key(house: House, key: Key) -> None:
    client, found = house.whose([key.digest])
    assert (client.client_id, found) == ("acme", key)
    assert house.store.view.accounts.get("acme").available == 200
    assert house.actions == ["client.created", "key.issued"]
    assert (house.audit[0].actor, house.audit[0].address, house.audit[0].request_id) == (
        "admin",
        "192.0.2.7",
        "req-1",
    )


def test_no_two_clients_share_an_email_whatever_its_case(house: House, key: Key) -> None:
    with pytest.raises(DuplicateEmail):
        house.create("other", "API@ACME.example")
    assert house.store.view.clients.get("other") is None
    assert house.store.view.accounts.get("other") is None
    house.create("other", "other@acme.example")
    with pytest.raises(DuplicateEmail):
        house.do(accounts.update_client, "other", email="api@Acme.example")


def test_a_client_on_an_unknown_plan_or_with_a_taken_id_is_not_created(house: House, key: Key) -> None:
    for plan_id in ("platinum", "legacy", ""):
        with pytest.raises(UnknownPlan):
            house.do(
                accounts.create_client,
                client_id="b",
                name="B",
                email="b@b.example",
                plan_id=plan_id,
                key=None,
            )
    with pytest.raises(Conflict):
        house.create("acme", "b@b.example")
    assert house.store.view.clients.get("acme").email == "api@acme.example"


def test_a_change_names_what_it_was_and_what_it_is(house: House, key: Key) -> None:
    house.clock.advance(hours=1)
    client = house.do(accounts.update_client, "acme", name="Acme Corp", metadata={"crm": "7"})
    assert (client.name, client.email, client.metadata, client.version) == (
        "Acme Corp",
        "api@acme.example",
        {"crm": "7"},
        2,
    )
    assert client.updated_at == house.clock.now()
    assert house.audit[-1].before == {"name": "Acme", "metadata": "{}"}
    assert house.audit[-1].after == {"name": "Acme Corp", "metadata": "{'crm': '7'}"}


def test_a_change_of_a_version_that_is_over_is_refused(house: House, key: Key) -> None:
    house.do(accounts.update_client, "acme", name="A", if_version=1)
    with pytest.raises(StaleVersion):
        house.do(accounts.update_client, "acme", name="B", if_version=1)
    assert house.store.view.clients.get("acme").name == "A"


def test_an_inactive_client_is_a_stranger_until_it_is_back(house: House, key: Key) -> None:
    assert house.do(accounts.deactivate, "acme", reason="unpaid") is True
    assert house.do(accounts.deactivate, "acme") is False
    assert house.outcome(key.digest) is KeyOutcome.CLIENT_INACTIVE
    assert house.do(accounts.reactivate, "acme") is True
    assert house.do(accounts.reactivate, "acme") is False
    assert house.outcome(key.digest) is KeyOutcome.VALID
    assert house.actions[2:] == ["client.deactivated", "client.reactivated"]
    assert house.audit[2].reason == "unpaid"


@pytest.mark.parametrize(
    "operation",
    [accounts.update_client, accounts.deactivate, accounts.reactivate],
    ids=lambda operation: operation.__name__,
)
def test_an_unknown_client_is_not_found(house: House, operation: Callable[..., object]) -> None:
    with pytest.raises(NotFound):
        house.do(operation, "nobody")
    with pytest.raises(NotFound):
        house.do(accounts.set_plan, "nobody", "pro")
    with pytest.raises(NotFound):
        house.do(accounts.issue_key, "nobody", house.new_key("k", "nobody"))
    assert house.audit == []


def test_a_plan_change_is_audited_with_both_plans(house: House, key: Key) -> None:
    house.do(accounts.set_plan, "acme", "free", reason="asked")
    assert (house.audit[-1].before["plan"], house.audit[-1].after["plan"]) == ("pro", "free")
    with pytest.raises(Conflict):
        house.do(accounts.set_plan, "acme", "free")


def test_a_repeated_adjustment_is_audited_once(house: House, key: Key) -> None:
    for _ in range(2):
        done = house.do(accounts.adjust_credits, "acme", 50, reason="promo", operation_id="adjust:1")
        assert (done.previous, done.added, done.now) == (200, 50, 250)
    assert house.actions.count("client.credits_adjusted") == 1
    house.do(accounts.set_plan, "acme", "enterprise")
    with pytest.raises(UnlimitedPlan):
        house.do(accounts.adjust_credits, "acme", 50, reason="promo", operation_id="adjust:2")


def test_clients_are_listed_by_plan_with_their_accounts(house: House) -> None:
    for number in range(6):
        house.clock.advance(seconds=1)
        house.create(f"c{number}", f"{number}@acme.example")
    for client_id in ("c1", "c3", "c5"):
        house.do(accounts.set_plan, client_id, "free")
    page = accounts.page_of_clients(house.store.view, Query(limit=2), plan_id="free")
    assert [client.client_id for client, _ in page.rows] == ["c5", "c3"]
    assert (page.total, page.has_more) == (3, True)
    last = page.rows[-1][0]
    query = Query(limit=2, after=(last.created_at, last.client_id))
    page = accounts.page_of_clients(house.store.view, query, plan_id="free")
    assert [(client.client_id, account.plan_id) for client, account in page.rows] == [("c1", "free")]
    assert not page.has_more
    assert accounts.page_of_clients(house.store.view, Query(limit=2)).total == 6


def test_no_stranger_is_let_in(house: House, key: Key) -> None:
    assert house.outcome("0" * 64) is KeyOutcome.UNKNOWN
    assert house.outcome("é") is KeyOutcome.UNKNOWN
    assert house.outcome("") is KeyOutcome.UNKNOWN
    assert house.whose([]) is None


def test_a_revoked_key_is_never_accepted_again(house: House, key: Key) -> None:
    revoked = house.do(accounts.revoke_key, "acme", "k1", reason="leaked")
    assert house.do(accounts.revoke_key, "acme", "k1") == revoked
    assert house.outcome(key.digest) is KeyOutcome.REVOKED
    assert house.actions.count("key.revoked") == 1
    with pytest.raises(Conflict):
        house.do(accounts.rotate_key, "acme", "k1", new_key=house.new_key("k2"))
    with pytest.raises(Conflict):
        house.do(accounts.issue_key, "acme", key)
    assert not house.accepted(key)


def test_a_disabled_key_is_not_accepted(house: House, key: Key) -> None:
    house.store.run(lambda tx: tx.keys.put(replace(key, state=KeyState.DISABLED)), "disable")
    assert house.outcome(key.digest) is KeyOutcome.DISABLED


def test_a_key_ends_when_it_says_and_not_a_moment_sooner(house: House) -> None:
    key = house.new_key("k1", expires_at=START + timedelta(days=1))
    house.create(key=key)
    house.clock.advance(days=1, microseconds=-1)
    assert house.accepted(key)
    house.clock.advance(microseconds=1)
    assert house.outcome(key.digest) is KeyOutcome.EXPIRED


def test_both_keys_work_within_the_grace_and_only_the_new_one_after(house: House, key: Key) -> None:
    new = house.new_key("k2")
    old, _ = house.do(accounts.rotate_key, "acme", "k1", new_key=new, grace=timedelta(hours=1))
    assert (old.rotated_to, old.expires_at) == ("k2", START + timedelta(hours=1))
    assert house.accepted(key)
    assert house.accepted(new)
    house.clock.advance(hours=1)
    assert not house.accepted(key)
    assert house.accepted(new)


def test_a_rotation_without_grace_ends_the_old_key_at_once(house: House, key: Key) -> None:
    house.do(accounts.rotate_key, "acme", "k1", new_key=house.new_key("k2"), grace=timedelta(0))
    assert not house.accepted(key)


def test_a_grace_never_outlives_the_old_keys_own_end(house: House) -> None:
    house.create(key=house.new_key("k1", expires_at=START + timedelta(hours=2)))
    old, _ = house.do(accounts.rotate_key, "acme", "k1", new_key=house.new_key("k2"))
    assert old.expires_at == START + timedelta(hours=2)


@pytest.mark.parametrize("grace", [timedelta(microseconds=-1), timedelta(days=30, microseconds=1)])
def test_a_grace_out_of_range_is_refused(house: House, key: Key, grace: timedelta) -> None:
    with pytest.raises(Unprocessable):
        house.do(accounts.rotate_key, "acme", "k1", new_key=house.new_key("k2"), grace=grace)
    assert house.store.view.keys.get(key.digest) == key


def test_a_key_is_rotated_once(house: House, key: Key) -> None:
    house.do(accounts.rotate_key, "acme", "k1", new_key=house.new_key("k2"))
    with pytest.raises(Conflict):
        house.do(accounts.rotate_key, "acme", "k1", new_key=house.new_key("k3"))
    assert len(house.store.view.keys.by("client", "acme")) == 2


def test_another_clients_key_is_not_found(house: House, key: Key) -> None:
    house.create("other", "other@acme.example")
    with pytest.raises(NotFound):
        house.do(accounts.revoke_key, "other", "k1")
    with pytest.raises(NotFound):
        house.do(accounts.rotate_key, "other", "k1", new_key=house.new_key("k2", "other"))
    assert house.accepted(key)


def test_a_client_has_a_limited_number_of_keys(house: House, key: Key) -> None:
    for number in range(2, 101):
        house.do(accounts.issue_key, "acme", house.new_key(f"k{number}"))
    with pytest.raises(Conflict):
        house.do(accounts.issue_key, "acme", house.new_key("one more"))
    house.do(accounts.revoke_key, "acme", "k50")
    house.do(accounts.issue_key, "acme", house.new_key("one more"))


def test_a_key_moves_to_a_newer_pepper_and_stays_the_same_key(house: House) -> None:
    old_peppers = PEPPERS
    text = new_key_text()
    key = key_of(text, old_peppers, key_id="k1", client_id="acme", now=START)
    house.create(key=key)
    peppers = Peppers([("p1", b"one pepper, long enough to be good"), ("p2", b"two" * 20)])
    assert house.whose(peppers.digests(text)) is not None
    moved = house.do(accounts.rehash_key, "acme", "k1", digest=peppers.digest(text), pepper_id="p2")
    assert (moved.key_id, moved.pepper_id) == ("k1", "p2")
    assert house.whose(Peppers([("p2", b"two" * 20)]).digests(text)) is not None
    assert not house.accepted(key)


def test_the_audit_log_holds_no_digest_and_no_key_text(house: House) -> None:
    texts = [new_key_text() for _ in range(2)]
    first, second = (
        key_of(text, PEPPERS, key_id=f"k{number}", client_id="acme", now=START)
        for number, text in enumerate(texts)
    )
    house.create(key=first)
    house.do(accounts.rotate_key, "acme", "k0", new_key=second)
    house.do(accounts.revoke_key, "acme", "k1")
    written = repr(house.audit)
    for secret in (*texts, first.digest, second.digest):
        assert secret not in written
        assert secret[8:24] not in written


@pytest.fixture
def seed() -> SeedClient:
    return SeedClient(
        client_id="old",
        name="Old Corp",
        email="old@corp.example",
        key_text=new_key_text(),
        plan_id="pro",
        credits_remaining=198,
        spent_usd_micros=5_500_000,
        created_at=START,
        cycle_start=START,
    )


def take_over(house: House, seed: SeedClient) -> None:
    house.do(accounts.import_client, seed, peppers=PEPPERS)


def test_a_client_is_taken_over_with_its_key_and_balance(house: House, seed: SeedClient) -> None:
    house.clock.advance(days=10)
    take_over(house, seed)
    account = house.store.view.accounts.get("old")
    assert (account.available, account.used, account.spent_usd_micros) == (198, 2, 5_500_000)
    assert (account.cycle_start, account.cycle_end) == (START, START + timedelta(days=30))
    assert house.whose(PEPPERS.digests(seed.key_text))[0].created_at == START
    assert seed.key_text not in repr((seed, house.audit))
    house.clock.advance(days=20)
    assert house.do(lambda tx, actor, now: ledger.touch(tx, "old", now)).available == 200


@pytest.mark.parametrize(
    ("plan_id", "credits", "available", "kept"),
    [
        ("pro", 250, 250, "pro"),
        ("gold", 120, 120, "legacy"),
        ("enterprise", 999, 0, "enterprise"),
        ("pro", 0, 0, "pro"),
    ],
)
def test_a_balance_beyond_its_plan_is_kept(
    house: House, seed: SeedClient, plan_id: str, credits: int, available: int, kept: str
) -> None:
    take_over(house, replace(seed, plan_id=plan_id, credits_remaining=credits))
    account = house.store.view.accounts.get("old")
    assert (account.available, account.plan_id) == (available, kept)
    entries = house.store.ledger(HistoryQuery(client_id="old")).entries
    assert sum(entry.available for entry in entries) == available


def test_a_client_of_an_unknown_plan_works_until_its_credits_are_gone(house: House, seed: SeedClient) -> None:
    take_over(house, replace(seed, plan_id="gold", credits_remaining=1))
    house.do(lambda tx, actor, now: ledger.charge(tx, "old", job_id="1", now=now))
    house.clock.advance(days=60)
    with pytest.raises(QuotaExceeded):
        house.do(lambda tx, actor, now: ledger.charge(tx, "old", job_id="2", now=now))
    house.do(accounts.set_plan, "old", "free")
    house.do(lambda tx, actor, now: ledger.charge(tx, "old", job_id="2", now=now))


def test_a_client_is_taken_over_once(house: House, seed: SeedClient) -> None:
    take_over(house, seed)
    with pytest.raises(Conflict):
        take_over(house, seed)
    with pytest.raises(DuplicateEmail):
        take_over(house, replace(seed, client_id="twin", key_text=None))
    with pytest.raises(Conflict):
        take_over(house, replace(seed, client_id="twin", email="twin@corp.example"))
    assert house.store.view.clients.get("twin") is None


@pytest.mark.parametrize("wrong", [{"credits_remaining": -1}, {"spent_usd_micros": -1}])
def test_a_balance_that_cannot_be_is_not_taken_over(
    house: House, seed: SeedClient, wrong: dict[str, int]
) -> None:
    with pytest.raises(Unprocessable):
        take_over(house, replace(seed, **wrong))
    assert house.store.view.clients.get("old") is None
