"""Changes of a plan: lost replies, old prices, previews that come true, subscriptions that Stripe forgot."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from openclaw_billing.testing import FakeStripe
from tests.stripe.house import ADMIN, Buyer, House, house_of

pytestmark = pytest.mark.anyio


def schedules(house: House) -> list[str]:
    return [each["status"] for each in house.fake.all("subscription_schedule")]


def updates(house: House) -> int:
    """How many invoices were made for changes."""
    return sum(each["billing_reason"] == "subscription_update" for each in house.fake.all("invoice"))


@pytest.mark.parametrize("path", ["/v1/subscription_schedules", "/v1/subscription_schedules/*"])
async def test_a_downgrade_whose_reply_was_lost_comes_about_when_it_is_asked_for_again(
    house: House, acme: Buyer, path: str
) -> None:
    sub = await acme.subscribe("pro")
    house.fake.inject("reply_lost", times=None, method="POST", path=path)
    assert (await acme.post("plan", plan_id="starter")).status_code == 503
    house.fake.clear_faults()
    for _ in range(2):
        again = (await acme.post("plan", plan_id="starter")).json()
        assert (again["effective"], again["pending_plan"]) == ("period_end", "starter")
    assert (await acme.usage())["pending_plan"] == "starter"
    assert schedules(house) == ["active"]
    house.fake.advance(days=29)
    house.fake.renew(sub)
    await house.deliver()
    assert await acme.credits() == ("starter", 50, 50)
    assert house.fake.all("invoice")[-1]["amount_paid"] == 4_900


async def test_a_downgrade_that_somebody_undid_at_stripe_is_made_anew(
    house: House, acme: Buyer, api: Any
) -> None:
    await acme.subscribe("pro")
    house.fake.inject("reply_lost", times=None, method="POST", path="/v1/subscription_schedules")
    await acme.post("plan", plan_id="starter")
    house.fake.clear_faults()
    (made,) = house.fake.all("subscription_schedule")
    api.v1.subscription_schedules.release(made["id"], options={"idempotency_key": "by hand"})
    again = await acme.post("plan", plan_id="starter")
    assert again.json()["effective"] == "period_end"
    assert (await acme.usage())["pending_plan"] == "starter"
    assert schedules(house) == ["released", "active"]


async def test_another_downgrade_takes_the_place_of_the_first(house: House, acme: Buyer) -> None:
    await acme.subscribe("pro", interval="yearly")
    for interval in ("yearly", "monthly"):
        assert (await acme.post("plan", plan_id="starter", interval=interval)).status_code == 200
    (planned,) = house.fake.all("subscription_schedule")
    assert len(planned["phases"]) == 2
    wanted = planned["phases"][1]["items"][0]["price"]
    assert house.fake.get(wanted)["lookup_key"] == "starter_monthly_usd"


async def test_an_upgrade_whose_reply_was_lost_is_answered_as_done_and_paid_once(
    house: House, acme: Buyer
) -> None:
    await acme.subscribe("starter")
    house.fake.inject("reply_lost", times=None, method="POST", path="/v1/subscriptions/*")
    assert (await acme.post("plan", plan_id="pro")).status_code == 503
    house.fake.clear_faults()
    again = await acme.post("plan", plan_id="pro")
    assert (again.status_code, again.json()["effective"]) == (200, "now")
    assert (await acme.credits())[0] == "pro"
    assert (await acme.post("plan", plan_id="pro")).json()["code"] == "already_on_plan"
    assert updates(house) == 1


async def test_an_upgrade_that_waited_for_money_and_lapsed_unseen_is_asked_for_anew(
    house: House, acme: Buyer
) -> None:
    sub = await acme.subscribe("starter")
    customer = house.fake.get(sub)["customer"]
    house.fake.decline_card(customer)
    house.fake.inject("reply_lost", times=None, method="POST", path="/v1/subscriptions/*")
    assert (await acme.post("plan", plan_id="pro")).status_code == 503
    house.fake.clear_faults()
    house.fake.advance(hours=23, minutes=30)
    house.fake.accept_card(customer)
    assert (await acme.post("plan", plan_id="pro")).json()["effective"] == "now"
    assert (await acme.credits())[0] == "pro"


async def test_a_resumption_whose_reply_was_lost_is_answered_as_done(house: House, acme: Buyer) -> None:
    await acme.subscribe("starter")
    await acme.post("cancel")
    house.fake.inject("reply_lost", times=None, method="POST", path="/v1/subscriptions/*")
    assert (await acme.post("resume")).status_code == 503
    house.fake.clear_faults()
    assert (await acme.usage())["billing_state"] == "ending", "what is known is not told yet"
    again = await acme.post("resume")
    assert (again.status_code, again.json()["ends_at"]) == (200, None)
    assert (await acme.usage())["billing_state"] == "active"
    assert (await acme.post("resume")).json()["code"] == "nothing_to_resume"


async def test_a_refusal_is_told_after_what_is_true_was_applied(house: House, acme: Buyer, api: Any) -> None:
    sub = await acme.subscribe("starter")
    await acme.post("cancel")
    api.v1.subscriptions.update(sub, {"cancel_at_period_end": False}, {"idempotency_key": "by hand"})
    assert (await acme.usage())["billing_state"] == "ending"
    assert (await acme.post("resume")).json()["code"] == "nothing_to_resume"
    assert (await acme.usage())["billing_state"] == "active"


@pytest.mark.parametrize(
    ("path", "body"),
    [("plan", {"plan_id": "pro"}), ("plan", {"plan_id": "free"}), ("cancel", {}), ("resume", {})],
)
async def test_what_has_ended_at_stripe_unheard_has_ended_here_when_it_is_to_be_changed(
    house: House, acme: Buyer, path: str, body: dict[str, Any]
) -> None:
    house.fake.cancel_now(await acme.subscribe("starter"))
    answer = await acme.post(path, **body)
    assert (answer.status_code, answer.json()["code"]) == (409, "no_subscription")
    assert (await acme.credits())[0] == "free"
    assert (await acme.post("checkout", plan_id="starter")).status_code == 200


async def test_who_subscribed_at_an_older_price_keeps_it(house: House, acme: Buyer, api: Any) -> None:
    sub = await acme.subscribe("pro")
    old = house.fake.get(sub)["items"]["data"][0]["price"]["id"]
    dearer = {
        "currency": "usd",
        "unit_amount": 29_900,
        "recurring": {"interval": "month"},
        "product": house.fake.get(old)["product"],
        "lookup_key": "pro_monthly_usd",
        "transfer_lookup_key": True,
    }
    api.v1.prices.create(dearer, {"idempotency_key": "dearer"})
    api.v1.prices.update(old, {"active": False, "metadata": {"plan": "pro"}}, {"idempotency_key": "off"})
    for _ in range(2):
        assert (await acme.post("plan", plan_id="pro")).json()["code"] == "already_on_plan"
        assert (await acme.post("plan", plan_id="pro", preview=True)).json()["code"] == "already_on_plan"
        assert (await acme.post("plan", plan_id="starter")).json()["effective"] == "period_end"
        assert (await acme.post("plan", plan_id="pro", preview=True)).json()["amount_due"] == 0
        assert (await acme.post("plan", plan_id="pro")).json()["effective"] == "now"
    house.fake.advance(days=29)
    renewed = house.fake.renew(sub)
    assert renewed is not None
    assert (renewed["amount_paid"], updates(house)) == (19_900, 0)


@pytest.mark.parametrize(
    ("at_first", "wanted", "days"),
    [
        (("starter", "monthly"), ("pro", "monthly"), 14),
        (("starter", "yearly"), ("pro", "yearly"), 45),
        (("starter", "monthly"), ("starter", "yearly"), 15),
        (("starter", "monthly"), ("pro", "yearly"), 1),
    ],
)
async def test_a_preview_says_what_the_change_brings(
    house: House, acme: Buyer, at_first: tuple[str, str], wanted: tuple[str, str], days: int
) -> None:
    await acme.subscribe(at_first[0], interval=at_first[1])
    await acme.submit(10)
    house.fake.advance(days=days)
    before = await acme.usage()
    preview = (await acme.post("plan", plan_id=wanted[0], interval=wanted[1], preview=True)).json()
    assert await acme.usage() == before
    assert (await acme.post("plan", plan_id=wanted[0], interval=wanted[1])).json()["effective"] == "now"
    after = await acme.usage()
    assert after["credits_remaining"] == preview["credits_after"]
    paid = next(
        each for each in house.fake.all("invoice")[::-1] if each["billing_reason"] == "subscription_update"
    )
    assert paid["amount_paid"] == preview["amount_due"]
    await house.deliver()
    assert await acme.usage() == after


async def test_an_upgrade_in_a_trial_brings_all_of_the_plan(
    fake: FakeStripe, catalogue: None, tmp_path: Path
) -> None:
    async with house_of(fake, tmp_path / "data", trial_days=14) as house:
        acme = await house.create()
        sub = await acme.subscribe("starter")
        await acme.submit(3)
        preview = (await acme.post("plan", plan_id="pro", preview=True)).json()
        assert (preview["amount_due"], preview["credits_after"]) == (0, 197)
        await acme.post("plan", plan_id="pro")
        assert await acme.credits() == ("pro", 197, 200)
        await house.deliver()
        assert await acme.credits() == ("pro", 197, 200)
        fake.advance(days=14)
        fake.renew(sub)
        await house.deliver()
        assert await acme.credits() == ("pro", 200, 200)


async def test_a_subscription_that_stripe_forgot_is_for_an_admin_to_look_at(
    house: House, acme: Buyer, caplog: pytest.LogCaptureFixture
) -> None:
    sub = await acme.subscribe("starter")
    del house.fake._world.objects[sub]
    for path, body in (
        ("plan", {"plan_id": "pro"}),
        ("plan", {"plan_id": "pro", "preview": True}),
        ("plan", {"plan_id": "free", "preview": True}),
        ("cancel", {}),
        ("resume", {}),
    ):
        answer = await acme.post(path, **body)
        assert (answer.status_code, answer.json()["code"]) == (409, "subscription_unknown")
    ended = await house.http.delete(f"/api/admin/clients/{acme.client_id}/subscription", headers=ADMIN)
    assert (ended.status_code, ended.json()["code"]) == (409, "subscription_unknown")
    stands = await acme.usage()
    assert (stands["needs_review"], stands["plan"]) == (True, "starter")
    told = [each for each in caplog.records if each.levelno == logging.ERROR and sub in each.getMessage()]
    assert len(told) == 1


async def test_an_end_that_stripe_need_not_be_told_is_for_an_admin_to_look_at(
    house: House, acme: Buyer
) -> None:
    sub = await acme.subscribe("starter")
    del house.fake._world.objects[sub]
    await house.http.delete(f"/api/admin/clients/{acme.client_id}", headers=ADMIN)
    await house.worker.drain()
    known = house.runtime.view.subscriptions.get(acme.client_id)
    assert known is not None
    assert sub in known.needs_review
    assert [call.done for call in house.runtime.view.stripe_calls] == [True]
