"""The client's own endpoints: what they refuse, what they answer, and what they never do."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from openclaw_billing.testing import FakeStripe
from tests.stripe.house import BACK, Buyer, House, house_of

pytestmark = pytest.mark.anyio


async def test_a_checkout_is_open_once_and_answered_again(house: House, acme: Buyer) -> None:
    first, second = [(await acme.post("checkout", plan_id="starter")).json() for _ in range(2)]
    assert first == second
    assert (first["mock"], first["billing_mode"], first["mode"]) == (False, "test", "subscription")
    assert (first["price"], first["currency"], first["plan_id"]) == (49, "usd", "starter")
    assert first["checkout_url"] == first["url"]
    by_query = await house.http.post("/api/billing/checkout?plan=starter", headers=acme.key)
    assert by_query.json()["session_id"] == first["session_id"]
    other = (await acme.post("checkout", plan_id="pro")).json()
    assert other["session_id"] != first["session_id"]
    assert house.fake.get(first["session_id"])["status"] == "expired", "two open pages could both be paid"
    answers = await asyncio.gather(*(acme.post("checkout", kind="topup", pack="100") for _ in range(10)))
    assert len({answer.json()["session_id"] for answer in answers}) == 1
    assert len(house.fake.all("customer")) == 1


async def test_every_change_at_stripe_carries_a_key_of_ours(house: House, acme: Buyer) -> None:
    await acme.subscribe("starter")
    await acme.buy_pack()
    await acme.post("plan", plan_id="pro")
    await acme.post("plan", plan_id="starter")
    await acme.post("cancel")
    await acme.post("resume")
    await acme.post("portal")
    posts = [each for each in house.fake.requests if each.method == "POST"]
    assert len(posts) >= 8
    for request in posts:
        assert request.idempotency_key, request.path
        assert acme.client_id in request.idempotency_key or "sub_" in request.idempotency_key, request.path
    keys = [each.idempotency_key for each in posts]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"plan_id": "gold"}, 400, "unknown_plan"),
        ({"plan_id": "enterprise"}, 400, "contact_sales"),
        ({"plan_id": "free"}, 400, "free_needs_no_checkout"),
        ({"plan_id": "pro", "plan": "starter"}, 400, "two_plans"),
        ({"kind": "topup"}, 422, "pack_missing"),
        ({"kind": "topup", "pack": "7"}, 404, "unknown_pack"),
        ({"kind": "topup", "pack": "100", "quantity": 101}, 422, "validation_error"),
        ({"plan_id": "pro", "amount": 1}, 422, "validation_error"),
        ({"plan_id": "pro", "success_url": "https://evil.example.com/x"}, 422, "redirect_not_allowed"),
        ({"plan_id": "pro", "success_url": f"{BACK}.evil.example.com"}, 422, "redirect_not_allowed"),
        (
            {"plan_id": "pro", "success_url": "https://app.example.com@evil.example"},
            422,
            "redirect_not_allowed",
        ),
        (
            {"plan_id": "pro", "cancel_url": "https://evil.example\\@app.example.com"},
            422,
            "redirect_not_allowed",
        ),
        ({"plan_id": "pro", "cancel_url": "javascript:alert(1)"}, 422, "redirect_not_allowed"),
        ({"plan_id": "pro", "cancel_url": "http://app.example.com/"}, 422, "redirect_not_allowed"),
    ],
)
async def test_what_cannot_be_bought_is_refused_before_stripe_hears_of_it(
    house: House, acme: Buyer, body: dict[str, Any], status: int, code: str
) -> None:
    answer = await acme.post("checkout", **body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert not [each for each in house.fake.requests if each.method == "POST"]


async def test_without_an_address_to_come_back_to_there_is_no_checkout(fake, catalogue, tmp_path) -> None:
    async with house_of(fake, tmp_path / "data", checkout_success_url=None) as house:
        acme = await house.create()
        assert (await acme.post("checkout", plan_id="pro")).json()["code"] == "redirect_missing"
        ok = await acme.post("checkout", plan_id="pro", success_url=f"{BACK}/a?b=c#d")
        assert ok.status_code == 200
        sent = house.fake.requests[-1].params["success_url"]
        assert sent == f"{BACK}/a?b=c&session_id={{CHECKOUT_SESSION_ID}}#d"


async def test_who_has_a_subscription_gets_no_second_one(house: House, acme: Buyer) -> None:
    await acme.subscribe("starter")
    same = await acme.post("checkout", plan_id="starter")
    assert (same.status_code, same.json()["code"]) == (409, "already_on_plan")
    other = await acme.post("checkout", plan_id="pro")
    assert (other.status_code, other.json()["code"]) == (409, "use_change_plan")
    assert other.json()["change_url"] == "/api/billing/plan"
    assert (await acme.post("plan", plan_id="starter")).json()["code"] == "already_on_plan"
    await acme.post("cancel")
    assert (await acme.post("plan", plan_id="pro")).json()["code"] == "ending"
    again = await acme.post("cancel")
    assert (again.status_code, again.json()["status"]) == (200, "ending")
    assert (await acme.post("resume")).json()["ends_at"] is None
    assert len(house.fake.all("subscription")) == 1


async def test_who_has_none_cannot_change_one(house: House, acme: Buyer) -> None:
    for plan in ("pro", "free"):
        for preview in (False, True):
            answer = await acme.post("plan", plan_id=plan, preview=preview)
            assert (answer.status_code, answer.json()["code"]) == (409, "use_checkout")
    assert house.fake.requests == [], "Stripe need not be asked for that"
    assert (await acme.post("plan", plan_id="enterprise")).json()["code"] == "contact_sales"
    for path in ("cancel", "resume"):
        answer = await acme.post(path)
        assert (answer.status_code, answer.json()["code"]) == (409, "no_subscription")
    portal = await acme.post("portal", flow="subscription_cancel")
    assert portal.json()["code"] == "no_subscription"


async def test_to_free_is_to_the_end_of_what_is_paid(house: House, acme: Buyer) -> None:
    await acme.subscribe("pro")
    preview = (await acme.post("plan", plan_id="free", preview=True)).json()
    assert (preview["effective"], preview["amount_due"]) == ("preview", 0)
    down = (await acme.post("plan", plan_id="free")).json()
    assert (down["plan_id"], down["effective"], down["pending_plan"]) == ("pro", "period_end", "free")
    assert down["effective_at"] == preview["effective_at"]


async def test_a_portal_that_nobody_has_set_up_is_told_so_and_opens_once_it_is(
    house: House, acme: Buyer, api, caplog
) -> None:
    answer = await acme.post("portal")
    assert (answer.status_code, answer.json()["code"]) == (503, "portal_not_configured")
    assert "stripe sync" in answer.json()["detail"]
    assert "Retry-After" in answer.headers
    assert not [each for each in caplog.records if each.levelname == "ERROR"], "it is no bug of ours"
    # As the dashboard makes one, for want of ours.
    api.v1.billing_portal.configurations.create({"features": {"invoice_history": {"enabled": True}}})
    opened = await acme.post("portal")
    assert (opened.status_code, opened.json()["mock"]) == (200, False)


async def test_two_changes_at_once_are_one(house: House, acme: Buyer) -> None:
    await acme.subscribe("starter")
    answers = await asyncio.gather(*(acme.post("plan", plan_id="pro") for _ in range(4)))
    codes = sorted(answer.json().get("code", "done") for answer in answers)
    assert codes.count("done") == 1
    assert set(codes) <= {"done", "change_in_progress", "already_on_plan"}
    assert (
        len([each for each in house.fake.all("invoice") if each["billing_reason"] == "subscription_update"])
        == 1
    )


async def test_invoices_are_the_clients_own_and_stay_readable_while_stripe_is_away(
    house: House, acme: Buyer
) -> None:
    assert (await acme.get("invoices")).json() == {"invoices": [], "has_more": False, "stale": False}
    sub = await acme.subscribe("starter")
    for _ in range(2):
        house.fake.advance(days=31)
        house.fake.renew(sub)
    await house.deliver()
    first = (await acme.get("invoices?limit=2")).json()
    assert (len(first["invoices"]), first["has_more"], first["stale"]) == (2, True, False)
    newest = first["invoices"][0]
    assert (newest["amount_paid"], newest["amount_due_text"]) == (4_900, "49.00 USD")
    after = first["invoices"][-1]["id"]
    assert len((await acme.get(f"invoices?limit=2&starting_after={after}")).json()["invoices"]) == 1
    other = await house.create("other")
    await other.subscribe("starter")
    foreign = await other.get(f"invoices?starting_after={after}")
    assert (foreign.status_code, foreign.json()["code"]) == (400, "unknown_cursor")
    with house.fake.down():
        away = (await acme.get("invoices?limit=100")).json()
        assert (len(away["invoices"]), away["stale"]) == (3, True)
        assert away["invoices"][0] == newest


async def test_packs_are_listed_for_anybody(house: House) -> None:
    listed = (await house.http.get("/api/billing/packs")).json()
    assert listed == {
        "packs": [{"pack": "100", "credits": 100, "price": 20, "currency": "usd"}],
        "billing_mode": "test",
    }


async def test_packs_are_answered_within_the_budget_while_stripe_is_slow(tmp_path) -> None:
    def slowly(*_: object) -> list[str]:
        time.sleep(0.8)
        return []

    with FakeStripe(check=slowly) as fake:
        packs = {credits: fake.add_price(credits * 20) for credits in (200, 300, 400, 500)}
        budget = {"stripe_timeout_seconds": 1, "stripe_budget_seconds": 0.5}
        async with house_of(fake, tmp_path / "data", stripe_price_topups=packs, **budget) as house:
            # Here an account whose seconds are real ones.
            house.runtime.reconfigure(house.runtime.settings)
            begun = time.monotonic()
            answer = await house.http.get("/api/billing/packs")
            assert time.monotonic() - begun < 2.0
            await house.runtime.stripe.close()
            assert (answer.status_code, answer.json()["code"]) == (503, "stripe_unavailable")


async def test_a_refused_card_is_a_402_and_changes_nothing(house: House, acme: Buyer) -> None:
    sub = await acme.subscribe("starter")
    house.fake.decline_card(house.fake.get(sub)["customer"], "insufficient_funds")
    answer = await acme.post("plan", plan_id="pro")
    assert answer.status_code == 402
    assert (await acme.credits())[0] == "starter"


async def test_the_answer_comes_within_the_budget_while_stripe_hangs(fake, catalogue, tmp_path) -> None:
    async with house_of(
        fake, tmp_path / "data", stripe_timeout_seconds=0.2, stripe_budget_seconds=0.5, stripe_retries_max=0
    ) as house:
        acme = await house.create()
        fake.inject("hang", times=None)
        async with asyncio.timeout(5):
            answer = await acme.post("checkout", plan_id="pro")
        assert (answer.status_code, answer.json()["code"]) == (503, "stripe_unavailable")
        assert await acme.submit(2) == [200, 200]
        assert (await acme.usage())["jobs_used"] == 2
        fake.clear_faults()


async def test_a_client_from_a_seed_file_keeps_its_customer(house: House, api) -> None:
    acme = await house.create()
    made = api.v1.customers.create({"email": "acme@example.com"}, {"idempotency_key": "old"}).id

    def know(tx, *, now):
        tx.clients.put(replace(tx.clients.get(acme.client_id), stripe_customer_id=made))

    house.runtime.write_and_wait(know)
    await acme.subscribe("starter")
    assert len(house.fake.all("customer")) == 1
    assert (await acme.credits())[0] == "starter"


async def test_keys_of_the_other_mode_make_known_ids_absent(house: House, acme: Buyer, tmp_path) -> None:
    await acme.subscribe("starter")

    def turn(tx, *, now):
        tx.subscriptions.put(replace(tx.subscriptions.get(acme.client_id), mode="live"))

    house.runtime.write_and_wait(turn)
    assert (await acme.usage())["billing_state"] == "none"
    assert (await acme.post("cancel")).json()["code"] == "no_subscription"


async def test_while_stripe_is_away_no_invoice_of_the_other_mode_is_shown(house: House, acme: Buyer) -> None:
    await acme.subscribe("starter")

    def copy(tx, *, now):
        [mine] = tx.invoices
        tx.invoices.put(replace(mine, invoice_id="in_live", mode="live"))

    house.runtime.write_and_wait(copy)
    with house.fake.down():
        stale = (await acme.get("invoices")).json()
    assert stale["stale"] is True
    assert [each["id"] for each in stale["invoices"]] == [house.fake.all("invoice")[0]["id"]]
