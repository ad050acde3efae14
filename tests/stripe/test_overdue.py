"""A client whose payment is overdue: every way to ask for a job refuses it alike, and names the page to pay on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fastapi import Request

import client_auth
from openclaw_billing.errors import PaymentOverdue
from openclaw_billing.testing import FakeStripe
from tests.stripe.house import Buyer, House, house_of

pytestmark = pytest.mark.anyio

UPGRADE = "https://app.example.com/upgrade"
JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}


@pytest.fixture
async def house(fake: FakeStripe, catalogue: None, tmp_path: Path) -> AsyncIterator[House]:
    async with house_of(fake, tmp_path / "data", quota_status=402, upgrade_url=UPGRADE) as made:
        yield made


@pytest.fixture
def door(house: House) -> Iterator[None]:
    """The helpers, on the house's store."""
    client_auth.runtime.reconfigure(house.runtime.settings, clock=house.runtime.clock)
    yield
    client_auth.runtime.reconfigure()


async def _fall(house: House, acme: Buyer) -> str:
    """The page of the invoice for which the client is limited, with nothing left to spend."""
    subscription = await acme.subscribe("starter")
    house.fake.decline_card(house.fake.get(subscription)["customer"])
    house.fake.advance(days=29)
    house.fake.renew(subscription, paid=False)
    house.fake.give_up(subscription, "unpaid")
    await house.deliver()
    assert await acme.submit(5) == [200] * 5
    return str(house.fake.all("invoice")[-1]["hosted_invoice_url"])


async def test_a_job_of_a_limited_client_is_refused_with_the_page_to_pay_on(
    house: House, acme: Buyer
) -> None:
    page = await _fall(house, acme)
    answer = await house.http.post("/api/intake", headers=acme.key, json=JOB)
    told = answer.json()
    assert (answer.status_code, told["code"]) == (402, "payment_overdue")
    assert (told["hosted_invoice_url"], told["upgrade_url"]) == (page, UPGRADE)
    assert page in told["detail"]
    assert "Retry-After" not in answer.headers


async def test_who_owes_credits_is_refused_so_too_and_has_no_invoice_to_pay(
    house: House, acme: Buyer
) -> None:
    session = await acme.buy_pack()
    await house.deliver()
    await acme.submit(20)
    house.fake.refund(house.fake.get(session)["payment_intent"])
    await house.deliver()
    answer = await house.http.post("/api/intake", headers=acme.key, json=JOB)
    told = answer.json()
    assert (answer.status_code, told["code"]) == (402, "payment_overdue")
    assert (told["hosted_invoice_url"], told["upgrade_url"]) == (None, UPGRADE)


async def test_a_paid_invoice_is_no_page_to_pay_on(house: House, acme: Buyer) -> None:
    subscription = await acme.subscribe("starter")
    house.fake.pause(subscription)
    await house.deliver()
    await acme.submit(5)
    answer = await house.http.post("/api/intake", headers=acme.key, json=JOB)
    assert (answer.json()["code"], answer.json()["hosted_invoice_url"]) == ("payment_overdue", None)


async def test_the_helpers_refuse_as_the_endpoint_does(house: House, acme: Buyer, door: None) -> None:
    page = await _fall(house, acme)
    refusals: list[PaymentOverdue] = []
    client = house.runtime.view.clients.get(acme.client_id)
    with pytest.raises(PaymentOverdue) as refused:
        await client_auth.require_credits()(Request({"type": "http"}), client)
    refusals.append(refused.value)
    with pytest.raises(PaymentOverdue) as refused:
        async with client_auth.job_credit(acme.client_id):
            pass
    refusals.append(refused.value)
    with pytest.raises(PaymentOverdue) as refused, client_auth.job_credit(acme.client_id):
        pass
    refusals.append(refused.value)
    for each in refusals:
        assert (each.status_code, each.facts) == (402, {"hosted_invoice_url": page, "upgrade_url": UPGRADE})
    assert client_auth.can_submit_job(acme.client_id) == (False, refusals[0].detail)
    assert page in refusals[0].detail
    assert client_auth.deduct_job_credit(acme.client_id) is False


async def test_who_has_only_used_up_the_plan_is_not_told_of_payments(
    house: House, acme: Buyer, door: None
) -> None:
    await acme.submit(5)
    answer = await house.http.post("/api/intake", headers=acme.key, json=JOB)
    assert (answer.status_code, answer.json()["code"]) == (402, "quota_exceeded")
    assert client_auth.can_submit_job(acme.client_id) == (False, "Monthly job limit reached")
