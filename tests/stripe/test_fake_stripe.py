"""A FakeStripe account goes from checkout to renewal, arrears and the end as Stripe does."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import stripe

# The SDK hands httpx its form as `data`, which httpx would rather be given as `content`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_a_completed_checkout_makes_a_paid_subscription(fake, api, session, sub, starter):
    assert session.status == "open"
    assert session.url is not None
    assert sub.status == "active"
    assert sub.metadata["attempt_id"] == "a1"
    item = sub["items"].data[0]
    assert item.price.id == starter
    assert item.current_period_end == int(datetime(2026, 2, 28, 12, tzinfo=UTC).timestamp())
    assert sub.latest_invoice.status == "paid"
    assert sub.latest_invoice.parent.subscription_details.subscription == sub.id
    line = sub.latest_invoice.lines.data[0]
    assert (line.period.start, line.period.end) == (item.current_period_start, item.current_period_end)
    assert line.pricing.price_details.price == starter
    done = api.v1.checkout.sessions.retrieve(session.id, {"expand": ["line_items", "customer"]})
    assert (done.status, done.payment_status, done.subscription) == ("complete", "paid", sub.id)
    assert done.line_items.data[0].price.id == starter
    assert done.customer.email == "acme@example.com"
    assert fake.event_types[-1] == "checkout.session.completed"


def test_a_sweep_sees_prices_and_invoices_at_once(api, sub, starter):
    expand = ["data.items.data.price", "data.latest_invoice"]
    found = api.v1.subscriptions.list({"status": "all", "expand": expand}).data[0]
    assert (found["items"].data[0].price.id, found.latest_invoice.status) == (starter, "paid")


def test_a_session_is_completed_or_expired_but_not_both(fake, once, session):
    fake.complete_checkout(session.id)
    with pytest.raises(stripe.InvalidRequestError, match="can be expired"):
        once.v1.checkout.sessions.expire(session.id)
    with pytest.raises(ValueError, match="cannot be completed"):
        fake.complete_checkout(session.id)


def test_an_open_session_expires_at_its_time(fake, api, session):
    fake.advance(minutes=59)
    assert api.v1.checkout.sessions.retrieve(session.id).status == "open"
    fake.advance(minutes=1)
    assert api.v1.checkout.sessions.retrieve(session.id).status == "expired"
    assert "checkout.session.expired" in fake.event_types


def test_a_session_keeps_what_it_was_told_about_tax_and_its_end(fake, once, customer, starter):
    order = {
        "mode": "subscription",
        "customer": customer,
        "line_items": [{"price": starter, "quantity": 1}],
        "success_url": "https://app.example.com/done",
        "automatic_tax": {"enabled": True},
        "tax_id_collection": {"enabled": True},
        "customer_update": {"address": "auto", "name": "auto"},
    }
    assert once.v1.checkout.sessions.create(order).automatic_tax.enabled
    with pytest.raises(stripe.InvalidRequestError) as caught:
        once.v1.checkout.sessions.create({**order, "expires_at": fake.clock.seconds() + 60})
    assert caught.value.param == "expires_at"


def test_a_pack_is_paid_by_one_payment_intent(api, pack):
    assert (pack.payment_status, pack.amount_total) == ("paid", 2_000)
    intent = api.v1.payment_intents.retrieve(pack.payment_intent, {"expand": ["latest_charge"]})
    assert intent.latest_charge.paid
    assert intent.metadata["attempt_id"] == "a2"
    links = api.v1.invoice_payments.list(
        {"payment": {"type": "payment_intent", "payment_intent": pack.payment_intent}}
    )
    assert [link.invoice for link in links.data] == [pack.invoice]


@pytest.mark.parametrize("succeeded", [True, False])
def test_money_that_comes_later_is_settled_later(fake, api, customer, succeeded):
    order = {
        "line_items": [{"price": fake.add_price(500), "quantity": 2}],
        "success_url": "https://x.example.com",
    }
    made = api.v1.checkout.sessions.create({"mode": "payment", "customer": customer, **order})
    assert fake.complete_checkout(made.id, paid=False)["payment_status"] == "unpaid"
    fake.settle_checkout(made.id, succeeded=succeeded)
    word = "succeeded" if succeeded else "failed"
    assert fake.event_types[-1] == f"checkout.session.async_payment_{word}"
    assert api.v1.checkout.sessions.retrieve(made.id).payment_status == ("paid" if succeeded else "unpaid")


def test_a_trial_begins_with_an_invoice_of_nothing(fake, api, customer, starter):
    made = api.v1.checkout.sessions.create(
        {
            "mode": "subscription",
            "customer": customer,
            "line_items": [{"price": starter, "quantity": 1}],
            "success_url": "https://app.example.com",
            "subscription_data": {"trial_period_days": 14},
        }
    )
    done = fake.complete_checkout(made.id)
    assert done["payment_status"] == "no_payment_required"
    found = api.v1.subscriptions.retrieve(done["subscription"], {"expand": ["latest_invoice"]})
    assert (found.status, found.latest_invoice.amount_paid) == ("trialing", 0)
    fake.advance(days=11)
    assert fake.event_types[-1] == "customer.subscription.trial_will_end"
    assert fake.renew(found.id)["amount_paid"] == 2_900
    assert api.v1.subscriptions.retrieve(found.id).status == "active"


def test_a_first_payment_that_is_refused_leaves_the_subscription_incomplete(fake, once, customer, starter):
    fake.decline_card(customer)
    order = {"customer": customer, "items": [{"price": starter}]}
    with pytest.raises(stripe.CardError):
        once.v1.subscriptions.create({**order, "payment_behavior": "error_if_incomplete"})
    begun = once.v1.subscriptions.create(order)
    assert begun.status == "incomplete"
    fake.advance(hours=23)
    assert once.v1.subscriptions.list({"status": "ended"}).data[0].status == "incomplete_expired"
    assert once.v1.invoices.retrieve(begun.latest_invoice).status == "void"


# Renewal, arrears, recovery.


def test_a_renewal_turns_the_period_and_keeps_the_day(fake, api, sub):
    first = sub["items"].data[0].current_period_end
    made = fake.renew(sub.id)
    now = api.v1.subscriptions.retrieve(sub.id)["items"].data[0]
    assert now.current_period_start == first
    assert now.current_period_end == int(datetime(2026, 3, 31, 12, tzinfo=UTC).timestamp())
    assert made["billing_reason"] == "subscription_cycle"
    assert made["period_end"] == first
    assert made["lines"]["data"][0]["period"]["start"] == first


def test_a_failed_renewal_is_past_due_until_it_is_paid(fake, api, sub):
    made = fake.renew(sub.id, paid=False)
    assert api.v1.subscriptions.retrieve(sub.id).status == "past_due"
    assert made["next_payment_attempt"] > made["created"]
    fake.fail_invoice(made["id"])
    again = api.v1.invoices.retrieve(made["id"])
    assert (again.status, again.attempt_count) == ("open", 2)
    fake.pay_invoice(made["id"])
    assert api.v1.subscriptions.retrieve(sub.id).status == "active"
    assert api.v1.invoices.retrieve(made["id"]).amount_remaining == 0


def test_a_renewal_may_wait_as_a_draft(fake, api, sub):
    made = fake.renew(sub.id, paid=None)
    assert made["status"] == "draft"
    assert api.v1.subscriptions.retrieve(sub.id).status == "active"
    assert fake.pay_invoice(made["id"])["status"] == "paid"


@pytest.mark.parametrize("status", ["unpaid", "canceled"])
def test_retries_end_as_the_account_says(fake, api, sub, status):
    fake.renew(sub.id, paid=False)
    fake.give_up(sub.id, status)
    assert api.v1.subscriptions.retrieve(sub.id).status == status


def test_a_card_that_wants_authentication_says_so(fake, once, customer, sub):
    fake.decline_card(customer, "authentication_required")
    made = fake.renew(sub.id, paid=False)
    assert "invoice.payment_action_required" in fake.event_types
    with pytest.raises(stripe.CardError) as caught:
        once.v1.invoices.pay(made["id"], {}, {"idempotency_key": "pay:1"})
    assert caught.value.code == "authentication_required"
    fake.accept_card(customer)
    assert once.v1.invoices.pay(made["id"], {}, {"idempotency_key": "pay:2"}).status == "paid"


def test_what_is_coming_is_announced_without_an_id(fake, sub):
    event = fake.announce_renewal(sub.id)
    assert "id" not in event["data"]["object"]
    assert event["data"]["object"]["amount_due"] == 2_900


# Endings.


def test_a_subscription_ends_with_its_period(fake, api, sub):
    details = {"feedback": "too_expensive", "comment": "maybe later"}
    ending = api.v1.subscriptions.update(
        sub.id, {"cancel_at_period_end": True, "cancellation_details": details}
    )
    assert ending.status == "active"
    assert ending.cancel_at == sub["items"].data[0].current_period_end
    assert ending.cancellation_details.feedback == "too_expensive"
    assert fake.renew(sub.id) is None
    gone = api.v1.subscriptions.retrieve(sub.id)
    assert (gone.status, gone.ended_at) == ("canceled", ending.cancel_at)
    assert fake.event_types[-1] == "customer.subscription.deleted"


def test_a_set_ending_can_be_taken_back(fake, api, sub):
    api.v1.subscriptions.update(sub.id, {"cancel_at_period_end": True})
    stays = api.v1.subscriptions.update(sub.id, {"cancel_at_period_end": False})
    assert (stays.cancel_at, stays.canceled_at) == (None, None)
    assert fake.renew(sub.id)["status"] == "paid"


def test_a_subscription_cancelled_now_is_over_for_good(fake, once, sub):
    fake.advance(days=14)
    order = {"prorate": True, "invoice_now": True}
    gone = once.v1.subscriptions.cancel(sub.id, order, {"idempotency_key": "cancel:1"})
    assert gone.status == "canceled"
    assert fake.get(gone.latest_invoice)["total"] == -1_450
    assert fake.get(gone.customer)["balance"] == -1_450
    with pytest.raises(stripe.InvalidRequestError) as caught:
        once.v1.subscriptions.cancel(sub.id)
    assert caught.value.code == "resource_missing"
    assert once.v1.subscriptions.list().data == []
    assert [one.id for one in once.v1.subscriptions.list({"status": "all"}).data] == [sub.id]


@pytest.mark.parametrize(("anchor", "billed"), [("now", True), ("unchanged", False)])
def test_a_paused_subscription_is_resumed(fake, api, sub, anchor, billed):
    fake.pause(sub.id, "trial_end_without_payment_method")
    paused = api.v1.subscriptions.retrieve(sub.id)
    assert paused.status == "paused"
    assert paused.status_details.paused.subscription.type == "trial_end_without_payment_method"
    resumed = api.v1.subscriptions.resume(sub.id, {"billing_cycle_anchor": {"type": anchor}})
    assert resumed.status == "active"
    assert (resumed.latest_invoice != paused.latest_invoice) is billed


def test_a_running_subscription_is_not_resumed(once, sub):
    with pytest.raises(stripe.InvalidRequestError, match="paused"):
        once.v1.subscriptions.resume(sub.id)


@pytest.mark.parametrize(
    ("behavior", "status"),
    [("void", "void"), ("keep_as_draft", "draft"), ("mark_uncollectible", "uncollectible")],
)
def test_paused_collection_decides_what_becomes_of_an_invoice(fake, api, sub, behavior, status):
    api.v1.subscriptions.update(sub.id, {"pause_collection": {"behavior": behavior}})
    assert fake.renew(sub.id)["status"] == status
    assert api.v1.subscriptions.update(sub.id, {"pause_collection": ""}).pause_collection is None


def test_a_subscription_can_be_paused_and_can_end_on_a_day(fake, api, sub):
    assert api.v1.subscriptions.pause(sub.id, {"type": "subscription"}).status == "paused"
    api.v1.subscriptions.resume(sub.id)
    day = fake.clock.seconds() + 5 * 86_400
    api.v1.subscriptions.update(sub.id, {"cancel_at": day})
    fake.advance(days=5)
    assert api.v1.subscriptions.retrieve(sub.id).ended_at == day
