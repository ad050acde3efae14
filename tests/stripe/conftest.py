"""A fake account and the real SDK talking to it, with something already bought."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stripe

from openclaw_billing.payments import make_account
from openclaw_billing.payments.account import StripeAccount
from openclaw_billing.settings import Settings
from openclaw_billing.stripe_facts import CheckoutWish, SubscriptionFact
from openclaw_billing.testing import FakeStripe
from tests.stripe import sdk_params
from tests.stripe.house import Buyer, House, house_of
from tests.stripe.sdk_shapes import check_shape

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
# An upcoming invoice is the one object that is sent without its id.
WITHOUT_ID = ["event.data.object.id: missing field"]


@pytest.fixture(autouse=True)
def _quiet_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe, "enable_telemetry", False)


@pytest.fixture
def fake() -> Iterator[FakeStripe]:
    """An account; whatever a test did with it was valid, and whatever it showed was in shape."""
    with FakeStripe(start=START, check=sdk_params.check) as account:
        yield account
        for event in account.events:
            assert check_shape(event) in ([], WITHOUT_ID), event["type"]
        for request in account.requests:
            if request.status == 200:
                assert sdk_params.check(request.method, request.path, request.params) == []


def _transport(timeout: float) -> stripe.HTTPXClient:
    return stripe.HTTPXClient(timeout=timeout, allow_sync_methods=True, verify_ssl_certs=False)


def _client(account: FakeStripe, retries: int, transport: stripe.HTTPXClient) -> stripe.StripeClient:
    return stripe.StripeClient(
        account.key_text,
        base_addresses=account.base_addresses,
        max_network_retries=retries,
        http_client=transport,
    )


@pytest.fixture
def api(fake: FakeStripe) -> Iterator[stripe.StripeClient]:
    """The SDK as we use it, in its sync form."""
    transport = _transport(5)
    yield _client(fake, 2, transport)
    transport.close()


@pytest.fixture
def once(fake: FakeStripe) -> Iterator[stripe.StripeClient]:
    """The SDK without retries, so that a test sees each answer."""
    transport = _transport(5)
    yield _client(fake, 0, transport)
    transport.close()


@pytest.fixture
async def later(fake: FakeStripe) -> AsyncIterator[stripe.StripeClient]:
    """The SDK in its async form, with a timeout a hang test can wait for."""
    transport = _transport(0.1)
    yield _client(fake, 2, transport)
    transport.close()
    await transport.close_async()


@pytest.fixture
def starter(fake: FakeStripe) -> str:
    return fake.add_price(2900, lookup_key="starter_monthly_usd", interval="month")


@pytest.fixture
def pro(fake: FakeStripe) -> str:
    return fake.add_price(9900, lookup_key="pro_monthly_usd", interval="month")


@pytest.fixture
def customer(api: stripe.StripeClient) -> str:
    made = api.v1.customers.create({"email": "acme@example.com", "metadata": {"client_id": "c1"}})
    return made.id


@pytest.fixture
def session(api: stripe.StripeClient, customer: str, starter: str) -> stripe.checkout.Session:
    return api.v1.checkout.sessions.create(
        {
            "mode": "subscription",
            "ui_mode": "hosted_page",
            "customer": customer,
            "client_reference_id": "c1",
            "line_items": [{"price": starter, "quantity": 1}],
            "success_url": "https://app.example.com/done?session_id={CHECKOUT_SESSION_ID}",
            "cancel_url": "https://app.example.com/plans",
            "allow_promotion_codes": True,
            "expires_at": int(START.timestamp()) + 3_600,
            "metadata": {"attempt_id": "a1"},
            "subscription_data": {"metadata": {"attempt_id": "a1"}, "billing_mode": {"type": "flexible"}},
        },
        {"idempotency_key": "co:c1:a1"},
    )


@pytest.fixture
def sub(fake: FakeStripe, api: stripe.StripeClient, session: stripe.checkout.Session) -> stripe.Subscription:
    done = fake.complete_checkout(session.id)
    return api.v1.subscriptions.retrieve(
        done["subscription"], {"expand": ["items.data.price", "latest_invoice"]}
    )


@pytest.fixture
def pack(fake: FakeStripe, api: stripe.StripeClient, customer: str) -> stripe.checkout.Session:
    """A paid top-up of 20 dollars."""
    price = fake.add_price(2_000, lookup_key="topup_100_usd")
    made = api.v1.checkout.sessions.create(
        {
            "mode": "payment",
            "customer": customer,
            "line_items": [{"price": price, "quantity": 1}],
            "success_url": "https://app.example.com/done",
            "payment_intent_data": {"metadata": {"attempt_id": "a2"}},
            "invoice_creation": {"enabled": True, "invoice_data": {"metadata": {"attempt_id": "a2"}}},
        }
    )
    fake.complete_checkout(made.id)
    return api.v1.checkout.sessions.retrieve(made.id)


@pytest.fixture
def meter(api: stripe.StripeClient) -> stripe.billing.Meter:
    return api.v1.billing.meters.create(
        {
            "display_name": "Tokens",
            "event_name": "tokens",
            "default_aggregation": {"formula": "sum"},
            "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
            "value_settings": {"event_payload_key": "value"},
        }
    )


# What the account, our own adapter, is tested with.


class Ticker:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class Told:
    """Keeps what an observer of calls is told."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    open: bool = False

    def called(self, endpoint: str, outcome: str) -> None:
        self.calls.append((endpoint, outcome))

    def breaker(self, is_open: bool) -> None:
        self.open = is_open

    @property
    def outcomes(self) -> list[str]:
        return [outcome for _, outcome in self.calls]


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's pauses between attempts, shortened; all else of it stays as it is."""
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.01)


@pytest.fixture
def ticker() -> Ticker:
    return Ticker()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def make(fake: FakeStripe, ticker: Ticker, told: Told, brisk: None) -> Callable[..., StripeAccount]:
    """Makes accounts that talk to the fake; settings by name."""

    def made(**settings: Any) -> StripeAccount:
        known = {"stripe_secret_key": fake.key_text, "stripe_api_base": fake.url, **settings}
        account = make_account(Settings(**known), observer=told, seconds=ticker)
        assert account is not None
        return account

    return made


@pytest.fixture
async def account(make: Callable[..., StripeAccount]) -> AsyncIterator[StripeAccount]:
    made = make()
    yield made
    await made.close()


@pytest.fixture
async def buyer(account: StripeAccount) -> str:
    """A client's customer."""
    return await account.ensure_customer("c1", "Acme", "acme@example.com", key="cus:test:c1")


@pytest.fixture
def wish(buyer: str, starter: str) -> CheckoutWish:
    """The Starter plan."""
    return CheckoutWish(
        attempt_id="a1",
        client_id="c1",
        customer_id=buyer,
        price_id=starter,
        kind="subscription",
        plan_id="starter",
        pack=None,
        quantity=1,
        success_url="https://app.example.com/done",
        cancel_url="https://app.example.com/plans",
        promotion=True,
        trial_days=0,
        tax=False,
        expires_at=START + timedelta(hours=1),
    )


@pytest.fixture
async def bought(fake: FakeStripe, account: StripeAccount, wish: CheckoutWish) -> SubscriptionFact:
    """The Starter plan, paid for a month."""
    session = await account.open_session(wish, key="co:c1:a1")
    done = fake.complete_checkout(session.session_id)
    fact = await account.subscription(done["subscription"])
    assert fact is not None
    return fact


@pytest.fixture
def api_of() -> Iterator[Callable[[FakeStripe], stripe.StripeClient]]:
    """The SDK for any account."""
    transports: list[stripe.HTTPXClient] = []

    def made(account: FakeStripe) -> stripe.StripeClient:
        transports.append(_transport(5))
        return _client(account, 2, transports[-1])

    yield made
    for transport in transports:
        transport.close()


def put_on_sale(account: FakeStripe) -> None:
    """Everything that we sell, as `stripe sync` would make it."""
    for plan, month in (("starter", 4_900), ("pro", 19_900)):
        account.add_price(month, lookup_key=f"{plan}_monthly_usd", interval="month")
        account.add_price(month * 10, lookup_key=f"{plan}_yearly_usd", interval="year")
    account.add_price(2_000, lookup_key="topup_100_usd", metadata={"credits": "100"})


@pytest.fixture
def catalogue(fake: FakeStripe) -> None:
    put_on_sale(fake)


@pytest.fixture
async def house(fake: FakeStripe, catalogue: None, tmp_path: Path) -> AsyncIterator[House]:
    async with house_of(fake, tmp_path / "data") as made:
        yield made


@pytest.fixture
async def acme(house: House) -> Buyer:
    """A client on the free plan."""
    return await house.create()
