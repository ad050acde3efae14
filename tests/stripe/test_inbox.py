"""The inbox: forged, stale, foreign, doubled, early, lost and unlucky events."""

from __future__ import annotations

import asyncio
import json

import pytest

import gateway
from openclaw_billing import inbox
from openclaw_billing.records import Fact
from openclaw_billing.settings import load_settings
from tests.stripe.house import ADMIN, SETTINGS, Buyer, House, house_of

pytestmark = pytest.mark.anyio


async def test_twenty_deliveries_at_once_of_one_paid_pack_are_one_grant(house: House, acme: Buyer) -> None:
    await acme.buy_pack()
    paid = next(event for event in house.fake.due() if event["type"] == "checkout.session.completed")
    answers = await asyncio.gather(*(house.post(paid) for _ in range(20)))
    assert sorted(answer.json()["outcome"] for answer in answers) == ["duplicate"] * 19 + ["stored"]
    await asyncio.gather(*(house.worker.drain() for _ in range(4)))
    assert (await acme.usage())["credits"]["purchased"] == 100


async def test_the_page_come_back_to_and_the_event_are_one_grant(house: House, acme: Buyer) -> None:
    session = await acme.buy_pack()
    pages = [acme.get(f"checkout/{session}") for _ in range(5)]
    *answers, _ = await asyncio.gather(*pages, house.deliver(twice=True))
    assert {answer.json()["applied"] for answer in answers} == {True}
    assert (await acme.usage())["credits"]["purchased"] == 100
    other = await house.create("other")
    assert (await other.get(f"checkout/{session}")).status_code == 404


async def test_a_body_that_is_not_signed_now_by_our_secret_changes_nothing(house: House, acme: Buyer) -> None:
    await acme.buy_pack()
    paid = next(event for event in house.fake.due() if event["type"] == "checkout.session.completed")
    now = house.fake.clock.seconds()
    for answer in (
        await house.post(paid, secret="whsec_other"),
        await house.post(paid, at=now - 301),
        await house.post(paid, at=now + 301),
        await house.http.post("/api/billing/webhook", json=paid),
        await house.http.post(
            "/api/billing/webhook", json=paid, headers={"Stripe-Signature": f"t={now},v1={'0' * 64}"}
        ),
    ):
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_signature")
    for odd in (
        [],
        None,
        7,
        {"object": "event"},
        {**paid, "created": "x"},
        {**paid, "id": ""},
        {**paid, "id": "x" * 300},
    ):
        answer = await house.post(odd)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_event"), odd
    assert await house.worker.drain() == 0
    assert (await acme.usage())["credits"]["purchased"] == 0
    assert await house.inbox() == []


async def test_an_event_of_the_other_mode_or_of_another_account_is_ignored(house: House, acme: Buyer) -> None:
    await acme.buy_pack()
    paid = next(event for event in house.fake.due() if event["type"] == "checkout.session.completed")
    for foreign, reason in (
        ({"id": "evt_live", "livemode": True}, "other_mode"),
        ({"id": "evt_other", "account": "acct_other"}, "other_account"),
        ({"id": "evt_new", "type": "balance.available"}, "unknown_type"),
    ):
        answer = (await house.post({**paid, **foreign})).json()
        assert (answer["outcome"], answer["reason"]) == ("ignored", reason)
    await house.worker.drain()
    assert (await acme.usage())["credits"]["purchased"] == 0


async def test_without_a_key_a_signed_event_is_kept_and_changes_nothing(fake, tmp_path) -> None:
    fake.add_price(100, lookup_key="starter_monthly_usd", interval="month")
    async with house_of(fake, tmp_path / "data") as house:
        acme = await house.create()
        house.runtime.reconfigure(
            load_settings(**{**SETTINGS, "data_dir": tmp_path / "data"}), clock=house.runtime.clock
        )
        answer = (await house.post(fake.events[-1])).json()
        assert (answer["outcome"], answer["reason"]) == ("ignored", "mock_mode")
        body = (await acme.post("checkout", plan_id="starter")).json()
        assert (body["mock"], body["billing_mode"]) == (True, "mock")
        assert (await acme.post("plan", plan_id="pro")).json()["code"] == "use_checkout"
        assert (await acme.post("cancel")).json()["code"] == "no_subscription"
        assert (await acme.get("invoices")).json() == {"invoices": [], "has_more": False, "stale": False}
        assert (await acme.post("portal")).json()["mock"] is True


async def test_without_a_secret_events_are_refused_unread(fake, tmp_path) -> None:
    async with house_of(fake, tmp_path / "data", stripe_webhook_secret="") as house:
        answer = await house.http.post("/api/billing/webhook", content=b"{" * 100)
        assert (answer.status_code, answer.json()["code"]) == (503, "webhook_not_configured")
        assert "Retry-After" in answer.headers


async def test_an_event_about_nobody_of_ours_waits_and_then_is_an_orphan(house: House, api) -> None:
    customer = api.v1.customers.create({"email": "stranger@example.com"}, {"idempotency_key": "x"}).id
    price = next(each["id"] for each in house.fake.all("price") if each["lookup_key"] == "pro_monthly_usd")
    api.v1.subscriptions.create({"customer": customer, "items": [{"price": price}]}, {"idempotency_key": "y"})
    await house.deliver()
    parked = await house.inbox("parked")
    assert {event["customer_id"] for event in parked} == {customer}
    for _ in range(5):
        house.fake.advance(minutes=2)
        await house.worker.drain()
    assert await house.inbox("parked") == []
    orphans = await house.inbox("orphan")
    assert len(orphans) == len(parked)

    acme = await house.create()
    path = f"/api/admin/stripe/events/{orphans[0]['event_id']}"
    attached = await house.http.post(f"{path}/attach", headers=ADMIN, json={"client_id": acme.client_id})
    assert attached.status_code == 200
    await house.worker.drain()
    assert await acme.credits() == ("pro", 200, 200)
    other = await house.create("other")
    await house.create("third")
    refused = await house.http.post(f"{path}/attach", headers=ADMIN, json={"client_id": other.client_id})
    assert refused.status_code == 409, "the customer belongs to a client already"


async def test_a_replayed_event_does_nothing_twice(house: House, acme: Buyer) -> None:
    await acme.buy_pack()
    await acme.subscribe("starter")
    before = await acme.usage()
    for event in await house.inbox("applied"):
        answer = await house.http.post(f"/api/admin/stripe/events/{event['event_id']}/replay", headers=ADMIN)
        assert answer.json()["status"] == "received"
    again = await house.http.post(f"/api/admin/stripe/events/{event['event_id']}/replay", headers=ADMIN)
    assert again.json()["code"] == "event_waiting"
    await house.worker.drain()
    assert await acme.usage() == before
    assert (await house.http.post("/api/admin/stripe/events/evt_no/replay", headers=ADMIN)).status_code == 404


async def test_the_inbox_is_listed_page_by_page(house: House, acme: Buyer) -> None:
    await acme.subscribe("starter")
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await house.http.get(f"/api/admin/stripe/events?limit=3{cursor}", headers=ADMIN)).json()
        seen += [event["event_id"] for event in page["events"]]
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == len(set(seen)) == page["total"] == len(await house.inbox())


async def test_what_was_never_delivered_is_found_by_a_poll(house: House, acme: Buyer) -> None:
    sub = await acme.subscribe("starter")
    house.fake.advance(days=29)
    house.fake.renew(sub)
    await acme.buy_pack()
    assert house.fake.due()
    house.runtime.write_and_wait(_note_cursor, f"stripe:cursor:{house.runtime.settings.billing_mode}")
    assert await house.worker.reconciler.poll() > 0
    await house.worker.drain()
    assert (await acme.usage())["credits"] == {"allowance": 50, "promo": 0, "purchased": 100, "owed": 0}
    assert await house.worker.reconciler.poll() == 0
    assert set(await house.deliver()) <= {"duplicate", "ignored"}


async def test_a_sweep_heals_what_no_event_told(house: House, acme: Buyer) -> None:
    await acme.check_out("pro")
    await acme.buy_pack()
    rehearsed = await house.worker.reconciler.sweep(dry_run=True)
    assert rehearsed.healed >= 2
    assert (await acme.credits())[0] == "free"
    assert (await house.worker.reconciler.sweep()).healed >= 2
    assert (await acme.usage())["credits"] == {"allowance": 200, "promo": 0, "purchased": 100, "owed": 0}
    assert (await house.worker.reconciler.sweep()).healed == 0


async def test_a_subscription_in_no_known_shape_hides_no_other(house: House, acme: Buyer) -> None:
    buyers = [await house.create(f"buyer{number}") for number in range(3)]
    for buyer in buyers:
        await buyer.check_out("pro")
    misshapen = house.fake.all("subscription")[1]
    house.fake._world.objects[misshapen["id"]]["created"] = None
    assert (await house.worker.reconciler.sweep()).healed == 2
    assert sorted([(await buyer.credits())[0] for buyer in buyers]) == ["free", "pro", "pro"]


@pytest.mark.parametrize("told", ["refund.created", "charge.dispute.created"])
async def test_money_that_goes_back_is_found_by_its_charge_alone(
    house: House, acme: Buyer, told: str
) -> None:
    session = await acme.buy_pack()
    await house.deliver()
    payment = house.fake.get(session)["payment_intent"]
    house.fake.dispute(payment) if "dispute" in told else house.fake.refund(payment)
    (event,) = [event for event in house.fake.due() if event["type"] == told]
    event["data"]["object"]["payment_intent"] = None
    assert (await house.post(event)).json()["outcome"] == "stored"
    await house.worker.drain()
    assert (await acme.usage())["credits"]["purchased"] == 0


async def test_while_stripe_is_away_events_are_stored_and_converge_when_it_returns(
    house: House, acme: Buyer
) -> None:
    await acme.check_out("starter")
    due = house.fake.due()
    with house.fake.down():
        for event in due:
            assert (await house.post(event)).json()["outcome"] in ("stored", "ignored")
        await house.worker.drain()
        waiting = await house.inbox("received")
        assert waiting
        assert {event["reason"] for event in waiting} <= {"stripe_unavailable", ""}
        assert await acme.submit() == [200]
        refused = await acme.post("checkout", kind="topup", pack="100")
        assert (refused.status_code, refused.json()["code"]) == (503, "stripe_unavailable")
        assert "Retry-After" in refused.headers
    for _ in range(6):
        house.fake.advance(minutes=15)
        await house.worker.drain()
    assert await house.inbox("received") == []
    assert (await acme.credits())[:2] == ("starter", 50)


async def test_an_admin_sees_how_far_the_inbox_is_behind(house: House, acme: Buyer) -> None:
    async def status() -> dict[str, object]:
        found: dict[str, object] = (await house.http.get("/api/admin/stripe", headers=ADMIN)).json()
        return found

    nothing = {"waiting": 0, "parked": 0, "lag_seconds": None, "last_event_seconds": None}
    assert await status() == {"billing_mode": "test", **nothing}
    await acme.check_out("starter")
    paid = next(event for event in house.fake.due() if event["type"] == "invoice.paid")
    await house.post(paid)
    house.fake.advance(seconds=30)
    behind = await status()
    assert (behind["waiting"], behind["lag_seconds"], behind["last_event_seconds"]) == (1, 30, 30)


async def test_events_are_forgotten_when_they_are_long_settled(house: House, acme: Buyer) -> None:
    await acme.subscribe("starter")
    every = [event.event_id for event in house.runtime.view.stripe_events]
    assert await house.runtime.write(inbox.forget, every) == 0
    assert inbox.old(house.runtime.view, now=house.runtime.now()) == []
    house.fake.advance(days=41)
    await gateway.keep_house(house.runtime)
    assert await house.inbox() == []


async def test_no_secret_and_no_body_is_kept_of_an_event(house: House, acme: Buyer) -> None:
    await acme.subscribe("starter")
    kept = json.dumps(await house.inbox())
    for word in ("whsec", "sk_test", "acme@example.com", "hosted_invoice_url", "card"):
        assert word not in kept


def _note_cursor(tx, name, *, now):
    tx.facts.put(Fact(name=name, value=now.isoformat()))
