"""What a client and an admin are shown of a subscription: in every answer's header, in usage, in the client's view."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI

import client_auth
from tests.stripe.house import ADMIN, Buyer, House, house_of

pytestmark = pytest.mark.anyio

JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}


async def _told(house: House, acme: Buyer) -> str:
    """The state that every kind of answer tells alike."""
    job = await house.http.post("/api/intake", headers=acme.key, json=JOB)
    answers = [
        job,
        await acme.get("usage"),
        await acme.get("checkout/cs_nobody"),
        await house.http.get("/api/jobs?limit=0", headers=acme.key),
        await house.http.get(f"/api/jobs/{job.json().get('job_id', 'none')}", headers=acme.key),
    ]
    state: str = answers[1].json()["billing_state"]
    assert {each.headers["X-Billing-State"] for each in answers} == {state}
    assert all(each.headers.get_list("X-Billing-State") == [state] for each in answers)
    return state


async def test_every_answer_to_a_client_tells_its_billing_state(house: House, acme: Buyer) -> None:
    fake = house.fake
    assert await _told(house, acme) == "none"
    sub = await acme.subscribe("starter")
    assert await _told(house, acme) == "active"
    await acme.post("cancel")
    assert await _told(house, acme) == "ending"
    await acme.post("resume")
    fake.pause(sub)
    await house.deliver()
    assert await _told(house, acme) == "paused"
    await acme.post("resume")
    fake.decline_card(fake.get(sub)["customer"])
    fake.advance(days=29)
    fake.renew(sub, paid=False)
    await house.deliver()
    assert await _told(house, acme) == "past_due"
    fake.advance(days=8)
    assert await _told(house, acme) == "limited"
    await acme.submit(5)
    assert await _told(house, acme) == "limited", "a refused job tells it too"
    fake.give_up(sub, "canceled")
    await house.deliver()
    assert await _told(house, acme) == "none"


async def test_a_trial_is_told_so(fake, catalogue, tmp_path) -> None:
    async with house_of(fake, tmp_path / "data", trial_days=14) as house:
        acme = await house.create()
        await acme.subscribe("pro")
        assert await _told(house, acme) == "trialing"


async def test_a_call_that_comes_too_soon_is_told_its_state(fake, catalogue, tmp_path) -> None:
    async with house_of(fake, tmp_path / "data", rate_limits=True, rate_starter="1/s, burst 1") as house:
        acme = await house.create()
        await acme.subscribe("starter")
        fake.advance(minutes=1)
        answers = [await acme.get("usage") for _ in range(2)]
        assert [each.status_code for each in answers] == [200, 429]
        assert {each.headers["X-Billing-State"] for each in answers} == {"active"}


async def test_a_subscription_of_the_other_mode_is_none(house: House, acme: Buyer) -> None:
    await acme.subscribe("starter")

    def turn(tx, *, now):
        tx.subscriptions.put(replace(tx.subscriptions.get(acme.client_id), mode="live"))

    house.runtime.write_and_wait(turn)
    assert await _told(house, acme) == "none"


async def test_who_is_no_client_is_told_nothing(house: House, acme: Buyer) -> None:
    for path, headers in (
        ("/api/billing/usage", {"X-Client-Key": "junk"}),
        ("/api/billing/usage", {}),
        ("/api/billing/plans", {}),
        (f"/api/admin/clients/{acme.client_id}", ADMIN),
    ):
        assert "X-Billing-State" not in (await house.http.get(path, headers=headers)).headers


async def test_a_hosts_own_route_tells_its_clients_too(house: House, acme: Buyer) -> None:
    await acme.subscribe("starter")
    client_auth.runtime.reconfigure(house.runtime.settings, clock=house.runtime.clock)
    app = FastAPI()

    @app.get("/mine")
    async def mine(client: client_auth.CurrentClient) -> str:
        return client.client_id

    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://host") as http:
            answer = await http.get("/mine", headers=acme.key)
        assert answer.headers.get_list("X-Billing-State") == ["active"]
    finally:
        client_auth.runtime.reconfigure()


async def test_usage_and_the_admins_view_tell_the_same_of_a_subscription(house: House, acme: Buyer) -> None:
    path = f"/api/admin/clients/{acme.client_id}"
    fields = {
        "billing_state": "none",
        "pause_reason": None,
        "grace_until": None,
        "ends_at": None,
        "pending_plan": None,
        "pending_at": None,
        "dispute_hold": False,
        "needs_review": False,
    }

    async def shown() -> dict[str, object]:
        usage, view = await acme.usage(), (await house.http.get(path, headers=ADMIN)).json()
        assert {name: view[name] for name in fields} == {name: usage[name] for name in fields}
        return {name: view[name] for name in fields}

    assert await shown() == fields
    sub = await acme.subscribe("pro")
    await acme.post("plan", plan_id="starter")
    down = await shown()
    assert (down["billing_state"], down["pending_plan"]) == ("active", "starter")
    assert down["pending_at"] is not None
    house.fake.pause(sub, "trial_end_without_payment_method")
    await house.deliver()
    paused = await shown()
    assert (paused["billing_state"], paused["pause_reason"]) == ("paused", "trial_end_without_payment_method")
    known = (await house.http.get(f"{path}/subscription", headers=ADMIN)).json()
    assert known["pause_reason"] == "trial_end_without_payment_method"
    await acme.post("resume")
    assert (await shown())["pause_reason"] is None
    listed = (await house.http.get("/api/admin/clients", headers=ADMIN)).json()["clients"]
    assert "billing_state" not in listed[0]
