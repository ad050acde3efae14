from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from openclaw_billing import accounts, adoption, ledger
from openclaw_billing.accounts import KeyOutcome
from openclaw_billing.contracts import Query
from openclaw_billing.errors import (
    Conflict,
    DuplicateEmail,
    NotFound,
    UnknownPlan,
    UnlimitedPlan,
    Unprocessable,
)
from openclaw_billing.keys import Peppers, key_of, new_key_text
from openclaw_billing.records import Key, KeyState
from tests.money.house import PEPPERS, START, House


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


def test_an_update_that_makes_no_difference_changes_nothing(house: House, key: Key) -> None:
    before = house.store.view.clients.get("acme")
    house.clock.advance(days=1)
    assert house.do(accounts.update_client, "acme") == before
    assert house.do(accounts.update_client, "acme", name="Acme", metadata={}, rate_limit="plan") == before
    assert house.store.view.clients.get("acme") == before
    assert house.actions == ["client.created", "key.issued"]


def test_of_an_edited_clients_file_only_what_was_edited_is_adopted(house: House, key: Key) -> None:
    """It is as old as its snapshot: what stands beside the edit is nobody's wish."""
    house.do(lambda tx, actor, now: ledger.charge(tx, "acme", job_id="since", now=now))
    data = json.dumps({"acme": {"name": "Acme & Sons", "credits_remaining": 200, "plan": "free"}}).encode()
    adopted = house.do(
        lambda tx, actor, now: adoption.adopt(tx, data=data, differing={"acme": ["name"]}, now=now)
    )
    assert (adopted.done, adopted.left) == (["acme: name adopted"], [])
    account = house.store.view.accounts.get("acme")
    assert (account.available, account.plan_id) == (199, "pro")
    assert house.store.view.clients.get("acme").name == "Acme & Sons"
