"""FakeStripe changes plans: at once, pending, scheduled, previewed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import stripe

from tests.stripe.sdk_shapes import check_shape

# The SDK hands httpx its form as `data`, which httpx would rather be given as `content`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def _update_to(price: str, sub: stripe.Subscription, **fields: Any) -> Any:
    return {"items": [{"id": sub["items"].data[0].id, "price": price}], **fields}


def test_an_upgrade_is_previewed_and_then_costs_the_same(fake, api, sub, pro):
    fake.advance(days=7)
    details = _update_to(pro, sub, proration_behavior="always_invoice")
    preview = api.v1.invoices.create_preview({"subscription": sub.id, "subscription_details": details})
    assert check_shape(json.loads(str(preview))) == []
    assert api.v1.subscriptions.retrieve(sub.id)["items"].data[0].price.unit_amount == 2_900
    update = _update_to(
        pro, sub, proration_behavior="always_invoice", payment_behavior="pending_if_incomplete"
    )
    changed = api.v1.subscriptions.update(sub.id, {**update, "expand": ["latest_invoice"]})
    assert changed["items"].data[0].price.id == pro
    assert changed.pending_update is None
    bill = changed.latest_invoice
    assert bill.billing_reason == "subscription_update"
    assert bill.amount_paid == preview.amount_due == (9_900 - 2_900) * 3 // 4
    assert all(line.parent.subscription_item_details.proration for line in bill.lines.data)
    period = sub["items"].data[0]
    assert {line.period.end for line in bill.lines.data} == {period.current_period_end}


def test_an_upgrade_that_is_not_paid_stays_pending(fake, once, customer, sub, pro, starter):
    fake.decline_card(customer)
    update = _update_to(
        pro, sub, proration_behavior="always_invoice", payment_behavior="pending_if_incomplete"
    )
    held = once.v1.subscriptions.update(sub.id, update)
    assert held["items"].data[0].price.id == starter
    assert held.pending_update.subscription_items[0].price.id == pro
    assert held.status == "active"
    assert once.v1.invoices.retrieve(held.latest_invoice).hosted_invoice_url is not None
    fake.pay_invoice(held.latest_invoice)
    applied = once.v1.subscriptions.retrieve(sub.id)
    assert (applied["items"].data[0].price.id, applied.pending_update) == (pro, None)
    assert "customer.subscription.pending_update_applied" in fake.event_types


def test_a_pending_upgrade_expires(fake, api, customer, sub, pro, starter):
    fake.decline_card(customer)
    update = _update_to(
        pro, sub, proration_behavior="always_invoice", payment_behavior="pending_if_incomplete"
    )
    held = api.v1.subscriptions.update(sub.id, update)
    fake.advance(hours=23)
    after = api.v1.subscriptions.retrieve(sub.id)
    assert (after["items"].data[0].price.id, after.pending_update) == (starter, None)
    assert api.v1.invoices.retrieve(held.latest_invoice).status == "void"
    assert fake.event_types[-1] == "customer.subscription.pending_update_expired"


def test_a_pending_upgrade_takes_few_fields(once, sub, pro):
    update = _update_to(pro, sub, payment_behavior="pending_if_incomplete", description="more")
    with pytest.raises(stripe.InvalidRequestError, match="pending_if_incomplete"):
        once.v1.subscriptions.update(sub.id, update)


def test_an_upgrade_may_be_refused_outright(fake, once, customer, sub, pro, starter):
    fake.decline_card(customer, "insufficient_funds")
    update = _update_to(pro, sub, proration_behavior="always_invoice", payment_behavior="error_if_incomplete")
    with pytest.raises(stripe.CardError) as caught:
        once.v1.subscriptions.update(sub.id, update)
    assert caught.value.error.decline_code == "insufficient_funds"
    assert once.v1.subscriptions.retrieve(sub.id)["items"].data[0].price.id == starter


def test_prorations_may_wait_for_the_next_invoice(fake, api, sub, pro):
    fake.advance(days=14)
    api.v1.subscriptions.update(sub.id, _update_to(pro, sub))
    assert fake.renew(sub.id)["total"] == 9_900 + (9_900 - 2_900) // 2


def test_another_interval_begins_another_period(fake, api, sub):
    yearly = fake.add_price(29_000, interval="year")
    fake.advance(days=7)
    changed = api.v1.subscriptions.update(
        sub.id, _update_to(yearly, sub, proration_behavior="always_invoice")
    )
    item = changed["items"].data[0]
    assert item.current_period_start == fake.clock.seconds()
    assert item.current_period_end - item.current_period_start == 365 * 86_400
    assert api.v1.invoices.retrieve(changed.latest_invoice).total == 29_000 - 2_900 * 3 // 4


def test_a_schedule_lowers_the_plan_at_the_periods_end(fake, api, sub, starter):
    cheap = fake.add_price(900, interval="month")
    schedule = api.v1.subscription_schedules.create({"from_subscription": sub.id})
    first = schedule.phases[0]
    phases = [
        {
            "start_date": first.start_date,
            "end_date": first.end_date,
            "items": [{"price": starter, "quantity": 1}],
        },
        {"items": [{"price": cheap, "quantity": 1}], "duration": {"interval": "month", "interval_count": 1}},
    ]
    order = {"end_behavior": "release", "phases": phases}
    planned = api.v1.subscription_schedules.update(schedule.id, order)
    assert check_shape(json.loads(str(planned))) == []
    assert api.v1.subscriptions.retrieve(sub.id).schedule == schedule.id
    assert fake.renew(sub.id)["total"] == 900
    assert api.v1.subscription_schedules.retrieve(schedule.id).status == "active"
    assert fake.renew(sub.id)["total"] == 900
    released = api.v1.subscription_schedules.retrieve(schedule.id)
    assert (released.status, released.released_subscription) == ("released", sub.id)


def test_a_schedule_owns_the_end_of_its_subscription(once, sub):
    schedule = once.v1.subscription_schedules.create({"from_subscription": sub.id})
    with pytest.raises(stripe.InvalidRequestError, match="managed by the subscription schedule"):
        once.v1.subscriptions.update(sub.id, {"cancel_at_period_end": True})
    once.v1.subscription_schedules.release(schedule.id)
    assert once.v1.subscriptions.update(sub.id, {"cancel_at_period_end": True}).cancel_at_period_end


def test_a_schedule_can_end_its_subscription(once, sub):
    schedule = once.v1.subscription_schedules.create({"from_subscription": sub.id})
    with pytest.raises(stripe.InvalidRequestError, match="already attached"):
        once.v1.subscription_schedules.create({"from_subscription": sub.id})
    assert once.v1.subscription_schedules.cancel(schedule.id).status == "canceled"
    assert once.v1.subscriptions.retrieve(sub.id).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError, match="`canceled` status"):
        once.v1.subscription_schedules.release(schedule.id)


def test_a_schedule_that_cancels_ends_after_its_last_phase(fake, api, sub, starter):
    schedule = api.v1.subscription_schedules.create({"from_subscription": sub.id})
    api.v1.subscription_schedules.update(schedule.id, {"end_behavior": "cancel"})
    assert fake.renew(sub.id) is None
    assert api.v1.subscriptions.retrieve(sub.id).status == "canceled"


def test_a_change_may_cost_nothing(api, sub, pro):
    changed = api.v1.subscriptions.update(sub.id, _update_to(pro, sub, proration_behavior="none"))
    assert changed["items"].data[0].price.id == pro
    assert changed.latest_invoice == sub.latest_invoice.id


def test_items_come_go_and_count(fake, api, sub, pro):
    item = sub["items"].data[0]
    order = {"items": [{"id": item.id, "deleted": True}, {"price": pro, "quantity": 2}]}
    changed = api.v1.subscriptions.update(sub.id, order)
    assert [(one.price.id, one.quantity) for one in changed["items"].data] == [(pro, 2)]
    assert [one.id for one in api.v1.subscription_items.list({"subscription": sub.id}).data] != [item.id]
    assert api.v1.subscriptions.list({"price": pro, "status": "active"}).data[0].id == sub.id


def test_the_next_invoice_can_be_previewed(fake, api, sub, pro):
    fake.advance(days=14)
    assert api.v1.invoices.create_preview({"subscription": sub.id}).total == 2_900
    details = _update_to(pro, sub)
    changed = api.v1.invoices.create_preview({"subscription": sub.id, "subscription_details": details})
    assert changed.total == 9_900 + (9_900 - 2_900) // 2
    left = api.v1.invoices.create_preview(
        {"subscription": sub.id, "subscription_details": {"cancel_now": True}}
    )
    assert (left.total, left.amount_due) == (-1_450, 0)
    yearly = _update_to(fake.add_price(29_000, interval="year"), sub, proration_behavior="always_invoice")
    anew = api.v1.invoices.create_preview({"subscription": sub.id, "subscription_details": yearly})
    assert anew.total == 29_000 - 1_450
