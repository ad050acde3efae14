"""Clients of the seed's own file: what they had, they have."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from openclaw_billing import accounts, ledger
from openclaw_billing.accounts import SeedClient
from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.errors import (
    ClientInactive,
    Conflict,
    DuplicateEmail,
    QuotaExceeded,
    Unprocessable,
)
from openclaw_billing.keys import new_key_text
from tests.money.house import PEPPERS, START, House


@pytest.fixture
def house() -> House:
    return House()


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


def test_a_client_taken_over_inactive_takes_no_credit(house: House, seed: SeedClient) -> None:
    take_over(house, replace(seed, active=False))
    with pytest.raises(ClientInactive):
        house.do(lambda tx, actor, now: ledger.charge(tx, "old", job_id="j", now=now))
    house.do(accounts.reactivate, "old")
    house.do(lambda tx, actor, now: ledger.charge(tx, "old", job_id="j", now=now))


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
