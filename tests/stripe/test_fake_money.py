"""FakeStripe gives money back, keeps a catalogue and a portal, and counts use."""

from __future__ import annotations

import json

import pytest
import stripe

from tests.stripe.sdk_shapes import check_shape

# The SDK hands httpx its form as `data`, which httpx would rather be given as `content`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


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
    assert fake.event_types[-2:] == ["charge.dispute.created", "charge.dispute.funds_withdrawn"]
    with pytest.raises(stripe.InvalidRequestError) as caught:
        once.v1.refunds.create({"payment_intent": pack.payment_intent})
    assert caught.value.code == "charge_disputed"
    fake.close_dispute(made["id"], won=won)
    assert once.v1.disputes.retrieve(made["id"]).status == ("won" if won else "lost")
    assert ("charge.dispute.funds_reinstated" in fake.event_types) is won


def test_an_inquiry_moves_no_money(fake, api, pack):
    made = fake.dispute(pack.payment_intent, status="warning_needs_response")
    assert api.v1.disputes.list({"payment_intent": pack.payment_intent}).data[0].balance_transactions == []
    assert fake.close_dispute(made["id"], won=True)["status"] == "warning_closed"
    assert "charge.dispute.funds_withdrawn" not in fake.event_types


def test_a_dispute_is_answered_or_accepted(fake, api, pack):
    made = fake.dispute(pack.payment_intent)
    answered = api.v1.disputes.update(made["id"], {"evidence": {"customer_name": "Acme"}, "submit": True})
    assert answered.status == "under_review"
    assert api.v1.disputes.close(made["id"]).status == "lost"


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
    assert fake.event_types[-2:] == ["customer.subscription.deleted", "customer.deleted"]


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


def test_one_use_is_counted_once_in_a_day(fake, once, customer, meter):
    begun = fake.clock.seconds()
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
        "start_time": begun,
        "end_time": begun + 2 * 86_400,
    }
    total = once.v1.billing.meters.event_summaries.list(meter.id, span)
    assert [one.aggregated_value for one in total.data] == [500]
    assert check_shape(json.loads(str(total))) == []
    daily = once.v1.billing.meters.event_summaries.list(meter.id, {**span, "value_grouping_window": "day"})
    assert [one.aggregated_value for one in daily.data] == [250, 250]


@pytest.mark.parametrize(
    ("seconds", "code"), [(-36 * 86_400, "timestamp_too_far_in_past"), (600, "timestamp_in_future")]
)
def test_a_use_must_be_recent(fake, once, customer, meter, seconds, code):
    payload = {"stripe_customer_id": customer, "value": "1"}
    moment = fake.clock.seconds() + seconds
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


def test_a_meter_counts_only_while_it_is_active(once, customer, meter):
    payload = {"stripe_customer_id": customer, "value": "1"}
    once.v1.billing.meters.deactivate(meter.id)
    with pytest.raises(stripe.InvalidRequestError, match="No active meter"):
        once.v1.billing.meter_events.create({"event_name": "tokens", "payload": payload})
    once.v1.billing.meters.reactivate(meter.id)
    assert [one.id for one in once.v1.billing.meters.list({"status": "active"}).data] == [meter.id]
    for wrong in ({"value": "1"}, {**payload, "value": "1.5"}, {**payload, "stripe_customer_id": "cus_x"}):
        with pytest.raises(stripe.InvalidRequestError):
            once.v1.billing.meter_events.create({"event_name": "tokens", "payload": wrong})
