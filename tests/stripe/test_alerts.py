"""Alerts: what an operator must know is one line when it comes about, and no line while nothing changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.stripe.house import Buyer, House

pytestmark = pytest.mark.anyio

Told = Callable[..., list[str]]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    """The lines of a level since it was last asked."""

    def lines(level: int = logging.ERROR) -> list[str]:
        found = [each.getMessage() for each in caplog.records if each.levelno == level]
        caplog.clear()
        return found

    return lines


async def everything_again(house: House) -> None:
    """Every event delivered once more, and all compared with Stripe."""
    for event in house.fake.events:
        await house.post({**event, "id": f"{event['id']}again"})
    await house.worker.drain()
    await house.worker.reconciler.sweep()
    await house.worker.drain()


async def test_a_price_of_nobodys_is_told_when_it_comes_and_when_it_comes_again(
    house: House, acme: Buyer, api: Any, told: Told
) -> None:
    sub = await acme.subscribe("starter")
    item = house.fake.get(sub)["items"]["data"][0]
    alien = house.fake.add_price(777, interval="month")
    for round_ in range(2):
        for price in (alien, item["price"]["id"]):
            body = {"items": [{"id": item["id"], "price": price}], "proration_behavior": "none"}
            api.v1.subscriptions.update(sub, body, {"idempotency_key": f"{round_}{price}"})
            await house.deliver()
            await everything_again(house)
            assert (await acme.usage())["needs_review"] is (price == alien)
            lines = told()
            assert len(lines) == (1 if price == alien else 0), lines
            assert all(alien in line and acme.client_id in line for line in lines)
    assert await acme.credits() == ("starter", 50, 50)


async def test_payments_paused_in_a_new_way_leave_everything_and_are_told(
    house: House, acme: Buyer, told: Told
) -> None:
    sub = await acme.subscribe("starter")
    paused = {"behavior": "brand_new", "resumes_at": None}
    house.fake._world.objects[sub]["pause_collection"] = paused
    for _ in range(2):
        await house.worker.reconciler.sweep()
    house.fake._world.objects[sub]["pause_collection"] = None
    stands = await acme.usage()
    assert (stands["billing_state"], stands["needs_review"]) == ("active", True)
    assert await acme.credits() == ("starter", 50, 50)
    assert len(told()) == 1


@pytest.mark.parametrize("status", ["warning_needs_response", "needs_response"])
@pytest.mark.parametrize("what", ["pack", "plan"])
async def test_a_dispute_and_an_inquiry_are_told_once(
    house: House, acme: Buyer, told: Told, status: str, what: str
) -> None:
    await (acme.buy_pack() if what == "pack" else acme.check_out("starter"))
    await house.deliver()
    payment = house.fake.all("payment_intent")[0]["id"]
    dispute = house.fake.dispute(payment, status=status)
    await house.deliver(twice=True)
    await everything_again(house)
    (line,) = told()
    assert payment in line
    assert dispute["id"] in line
    assert (await acme.usage())["dispute_hold"] is (status == "needs_response")


async def test_a_refund_of_a_plans_payment_is_a_notice_once_for_each_sum(
    house: House, acme: Buyer, told: Told
) -> None:
    await acme.subscribe("starter")
    payment = house.fake.all("payment_intent")[0]["id"]
    for amount in (1_000, 500):
        told(logging.WARNING)
        house.fake.refund(payment, amount)
        await house.deliver(twice=True)
        await everything_again(house)
        assert [payment in line for line in told(logging.WARNING)] == [True]
    assert await acme.credits() == ("starter", 50, 50)


async def test_a_second_subscription_is_told_with_what_becomes_of_both(
    house: House, acme: Buyer, api: Any, told: Told
) -> None:
    first = await acme.subscribe("starter")
    customer = house.fake.get(first)["customer"]
    price = next(each["id"] for each in house.fake.all("price") if each["lookup_key"] == "pro_monthly_usd")
    house.fake.advance(minutes=5)
    body = {"customer": customer, "items": [{"price": price}]}
    second = api.v1.subscriptions.create(body, {"idempotency_key": "second"}).id
    await house.deliver(order="reversed")
    await house.deliver()
    await everything_again(house)
    (line,) = told()
    assert f"{second} is kept and {first} is ended" in line


async def test_a_subscription_of_nobodys_is_told_by_the_sweep_that_finds_it(
    house: House, acme: Buyer, api: Any, told: Told
) -> None:
    customer = api.v1.customers.create({"email": "x@example.com"}, {"idempotency_key": "x"}).id
    prices = [
        next(each["id"] for each in house.fake.all("price") if each["lookup_key"] == "pro_monthly_usd"),
        house.fake.add_price(777, interval="month"),
    ]
    ours, other = [
        api.v1.subscriptions.create(
            {"customer": customer, "items": [{"price": price}]}, {"idempotency_key": price}
        ).id
        for price in prices
    ]
    assert (await house.worker.reconciler.sweep(dry_run=True)).orphans == 2
    assert told() == []
    for _ in range(2):
        assert (await house.worker.reconciler.sweep()).orphans == 2
    lines = told()
    assert [ours in line for line in lines] == [True], f"{other} sells nothing of ours"


async def test_silence_is_told_once_and_once_more_after_a_word(house: House, acme: Buyer, told: Told) -> None:
    await house.worker.reconciler.poll()
    sub = await acme.subscribe("starter")
    for _ in range(2):
        told(logging.WARNING)
        house.fake.advance(days=2)
        await house.worker.reconciler.poll()
        assert told(logging.WARNING) == []
        house.fake.advance(days=2)
        for _ in range(2):
            await house.worker.reconciler.poll()
        assert [line.startswith("No Stripe event has come") for line in told(logging.WARNING)] == [True]
        house.fake.emit("customer.subscription.updated", house.fake.get(sub))
        await house.deliver()


async def test_where_nobody_subscribed_silence_is_as_it_should_be(
    house: House, acme: Buyer, told: Told
) -> None:
    await acme.buy_pack()
    await house.deliver()
    house.fake.advance(days=10)
    await house.worker.reconciler.poll()
    assert told(logging.WARNING) == []


async def test_a_notice_is_told_once_however_often_applying_it_was_tried(
    house: House, acme: Buyer, told: Told
) -> None:
    sub = await acme.subscribe("starter")
    house.fake.decline_card(house.fake.get(sub)["customer"])
    house.fake.advance(days=29)
    house.fake.renew(sub, paid=False)
    house.fake.inject("error", times=3, method="GET", path="/v1/subscriptions/*", kept=False)
    told(logging.WARNING)
    await house.deliver()
    for _ in range(3):
        house.fake.advance(minutes=5)
        await house.worker.drain()
    lines = [line for line in told(logging.WARNING) if "invoice.payment_failed" in line]
    assert len(lines) == 1
