"""Checkouts that overlap, are cut short, or were never ours: one open page, and what is paid is had."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from openclaw_billing.stripe_records import CallKind
from tests.stripe.house import ADMIN, BACK, Buyer, House

pytestmark = pytest.mark.anyio

STARTER: dict[str, Any] = {"plan_id": "starter"}


def sessions(house: House) -> Counter[str]:
    """How many sessions of each status there are at Stripe."""
    return Counter(each["status"] for each in house.fake.all("checkout.session"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (STARTER, {"plan_id": "pro"}),
        (STARTER, {**STARTER, "promotion": True}),
        (STARTER, {**STARTER, "success_url": f"{BACK}/other"}),
        ({"kind": "topup", "pack": "100"}, {"kind": "topup", "pack": "100", "quantity": 2}),
    ],
)
async def test_of_two_checkouts_at_once_the_last_begun_is_open_and_the_other_says_so(
    house: House, acme: Buyer, one: dict[str, Any], other: dict[str, Any]
) -> None:
    answers = await asyncio.gather(acme.post("checkout", **one), acme.post("checkout", **other))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    (refused,) = [answer.json() for answer in answers if answer.status_code == 409]
    assert refused["code"] == "change_in_progress"
    assert sessions(house)["open"] == 1
    again = await acme.post("checkout", **one)
    assert again.status_code == 200
    assert house.fake.get(again.json()["session_id"])["status"] == "open"
    assert sessions(house)["open"] == 1


async def test_many_checkouts_at_once_leave_one_page_open(house: House, acme: Buyer) -> None:
    wishes = [
        {"plan_id": plan, "interval": each} for plan in ("starter", "pro") for each in ("monthly", "yearly")
    ]
    answers = await asyncio.gather(*(acme.post("checkout", **wish) for wish in wishes * 3))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert sessions(house)["open"] <= 1
    assert (await acme.post("checkout", **wishes[0])).status_code == 200
    assert sessions(house)["open"] == 1


async def test_a_session_whose_reply_was_lost_is_closed_for_another_one(house: House, acme: Buyer) -> None:
    house.fake.inject("reply_lost", times=None, method="POST", path="/v1/checkout/sessions")
    assert (await acme.post("checkout", **STARTER)).status_code == 503
    house.fake.clear_faults()
    lost = house.fake.all("checkout.session")[0]["id"]
    other = await acme.post("checkout", plan_id="pro")
    assert other.status_code == 200
    assert house.fake.get(lost)["status"] == "expired"
    back = (await acme.post("checkout", **STARTER)).json()
    assert (back["session_id"] != lost, sessions(house)["open"]) == (True, 1)


async def test_a_session_that_stripe_forgot_holds_up_no_other(house: House, acme: Buyer) -> None:
    first = (await acme.post("checkout", **STARTER)).json()["session_id"]
    del house.fake._world.objects[first]
    for _ in range(2):
        assert (await acme.post("checkout", plan_id="pro")).status_code == 200
    assert sessions(house) == {"open": 1}


async def test_what_was_paid_on_the_other_page_counts_before_a_new_one_opens(
    house: House, acme: Buyer
) -> None:
    first = (await acme.post("checkout", **STARTER)).json()["session_id"]
    house.fake.complete_checkout(first)
    late = await acme.post("checkout", plan_id="pro")
    assert (late.status_code, late.json()["code"]) == (409, "use_change_plan")
    assert await acme.credits() == ("starter", 50, 50)


async def test_a_plan_and_a_pack_may_be_paid_side_by_side(house: House, acme: Buyer) -> None:
    plan, pack = await asyncio.gather(
        acme.post("checkout", **STARTER), acme.post("checkout", kind="topup", pack="100")
    )
    assert (plan.status_code, pack.status_code, sessions(house)["open"]) == (200, 200, 2)


async def test_a_client_that_is_switched_off_has_no_page_to_pay_on(house: House, acme: Buyer) -> None:
    for body in (STARTER, {"kind": "topup", "pack": "100"}):
        await acme.post("checkout", **body)
    await house.http.delete(f"/api/admin/clients/{acme.client_id}", headers=ADMIN)
    await house.worker.drain()
    assert sessions(house) == {"expired": 2}
    assert all(call.done for call in house.runtime.view.stripe_calls)


async def test_a_client_that_is_switched_off_in_the_middle_of_a_checkout_gets_no_page(
    house: House, acme: Buyer
) -> None:
    house.fake.inject("drip", path="/v1/prices", seconds=0.0005)
    asked = len(house.fake.requests)
    checkout = asyncio.create_task(acme.post("checkout", **STARTER))
    while len(house.fake.requests) == asked:
        await asyncio.sleep(0.001)
    await house.http.delete(f"/api/admin/clients/{acme.client_id}", headers=ADMIN)
    assert (await checkout).status_code == 401
    assert sessions(house) == {}


async def test_a_page_whose_reply_was_lost_is_closed_when_its_client_is_switched_off(
    house: House, acme: Buyer
) -> None:
    house.fake.inject("reply_lost", times=None, method="POST", path="/v1/checkout/sessions")
    await acme.post("checkout", **STARTER)
    house.fake.clear_faults()
    await house.http.delete(f"/api/admin/clients/{acme.client_id}", headers=ADMIN)
    await house.worker.drain()
    assert sessions(house) == {"expired": 1}


async def test_a_page_that_never_was_is_waited_for_as_long_as_it_could_live(
    house: House, acme: Buyer
) -> None:
    house.fake.inject("reset", method="POST", path="/v1/checkout/sessions")
    assert (await acme.post("checkout", **STARTER)).status_code == 503
    await house.http.delete(f"/api/admin/clients/{acme.client_id}", headers=ADMIN)
    await house.worker.drain()
    (call,) = house.runtime.view.stripe_calls
    assert (call.kind, call.done) == (CallKind.CLOSE, False)
    for _ in range(6):
        house.fake.advance(minutes=15)
        await house.worker.drain()
    assert [each.done for each in house.runtime.view.stripe_calls] == [True]


async def test_a_plan_that_is_paid_while_its_client_is_switched_off_ends_at_once(
    house: House, acme: Buyer, caplog: pytest.LogCaptureFixture
) -> None:
    session = await acme.check_out("starter")
    await house.http.delete(f"/api/admin/clients/{acme.client_id}", headers=ADMIN)
    await house.deliver()
    sub = house.fake.get(session)["subscription"]
    assert house.fake.get(sub)["status"] == "canceled"
    assert [acme.client_id in each.getMessage() for each in caplog.records if each.levelname == "ERROR"] == [
        True
    ]
    (request,) = [each for each in house.fake.requests if each.method == "DELETE"]
    assert request.params == {"prorate": "true", "invoice_now": "true"}


async def test_a_client_whose_customer_was_deleted_buys_again_at_once(
    house: House, acme: Buyer, api: Any
) -> None:
    for count in range(1, 4):
        sub = await acme.subscribe("starter")
        assert len(house.fake.all("customer")) == count
        api.v1.customers.delete(house.fake.get(sub)["customer"], options={"idempotency_key": f"d{count}"})
        await house.deliver()
        assert await acme.credits() == ("free", 5, 5)


async def test_a_customer_whose_reply_was_lost_is_found_under_the_address_it_was_made_with(
    house: House, acme: Buyer
) -> None:
    house.fake.inject("reply_lost", times=None, method="POST", path="/v1/customers")
    assert (await acme.post("checkout", **STARTER)).status_code == 503
    house.fake.clear_faults()
    path = f"/api/admin/clients/{acme.client_id}"
    await house.http.patch(path, headers=ADMIN, json={"email": "new@example.com", "name": "New"})
    assert (await acme.post("checkout", **STARTER)).status_code == 200
    assert [each["email"] for each in house.fake.all("customer")] == ["acme@example.com"]


async def test_a_pack_that_a_known_customer_bought_elsewhere_is_had(
    house: House, acme: Buyer, api: Any
) -> None:
    sub = await acme.subscribe("starter")
    session = buy_at_stripe(house, api, house.fake.get(sub)["customer"], quantity=2)
    await house.deliver(twice=True)
    assert (await acme.usage())["credits"]["purchased"] == 200
    house.fake.refund(house.fake.get(session)["payment_intent"])
    await house.deliver()
    assert (await acme.usage())["credits"]["purchased"] == 0


async def test_a_pack_that_a_stranger_bought_is_had_by_the_client_an_admin_names(
    house: House, acme: Buyer, api: Any
) -> None:
    customer = api.v1.customers.create({"email": "x@example.com"}, {"idempotency_key": "x"}).id
    session = buy_at_stripe(house, api, customer)
    await house.deliver()
    for _ in range(5):
        house.fake.advance(minutes=2)
        await house.worker.drain()
    orphans = await house.inbox("orphan")
    (paid,) = [each for each in orphans if each["object_id"] == session]
    path = f"/api/admin/stripe/events/{paid['event_id']}/attach"
    await house.http.post(path, headers=ADMIN, json={"client_id": acme.client_id})
    await house.worker.drain()
    assert (await acme.usage())["credits"]["purchased"] == 100


async def test_what_is_no_pack_of_ours_brings_no_credits(house: House, acme: Buyer, api: Any) -> None:
    sub = await acme.subscribe("starter")
    shirt = house.fake.add_price(1_500, lookup_key="a_shirt")
    buy_at_stripe(house, api, house.fake.get(sub)["customer"], price=shirt)
    await house.deliver()
    assert await acme.credits() == ("starter", 50, 50)
    assert list(house.runtime.view.purchases) == []


def buy_at_stripe(house: House, api: Any, customer: str, *, price: str = "", quantity: int = 1) -> str:
    """A paid session that no checkout of ours opened; its id."""
    pack = next(each["id"] for each in house.fake.all("price") if each["lookup_key"] == "topup_100_usd")
    body = {
        "mode": "payment",
        "customer": customer,
        "line_items": [{"price": price or pack, "quantity": quantity}],
        "success_url": BACK,
    }
    session_id: str = api.v1.checkout.sessions.create(body, {"idempotency_key": "elsewhere"}).id
    house.fake.complete_checkout(session_id)
    return session_id
