"""The Stripe account: customers, checkout, the portal, payments, events, in our own words."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from openclaw_billing.errors import BadRequest, PriceNotConfigured, UnknownPack
from openclaw_billing.payments import make_account
from openclaw_billing.settings import Settings
from openclaw_billing.stripe_events import EVENT_TYPES
from openclaw_billing.stripe_facts import DisputeStatus
from openclaw_billing.testing import FakeStripe
from tests.stripe.conftest import START

pytestmark = pytest.mark.anyio


async def test_a_client_has_one_customer_however_often_it_is_asked_for(fake, account, buyer):
    again = await account.ensure_customer("c1", "Acme", "acme@example.com", key="cus:test:c1")
    assert again == buyer
    assert [one["metadata"]["client_id"] for one in fake.all("customer")] == ["c1"]


async def test_a_customer_is_told_with_its_name_and_a_deleted_one_says_so(fake, account, api, buyer):
    known = await account.customer(buyer)
    assert (known.name, known.email, known.deleted, known.livemode) == (
        "Acme",
        "acme@example.com",
        False,
        False,
    )
    api.v1.customers.delete(buyer)
    assert (await account.customer(buyer)).deleted
    assert await account.customer("cus_nobody") is None


async def test_everything_in_live_mode_says_so_a_deleted_customer_too(brisk):
    with FakeStripe(start=START, livemode=True) as fake:
        # Settings refuse a live key beside an address that is not https.
        settings = Settings(_env_file=None, stripe_secret_key=fake.key_text)
        account = make_account(settings.model_copy(update={"stripe_api_base": fake.url}))
        assert account.mode == "live"
        customer = await account.ensure_customer("c1", "Acme", "acme@example.com", key="cus:live:c1")
        assert (await account.customer(customer)).livemode
        head = {"Authorization": f"Bearer {fake.key_text}"}
        httpx.delete(f"{fake.url}/v1/customers/{customer}", headers=head)
        gone = await account.customer(customer)
        assert (gone.deleted, gone.livemode) == (True, True)
        await account.close()


async def test_a_checkout_says_who_buys_what_everywhere(fake, account, wish):
    made = await account.open_session(wish, key="co:c1:a1")
    assert (made.status, made.payment_status, made.settled) == ("open", "unpaid", False)
    assert (made.attempt_id, made.amount_total, made.currency) == ("a1", 2_900, "usd")
    assert made.url is not None
    sent = fake.requests[-1].params
    named = {
        "client_id": "c1",
        "plan": "starter",
        "kind": "subscription",
        "attempt_id": "a1",
        "managed_by": "openclaw-billing",
    }
    assert sent["metadata"] == sent["subscription_data"]["metadata"] == named
    assert sent["success_url"] == "https://app.example.com/done?session_id={CHECKOUT_SESSION_ID}"
    assert sent["expires_at"] == str(int((START + timedelta(hours=1)).timestamp()))
    assert (sent["ui_mode"], sent["client_reference_id"]) == ("hosted_page", "c1")
    assert sent["subscription_data"]["billing_mode"] == {"type": "flexible"}
    assert not {"payment_method_types", "automatic_tax", "customer_update"} & set(sent)


async def test_a_checkout_may_have_a_trial_and_taxes(fake, account, wish):
    await account.open_session(replace(wish, trial_days=14, tax=True), key="co:c1:a1")
    sent = fake.requests[-1].params
    assert sent["subscription_data"]["trial_period_days"] == "14"
    assert sent["automatic_tax"] == sent["tax_id_collection"] == {"enabled": "true"}
    assert sent["customer_update"] == {"address": "auto", "name": "auto"}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("https://a.example/x", "https://a.example/x?session_id={CHECKOUT_SESSION_ID}"),
        ("https://a.example/x?y=1#z", "https://a.example/x?y=1&session_id={CHECKOUT_SESSION_ID}#z"),
        ("https://a.example/{CHECKOUT_SESSION_ID}", "https://a.example/{CHECKOUT_SESSION_ID}"),
    ],
)
async def test_the_return_page_is_told_the_session(fake, account, wish, given, sent):
    await account.open_session(replace(wish, success_url=given), key="co:c1:a1")
    assert fake.requests[-1].params["success_url"] == sent


async def test_a_pack_is_bought_and_its_payment_found(fake, account, wish):
    price = fake.add_price(2_000, lookup_key="topup_100_usd")
    pack = replace(wish, price_id=price, kind="topup", plan_id=None, pack="100", quantity=2)
    made = await account.open_session(pack, key="co:c1:a2")
    sent = fake.requests[-1].params
    assert sent["mode"] == "payment"
    assert sent["invoice_creation"]["invoice_data"]["metadata"] == sent["metadata"]
    assert sent["payment_intent_data"]["metadata"]["pack"] == "100"
    fake.complete_checkout(made.session_id)
    done = await account.session(made.session_id)
    assert (done.mode, done.status, done.settled, done.amount_total) == ("payment", "complete", True, 4_000)
    assert done.subscription_id is None
    payment = await account.payment(done.payment_intent_id)
    assert (payment.amount_paid, payment.amount_refunded, payment.currency) == (4_000, 0, "usd")
    assert (payment.customer_id, payment.invoice_subscription_id) == (wish.customer_id, None)


async def test_a_session_nobody_knows_is_none(account):
    assert await account.session("cs_test_nobody") is None


async def test_a_session_is_closed_and_a_finished_one_stays_finished(fake, account, wish):
    first = await account.open_session(wish, key="co:c1:a1")
    closed = await account.expire_session(first.session_id, key="ex:a1")
    assert (closed.status, closed.url) == ("expired", None)
    assert (await account.expire_session(first.session_id, key="ex:a1-again")).status == "expired"
    second = await account.open_session(replace(wish, attempt_id="a2"), key="co:c1:a2")
    fake.complete_checkout(second.session_id)
    done = await account.expire_session(second.session_id, key="ex:a2")
    assert done.status == "complete"
    assert done.subscription_id is not None
    assert await account.expire_session("cs_test_nobody", key="ex:none") is None


async def test_prices_come_from_the_setting_else_from_the_look_up_key(fake, make, account, starter, pro):
    assert (await account.price_for("starter", "monthly")).price_id == starter
    other = fake.add_price(1_900, interval="month")
    named = make(stripe_price_starter=other)
    found = await named.price_for("starter", "monthly")
    assert (found.price_id, found.plan_id, found.interval, found.unit_amount) == (
        other,
        "starter",
        "monthly",
        1_900,
    )
    assert (await named.price_for("pro", "monthly")).price_id == pro
    await named.close()


async def test_a_price_that_is_missing_or_sold_no_more_is_refused(fake, make, account, api, starter):
    with pytest.raises(PriceNotConfigured) as refused:
        await account.price_for("pro", "yearly")
    assert (refused.value.status_code, refused.value.code) == (503, "price_not_configured")
    api.v1.prices.update(starter, {"active": False})
    wrong = make(stripe_price_pro="price_nobody", stripe_price_starter=starter)
    for plan_id in ("pro", "starter"):
        with pytest.raises(PriceNotConfigured):
            await wrong.price_for(plan_id, "monthly")
    await wrong.close()


async def test_prices_are_kept_for_ten_minutes(fake, account, ticker, starter):
    for _ in range(2):
        await account.packs()
        await account.account_id()
    asked = len(fake.requests)
    assert asked == 2
    fake.add_price(2_000, lookup_key="topup_100_usd")
    ticker.advance(599)
    assert await account.packs() == []
    ticker.advance(1)
    assert [each.credits for each in await account.packs()] == [100]


async def test_a_price_that_was_missing_is_found_as_soon_as_it_is_there(fake, account, starter):
    with pytest.raises(PriceNotConfigured):
        await account.price_for("pro", "monthly")
    made = fake.add_price(9_900, lookup_key="pro_monthly_usd", interval="month")
    assert (await account.price_for("pro", "monthly")).price_id == made


async def test_packs_are_found_by_setting_and_by_look_up_key(fake, make):
    named = fake.add_price(500, lookup_key="something_else")
    fake.add_price(2_000, lookup_key="topup_100_usd")
    fake.add_price(2_500, lookup_key="topup_100_eur", currency="eur")
    fake.add_price(999, lookup_key="a_shirt")
    account = make(stripe_price_topups={20: named, 1_000: "price_nobody"})
    assert [(each.credits, each.unit_amount) for each in await account.packs()] == [(20, 500), (100, 2_000)]
    assert (await account.pack("20")).price_id == named
    for unknown in ("21", "", "1e2", "020"):
        with pytest.raises(UnknownPack) as refused:
            await account.pack(unknown)
        assert (refused.value.status_code, refused.value.code) == (404, "unknown_pack")
    await account.close()


async def test_refunds_count_unless_they_failed_and_disputes_are_told(fake, account, pack):
    payment_id = pack.payment_intent
    failed = fake.refund(payment_id, 300)
    fake.refund(payment_id, 500)
    fake.fail_refund(failed["id"])
    assert (await account.payment(payment_id)).amount_refunded == 500
    opened = fake.dispute(payment_id, 1_000)
    payment = await account.payment(payment_id)
    assert (payment.disputed, payment.amount_lost) == (True, 0)
    assert [each.dispute_id async for each in account.open_disputes()] == [opened["id"]]
    fake.close_dispute(opened["id"], won=False)
    assert (await account.payment(payment_id)).amount_lost == 1_000
    assert (await account.dispute(opened["id"])).status is DisputeStatus.LOST
    assert [each async for each in account.open_disputes()] == []
    assert await account.payment_of_charge(opened["charge"]) == payment_id


async def test_an_inquiry_is_no_open_dispute(fake, account, pack):
    asked = fake.dispute(pack.payment_intent, status="warning_needs_response")
    assert (await account.dispute(asked["id"])).status is DisputeStatus.WARNING
    assert [each async for each in account.open_disputes()] == []


async def test_the_payment_of_a_subscription_names_it(fake, account, bought):
    (link,) = fake.all("invoice_payment")
    payment = await account.payment(link["payment"]["payment_intent"])
    assert payment.invoice_subscription_id == bought.subscription_id


async def test_money_nobody_knows_is_none(account):
    assert await account.payment("pi_nobody") is None
    assert await account.dispute("dp_nobody") is None
    assert await account.payment_of_charge("ch_nobody") is None
    assert await account.invoice("in_nobody") is None


async def test_an_invoice_tells_what_each_line_pays_for(fake, account, bought):
    fact = await account.invoice(bought.latest_invoice_id)
    assert (fact.paid, fact.subscription_id, fact.amount_paid) == (True, bought.subscription_id, 2_900)
    (line,) = fact.lines
    assert (line.plan_id, line.proration, line.start, line.end) == (
        "starter",
        False,
        bought.start,
        bought.end,
    )


async def test_an_invoice_that_shows_ten_lines_is_read_to_the_last(fake, api, account, buyer, starter):
    others = [fake.add_price(100 + number, interval="month") for number in range(12)]
    items = [{"price": price} for price in (*others, starter)]
    sub = api.v1.subscriptions.create({"customer": buyer, "items": items})
    assert len(fake.get(sub.latest_invoice)["lines"]["data"]) == 10
    fact = await account.invoice(sub.latest_invoice)
    assert [line.amount for line in fact.lines] == [*range(100, 112), 2_900]
    assert [line.plan_id for line in fact.lines] == [*[None] * 12, "starter"]
    assert (await account.subscription(sub.id)).price.plan_id == "starter"


async def test_paid_invoices_are_those_of_the_time_asked_for(fake, account, bought):
    fake.renew(bought.subscription_id)
    fake.renew(bought.subscription_id, paid=False)
    now = await account.subscription(bought.subscription_id)
    everything = await account.paid_invoices(bought.subscription_id, bought.start)
    assert [each.lines[0].start for each in everything] == sorted(each.lines[0].start for each in everything)
    assert len(everything) == 2
    second = await account.paid_invoices(bought.subscription_id, bought.end)
    assert [each.lines[0].start for each in second] == [bought.end]
    assert await account.paid_invoices(bought.subscription_id, now.start) == []


async def test_money_is_owed_since_the_oldest_open_invoice_was_made_final(fake, account, bought):
    assert await account.overdue_since(bought.subscription_id) is None
    fake.decline_card(bought.customer_id)
    first = fake.renew(bought.subscription_id, paid=False)
    fake.advance(days=3)
    fake.renew(bought.subscription_id, paid=False)
    since = await account.overdue_since(bought.subscription_id)
    assert since.timestamp() == first["status_transitions"]["finalized_at"]


async def test_a_customers_invoices_come_in_pages(fake, account, bought):
    for _ in range(3):
        fake.renew(bought.subscription_id)
    first = await account.invoices(bought.customer_id, limit=2, after=None, status="paid")
    assert (len(first.invoices), first.has_more) == (2, True)
    last = first.invoices[-1].invoice_id
    rest = await account.invoices(bought.customer_id, limit=2, after=last, status=None)
    assert (len(rest.invoices), rest.has_more) == (2, False)
    assert not {each.invoice_id for each in rest.invoices} & {each.invoice_id for each in first.invoices}


async def test_a_cursor_of_another_customer_is_refused(fake, account, bought):
    stranger = await account.ensure_customer("c2", "Other", "o@example.com", key="cus:test:c2")
    for cursor in (bought.latest_invoice_id, "in_nobody"):
        with pytest.raises(BadRequest) as refused:
            await account.invoices(stranger, limit=10, after=cursor, status=None)
        assert refused.value.code == "unknown_cursor"
    assert (await account.invoices(stranger, limit=10, after=None, status=None)).invoices == ()


async def test_what_a_customer_may_use_is_listed_by_name(fake, account, buyer):
    assert await account.entitlements(buyer) == []
    fake.set_entitlements(buyer, ["webhooks", "api"])
    assert await account.entitlements(buyer) == ["api", "webhooks"]


async def test_the_portal_opens_for_one_thing_or_for_all(fake, api, account, bought):
    features = {"invoice_history": {"enabled": True}}
    api.v1.billing_portal.configurations.create({"features": features})
    ours = api.v1.billing_portal.configurations.create(
        {"features": features, "metadata": {"managed_by": "openclaw-billing"}}
    )
    for number, flow in enumerate(
        (None, "payment_method_update", "subscription_update", "subscription_cancel")
    ):
        url = await account.portal(
            bought.customer_id,
            return_url="https://app.example.com/",
            flow=flow,
            subscription_id=bought.subscription_id,
            configuration=None,
            key=f"portal:{number}",
        )
        assert url.startswith("https://")
        sent = fake.requests[-1].params
        assert sent["configuration"] == ours.id
        assert sent.get("flow_data", {}).get("type") == flow


async def test_an_event_is_found_while_stripe_remembers_it(fake, account, bought):
    kept = next(each for each in fake.events if each["type"] == "invoice.paid")
    fact = await account.event(kept["id"])
    assert (fact.type, fact.object_id, fact.subscription_id) == (
        "invoice.paid",
        bought.latest_invoice_id,
        bought.subscription_id,
    )
    fake.advance(days=31)
    assert await account.event(kept["id"]) is None


async def test_events_come_oldest_first_to_the_last_page(fake, account, bought):
    for _ in range(30):
        fake.renew(bought.subscription_id)
    since = bought.end
    found = [each async for each in account.events(EVENT_TYPES, since)]
    young = fake.clock.now() - timedelta(days=30)
    wanted = {
        each["id"]
        for each in fake.events
        if each["type"] in EVENT_TYPES and each["created"] > young.timestamp()
    }
    assert {each.event_id for each in found} == wanted
    assert [each.created for each in found] == sorted(each.created for each in found)
    asked = [each for each in fake.requests if each.path == "/v1/events"]
    assert all(len(each.params["types"]) <= 20 for each in asked)
    assert {name for each in asked for name in each.params["types"]} == set(EVENT_TYPES)
