"""A whole house on a fake Stripe: the router, the inbox and the worker, on the fake's clock."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

import client_auth
from intake_routes import create_intake_router
from openclaw_billing.contracts import HistoryQuery, Store
from openclaw_billing.payments import make_account
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import load_settings
from openclaw_billing.testing import FakeStripe
from openclaw_billing.worker import Worker

TOKEN = "0123456789abcdef" * 4
ADMIN = {"X-Auth-Token": TOKEN}
WEBHOOK_SECRET = "whsec_fake"
BACK = "https://app.example.com"
SETTINGS = {
    "admin_token": TOKEN,
    "stripe_webhook_secret": WEBHOOK_SECRET,
    "redirect_origins": BACK,
    "checkout_success_url": f"{BACK}/done",
    "checkout_cancel_url": f"{BACK}/plans",
    "portal_return_url": f"{BACK}/account",
    "rate_limits": False,
    # A Stripe that is away shall not be waited for; how it is tried again is tested where that is done.
    "stripe_retries_max": 0,
}


class FakesClock:
    """The fake's time is the house's."""

    def __init__(self, fake: FakeStripe) -> None:
        self._fake = fake

    def now(self) -> datetime:
        return self._fake.clock.now()


@dataclass
class House:
    fake: FakeStripe
    runtime: Runtime
    http: httpx.AsyncClient
    worker: Worker

    async def create(self, name: str = "acme", plan: str = "free") -> Buyer:
        body = {"name": name.title(), "email": f"{name}@example.com", "plan": plan}
        answer = await self.http.post("/api/admin/clients", headers=ADMIN, json=body)
        assert answer.status_code == 200, answer.text
        made = answer.json()
        return Buyer(self, made["client_id"], {"X-Client-Key": made["api_key"]})

    async def post(self, event: dict[str, Any], **signing: Any) -> httpx.Response:
        """One event, as Stripe sends it."""
        at = signing.pop("at", self.fake.clock.seconds())
        body, headers = self.fake.signed(event, at=at, **signing)
        return await self.http.post("/api/billing/webhook", content=body, headers=headers)

    async def deliver(self, *, twice: bool = False, **how: Any) -> list[str]:
        """Everything that Stripe has to tell, applied; the events' outcomes."""
        outcomes = []
        for event in self.fake.due(**how):
            for _ in range(1 + twice):
                answer = await self.post(event)
                assert answer.status_code == 200, answer.text
                outcomes.append(answer.json()["outcome"])
            self.fake.taken(event["id"])
        await self.worker.drain()
        return outcomes

    async def inbox(self, status: str = "") -> list[dict[str, Any]]:
        query = f"?status={status}" if status else ""
        answer = await self.http.get(f"/api/admin/stripe/events{query}", headers=ADMIN)
        found: list[dict[str, Any]] = answer.json()["events"]
        return found


@dataclass
class Buyer:
    """One client of the house."""

    house: House
    client_id: str
    key: dict[str, str]

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.house.http.post(f"/api/billing/{path}", headers=self.key, json=body)

    async def get(self, path: str) -> httpx.Response:
        return await self.house.http.get(f"/api/billing/{path}", headers=self.key)

    async def usage(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.get("usage")).json()
        return found

    async def credits(self) -> tuple[str, int, int]:
        """The plan, what is left, and the limit."""
        now = await self.usage()
        return now["plan"], now["credits_remaining"], now["credits_limit"]

    async def submit(self, jobs: int = 1) -> list[int]:
        """The statuses of so many jobs."""
        statuses = []
        for number in range(jobs):
            body = {"project_name": f"job {number}", "description": "x", "task_type": "other"}
            answer = await self.house.http.post("/api/intake", headers=self.key, json=body)
            statuses.append(answer.status_code)
        return statuses

    async def check_out(self, plan: str = "starter", **more: Any) -> str:
        """A checkout session for a plan, paid by the visitor; its id."""
        answer = await self.post("checkout", plan_id=plan, **more)
        assert answer.status_code == 200, answer.text
        session_id: str = answer.json()["session_id"]
        self.house.fake.complete_checkout(session_id)
        return session_id

    async def buy_pack(self, pack: str = "100", **more: Any) -> str:
        answer = await self.post("checkout", kind="topup", pack=pack, **more)
        assert answer.status_code == 200, answer.text
        session_id: str = answer.json()["session_id"]
        self.house.fake.complete_checkout(session_id)
        return session_id

    async def subscribe(self, plan: str = "starter", **more: Any) -> str:
        """On a plan, with everything that Stripe had to say applied; the subscription's id."""
        session_id = await self.check_out(plan, **more)
        await self.house.deliver()
        subscription_id: str = self.house.fake.get(session_id)["subscription"]
        return subscription_id

    def balance_is_the_ledgers_sum(self) -> bool:
        account = self.house.runtime.view.accounts.get(self.client_id)
        assert account is not None
        query = HistoryQuery(client_id=self.client_id, limit=100_000)
        entries = self.house.runtime.store.ledger(query).entries
        return (sum(each.available for each in entries), sum(each.reserved for each in entries)) == (
            account.available,
            account.reserved,
        )


@contextlib.asynccontextmanager
async def house_of(
    fake: FakeStripe, data_dir: Path, *, store: Store | None = None, **settings: Any
) -> AsyncIterator[House]:
    """The house, with a worker that works when it is told to."""
    given = {
        "data_dir": data_dir,
        "stripe_secret_key": fake.key_text,
        "stripe_api_base": fake.url,
        **SETTINGS,
        **settings,
    }
    loaded = load_settings(**given)
    # The breaker's time is the fake's too.
    account = make_account(loaded, seconds=lambda: fake.clock.now().timestamp())
    assert account is not None
    runtime, app = _empty.pop() if _empty else _built()
    runtime.reconfigure(loaded, clock=FakesClock(fake), store=store, stripe=account)
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
            yield House(fake, runtime, http, Worker(runtime, account))
    finally:
        await account.close()
        runtime.close()
    _empty.append((runtime, app))


_empty: list[tuple[Runtime, FastAPI]] = []
"""Houses of tests that have ended: to build one takes longer than most tests."""


def _built() -> tuple[Runtime, FastAPI]:
    runtime, app = Runtime(), FastAPI()
    app.include_router(create_intake_router(runtime))
    app.include_router(client_auth.create_router(runtime))
    return runtime, app
