"""The worker: how often what fails is tried again, how clocks may differ, and what waits for what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from openclaw_billing import inbox
from openclaw_billing.pauses import PAUSES, pause
from openclaw_billing.stripe_records import StripeEvent
from openclaw_billing.worker import Worker, working
from tests.stripe.house import ADMIN, Buyer, House

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stored(house: House, acme: Buyer) -> str:
    """An event of Acme's that was stored and is not applied yet; its id."""
    await acme.check_out("starter")
    events = house.fake.due()
    for event in events:
        house.fake.taken(event["id"])
    (paid,) = [each for each in events if each["type"] == "invoice.paid"]
    await house.post(paid)
    event_id: str = paid["id"]
    return event_id


async def row(house: House, event_id: str) -> dict[str, Any]:
    (found,) = [each for each in await house.inbox() if each["event_id"] == event_id]
    return found


async def test_each_kind_of_trouble_has_tries_of_its_own(house: House, acme: Buyer, stored: str) -> None:
    def told(step: Callable[..., object]) -> Awaitable[object]:
        return house.runtime.write(step, stored, "why")

    for _ in range(20):
        await told(inbox.delay)
    for _ in range(inbox.PARKED_MAX):
        await told(inbox.park)
    for _ in range(inbox.BUGS_MAX - 1):
        await told(inbox.stumble)
    waiting = await row(house, stored)
    assert waiting["status"] == "parked"
    assert (waiting["attempts"], waiting["parkings"], waiting["stumbles"]) == (20, 5, 4)
    house.fake.advance(days=1)
    await house.worker.drain()
    assert (await row(house, stored))["status"] == "applied"
    assert await acme.credits() == ("starter", 50, 50)


@pytest.mark.parametrize(("step", "tries", "end"), [(inbox.park, 6, "orphan"), (inbox.stumble, 5, "failed")])
async def test_what_fails_in_one_way_ends_where_it_should(
    house: House, stored: str, step: Callable[..., object], tries: int, end: str
) -> None:
    for _ in range(tries - 1):
        await house.runtime.write(step, stored, "why")
        assert (await row(house, stored))["next_at"] is not None
    await house.runtime.write(step, stored, "why")
    ended = await row(house, stored)
    assert (ended["status"], ended["next_at"]) == (end, None)
    again = await house.http.post(f"/api/admin/stripe/events/{stored}/replay", headers=ADMIN)
    assert (again.json()["parkings"], again.json()["stumbles"]) == (0, 0)


async def test_an_event_about_nobody_is_tried_again_five_times_in_ten_minutes(
    house: House, acme: Buyer, api: Any
) -> None:
    api.v1.customers.create({"email": "x@example.com"}, {"idempotency_key": "x"})
    customer = house.fake.all("customer")[-1]
    house.fake.emit("customer.updated", customer)
    before = asked(house, customer["id"])
    await house.deliver()
    for minute in range(10):
        assert {each["status"] for each in await house.inbox("parked")} == {"parked"}, minute
        house.fake.advance(minutes=1)
        await house.worker.drain()
    assert await house.inbox("parked") == []
    assert asked(house, customer["id"]) - before == 6


def asked(house: House, object_id: str) -> int:
    return sum(object_id in each.path for each in house.fake.requests)


def test_pauses_grow_and_differ_from_name_to_name_by_a_fifth_at_most() -> None:
    for tries in range(20):
        found = {pause(tries, f"evt_{number}") for number in range(50)}
        shortest = PAUSES[min(tries, len(PAUSES) - 1)]
        assert len(found) > 40
        assert shortest <= min(found) <= max(found) <= 1.2 * shortest
        assert pause(tries, "evt_1") == pause(tries, "evt_1")


@pytest.mark.parametrize(("ahead", "requests_max"), [(20, 15), (300, 5)])
async def test_another_machines_clock_makes_no_loop_and_holds_up_nothing_for_long(
    house: House, acme: Buyer, ahead: int, requests_max: int
) -> None:
    sub = await acme.subscribe("starter")

    def synced_by_another(tx: Any, *, now: datetime) -> None:
        known = tx.subscriptions.get(acme.client_id)
        tx.subscriptions.put(replace(known, fetched_at=now + timedelta(seconds=ahead)))

    await house.runtime.write(synced_by_another)
    house.fake.cancel_now(sub)
    before = len(house.fake.requests)
    await house.deliver()
    assert len(house.fake.requests) - before <= requests_max
    for _ in range(6):
        house.fake.advance(seconds=5)
        await house.worker.drain()
    assert (await acme.credits())[0] == "free"
    assert await house.inbox("received") == []


async def test_an_answer_that_is_older_than_what_is_known_is_asked_for_again(
    house: House, acme: Buyer, stored: str
) -> None:
    effects = house.worker.effects
    (event,) = [each for each in house.runtime.view.stripe_events if each.event_id == stored]
    old = await effects.of(event)
    house.fake.advance(seconds=1)
    await effects.apply(await fresh(house, event))
    assert await acme.credits() == ("starter", 50, 50)
    house.fake.cancel_now(house.fake.all("subscription")[0]["id"])
    house.fake.advance(seconds=1)
    await effects.apply(await fresh(house, event))
    assert old is not None
    await effects.apply(old)
    assert (await acme.credits())[0] == "free", "the older answer was of a subscription that lived"


async def fresh(house: House, event: StripeEvent) -> inbox.Effect:
    effect = await house.worker.effects.of(event)
    assert effect is not None
    return effect


async def test_a_call_in_no_known_shape_is_tried_again_and_holds_up_nothing(
    house: House, acme: Buyer
) -> None:
    sub = await acme.subscribe("starter")
    await house.http.delete(f"/api/admin/clients/{acme.client_id}", headers=ADMIN)
    house.fake.cancel_now(sub)
    for event in house.fake.due():
        house.fake.taken(event["id"])
    shown = house.fake._world.objects[sub]
    created, shown["created"] = shown["created"], None
    other = await house.create("other")
    await other.check_out("starter")
    await house.deliver()
    shown["created"] = created
    (call,) = house.runtime.view.stripe_calls
    assert (call.done, call.attempts, call.reason) == (False, 1, "ValueError")
    assert await other.credits() == ("starter", 50, 50)
    house.fake.advance(minutes=1)
    await house.worker.drain()
    assert [each.done for each in house.runtime.view.stripe_calls] == [True]


@pytest.mark.parametrize("verb", ["replay", "attach"])
async def test_an_event_of_the_other_mode_is_not_taken_up_again(house: House, acme: Buyer, verb: str) -> None:
    await acme.check_out("starter")
    paid = next(event for event in house.fake.due() if event["type"] == "invoice.paid")
    await house.post({**paid, "id": "evt_live", "livemode": True})
    path = f"/api/admin/stripe/events/evt_live/{verb}"
    body = {"json": {"client_id": acme.client_id}} if verb == "attach" else {}
    refused = await house.http.post(path, headers=ADMIN, **body)
    assert (refused.status_code, refused.json()["code"]) == (409, "other_mode")
    assert (await row(house, "evt_live"))["status"] == "ignored"


async def test_a_sweep_that_failed_is_made_again_soon(house: House, acme: Buyer) -> None:
    look = house.worker.reconciler.look
    with house.fake.down():
        await look()
    await acme.check_out("starter")
    assert swept(house) == 0
    for _ in range(4):
        house.fake.advance(minutes=2)
        await look()
    assert swept(house) == 1
    assert await acme.credits() == ("starter", 50, 50)
    house.fake.advance(hours=23)
    await look()
    assert swept(house) == 1
    house.fake.advance(hours=2)
    await look()
    assert swept(house) == 2


async def test_a_look_whose_process_died_is_another_ones_within_the_hour(house: House) -> None:
    look = asyncio.create_task(house.worker.reconciler.look())
    house.fake.inject("hang", path="/v1/subscriptions")
    while not house.fake.requests or house.fake.requests[-1].path != "/v1/subscriptions":
        await asyncio.sleep(0.001)
    look.cancel()
    await asyncio.wait([look])
    house.fake.clear_faults()
    await house.worker.reconciler.look()
    assert swept(house) == 1
    house.fake.advance(hours=1)
    await house.worker.reconciler.look()
    assert swept(house) == 2


async def test_of_gateways_that_start_at_once_one_compares(house: House, acme: Buyer) -> None:
    def starting() -> Worker:
        assert house.runtime.stripe is not None
        return Worker(house.runtime, house.runtime.stripe)

    await asyncio.gather(*(starting().reconciler.look() for _ in range(5)))
    assert swept(house) == 1
    house.fake.advance(minutes=9)
    await starting().reconciler.look()
    assert swept(house) == 1
    house.fake.advance(minutes=1)
    await starting().reconciler.look()
    assert swept(house) == 2


def swept(house: House) -> int:
    return sum(each.path == "/v1/subscriptions" and each.method == "GET" for each in house.fake.requests)


async def test_no_event_waits_for_a_sweep(house: House, acme: Buyer) -> None:
    await acme.check_out("starter")
    (paid,) = [event for event in house.fake.due() if event["type"] == "invoice.paid"]
    house.fake.inject("hang", path="/v1/subscriptions")
    async with asyncio.timeout(5), working(house.runtime):
        while not swept(house):
            await asyncio.sleep(0.001)
        await house.post(paid)
        while (await row(house, paid["id"]))["status"] != "applied":
            await asyncio.sleep(0.001)
        house.fake.clear_faults()
    assert await acme.credits() == ("starter", 50, 50)
