"""Disputes and refunds: whose credits they take, what they hold up, and who is told."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stripe.house import Buyer, House

pytestmark = pytest.mark.anyio


def payment_of(house: House, session_id: str) -> str:
    payment: str = house.fake.get(session_id)["payment_intent"]
    return payment


@pytest.mark.parametrize("won", [True, False])
async def test_a_dispute_of_a_plans_payment_holds_up_purchases_and_moves_no_credits(
    house: House, acme: Buyer, won: bool
) -> None:
    await acme.subscribe("starter")
    dispute = house.fake.dispute(house.fake.all("payment_intent")[-1]["id"])
    await house.deliver(twice=True)
    assert (await acme.usage())["dispute_hold"] is True
    refused = await acme.post("checkout", kind="topup", pack="100")
    assert (refused.status_code, refused.json()["code"]) == (409, "dispute_open")
    assert await acme.credits() == ("starter", 50, 50)
    house.fake.close_dispute(dispute["id"], won=won)
    await house.deliver(order="reversed")
    assert (await acme.usage())["dispute_hold"] is False
    assert await acme.credits() == ("starter", 50, 50)
    assert (await acme.post("checkout", kind="topup", pack="100")).status_code == 200


async def test_a_dispute_holds_what_is_left_of_its_own_pack_only(house: House, acme: Buyer) -> None:
    first = await acme.buy_pack()
    await house.deliver()
    house.fake.advance(minutes=1)
    second = await acme.buy_pack()
    await house.deliver()
    await acme.submit(5 + 70)
    house.fake.dispute(payment_of(house, first))
    await house.deliver()
    assert (await acme.usage())["credits"]["purchased"] == 100, "thirty of the first pack were left"
    dispute = house.fake.dispute(payment_of(house, second))
    await house.deliver()
    assert (await acme.usage())["credits"]["purchased"] == 0
    house.fake.close_dispute(dispute["id"], won=True)
    await house.deliver()
    assert (await acme.usage())["credits"] == {"allowance": 0, "promo": 0, "purchased": 100, "owed": 0}
    assert acme.balance_is_the_ledgers_sum()


async def test_a_pack_that_is_spent_leaves_a_dispute_nothing_to_hold(house: House, acme: Buyer) -> None:
    first = await acme.buy_pack()
    await house.deliver()
    await acme.submit(5 + 100)
    house.fake.advance(minutes=1)
    await acme.buy_pack()
    await house.deliver()
    dispute = house.fake.dispute(payment_of(house, first))
    await house.deliver()
    assert (await acme.usage())["credits"]["purchased"] == 100
    house.fake.close_dispute(dispute["id"], won=False)
    await house.deliver()
    assert (await acme.usage())["credits"] == {"allowance": 0, "promo": 0, "purchased": 0, "owed": 0}
    assert acme.balance_is_the_ledgers_sum()


@pytest.mark.parametrize("what", ["pack", "plan"])
async def test_a_dispute_that_was_decided_unheard_is_found_by_a_sweep_however_late(
    house: House, acme: Buyer, what: str
) -> None:
    sub = await acme.subscribe("starter")
    session = await acme.buy_pack()
    await house.deliver()
    plan_payment = house.fake.all("payment_intent")[0]["id"]
    dispute = house.fake.dispute(payment_of(house, session) if what == "pack" else plan_payment)
    await house.deliver()
    assert (await acme.usage())["dispute_hold"] is True
    house.fake.close_dispute(dispute["id"], won=True)
    never_told(house)
    house.fake.advance(days=31)
    house.fake.renew(sub)
    await house.deliver()
    assert (await house.worker.reconciler.sweep(dry_run=True)).healed == 1
    assert (await acme.usage())["dispute_hold"] is True
    assert (await house.worker.reconciler.sweep()).healed == 1
    assert (await acme.usage())["dispute_hold"] is False
    assert (await acme.usage())["credits"]["purchased"] == 100
    assert (await house.worker.reconciler.sweep()).healed == 0


async def test_a_dispute_that_was_opened_unheard_is_found_by_a_sweep(house: House, acme: Buyer) -> None:
    await acme.subscribe("starter")
    house.fake.dispute(house.fake.all("payment_intent")[0]["id"])
    never_told(house)
    assert (await house.worker.reconciler.sweep()).healed == 1
    assert (await acme.usage())["dispute_hold"] is True


async def test_a_strangers_dispute_is_none_of_ours(house: House, acme: Buyer, api: Any) -> None:
    customer = api.v1.customers.create({"email": "x@example.com"}, {"idempotency_key": "x"}).id
    price = next(each["id"] for each in house.fake.all("price") if each["lookup_key"] == "pro_monthly_usd")
    api.v1.subscriptions.create({"customer": customer, "items": [{"price": price}]}, {"idempotency_key": "y"})
    house.fake.dispute(house.fake.all("payment_intent")[0]["id"])
    never_told(house)
    found = await house.worker.reconciler.sweep()
    assert (found.checked, found.healed, found.orphans) == (1, 0, 1)


def never_told(house: House) -> None:
    """Stripe's events so far are lost."""
    for event in house.fake.due():
        house.fake.taken(event["id"])
