"""The endpoint of Stripe's events: what it takes, how it refuses, and what an operator sees of both."""

from __future__ import annotations

import re

import httpx
import pytest

from openclaw_billing.testing.delivery import signature
from tests.stripe.house import WEBHOOK_SECRET, Buyer, House

pytestmark = pytest.mark.anyio


async def _deliver(house: House, body: bytes, *signatures: str) -> httpx.Response:
    given = signatures or (signature(body, WEBHOOK_SECRET, house.fake.clock.seconds()),)
    headers = [("Stripe-Signature", each) for each in given]
    return await house.http.post("/api/billing/webhook", content=body, headers=headers)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b'{"id": "a", "id": "b"}',
        b"[" * 100 + b"]" * 100,
        b'{"a":' * 10_000,
        b'"\\ud800"',
        b'{"object": "v2.core.event", "id": "evt_1", "type": "v1.x", "created": "2026-01-01", "livemode": false}',
    ],
    ids=lambda body: body[:20].decode("latin-1"),
)
async def test_a_signed_body_that_is_no_event_is_refused_in_one_word(house: House, body: bytes) -> None:
    answer = await _deliver(house, body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_event")


async def test_a_body_that_is_no_event_is_not_looked_at_before_its_signature(house: House) -> None:
    answer = await _deliver(house, b"not json", "t=1,v1=0")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_signature")


async def test_two_signature_headers_are_none_and_a_long_one_is_read(house: House, acme: Buyer) -> None:
    await acme.buy_pack()
    body, headers = house.fake.signed(house.fake.due()[0], at=house.fake.clock.seconds())
    good = headers["Stripe-Signature"]
    doubled = await _deliver(house, body, good, good)
    assert (doubled.status_code, doubled.json()["code"]) == (400, "invalid_signature")
    rolled = good.replace(",v1=", f",v1={'0' * 64}" * 9 + ",v1=")
    assert (await _deliver(house, body, rolled)).status_code == 200
    endless = await _deliver(house, body, good + ",v0=" + "0" * 4096)
    assert (endless.status_code, endless.json()["code"]) == (400, "invalid_signature")


async def test_the_log_tells_id_type_outcome_and_time_of_each_event(
    house: House, acme: Buyer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "openclaw_billing")
    await acme.buy_pack()
    event = next(each for each in house.fake.due() if each["type"] == "checkout.session.completed")
    for _ in range(2):
        await house.post(event)
    lines = [each for each in caplog.messages if event["id"] in each]
    for line, outcome in zip(lines, ("stored", "duplicate"), strict=True):
        assert re.fullmatch(rf"Stripe event {event['id']} \({event['type']}\): {outcome} in \d+ ms", line)
