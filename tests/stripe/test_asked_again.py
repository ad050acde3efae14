"""Idempotency-Key where Stripe is asked in between: done once, answered again, and given back where nothing was done."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest

from openclaw_billing import replies
from openclaw_billing.replies import Asked
from openclaw_billing.settings import load_settings
from tests.stripe.house import ADMIN, BACK, SETTINGS, Buyer, House

pytestmark = pytest.mark.anyio

WALKS = {
    "checkout": {"kind": "topup", "pack": "100"},
    "plan": {"plan_id": "pro"},
    "cancel": {"feedback": "unused"},
    "resume": None,
    "portal": {"return_url": f"{BACK}/account"},
}


async def _ask(acme: Buyer, path: str, body: Any, key: str) -> httpx.Response:
    headers = {**acme.key, "Idempotency-Key": key}
    return await acme.house.http.post(f"/api/billing/{path}", headers=headers, json=body)


async def test_the_same_request_again_is_answered_again_and_asks_stripe_for_nothing(
    house: House, acme: Buyer, api
) -> None:
    api.v1.billing_portal.configurations.create({"features": {"invoice_history": {"enabled": True}}})
    await acme.subscribe("starter")
    for path, body in WALKS.items():
        first = await _ask(acme, path, body, "once")
        assert (first.status_code, "Idempotent-Replayed" in first.headers) == (200, False), path
        sent = len(house.fake.requests)
        again = await _ask(acme, path, body, "once")
        assert (again.status_code, again.headers["Idempotent-Replayed"]) == (200, "true"), path
        assert len(house.fake.requests) == sent
        hidden = {"portal_url": None, "url": None} if path == "portal" else {}
        assert again.json() == {**first.json(), **hidden}
    assert house.fake.all("subscription")[0]["cancel_at_period_end"] is False


@pytest.mark.parametrize("path", WALKS)
async def test_a_key_that_is_none_is_refused(house: House, acme: Buyer, path: str) -> None:
    for key in ("x" * 256, "", "two words"):
        answer = await _ask(acme, path, WALKS[path], key)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_idempotency_key")
    assert house.fake.requests == []


async def test_the_same_key_with_another_wish_is_refused(house: House, acme: Buyer) -> None:
    assert (await _ask(acme, "checkout", {"plan_id": "starter"}, "once")).status_code == 200
    for path, body in (
        ("checkout", {"plan_id": "pro"}),
        ("checkout", {"plan_id": "starter", "promotion": True}),
        ("checkout?plan=pro", None),
    ):
        answer = await _ask(acme, path, body, "once")
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    for path, body in (
        ("checkout?plan_id=starter", None),
        ("checkout", {"plan": "starter"}),
        ("checkout", {}),
    ):
        assert (await _ask(acme, path, body, "once")).headers["Idempotent-Replayed"] == "true"
    other = await house.create("other")
    assert (await _ask(other, "checkout", {"plan_id": "pro"}, "once")).status_code == 200
    assert len(house.fake.all("checkout.session")) == 2


async def test_two_at_once_are_one_and_the_other_is_told_to_wait(house: House, acme: Buyer) -> None:
    answers = await asyncio.gather(*(_ask(acme, "checkout", {"plan_id": "pro"}, "once") for _ in range(5)))
    assert sorted(each.status_code for each in answers) == [200, 409, 409, 409, 409]
    for each in answers:
        if each.status_code == 409:
            assert (each.json()["code"], each.headers["Retry-After"]) == ("in_flight", "1")
    assert (await _ask(acme, "checkout", {"plan_id": "pro"}, "once")).headers["Idempotent-Replayed"] == "true"


async def test_what_was_refused_is_tried_again_under_the_same_key(house: House, acme: Buyer) -> None:
    with house.fake.down():
        refused = await _ask(acme, "checkout", {"plan_id": "pro"}, "once")
        assert (refused.status_code, refused.json()["code"]) == (503, "stripe_unavailable")
    house.fake.advance(minutes=1)
    tried = await _ask(acme, "checkout", {"plan_id": "pro"}, "once")
    assert (tried.status_code, "Idempotent-Replayed" in tried.headers) == (200, False)
    wrong = await _ask(acme, "checkout", {"kind": "topup", "pack": "7"}, "twice")
    assert wrong.json()["code"] == "unknown_pack"
    assert (await _ask(acme, "checkout", {"kind": "topup", "pack": "100"}, "twice")).status_code == 200


async def test_a_gateway_that_died_at_it_holds_the_key_for_a_moment_only(house: House, acme: Buyer) -> None:
    await acme.subscribe("starter")
    principal, budget = f"client:{acme.client_id}", house.runtime.settings.stripe_budget_seconds
    lost = Asked(principal, "POST", "/api/billing/resume", "once", b"")
    await acme.post("cancel")
    await house.runtime.write(replies.claim, lost, timedelta(seconds=1))
    assert (await _ask(acme, "resume", None, "once")).json()["code"] == "in_flight"
    house.fake.advance(seconds=2 * budget + 2)
    resumed = await _ask(acme, "resume", None, "once")
    assert (resumed.status_code, resumed.json()["ends_at"]) == (200, None)


async def test_no_stored_reply_leads_into_the_portal(house: House, acme: Buyer, api) -> None:
    api.v1.billing_portal.configurations.create({"features": {"invoice_history": {"enabled": True}}})
    opened = (await _ask(acme, "portal", None, "once")).json()
    [kept] = [each for each in house.runtime.view.spent if each.spent_id.startswith("reply:")]
    assert opened["url"].startswith("https://")
    assert json.loads(kept.answer) == {"mock": False}


async def test_an_admins_end_of_a_subscription_is_answered_again_too(house: House, acme: Buyer) -> None:
    await acme.subscribe("starter")
    path = f"/api/admin/clients/{acme.client_id}/subscription"
    keyed = {**ADMIN, "Idempotency-Key": "once"}
    first, again = [await house.http.delete(path, headers=keyed) for _ in range(2)]
    assert (first.status_code, again.status_code, first.json()) == (200, 200, again.json())
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_mock_mode_answers_the_same_page_under_one_key(house: House, acme: Buyer, tmp_path) -> None:
    known = {**SETTINGS, "data_dir": tmp_path / "data"}
    house.runtime.reconfigure(load_settings(**known), clock=house.runtime.clock)
    first, again = [await _ask(acme, "checkout", {"plan_id": "pro"}, "once") for _ in range(2)]
    assert first.json() == again.json()
    assert first.json()["mock"] is True
    other = await _ask(acme, "checkout", {"plan_id": "starter"}, "once")
    assert other.json()["code"] == "idempotency_mismatch"
