"""FakeStripe behaves like Stripe as far as the installed SDK can tell."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest
import stripe

from openclaw_billing.testing import FakeStripe
from tests.stripe import sdk_params
from tests.stripe.sdk_shapes import check_shape

# The SDK hands httpx its form as `data`, which httpx would rather be given as `content`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = 86_400
# An upcoming invoice is the one object that is sent without its id.
WITHOUT_ID = ["event.data.object.id: missing field"]


@pytest.fixture(autouse=True)
def _quiet_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe, "enable_telemetry", False)


@pytest.fixture
def fake() -> Iterator[FakeStripe]:
    """An account; whatever a test did with it was valid, and whatever it showed was in shape."""
    with FakeStripe(start=START, check=sdk_params.check) as account:
        yield account
        for event in account.events:
            assert check_shape(event) in ([], WITHOUT_ID), event["type"]
        for request in account.requests:
            if request.status == 200:
                assert sdk_params.check(request.method, request.path, request.params) == []


def _client(account: FakeStripe, retries: int, **http: Any) -> stripe.StripeClient:
    transport = stripe.HTTPXClient(allow_sync_methods=True, verify_ssl_certs=False, **http)
    return stripe.StripeClient(
        account.key_text,
        base_addresses=account.base_addresses,
        max_network_retries=retries,
        http_client=transport,
    )


@pytest.fixture
def api(fake: FakeStripe) -> Iterator[stripe.StripeClient]:
    """The SDK as we use it, in its sync form."""
    client = _client(fake, 2, timeout=5)
    yield client
    client._requestor._client.close()


@pytest.fixture
def once(fake: FakeStripe) -> Iterator[stripe.StripeClient]:
    """The SDK without retries, so that a test sees each answer."""
    client = _client(fake, 0, timeout=5)
    yield client
    client._requestor._client.close()


@pytest.fixture
async def later(fake: FakeStripe) -> AsyncIterator[stripe.StripeClient]:
    """The SDK in its async form, with a timeout a hang test can wait for."""
    client = _client(fake, 2, timeout=0.1)
    yield client
    client._requestor._client.close()
    await client._requestor._client.close_async()


@pytest.fixture
def starter(fake: FakeStripe) -> str:
    return fake.add_price(2900, lookup_key="starter_monthly_usd", interval="month")


@pytest.fixture
def pro(fake: FakeStripe) -> str:
    return fake.add_price(9900, lookup_key="pro_monthly_usd", interval="month")


@pytest.fixture
def customer(api: stripe.StripeClient) -> str:
    made = api.v1.customers.create({"email": "acme@example.com", "metadata": {"client_id": "c1"}})
    return made.id


@pytest.fixture
def session(api: stripe.StripeClient, customer: str, starter: str) -> stripe.checkout.Session:
    return api.v1.checkout.sessions.create(
        {
            "mode": "subscription",
            "ui_mode": "hosted_page",
            "customer": customer,
            "client_reference_id": "c1",
            "line_items": [{"price": starter, "quantity": 1}],
            "success_url": "https://app.example.com/done?session_id={CHECKOUT_SESSION_ID}",
            "cancel_url": "https://app.example.com/plans",
            "allow_promotion_codes": True,
            "expires_at": int(START.timestamp()) + 3_600,
            "metadata": {"attempt_id": "a1"},
            "subscription_data": {"metadata": {"attempt_id": "a1"}, "billing_mode": {"type": "flexible"}},
        },
        {"idempotency_key": "co:c1:a1"},
    )


@pytest.fixture
def sub(fake: FakeStripe, api: stripe.StripeClient, session: stripe.checkout.Session) -> stripe.Subscription:
    done = fake.complete_checkout(session.id)
    return api.v1.subscriptions.retrieve(
        done["subscription"], {"expand": ["items.data.price", "latest_invoice"]}
    )


@pytest.fixture
def pack(fake: FakeStripe, api: stripe.StripeClient, customer: str) -> stripe.checkout.Session:
    """A paid top-up of 20 dollars."""
    price = fake.add_price(2_000, lookup_key="topup_100_usd")
    made = api.v1.checkout.sessions.create(
        {
            "mode": "payment",
            "customer": customer,
            "line_items": [{"price": price, "quantity": 1}],
            "success_url": "https://app.example.com/done",
            "payment_intent_data": {"metadata": {"attempt_id": "a2"}},
            "invoice_creation": {"enabled": True, "invoice_data": {"metadata": {"attempt_id": "a2"}}},
        }
    )
    fake.complete_checkout(made.id)
    return api.v1.checkout.sessions.retrieve(made.id)


def _types(fake: FakeStripe) -> list[str]:
    return [event["type"] for event in fake.events]


def _update_to(price: str, sub: stripe.Subscription, **fields: Any) -> Any:
    return {"items": [{"id": sub["items"].data[0].id, "price": price}], **fields}


# Checkout.


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
    assert _types(fake)[-1] == "checkout.session.completed"


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
    assert "checkout.session.expired" in _types(fake)


def test_a_session_keeps_what_it_was_told_about_tax_and_its_end(once, customer, starter):
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
        once.v1.checkout.sessions.create({**order, "expires_at": int(START.timestamp()) + 60})
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
    assert _types(fake)[-1] == f"checkout.session.async_payment_{word}"
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
    assert _types(fake)[-1] == "customer.subscription.trial_will_end"
    assert fake.renew(found.id)["amount_paid"] == 2_900
    assert api.v1.subscriptions.retrieve(found.id).status == "active"


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
    assert "invoice.payment_action_required" in _types(fake)
    with pytest.raises(stripe.CardError) as caught:
        once.v1.invoices.pay(made["id"], {}, {"idempotency_key": "pay:1"})
    assert caught.value.code == "authentication_required"
    fake.accept_card(customer)
    assert once.v1.invoices.pay(made["id"], {}, {"idempotency_key": "pay:2"}).status == "paid"


def test_what_is_coming_is_announced_without_an_id(fake, sub):
    event = fake.announce_renewal(sub.id)
    assert "id" not in event["data"]["object"]
    assert event["data"]["object"]["amount_due"] == 2_900


# Changes.


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
    assert "customer.subscription.pending_update_applied" in _types(fake)


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
    assert _types(fake)[-1] == "customer.subscription.pending_update_expired"


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
    assert item.current_period_start == int(fake.clock.now().timestamp())
    assert item.current_period_end - item.current_period_start == 365 * DAY
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
    assert _types(fake)[-1] == "customer.subscription.deleted"


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


# Money that goes back.


def test_refunds_add_up_to_the_charge_and_no_further(fake, once, pack):
    half = once.v1.refunds.create({"payment_intent": pack.payment_intent, "amount": 500})
    rest = fake.refund(pack.payment_intent)
    assert (half.amount, rest["amount"]) == (500, 1_500)
    charge = once.v1.charges.retrieve(half.charge, {"expand": ["refunds"]})
    assert charge.refunded
    assert [one.id for one in charge.refunds.data] == [rest["id"], half.id]
    with pytest.raises(stripe.InvalidRequestError) as caught:
        once.v1.refunds.create({"charge": half.charge})
    assert caught.value.code == "charge_already_refunded"
    fake.fail_refund(half.id)
    found = once.v1.refunds.list({"payment_intent": pack.payment_intent}).data
    assert {one.status for one in found} == {"failed", "succeeded"}
    assert once.v1.charges.retrieve(half.charge).amount_refunded == 1_500


@pytest.mark.parametrize("won", [True, False])
def test_a_dispute_takes_the_money_and_gives_it_back_when_won(fake, once, pack, won):
    made = fake.dispute(pack.payment_intent)
    assert _types(fake)[-2:] == ["charge.dispute.created", "charge.dispute.funds_withdrawn"]
    with pytest.raises(stripe.InvalidRequestError) as caught:
        once.v1.refunds.create({"payment_intent": pack.payment_intent})
    assert caught.value.code == "charge_disputed"
    fake.close_dispute(made["id"], won=won)
    assert once.v1.disputes.retrieve(made["id"]).status == ("won" if won else "lost")
    assert ("charge.dispute.funds_reinstated" in _types(fake)) is won


def test_an_inquiry_moves_no_money(fake, api, pack):
    made = fake.dispute(pack.payment_intent, status="warning_needs_response")
    assert api.v1.disputes.list({"payment_intent": pack.payment_intent}).data[0].balance_transactions == []
    assert fake.close_dispute(made["id"], won=True)["status"] == "warning_closed"
    assert "charge.dispute.funds_withdrawn" not in _types(fake)


# The catalogue, the portal, endpoints.


def test_a_lookup_key_moves_only_when_asked_to(once, starter):
    product = once.v1.products.create(
        {"id": "ca_starter", "name": "Starter", "metadata": {"managed_by": "us"}}
    )
    new = {
        "product": product.id,
        "currency": "usd",
        "unit_amount": 3_900,
        "recurring": {"interval": "month"},
        "lookup_key": "starter_monthly_usd",
    }
    with pytest.raises(stripe.InvalidRequestError, match="lookup key"):
        once.v1.prices.create(new)
    made = once.v1.prices.create({**new, "transfer_lookup_key": True})
    once.v1.prices.update(starter, {"active": False})
    found = once.v1.prices.list({"lookup_keys": ["starter_monthly_usd", "nobody"], "active": True})
    assert [price.id for price in found.data] == [made.id]
    with pytest.raises(stripe.InvalidRequestError):
        once.v1.prices.list({"lookup_keys": [str(number) for number in range(11)]})
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        once.v1.products.create({"id": "ca_starter", "name": "Starter"})


def test_metadata_is_merged_and_an_empty_value_removes_it(api, customer):
    changed = api.v1.customers.update(customer, {"metadata": {"client_id": "", "team": "blue"}})
    assert changed.metadata.to_dict() == {"team": "blue"}


def test_a_deleted_customer_leaves_a_tombstone(fake, api, customer, sub):
    api.v1.customers.delete(customer)
    assert api.v1.customers.retrieve(customer).deleted
    assert api.v1.subscriptions.retrieve(sub.id).status == "canceled"
    assert _types(fake)[-2:] == ["customer.subscription.deleted", "customer.deleted"]


def test_the_portal_leads_to_the_subscription(once, customer, sub):
    door = {"customer": customer, "return_url": "https://app.example.com"}
    with pytest.raises(stripe.InvalidRequestError, match="default configuration"):
        once.v1.billing_portal.sessions.create(door)
    features = {
        "invoice_history": {"enabled": True},
        "subscription_cancel": {"enabled": True, "mode": "at_period_end"},
        "subscription_update": {
            "enabled": True,
            "default_allowed_updates": ["price"],
            "proration_behavior": "always_invoice",
            "schedule_at_period_end": {"conditions": [{"type": "decreasing_item_amount"}]},
        },
    }
    made = once.v1.billing_portal.configurations.create(
        {"features": features, "metadata": {"managed_by": "us"}}
    )
    assert check_shape(json.loads(str(made))) == []
    assert made.features.subscription_cancel.enabled
    flow = {"type": "subscription_cancel", "subscription_cancel": {"subscription": sub.id}}
    opened = once.v1.billing_portal.sessions.create({**door, "configuration": made.id, "flow_data": flow})
    assert check_shape(json.loads(str(opened))) == []
    assert opened.flow.subscription_cancel.subscription == sub.id
    once.v1.billing_portal.configurations.update(made.id, {"active": False})
    assert once.v1.billing_portal.configurations.list({"active": True}).data == []


def test_an_endpoint_shows_its_secret_once(api):
    made = api.v1.webhook_endpoints.create(
        {
            "url": "https://x.example.com/hook",
            "enabled_events": ["invoice.paid"],
            "api_version": "2026-10-28.endive",
        }
    )
    assert made.secret.startswith("whsec_")
    assert "secret" not in api.v1.webhook_endpoints.retrieve(made.id)
    api.v1.webhook_endpoints.update(made.id, {"disabled": True})
    assert [one.status for one in api.v1.webhook_endpoints.list().data] == ["disabled"]
    assert api.v1.webhook_endpoints.delete(made.id).deleted


def test_features_and_the_account_can_be_asked_for(fake, api, customer):
    fake.set_entitlements(customer, ["priority", "exports"])
    found = api.v1.entitlements.active_entitlements.list({"customer": customer})
    assert {one.lookup_key for one in found.data} == {"priority", "exports"}
    assert check_shape(json.loads(str(found))) == []
    assert check_shape(json.loads(str(api.v1.accounts.retrieve_current()))) == []


# Meters.


@pytest.fixture
def meter(api: stripe.StripeClient) -> stripe.billing.Meter:
    return api.v1.billing.meters.create(
        {
            "display_name": "Tokens",
            "event_name": "tokens",
            "default_aggregation": {"formula": "sum"},
            "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
            "value_settings": {"event_payload_key": "value"},
        }
    )


def test_one_use_is_counted_once_in_a_day(fake, once, customer, meter):
    use = {
        "event_name": "tokens",
        "identifier": "tok:1",
        "payload": {"stripe_customer_id": customer, "value": "250"},
    }
    made = once.v1.billing.meter_events.create(use, {"idempotency_key": "tok:1"})
    assert check_shape(json.loads(str(made))) == []
    with pytest.raises(stripe.InvalidRequestError, match="already exists with identifier"):
        once.v1.billing.meter_events.create(use, {"idempotency_key": "tok:1:2"})
    fake.advance(days=1)
    once.v1.billing.meter_events.create(use)
    span = {
        "customer": customer,
        "start_time": int(START.timestamp()),
        "end_time": int(START.timestamp()) + 2 * DAY,
    }
    total = once.v1.billing.meters.event_summaries.list(meter.id, span)
    assert [one.aggregated_value for one in total.data] == [500]
    assert check_shape(json.loads(str(total))) == []
    daily = once.v1.billing.meters.event_summaries.list(meter.id, {**span, "value_grouping_window": "day"})
    assert [one.aggregated_value for one in daily.data] == [250, 250]


@pytest.mark.parametrize(
    ("seconds", "code"), [(-36 * DAY, "timestamp_too_far_in_past"), (600, "timestamp_in_future")]
)
def test_a_use_must_be_recent(once, customer, meter, seconds, code):
    payload = {"stripe_customer_id": customer, "value": "1"}
    moment = int(START.timestamp()) + seconds
    with pytest.raises(stripe.InvalidRequestError) as caught:
        once.v1.billing.meter_events.create({"event_name": "tokens", "payload": payload, "timestamp": moment})
    assert caught.value.code == code


def test_use_is_billed_when_the_period_has_turned(fake, api, customer, meter):
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        api.v1.billing.meters.create(
            {"display_name": "Again", "event_name": "tokens", "default_aggregation": {"formula": "sum"}}
        )
    tokens = fake.add_price(3, interval="month", meter=meter.id)
    order = {"line_items": [{"price": tokens}], "success_url": "https://x.example.com"}
    made = api.v1.checkout.sessions.create({"mode": "subscription", "customer": customer, **order})
    done = fake.complete_checkout(made.id)
    payload = {"stripe_customer_id": customer, "value": "100"}
    api.v1.billing.meter_events.create({"event_name": "tokens", "payload": payload})
    assert fake.renew(done["subscription"])["total"] == 300
    assert fake.renew(done["subscription"])["total"] == 0


# Requests.


def test_a_key_is_demanded(fake, once):
    stranger = httpx.get(f"{fake.url}/v1/customers")
    assert stranger.status_code == 401
    assert stranger.json()["error"]["type"] == "invalid_request_error"
    with pytest.raises(stripe.AuthenticationError):
        once.v1.customers.list({}, {"api_key": "sk_live_wrong_mode"})


def test_what_the_sdk_would_not_send_is_refused(fake):
    head = {"Authorization": f"Bearer {fake.key_text}"}
    for path, body, code in [
        ("/v1/customers", "nickname=x", "parameter_unknown"),
        ("/v1/checkout/sessions", "mode=subscription&payment_method_types[0]=card", "parameter_unknown"),
        ("/v1/refunds", "", "parameter_missing"),
        ("/v1/customers", "email=a&email[b]=c", "parameter_invalid_empty"),
    ]:
        answer = httpx.post(f"{fake.url}{path}", content=body, headers=head)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert httpx.get(f"{fake.url}/v1/nothing", headers=head).status_code == 404


def test_the_sdks_own_types_can_be_the_check(fake, once, customer):
    with pytest.raises(stripe.InvalidRequestError, match="not Literal"):
        once.v1.customers.update(customer, {"tax_exempt": "sometimes"})  # type: ignore[typeddict-item]


def test_every_request_is_recorded_with_its_key_and_version(fake, session):
    sent = next(one for one in fake.requests if one.path == "/v1/checkout/sessions")
    assert sent.idempotency_key == "co:c1:a1"
    assert sent.stripe_version == "2026-10-28.endive"
    assert sent.params["subscription_data"]["metadata"] == {"attempt_id": "a1"}
    assert sent.status == 200


def test_the_same_key_gives_the_same_answer_and_no_second_object(fake, once):
    first = once.v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "cus:1"})
    again = once.v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "cus:1"})
    assert again.id == first.id
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert len(fake.all("customer")) == 1
    with pytest.raises(stripe.IdempotencyError):
        once.v1.customers.create({"email": "b@example.com"}, {"idempotency_key": "cus:1"})
    fake.advance(days=1)
    other = once.v1.customers.create({"email": "b@example.com"}, {"idempotency_key": "cus:1"})
    assert other.id != first.id


def test_a_key_spent_on_an_error_of_theirs_stays_spent(fake, once):
    fake.inject("error")
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            once.v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "cus:1"})
    assert fake.all("customer") == []
    assert once.v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "cus:1:2"}).id


def test_a_key_is_not_spent_on_a_request_that_failed_validation(once):
    with pytest.raises(stripe.InvalidRequestError):
        once.v1.billing_portal.sessions.create({"customer": "cus_nobody"}, {"idempotency_key": "k"})
    assert once.v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "k"}).id


# Trouble.


@pytest.mark.parametrize("kind", ["html", "reset", "conflict"])
def test_passing_trouble_is_survived_by_the_sdks_retries(fake, api, kind):
    fake.inject(kind, method="POST", path="/v1/customers")
    assert api.v1.customers.create({"email": "a@example.com"}).id
    keys = [one.idempotency_key for one in fake.requests]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_reply_that_was_lost_is_fetched_by_its_key(fake, api):
    fake.inject("reply_lost")
    assert api.v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "cus:1"}).id
    assert len(fake.all("customer")) == 1


@pytest.mark.parametrize(("should_retry", "attempts"), [(None, 1), (False, 1), (True, 2)])
def test_too_many_requests_are_retried_only_when_told_to(fake, api, should_retry, attempts):
    fake.inject("rate_limit", should_retry=should_retry, retry_after=0)
    if should_retry:
        assert api.v1.customers.list().data == []
    else:
        with pytest.raises(stripe.RateLimitError) as caught:
            api.v1.customers.list()
        assert caught.value.headers["Retry-After"] == "0"
    assert len(fake.requests) == attempts


@pytest.mark.parametrize(
    ("kind", "error"), [("unauthorized", stripe.AuthenticationError), ("forbidden", stripe.PermissionError)]
)
def test_a_bad_key_is_told_as_such(fake, api, kind, error):
    fake.inject(kind, times=None)
    with pytest.raises(error):
        api.v1.customers.list()
    fake.clear_faults()
    assert api.v1.customers.list().data == []


def test_a_fault_may_let_some_requests_pass_first(fake, once):
    fake.inject("error", after=1, method="GET")
    assert once.v1.customers.list().data == []
    with pytest.raises(stripe.APIError):
        once.v1.customers.list()


def test_an_account_that_is_down_refuses_and_comes_back_on_its_port(fake, once):
    assert once.v1.customers.list().data == []
    with fake.down(), pytest.raises(stripe.APIConnectionError):
        once.v1.customers.list()
    assert once.v1.customers.list().data == []


@pytest.mark.anyio
async def test_a_hang_ends_by_the_callers_budget(fake, later):
    fake.inject("hang", times=None)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await later.v1.customers.list_async()
    assert time.monotonic() - began < 1
    fake.clear_faults()


@pytest.mark.anyio
async def test_a_dripping_answer_outlives_every_read_timeout(fake, later):
    fake.add_price(100)
    fake.inject("drip", times=None, seconds=0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.4):
            await later.v1.prices.list_async()
    assert len(fake.requests) == 1
    fake.clear_faults()


@pytest.mark.anyio
async def test_the_async_sdk_walks_from_customer_to_cancellation(fake, later, starter):
    made = await later.v1.customers.create_async({"email": "a@example.com"}, {"idempotency_key": "cus:1"})
    begun = await later.v1.checkout.sessions.create_async(
        {
            "mode": "subscription",
            "customer": made.id,
            "line_items": [{"price": starter, "quantity": 1}],
            "success_url": "https://x.example.com",
        }
    )
    done = fake.complete_checkout(begun.id)
    gone = await later.v1.subscriptions.cancel_async(done["subscription"])
    assert gone.status == "canceled"
    bills = await later.v1.invoices.list_async({"customer": made.id, "status": "paid"})
    assert [bill.amount_paid async for bill in bills.auto_paging_iter()] == [2_900]


# Events and lists.


def test_pages_walk_both_ways(fake, api):
    made = [fake.add_price(number) for number in range(1, 6)]
    walked = [price.id for price in api.v1.prices.list({"limit": 2}).auto_paging_iter()]
    assert walked == made[::-1]
    before = api.v1.prices.list({"limit": 2, "ending_before": made[1]})
    assert [price.id for price in before.data] == [made[3], made[2]]
    assert before.has_more


def test_events_are_listed_by_type_time_and_cursor(fake, api, sub):
    first = fake.events[0]
    fake.advance(days=1)
    fake.renew(sub.id)
    kinds = ["invoice.paid", "checkout.session.completed"]
    found = api.v1.events.list({"types": kinds})
    assert [event.type for event in found.data] == ["invoice.paid", *kinds[::-1][:1], "invoice.paid"]
    recent = api.v1.events.list({"types": kinds, "created": {"gte": int(START.timestamp()) + 1}})
    assert [event.type for event in recent.data] == ["invoice.paid"]
    newer = api.v1.events.list({"ending_before": first["id"], "limit": 1})
    assert newer.data[0].id == fake.events[1]["id"]
    assert api.v1.events.retrieve(first["id"]).type == first["type"]
    assert {event.type for event in api.v1.events.list({"type": "price.*"}).data} == {"price.created"}


def test_events_are_forgotten_after_thirty_days(fake, once, starter):
    event = fake.events[0]
    fake.advance(days=30)
    assert once.v1.events.list().data == []
    with pytest.raises(stripe.InvalidRequestError):
        once.v1.events.retrieve(event["id"])


def test_a_signed_event_is_one_the_sdk_believes(fake, api, sub):
    body, headers = fake.signed(fake.events[-1], secret="whsec_x")
    event = api.construct_event(body, headers["Stripe-Signature"], "whsec_x")
    assert event.type == "checkout.session.completed"
    stale = fake.signed(fake.events[-1], secret="whsec_x", at=int(time.time()) - 600)[1]["Stripe-Signature"]
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(body.decode(), stale, "whsec_x", 300)


def test_a_thin_event_is_announced_and_fetched(fake, api):
    notice = fake.thin_event("v1.billing.meter.no_meter_found", data={"reason": "none"})
    body, headers = fake.signed(notice, secret="whsec_thin")
    parsed = api.parse_event_notification(body, headers["Stripe-Signature"], "whsec_thin")
    assert parsed.type == "v1.billing.meter.no_meter_found"
    assert parsed.fetch_event().id == notice["id"]


def test_an_event_of_the_tests_own_making_is_kept_like_any_other(fake, api, customer):
    fake.emit("billing.alert.triggered", {"object": "billing.alert_triggered", "customer": customer} | ALERT)
    assert api.v1.events.list({"limit": 1}).data[0].type == "billing.alert.triggered"


ALERT = {
    "alert": {
        "id": "alrt_1",
        "object": "billing.alert",
        "alert_type": "usage_threshold",
        "livemode": False,
        "title": "Many tokens",
    },
    "created": 1,
    "livemode": False,
    "value": 100,
}


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """An address that believes signed events, and what it was told; it refuses the first `invoice.paid`."""
    told: list[tuple[str, int]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            stripe.WebhookSignature.verify_header(body, self.headers["Stripe-Signature"], "whsec_x", 300)
            kind = json.loads(body)["type"]
            refused = kind == "invoice.paid" and not any(one == (kind, 500) for one in told)
            told.append((kind, 500 if refused else 200))
            self.send_response(told[-1][1])
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", told
        server.shutdown()
        thread.join()


def test_events_are_delivered_until_they_are_taken(fake, api, sub, receiver):
    url, told = receiver
    fake.deliver_to(url, "whsec_x")
    fake.deliver()
    assert ("invoice.paid", 500) in told
    assert [one.type for one in api.v1.events.list({"delivery_success": False}).data] == ["invoice.paid"]
    assert [(one.type, one.status) for one in fake.deliver()] == [("invoice.paid", 200)]
    assert fake.deliver() == []


def test_events_come_in_any_order_twice_or_never(fake, sub):
    told: list[str] = []

    def receive(body: bytes, _headers: Any) -> int:
        told.append(json.loads(body)["id"])
        return 200

    fake.deliver_to(receive)
    sent = [event["id"] for event in fake.events if event["type"] != "invoice.paid"]
    fake.deliver(order="reversed", twice=True, drop=["invoice.paid"])
    assert told == sent[::-1] * 2
    fake.renew(sub.id)
    count = len(told)
    fake.deliver(order="shuffled", seed=7, drop=lambda event: event["type"].startswith("charge."))
    assert sorted(told[count:]) != told[count:]
    assert fake.deliver() == []


def test_a_receiver_that_is_away_is_tried_again(fake, starter):
    fake.deliver_to("http://127.0.0.1:9/nobody")
    assert [one.status for one in fake.deliver()] == [0]
    assert len(fake.deliver()) == 1


# Shapes.

KINDS = [
    "customer",
    "product",
    "price",
    "checkout.session",
    "subscription",
    "subscription_schedule",
    "invoice",
    "invoice_payment",
    "payment_intent",
    "charge",
    "refund",
    "dispute",
    "billing.meter",
]


def test_every_object_shown_is_in_the_current_shape(fake, api, customer, sub, pack, meter):
    fake.refund(pack.payment_intent, 100)
    fake.dispute(pack.payment_intent)
    fake.renew(sub.id, paid=False)
    api.v1.subscription_schedules.create({"from_subscription": sub.id})
    for kind in KINDS:
        shown = fake.all(kind)
        assert shown, kind
        assert [check_shape(one) for one in shown] == [[]] * len(shown)
    expanded = fake.get(sub.latest_invoice.id, ["payments", "confirmation_secret", "customer.subscriptions"])
    assert check_shape(expanded) == []


def test_the_shape_check_sees_what_moved(fake, sub):
    bill = fake.get(sub.latest_invoice.id)
    assert check_shape({**bill, "subscription": sub.id}) == ["invoice.subscription: unknown field"]
    assert check_shape({**bill, "status": "settled"}) != []
    assert check_shape({**bill, "amount_due": "2900"}) != []
    assert check_shape({name: value for name, value in bill.items() if name != "lines"}) == [
        "invoice.lines: missing field"
    ]


# What the SDK's types say about requests.


def test_every_call_of_the_sdk_is_known():
    assert len(sdk_params.endpoints()) > 600


@pytest.mark.parametrize(
    ("path", "params", "problem"),
    [
        ("/v1/customers", {"nickname": "x"}, "nickname: unknown key"),
        ("/v1/checkout/sessions", {"payment_method_types": ["card"]}, "payment_method_types: unknown key"),
        ("/v1/checkout/sessions", {"ui_mode": "hosted"}, "ui_mode: 'hosted' is not Literal"),
        ("/v1/billing/meter_events", {"event_name": "x"}, "payload: missing key"),
        ("/v1/refunds", {"amount": "half"}, "amount: 'half' is not int"),
        ("/v1/prices", {"currency": "usd", "recurring": {}}, "recurring[interval]: missing key"),
        ("/v1/subscriptions/sub_1/resume", {"billing_cycle_anchor": "now"}, "wants a dict"),
        ("/v1/subscriptions/sub_1", {"items": [{"cost": 1}]}, "items[0][cost]: unknown key"),
        ("/v1/invoices/in_1/frame", {}, "no such call"),
    ],
)
def test_a_request_the_sdk_does_not_know_is_told(path, params, problem):
    found = sdk_params.check("POST", path, params)
    assert len(found) == 1
    assert problem in found[0]


def test_a_literal_path_is_not_taken_for_an_id():
    found = sdk_params.find("GET", "/v1/customers/search")
    assert found is not None
    assert found.template == "/v1/customers/search"
    assert sdk_params.check("GET", "/v1/customers/search", {"query": "email:'a'"}) == []


def test_clearing_a_value_is_allowed_where_the_sdk_allows_it():
    assert (
        sdk_params.check("POST", "/v1/subscriptions/sub_1", {"cancel_at": "", "pause_collection": ""}) == []
    )
    assert sdk_params.check("POST", "/v1/subscriptions/sub_1", {"description": "words"}) == []
