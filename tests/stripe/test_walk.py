"""A client's life with Stripe, from the first checkout to the last invoice, through HTTP and the worker."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stripe.house import ADMIN, Buyer, House

pytestmark = pytest.mark.anyio


async def test_a_client_pays_renews_fails_recovers_and_ends(house: House, acme: Buyer) -> None:
    fake = house.fake
    assert await acme.submit(3) == [200, 200, 200]
    sub = await acme.subscribe("starter")
    assert await acme.credits() == ("starter", 50, 50)
    assert (await acme.usage())["billing_state"] == "active"
    await acme.submit(10)
    assert await acme.credits() == ("starter", 40, 50)

    fake.advance(days=28)
    fake.renew(sub)
    await house.deliver()
    assert await acme.credits() == ("starter", 50, 50)

    customer = fake.get(sub)["customer"]
    fake.decline_card(customer)
    fake.advance(days=31)
    fake.renew(sub, paid=False)
    await house.deliver()
    late = await acme.usage()
    assert (late["billing_state"], late["credits_remaining"]) == ("past_due", 50)
    assert late["grace_until"] is not None
    await acme.submit(5)

    fake.advance(days=8)
    fallen = await acme.usage()
    assert (fallen["billing_state"], fallen["credits_remaining"], fallen["plan"]) == ("limited", 5, "starter")
    assert await acme.submit(6) == [200] * 5 + [403]

    fake.accept_card(customer)
    fake.pay_invoice(fake.all("invoice")[-1]["id"])
    await house.deliver()
    assert await acme.credits() == ("starter", 50, 50)
    assert (await acme.usage())["billing_state"] == "active"

    answer = await acme.post("cancel", feedback="unused")
    assert answer.json()["status"] == "ending"
    assert (await acme.usage())["billing_state"] == "ending"
    fake.advance(days=31)
    await house.deliver()
    assert await acme.credits() == ("free", 5, 5)
    ended = await acme.usage()
    assert (ended["billing_state"], ended["ends_at"], ended["pending_plan"]) == ("none", None, None)
    assert acme.balance_is_the_ledgers_sum()
    assert {event["status"] for event in await house.inbox()} == {"applied", "ignored"}


async def test_a_pack_survives_resets_and_is_taken_back_with_its_money(house: House, acme: Buyer) -> None:
    session = await acme.buy_pack()
    await house.deliver()
    now = await acme.usage()
    assert (now["credits_remaining"], now["credits"]["purchased"]) == (105, 100)
    await acme.submit(25)
    assert (await acme.usage())["credits"] == {"allowance": 0, "promo": 0, "purchased": 80, "owed": 0}
    house.fake.advance(days=30)
    assert (await acme.usage())["credits"]["allowance"] == 5
    payment = house.fake.get(session)["payment_intent"]
    house.fake.refund(payment, 1_000)
    await house.deliver()
    assert (await acme.usage())["credits"]["purchased"] == 30
    house.fake.refund(payment)
    await house.deliver()
    after = (await acme.usage())["credits"]
    assert after == {"allowance": 0, "promo": 0, "purchased": 0, "owed": 15}
    assert await acme.submit() == [403]
    assert acme.balance_is_the_ledgers_sum()


@pytest.mark.parametrize("won", [True, False])
async def test_a_dispute_holds_what_is_left_until_it_is_decided(house: House, acme: Buyer, won: bool) -> None:
    session = await acme.buy_pack()
    await house.deliver()
    await acme.submit(45)
    dispute = house.fake.dispute(house.fake.get(session)["payment_intent"])
    await house.deliver()
    held = await acme.usage()
    assert (held["credits"]["purchased"], held["credits"]["owed"], held["dispute_hold"]) == (0, 0, True)
    refused = await acme.post("checkout", kind="topup", pack="100")
    assert (refused.status_code, refused.json()["code"]) == (409, "dispute_open")
    house.fake.close_dispute(dispute["id"], won=won)
    await house.deliver(twice=True)
    after = await acme.usage()
    assert after["dispute_hold"] is False
    assert (after["credits"]["purchased"], after["credits"]["owed"]) == ((60, 0) if won else (0, 40))
    assert acme.balance_is_the_ledgers_sum()


async def test_an_upgrade_in_mid_cycle_adds_the_paid_share_only(house: House, acme: Buyer) -> None:
    await acme.subscribe("starter")
    await acme.submit(30)
    house.fake.advance(days=14)
    preview = (await acme.post("plan", plan_id="pro", preview=True)).json()
    assert preview["effective"] == "preview"
    assert preview["amount_due"] > 0
    changed = await acme.post("plan", plan_id="pro")
    assert changed.json()["effective"] == "now"
    plan, left, limit = await acme.credits()
    assert (plan, limit - left) == ("pro", 30)
    assert limit == 50 + 75
    assert left == preview["credits_after"]
    await house.deliver()
    assert await acme.credits() == (plan, left, limit)
    sub = house.fake.all("subscription")[0]["id"]
    house.fake.advance(days=15)
    house.fake.renew(sub)
    await house.deliver()
    assert await acme.credits() == ("pro", 200, 200)


async def test_a_downgrade_waits_for_the_period_and_can_be_undone(house: House, acme: Buyer) -> None:
    sub = await acme.subscribe("pro")
    down = (await acme.post("plan", plan_id="starter")).json()
    assert (down["effective"], down["pending_plan"]) == ("period_end", "starter")
    assert (await acme.usage())["pending_plan"] == "starter"
    assert await acme.credits() == ("pro", 200, 200)
    undone = (await acme.post("plan", plan_id="pro")).json()
    assert undone["effective"] == "now"
    assert (await acme.usage())["pending_plan"] is None
    await acme.post("plan", plan_id="starter")
    house.fake.advance(days=29)
    house.fake.renew(sub)
    await house.deliver()
    assert await acme.credits() == ("starter", 50, 50)


@pytest.mark.parametrize("seen_between", [True, False])
async def test_a_lower_price_inside_a_cycle_takes_what_is_left_of_it_each_time(
    house: House, acme: Buyer, api: Any, seen_between: bool
) -> None:
    """As from the dashboard, without money: pro, starter from half of it on, pro again, starter near the end."""
    sub = await acme.subscribe("pro")
    item = house.fake.get(sub)["items"]["data"][0]["id"]
    prices = {each["lookup_key"]: each["id"] for each in house.fake.all("price")}

    async def set_to(plan: str, days: int, *, seen: bool = True) -> tuple[str, int, int]:
        house.fake.advance(days=days)
        body = {
            "items": [{"id": item, "price": prices[f"{plan}_monthly_usd"]}],
            "proration_behavior": "none" if plan == "starter" else "always_invoice",
        }
        api.v1.subscriptions.update(sub, body, {"idempotency_key": f"{plan}{house.fake.clock.seconds()}"})
        if seen:
            await house.deliver(twice=True)
        return await acme.credits()

    assert await set_to("starter", 14) == ("starter", 125, 125)
    again = await set_to("pro", 7, seen=seen_between)
    near_the_end = await set_to("starter", 4)
    paid_share, left = 38, 17
    assert near_the_end == ("starter", 200 + paid_share - left, 200 + paid_share - left)
    if seen_between:
        assert again == ("pro", 200 + paid_share, 200 + paid_share)
    assert acme.balance_is_the_ledgers_sum()


async def test_a_refused_card_leaves_the_old_plan_until_it_pays(house: House, acme: Buyer) -> None:
    sub = await acme.subscribe("starter")
    house.fake.decline_card(house.fake.get(sub)["customer"])
    refused = await acme.post("plan", plan_id="pro")
    assert refused.status_code == 402
    assert refused.json()["code"] == "payment_required"
    await house.deliver()
    assert await acme.credits() == ("starter", 50, 50)
    assert (await acme.usage())["pending_plan"] == "pro"
    house.fake.accept_card(house.fake.get(sub)["customer"])
    house.fake.pay_invoice(house.fake.all("invoice")[-1]["id"])
    await house.deliver()
    assert (await acme.credits())[::2] == ("pro", 200)


async def test_a_pause_freezes_and_resuming_brings_back_what_was_left(house: House, acme: Buyer) -> None:
    sub = await acme.subscribe("starter")
    await acme.submit(20)
    house.fake.pause(sub)
    await house.deliver()
    assert (await acme.usage())["billing_state"] == "paused"
    assert (await acme.credits())[1] == 5
    await acme.submit(2)
    resumed = await acme.post("resume")
    assert resumed.json()["status"] == "active"
    assert await acme.credits() == ("starter", 28, 50)
    await house.deliver()
    assert await acme.credits() == ("starter", 28, 50)
    assert (await acme.post("resume")).json()["code"] == "nothing_to_resume"


async def test_a_trial_opens_its_cycle_and_is_had_once(fake, catalogue, tmp_path) -> None:
    from tests.stripe.house import house_of

    async with house_of(fake, tmp_path / "data", trial_days=14) as house:
        acme = await house.create()
        sub = await acme.subscribe("pro")
        assert await acme.credits() == ("pro", 200, 200)
        assert (await acme.usage())["billing_state"] == "trialing"
        fake.advance(days=14)
        fake.renew(sub)
        await house.deliver()
        assert (await acme.usage())["billing_state"] == "active"
        assert await acme.credits() == ("pro", 200, 200)
        fake.cancel_now(sub)
        await house.deliver()
        await acme.post("checkout", plan_id="pro")
        assert "trial_period_days" not in fake.requests[-1].params["subscription_data"]


async def test_a_yearly_plan_brings_each_months_credits(house: House, acme: Buyer) -> None:
    await acme.subscribe("starter", interval="yearly")
    await acme.submit(40)
    for month in range(1, 12):
        house.fake.advance(days=31 if month < 11 else 25)
        left = (await acme.usage())["credits_remaining"]
        assert left == 50, month
        await acme.submit(7)
    house.fake.advance(days=60)
    assert (await acme.usage())["credits_remaining"] == 43, "the next year is not paid"
    assert acme.balance_is_the_ledgers_sum()


async def test_a_deactivated_client_is_not_billed_any_more(house: House, acme: Buyer) -> None:
    sub = await acme.subscribe("starter")
    await house.http.delete(f"/api/admin/clients/{acme.client_id}", headers=ADMIN)
    await house.worker.drain()
    assert house.fake.get(sub)["status"] == "canceled"


async def test_a_plan_under_a_subscription_is_not_changed_behind_stripes_back(
    house: House, acme: Buyer
) -> None:
    await acme.subscribe("starter")
    path = f"/api/admin/clients/{acme.client_id}/plan"
    refused = await house.http.put(path, headers=ADMIN, json={"plan": "pro"})
    assert (refused.status_code, refused.json()["code"]) == (409, "has_subscription")
    ended = await house.http.delete(f"/api/admin/clients/{acme.client_id}/subscription", headers=ADMIN)
    assert ended.json()["billing_state"] == "none"
    assert (await acme.credits())[0] == "free"
    assert (await house.http.put(path, headers=ADMIN, json={"plan": "pro"})).status_code == 200
    await house.deliver()
    assert (await acme.credits())[0] == "pro", "late events of the old subscription take nothing away"


async def test_of_two_subscriptions_the_newest_paid_one_counts(house: House, acme: Buyer, api) -> None:
    first = await acme.subscribe("starter")
    customer = house.fake.get(first)["customer"]
    price = next(each["id"] for each in house.fake.all("price") if each["lookup_key"] == "pro_monthly_usd")
    house.fake.advance(minutes=5)
    second = api.v1.subscriptions.create({"customer": customer, "items": [{"price": price}]}).id
    await house.deliver(order="reversed")
    await house.deliver()
    assert house.fake.get(first)["status"] == "canceled"
    assert house.fake.get(second)["status"] == "active"
    assert await acme.credits() == ("pro", 200, 200)
    known = (await house.http.get(f"/api/admin/clients/{acme.client_id}/subscription", headers=ADMIN)).json()
    assert known["subscription_id"] == second


async def test_grace_is_not_extended_by_later_failures(house: House, acme: Buyer) -> None:
    sub = await acme.subscribe("starter")
    house.fake.decline_card(house.fake.get(sub)["customer"])
    house.fake.advance(days=29)
    house.fake.renew(sub, paid=False)
    await house.deliver()
    until = (await acme.usage())["grace_until"]
    for _ in range(2):
        house.fake.advance(days=2)
        house.fake.fail_invoice(house.fake.all("invoice")[-1]["id"])
        await house.deliver()
        assert (await acme.usage())["grace_until"] == until
    house.fake.advance(days=4)
    assert (await acme.usage())["billing_state"] == "limited"
    house.fake.give_up(sub, "canceled")
    await house.deliver()
    assert (await acme.credits())[0] == "free"


async def test_an_unpaid_subscription_limits_at_once(house: House, acme: Buyer) -> None:
    sub = await acme.subscribe("pro")
    await acme.submit(3)
    house.fake.give_up(sub, "unpaid")
    await house.deliver()
    now = await acme.usage()
    assert (now["billing_state"], now["plan"], now["credits_remaining"]) == ("limited", "pro", 5)
    house.fake.advance(days=30)
    assert (await acme.usage())["credits_remaining"] == 5
