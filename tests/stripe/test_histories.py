"""Histories: whatever order events come in, however often, and whichever of them are lost, the end is the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openclaw_billing.testing import FakeStripe
from tests.stripe import sdk_params
from tests.stripe.conftest import START, put_on_sale
from tests.stripe.house import Buyer, House, house_of

pytestmark = pytest.mark.anyio

STEPS = 7


class History:
    """One client's history at Stripe, made of a seed: the same seed makes the same history."""

    def __init__(self, seed: int, fake: FakeStripe) -> None:
        self.chance = random.Random(seed)
        self.fake = fake
        self.told: list[str] = []

    async def begin(self, acme: Buyer) -> None:
        """Everything that needs a checkout of ours is opened at the start, and paid some time later."""
        plan = self.chance.choice(["starter", "pro"])
        interval = self.chance.choice(["monthly", "monthly", "yearly"])
        self.sessions = []
        for body in ({"plan_id": plan, "interval": interval}, {"kind": "topup", "pack": "100"}):
            answer = await acme.post("checkout", **body)
            self.sessions.append(answer.json()["session_id"])
        for session in self.chance.sample(self.sessions, 2):
            self.fake.complete_checkout(session)
            self.fake.advance(minutes=self.chance.randint(1, 20))
        self.sub = self.fake.get(self.sessions[0])["subscription"]
        self.payment = self.fake.get(self.sessions[1])["payment_intent"]
        self.told.append(f"{plan} {interval}")

    def step(self) -> None:
        """Something that can happen now."""
        sub = self.fake.get(self.sub)
        live = sub["status"] in ("active", "past_due", "trialing")
        could: list[Callable[[], Any]] = [self.wait]
        if live:
            could += [self.renew, self.renew, self.fail, self.upgrade, self.end_with_period, self.cancel]
        if sub["status"] == "past_due":
            could += [self.pay, self.pay, self.give_up]
        if self.refundable():
            could += [self.refund, self.dispute]
        if any(each["status"] == "needs_response" for each in self.fake.all("dispute")):
            could += [self.decide, self.decide]
        chosen = self.chance.choice(could)
        self.told.append(chosen.__name__)
        chosen()

    def refundable(self) -> int:
        charge = next(each for each in self.fake.all("charge") if each["payment_intent"] == self.payment)
        left: int = 0 if charge["disputed"] else charge["amount"] - charge["amount_refunded"]
        return left

    def wait(self) -> None:
        self.fake.advance(days=self.chance.randint(1, 20))

    def renew(self) -> None:
        self.fake.renew(self.sub)

    def fail(self) -> None:
        self.fake.renew(self.sub, paid=False)

    def pay(self) -> None:
        for invoice in [each for each in self.fake.all("invoice") if each["status"] == "open"]:
            self.fake.pay_invoice(invoice["id"])

    def give_up(self) -> None:
        self.fake.give_up(self.sub, self.chance.choice(["unpaid", "canceled"]))

    def upgrade(self) -> None:
        sub = self.fake.get(self.sub)
        interval = sub["items"]["data"][0]["price"]["recurring"]["interval"]
        price = next(
            each["id"] for each in self.fake.all("price") if each["lookup_key"] == f"pro_{interval}ly_usd"
        )
        item = sub["items"]["data"][0]["id"]
        self.fake.advance(days=self.chance.randint(1, 9))
        if self.fake.get(self.sub)["status"] == "active":
            self.api.v1.subscriptions.update(
                self.sub,
                {"items": [{"id": item, "price": price}], "proration_behavior": "always_invoice"},
                {"idempotency_key": f"up-{len(self.told)}"},
            )

    def end_with_period(self) -> None:
        self.api.v1.subscriptions.update(
            self.sub, {"cancel_at_period_end": True}, {"idempotency_key": f"end-{len(self.told)}"}
        )

    def cancel(self) -> None:
        self.fake.cancel_now(self.sub)

    def refund(self) -> None:
        self.fake.refund(self.payment, self.chance.randint(1, self.refundable()))

    def dispute(self) -> None:
        self.fake.dispute(self.payment)

    def decide(self) -> None:
        for dispute in self.fake.all("dispute"):
            if dispute["status"] == "needs_response":
                self.fake.close_dispute(dispute["id"], won=self.chance.random() < 0.5)

    api: Any = None


async def settle(house: House) -> None:
    """Let everything that waits have its turn, and what comes about meanwhile be told."""
    for _ in range(8):
        await house.worker.drain()
        house.fake.advance(minutes=3)
    await house.deliver()


async def told_in_order(history: History, house: House, acme: Buyer) -> None:
    await history.begin(acme)
    await house.deliver()
    for _ in range(STEPS):
        history.step()
        await house.deliver()


async def told_in_any_order(history: History, house: House, acme: Buyer) -> None:
    """Late, reversed or shuffled, twice, and some never: those are found by a poll or a sweep."""
    trouble = random.Random(str(history.told))
    await history.begin(acme)
    for step in range(STEPS):
        history.step()
        if trouble.random() < 0.4:
            order = trouble.choice(["created", "reversed", "shuffled"])
            await house.deliver(order=order, twice=trouble.random() < 0.5, seed=step)
    lost = [event["id"] for event in house.fake.due() if trouble.random() < 0.3]
    await house.deliver(order="shuffled", twice=True, drop=lost, seed=1)
    await house.worker.reconciler.sweep()


async def end_of(seed: int, place: Path, tell: Any, api_of: Any) -> tuple[dict[str, Any], list[str], str]:
    """Where the client stands at the history's end, what happened, and the subscription's status."""
    with FakeStripe(start=START, check=sdk_params.check) as fake:
        put_on_sale(fake)
        async with house_of(fake, place) as house:
            acme = await house.create()
            history = History(seed, fake)
            history.api = api_of(fake)
            await tell(history, house, acme)
            await settle(house)
            stands = await acme.usage()
            assert acme.balance_is_the_ledgers_sum()
            known = ("plan", "credits_remaining", "credits_limit", "credits", "billing_state", "dispute_hold")
            return {name: stands[name] for name in known}, history.told, fake.get(history.sub)["status"]


async def check(seed: int, place: Path, api_of: Any) -> None:
    in_order, told, status = await end_of(seed, place / "one", told_in_order, api_of)
    shuffled, again, _ = await end_of(seed, place / "two", told_in_any_order, api_of)
    assert told == again, "the same seed makes the same history"
    assert shuffled == in_order, (seed, told, status)
    if status == "canceled":
        assert in_order["plan"] == "free", (seed, told)
    if status == "active":
        assert in_order["plan"] in ("starter", "pro"), (seed, told)


@pytest.mark.parametrize("seed", range(6))
async def test_a_shuffled_history_ends_like_one_in_order(seed: int, tmp_path: Path, api_of: Any) -> None:
    await check(seed, tmp_path, api_of)


@pytest.mark.slow
async def test_two_hundred_shuffled_histories_end_like_those_in_order(tmp_path: Path, api_of: Any) -> None:
    for seed in range(1_000, 1_200):
        await check(seed, tmp_path / str(seed), api_of)
