"""The same life with Stripe on every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from openclaw_billing.contracts import Store
from openclaw_billing.testing import FakeStripe
from tests.stores.conftest import postgres_address, postgres_url  # noqa: F401 - fixtures
from tests.stripe.house import House, house_of

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "postgres"])
async def stored(
    request: pytest.FixtureRequest, fake: FakeStripe, catalogue: None, tmp_path: Path
) -> AsyncIterator[House]:
    store: Store
    if request.param == "memory":
        from openclaw_billing.stores.memory import MemoryStore

        store = MemoryStore()
    else:
        from openclaw_billing.stores.postgres import PostgresStore

        store = PostgresStore(request.getfixturevalue("postgres_url"))
    async with house_of(fake, tmp_path / "data", store=store) as made:
        yield made


async def test_a_client_pays_fails_recovers_and_has_money_taken_back(stored: House) -> None:
    fake, acme = stored.fake, await stored.create()
    sub = await acme.subscribe("starter")
    session = await acme.buy_pack()
    await stored.deliver(order="reversed", twice=True)
    assert (await acme.usage())["credits"] == {"allowance": 50, "promo": 0, "purchased": 100, "owed": 0}
    await acme.submit(3)
    fake.advance(days=29)
    fake.renew(sub, paid=False)
    await stored.deliver(order="shuffled", twice=True)
    assert (await acme.usage())["billing_state"] == "past_due"
    fake.advance(days=8)
    limited = await acme.get("usage")
    assert limited.json()["billing_state"] == limited.headers["X-Billing-State"] == "limited"
    fake.pay_invoice(fake.all("invoice")[-1]["id"])
    await stored.deliver()
    assert (await acme.credits())[1] == 150
    fake.refund(fake.get(session)["payment_intent"], 500)
    await stored.deliver()
    assert (await acme.usage())["credits"]["purchased"] == 75
    assert (await stored.worker.reconciler.sweep()).healed == 0
    assert await stored.worker.reconciler.poll() >= 0
    await stored.worker.drain()
    assert (await acme.usage())["credits"]["purchased"] == 75
    assert acme.balance_is_the_ledgers_sum()
    assert {event["status"] for event in await stored.inbox()} <= {"applied", "ignored"}
