"""The Stripe account changes subscriptions: up at once, down at the period's end, ended, undone, paused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from openclaw_billing.errors import StripeRejected
from openclaw_billing.stripe_facts import Collection, StripeStatus
from tests.stripe.conftest import START

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pro_price(account, pro):
    return await account.price_for("pro", "monthly")


async def test_a_paid_subscription_is_told(bought, starter, buyer):
    assert (bought.status, bought.customer_id, bought.livemode) == (StripeStatus.ACTIVE, buyer, False)
    assert (bought.start, bought.end) == (START, START.replace(month=2, day=28))
    assert (bought.price.price_id, bought.price.plan_id, bought.price.interval) == (
        starter,
        "starter",
        "monthly",
    )
    assert (bought.latest_invoice_paid, bought.latest_invoice_at, bought.invoice_url) == (True, START, None)
    assert (bought.ends_at, bought.pending_update, bought.schedule_id) == (None, False, None)
    assert bought.collection is Collection.NORMAL


async def test_a_failed_renewal_is_told_with_the_page_to_pay_at(fake, account, bought):
    bill = fake.renew(bought.subscription_id, paid=False)
    late = await account.subscription(bought.subscription_id)
    assert (late.status, late.latest_invoice_paid) == (StripeStatus.PAST_DUE, False)
    assert (late.latest_invoice_id, late.invoice_url) == (bill["id"], bill["hosted_invoice_url"])
    assert (late.start, late.latest_invoice_at) == (bought.end, bought.end)


async def test_the_oldest_open_invoice_tells_since_when_money_is_owed(fake, account, bought):
    assert await account.overdue_since(bought.subscription_id) is None
    first = fake.renew(bought.subscription_id, paid=False)
    second = fake.renew(bought.subscription_id, paid=False)
    assert await account.overdue_since(bought.subscription_id) == bought.end
    fake.pay_invoice(first["id"])
    late = await account.subscription(bought.subscription_id)
    assert await account.overdue_since(bought.subscription_id) == late.latest_invoice_at > bought.end
    fake.pay_invoice(second["id"])
    assert await account.overdue_since(bought.subscription_id) is None


async def test_a_trial_is_told(fake, account, wish):
    made = await account.open_session(replace(wish, trial_days=14), key="co:c1:a1")
    done = fake.complete_checkout(made.session_id)
    fact = await account.subscription(done["subscription"])
    assert (fact.status, fact.trial_end) == (StripeStatus.TRIALING, START + timedelta(days=14))
    assert fact.latest_invoice_paid
    assert (await account.session(made.session_id)).settled


async def test_an_upgrade_costs_what_its_preview_said(fake, account, bought, pro_price):
    fake.advance(days=7)
    before = await account.preview_change(bought, pro_price)
    assert (before.amount_due, before.currency) == (5_250, "usd")
    assert (before.after.price, before.after.start, before.after.end) == (pro_price, bought.start, bought.end)
    assert (await account.subscription(bought.subscription_id)).price.plan_id == "starter"
    after = await account.change_price(bought, pro_price, key="plan:1")
    assert (after.price.plan_id, after.pending_update, after.latest_invoice_paid) == ("pro", False, True)
    paid = await account.invoice(after.latest_invoice_id)
    assert paid.amount_paid == before.amount_due
    assert [(line.plan_id, line.proration, line.amount < 0) for line in paid.lines] == [
        ("starter", True, True),
        ("pro", True, False),
    ]
    sent = next(each for each in fake.requests if each.idempotency_key == "plan:1").params
    assert set(sent) == {"items", "proration_behavior", "payment_behavior", "expand"}


async def test_a_preview_of_a_cheaper_plan_is_a_credit(fake, account, bought, pro_price, starter):
    dear = await account.change_price(bought, pro_price, key="plan:1")
    fake.advance(days=14)
    cheap = await account.price_for("starter", "monthly")
    before = await account.preview_change(dear, cheap)
    assert before.amount_due == -3_500
    assert [line.plan_id for line in before.invoice.lines] == ["pro", "starter"]


async def test_a_preview_of_another_interval_is_of_a_whole_new_period(fake, account, bought):
    fake.add_price(29_000, lookup_key="starter_yearly_usd", interval="year")
    fake.advance(days=7)
    yearly = await account.price_for("starter", "yearly")
    before = await account.preview_change(bought, yearly)
    now = fake.clock.now()
    assert (before.after.start, before.after.end) == (now, now + timedelta(days=365))
    assert before.amount_due == 29_000 - 2_900 * 3 // 4


async def test_an_upgrade_that_is_not_paid_waits_with_its_page(fake, account, bought, pro_price):
    fake.decline_card(bought.customer_id)
    held = await account.change_price(bought, pro_price, key="plan:1")
    assert (held.price.plan_id, held.pending_update, held.pending_plan_id) == ("starter", True, "pro")
    assert held.pending_expires_at == START + timedelta(hours=23)
    assert (held.pending_at, held.latest_invoice_paid) == (None, False)
    assert held.invoice_url is not None
    assert held.status is StripeStatus.ACTIVE
    fake.pay_invoice(held.latest_invoice_id)
    now = await account.subscription(bought.subscription_id)
    assert (now.price.plan_id, now.pending_update, now.pending_plan_id) == ("pro", False, None)


async def test_a_downgrade_waits_for_the_periods_end(fake, account, bought, pro_price, starter):
    dear = await account.change_price(bought, pro_price, key="plan:1")
    cheap = await account.price_for("starter", "monthly")
    planned = await account.schedule_price(dear, cheap, key="plan:2")
    assert (planned.price.plan_id, planned.pending_plan_id, planned.pending_at) == (
        "pro",
        "starter",
        dear.end,
    )
    assert planned.schedule_id is not None
    again = await account.schedule_price(planned, cheap, key="plan:2")
    assert again.schedule_id == planned.schedule_id
    assert len(fake.all("subscription_schedule")) == 1
    fake.renew(bought.subscription_id)
    turned = await account.subscription(bought.subscription_id)
    assert (turned.price.plan_id, turned.pending_plan_id, turned.schedule_id) == (
        "starter",
        None,
        planned.schedule_id,
    )
    fake.renew(bought.subscription_id)
    assert (await account.subscription(bought.subscription_id)).schedule_id is None


async def test_a_downgrade_leaves_what_stands_beside_the_plan_as_it_is(
    fake, api, account, buyer, meter, pro, starter
):
    beside = fake.add_price(1, interval="month", meter=meter.id)
    made = api.v1.subscriptions.create({"customer": buyer, "items": [{"price": beside}, {"price": pro}]})
    fact = await account.subscription(made.id)
    assert fact.price.plan_id == "pro"
    cheap = await account.price_for("starter", "monthly")
    planned = await account.schedule_price(fact, cheap, key="plan:1")
    assert planned.pending_plan_id == "starter"
    fake.renew(fact.subscription_id)
    items = fake.get(fact.subscription_id)["items"]["data"]
    assert [item["price"]["id"] for item in items] == [beside, cheap.price_id]


async def test_a_downgrade_is_undone_once_and_again(fake, account, bought, pro_price):
    planned = await account.schedule_price(bought, pro_price, key="plan:1")
    for key in ("rel:1", "rel:1", "rel:2"):
        await account.release_schedule(planned.schedule_id, key=key)
    now = await account.subscription(bought.subscription_id)
    assert (now.schedule_id, now.pending_plan_id) == (None, None)
    with pytest.raises(StripeRejected):
        await account.release_schedule("sub_sched_nobody", key="rel:3")


async def test_an_ending_is_set_and_undone(fake, account, bought):
    why = {"feedback": "too_expensive", "comment": "for now"}
    ending = await account.set_ending(bought.subscription_id, True, **why, key="end:1")
    assert (ending.ends_at, ending.status) == (bought.end, StripeStatus.ACTIVE)
    said = fake.get(bought.subscription_id)["cancellation_details"]
    assert (said["feedback"], said["comment"]) == ("too_expensive", "for now")
    again = await account.set_ending(bought.subscription_id, True, **why, key="end:1")
    assert again.ends_at == bought.end
    undone = await account.set_ending(bought.subscription_id, False, key="end:2")
    assert undone.ends_at is None
    sent = len([each for each in fake.requests if each.method == "POST"])
    assert (await account.set_ending(bought.subscription_id, False, key="end:3")).ends_at is None
    assert len([each for each in fake.requests if each.method == "POST"]) == sent


async def test_an_ending_at_a_moment_of_its_own_is_undone_too(fake, account, api, bought):
    moment = int((START + timedelta(days=10)).timestamp())
    api.v1.subscriptions.update(bought.subscription_id, {"cancel_at": moment})
    assert (await account.subscription(bought.subscription_id)).ends_at == START + timedelta(days=10)
    assert (await account.set_ending(bought.subscription_id, False, key="end:1")).ends_at is None


async def test_a_scheduled_subscription_refuses_to_be_ended_beside_it(account, bought, pro_price):
    await account.schedule_price(bought, pro_price, key="plan:1")
    with pytest.raises(StripeRejected):
        await account.set_ending(bought.subscription_id, True, key="end:1")


@pytest.mark.parametrize("prorate", [True, False])
async def test_a_subscription_ends_now_and_twice_is_once(fake, account, bought, prorate):
    fake.advance(days=14)
    ended = await account.cancel_now(bought.subscription_id, prorate=prorate)
    assert (ended.status, ended.ended_at) == (StripeStatus.CANCELED, START + timedelta(days=14))
    assert len(fake.all("invoice")) == (2 if prorate else 1)
    again = await account.cancel_now(bought.subscription_id, prorate=prorate)
    assert again == ended
    assert fake.event_types.count("customer.subscription.deleted") == 1
    assert await account.cancel_now("sub_nobody", prorate=prorate) is None


async def test_a_pause_is_ended_without_a_new_period(fake, account, bought):
    fake.pause(bought.subscription_id)
    paused = await account.subscription(bought.subscription_id)
    assert (paused.status, paused.pause_kind) == (StripeStatus.PAUSED, "pause_requested")
    running = await account.resume(bought.subscription_id, key="res:1")
    assert (running.status, running.pause_kind, running.end) == (StripeStatus.ACTIVE, "", bought.end)
    sent = len([each for each in fake.requests if each.method == "POST"])
    assert (await account.resume(bought.subscription_id, key="res:2")).status is StripeStatus.ACTIVE
    assert len([each for each in fake.requests if each.method == "POST"]) == sent


async def test_a_trial_that_ended_without_a_card_says_so(fake, account, bought):
    fake.pause(bought.subscription_id, "trial_end_without_payment_method")
    paused = await account.subscription(bought.subscription_id)
    assert paused.pause_kind == "trial_end_without_payment_method"


@pytest.mark.parametrize("behavior", ["void", "keep_as_draft", "mark_uncollectible"])
async def test_a_pause_of_collection_is_told_and_ended(fake, account, api, bought, behavior):
    api.v1.subscriptions.update(bought.subscription_id, {"pause_collection": {"behavior": behavior}})
    held = await account.subscription(bought.subscription_id)
    assert (held.status, held.collection) == (StripeStatus.ACTIVE, Collection(behavior))
    assert (await account.resume(bought.subscription_id, key="res:1")).collection is Collection.NORMAL


async def test_all_subscriptions_are_swept_the_ended_ones_too(fake, account, api, bought, starter):
    other = await account.ensure_customer("c2", "Other", "o@example.com", key="cus:test:c2")
    fake.advance(days=1)
    second = api.v1.subscriptions.create({"customer": other, "items": [{"price": starter}]})
    await account.cancel_now(bought.subscription_id, prorate=False)
    found = [each async for each in account.subscriptions()]
    assert [each.subscription_id for each in found] == [second.id, bought.subscription_id]
    assert found[0].latest_invoice_paid
    recent = [each async for each in account.subscriptions(START)]
    assert [each.subscription_id for each in recent] == [second.id]
    mine = await account.subscriptions_of(bought.customer_id)
    assert [(each.subscription_id, each.status) for each in mine] == [
        (bought.subscription_id, StripeStatus.CANCELED)
    ]


async def test_a_sweep_reads_every_page(fake, account, api, buyer, starter):
    for _ in range(101):
        api.v1.subscriptions.create({"customer": buyer, "items": [{"price": starter}]})
    found = [each.subscription_id async for each in account.subscriptions()]
    assert len(set(found)) == 101
    assert await account.subscription("sub_nobody") is None
