"""The gateway as a process of its own, with a worker that works by itself, killed wherever it hurts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from openclaw_billing.testing import FakeStripe
from tests.served import Served, served
from tests.stripe import sdk_params
from tests.stripe.conftest import put_on_sale
from tests.stripe.house import BACK, WEBHOOK_SECRET

SECONDS_MAX = 20.0


@pytest.fixture
def shop() -> Iterator[FakeStripe]:
    """An account in the gateway's own time."""
    with FakeStripe(check=sdk_params.check) as account:
        put_on_sale(account)
        yield account


def settings(shop: FakeStripe) -> dict[str, str]:
    return {
        "STRIPE_SECRET_KEY": shop.key_text,
        "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "STRIPE_API_BASE": shop.url,
        "OPENCLAW_REDIRECT_ORIGINS": BACK,
        "OPENCLAW_CHECKOUT_SUCCESS_URL": f"{BACK}/done",
        "OPENCLAW_CHECKOUT_CANCEL_URL": f"{BACK}/plans",
        "OPENCLAW_STRIPE_TIMEOUT_S": "1",
        "OPENCLAW_STRIPE_BUDGET_S": "2",
    }


def post_event(running: Served, shop: FakeStripe, event: dict[str, Any]) -> httpx.Response:
    body, headers = shop.signed(event, at=int(time.time()))
    return httpx.post(f"{running.base}/api/billing/webhook", content=body, headers=headers, timeout=10)


def usage(running: Served, key_text: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(
        f"{running.base}/api/billing/usage", headers={"X-Client-Key": key_text}, timeout=10
    ).json()
    return found


def check_out(running: Served, key_text: str, **body: Any) -> str:
    answer = httpx.post(
        f"{running.base}/api/billing/checkout", headers={"X-Client-Key": key_text}, json=body, timeout=20
    )
    assert answer.status_code == 200, answer.text
    session_id: str = answer.json()["session_id"]
    return session_id


def until(true: Callable[[], bool], running: Served) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not true():
        assert time.monotonic() < deadline, _telling(running)
        time.sleep(0.05)


def _telling(running: Served) -> str:
    """What it said, but for its access log."""
    return "\n".join(line for line in running.said.splitlines() if "uvicorn.access" not in line)[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_events_stored_before_a_kill_are_applied_once_after_it(
    tmp_path: Path, shop: FakeStripe, workers: int
) -> None:
    with served(tmp_path, settings=settings(shop), workers=workers) as running:
        client = running.create_client("acme@example.com")
        key_text = client["api_key"]
        sessions = [check_out(running, key_text, plan_id="starter")]
        sessions.append(check_out(running, key_text, kind="topup", pack="100"))
        for session in sessions:
            shop.complete_checkout(session)
        # The events are stored and cannot be applied: Stripe does not answer meanwhile.
        with shop.down():
            for event in shop.due():
                assert post_event(running, shop, event).status_code == 200
            running.kill_all()
        running.start_again()
        until(lambda: usage(running, key_text)["credits"]["purchased"] == 100, running)
        until(lambda: usage(running, key_text)["plan"] == "starter", running)
        until(lambda: usage(running, key_text)["credits_remaining"] == 150, running)
        # Told once more, by hand and by Stripe, and killed in the middle of it.
        for number, event in enumerate(shop.due()):
            assert post_event(running, shop, event).json()["outcome"] in ("duplicate", "ignored")
            if number in (0, 12):
                running.kill_all()
                running.start_again()
        admin = {"X-Auth-Token": running.token}
        path = f"{running.base}/api/admin/stripe/events"
        events = httpx.get(path, headers=admin).json()["events"]
        for event in events:
            if event["status"] == "applied":
                httpx.post(f"{path}/{event['event_id']}/replay", headers=admin).raise_for_status()
        running.kill_all()
        running.start_again()

        def settled() -> bool:
            found = httpx.get(path, headers=admin).json()["events"]
            return {each["status"] for each in found} <= {"applied", "ignored"}

        until(settled, running)
        after = usage(running, key_text)
        assert after["credits"] == {"allowance": 50, "promo": 0, "purchased": 100, "owed": 0}


def test_a_lost_reply_and_a_kill_make_one_session_and_one_customer(tmp_path: Path, shop: FakeStripe) -> None:
    with served(tmp_path, settings=settings(shop)) as running:
        key_text = running.create_client("acme@example.com")["api_key"]
        ask = {"headers": {"X-Client-Key": key_text}, "json": {"plan_id": "pro"}, "timeout": 20}
        shop.inject("reply_lost", times=None, method="POST", path="/v1/checkout/sessions")
        first = httpx.post(f"{running.base}/api/billing/checkout", **ask)
        assert (first.status_code, first.json()["code"]) == (503, "stripe_unavailable")
        assert "Retry-After" in first.headers
        running.kill_all()
        shop.clear_faults()
        running.start_again()
        second = httpx.post(f"{running.base}/api/billing/checkout", **ask)
        assert second.status_code == 200, second.text
        assert [each["id"] for each in shop.all("checkout.session")] == [second.json()["session_id"]]
        assert len(shop.all("customer")) == 1
        third = httpx.post(f"{running.base}/api/billing/checkout", **ask)
        assert third.json()["session_id"] == second.json()["session_id"]
        for request in shop.requests:
            if request.method == "POST":
                assert request.idempotency_key, request.path
