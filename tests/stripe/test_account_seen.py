"""Nothing the adapter can do goes unseen: every method has a test, and every request is one the SDK knows."""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pytest
import stripe

import openclaw_billing
from openclaw_billing.payments.account import StripeAccount
from openclaw_billing.payments.catalogue import Catalogue
from openclaw_billing.payments.checkup import Checkup
from openclaw_billing.payments.wanted import Wishes
from openclaw_billing.prices import PriceBook
from openclaw_billing.settings import Settings
from openclaw_billing.stripe_events import EVENT_TYPES
from tests.stripe import sdk_params
from tests.stripe.conftest import START

HERE = Path(__file__).parent
HOUSE = Path(openclaw_billing.__file__).parent
PAYMENTS = HOUSE / "payments"


def _calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield node


def _endpoints() -> set[str]:
    """The SDK's calls that the adapter names, such as `checkout.sessions.create`."""
    client = stripe.StripeClient("sk_test_nobody")
    texts = {
        node.value
        for path in PAYMENTS.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    found = set()
    for text in texts:
        if re.fullmatch(r"\w+(\.\w+)+", text):
            with contextlib.suppress(AttributeError):
                attrgetter(f"{text}_async")(client.v1)
                found.add(text)
    return found


def test_every_method_of_the_account_is_called_by_a_test():
    called = {
        node.func.attr
        for path in HERE.glob("test_*.py")
        for node in _calls(path)
        if isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("account", "hasty", "wrong", "named")
    }
    public = {name for name, _ in inspect.getmembers(StripeAccount, callable) if not name.startswith("_")}
    assert public - called == set()


def test_only_the_adapter_knows_the_sdk():
    for path in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not [name for name in names if name.partition(".")[0] == "stripe"], path
    loads = [path.name for path in HOUSE.rglob("*.py") if 'import_module("stripe")' in path.read_text()]
    assert loads == ["calls.py"]


@pytest.mark.anyio
async def test_every_request_we_can_make_is_one_that_the_sdk_knows(fake, api, account, told, wish):
    """The fake refuses whatever the SDK's types refuse, so it is enough that every call is made here once."""
    settings = Settings(_env_file=None, stripe_price_topups={100: fake.add_price(2_000)})
    book, calls = PriceBook.of(settings), account._calls
    for return_url in ("https://a.example", "https://b.example"):
        wishes = Wishes(gateway="https://a.example", yearly={"pro": 199_000}, packs={50: 4_500})
        await Catalogue(calls, PriceBook.of(Settings(_env_file=None)), return_url=return_url).sync(
            wishes, lambda endpoint_id, secret: None
        )
        api.v1.products.update("ca_pro", {"name": "Professional"})
        api.v1.webhook_endpoints.update(fake.all("webhook_endpoint")[0]["id"], {"disabled": True})
        (yearly,) = [each for each in fake.all("price") if each["lookup_key"] == "pro_yearly_usd"]
        api.v1.prices.update(yearly["id"], {"active": False})
    await Checkup(calls, book, mode="test", signed=True).check(None, START)
    await account.account_id()
    await account.customer(wish.customer_id)
    await account.entitlements(wish.customer_id)
    await account.portal(wish.customer_id, return_url="https://a.example", key="portal")
    opened = await account.open_session(wish, key="co:1")
    await account.expire_session(opened.session_id, key="ex:1")
    await account.expire_session(opened.session_id, key="ex:2")
    done = fake.complete_checkout((await account.open_session(wish, key="co:2")).session_id)
    fact = await account.subscription(done["subscription"])
    pro = await account.price_for("pro", "monthly")
    await account.preview_change(fact, pro)
    await account.change_price(fact, pro, key="plan:1")
    planned = await account.schedule_price(replace(fact, price=pro), fact.price, key="plan:2")
    await account.release_schedule(planned.schedule_id, key="rel:1")
    await account.release_schedule(planned.schedule_id, key="rel:2")
    await account.set_ending(fact.subscription_id, True, key="end:1")
    fake.pause(fact.subscription_id)
    await account.resume(fact.subscription_id, key="res:1")
    await account.invoices(wish.customer_id, limit=1, after=fact.latest_invoice_id)
    await account.paid_invoices(fact.subscription_id, START)
    await account.overdue_since(fact.subscription_id)
    charge = fake.all("charge")[0]
    await account.payment(charge["payment_intent"])
    await account.payment_of_charge(charge["id"])
    await account.dispute(fake.dispute(charge["id"])["id"])
    assert [each async for each in account.open_disputes()]
    assert [each async for each in account.subscriptions()]
    events = [each async for each in account.events(EVENT_TYPES, START)]
    await account.event(events[0].event_id)
    await account.cancel_now(fact.subscription_id, prorate=True)
    fake.inject("error", method="POST")
    await account.ensure_customer("c1", "Acme", "acme@example.com", key="cus:2")
    fake.inject("error", method="POST")
    await account.open_session(replace(wish, attempt_id="a9"), key="co:3")
    await account._calls.get("invoices.line_items.list", fact.latest_invoice_id)
    assert _endpoints() - {endpoint for endpoint, _ in told.calls} == set()
    assert not {outcome for _, outcome in told.calls} - {"ok", "missing", "rejected", "unavailable"}
    refused = [each.refusal for each in fake.requests if each.refusal is not None]
    assert refused == []
    for each in fake.requests:
        assert sdk_params.check(each.method, each.path, each.params) == []
        assert each.stripe_version == stripe.api_version
        assert (each.idempotency_key is not None) == (each.method == "POST")
