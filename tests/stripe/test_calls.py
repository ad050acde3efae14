"""Calls to Stripe in trouble: within the budget, one object, an error of our own, and the breaker."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time

import httpx
import pytest
import stripe
from prometheus_client import REGISTRY

from openclaw_billing.errors import (
    CardDeclined,
    StripeMisconfigured,
    StripeRejected,
    StripeUnavailable,
)
from openclaw_billing.metrics import StripeMetrics
from openclaw_billing.payments import make_account
from openclaw_billing.settings import Settings
from tests.served import ROOT, clean_environment

pytestmark = pytest.mark.anyio

CUSTOMER = ("c1", "Acme", "acme@example.com")
BUDGET = 0.6


@pytest.fixture
async def hasty(make):
    """An account with little time."""
    made = make(stripe_budget_seconds=BUDGET, stripe_timeout_seconds=0.2)
    yield made
    await made.close()


def _posts(fake):
    return [each for each in fake.requests if each.method == "POST"]


@pytest.mark.parametrize(
    "kind", ["hang", "drip", "reset", "reply_lost", "error", "html", "garbled", "rate_limit"]
)
async def test_trouble_that_lasts_is_a_503_within_the_budget(fake, hasty, account, kind):
    await account.account_id()
    fake.inject(kind, None, kept=False)
    began = time.monotonic()
    with pytest.raises(StripeUnavailable) as refused:
        await hasty.ensure_customer(*CUSTOMER, key="cus:test:c1")
    assert time.monotonic() - began < BUDGET + 1
    assert (refused.value.status_code, refused.value.code) == (503, "stripe_unavailable")
    assert int(refused.value.headers["Retry-After"]) >= 1
    assert {each.idempotency_key for each in _posts(fake)} == {"cus:test:c1"}
    fake.clear_faults()
    customer = await account.ensure_customer(*CUSTOMER, key="cus:test:c1")
    assert [one["id"] for one in fake.all("customer")] == [customer]


async def test_a_refused_connection_is_a_503_and_the_same_key_works_later(fake, account):
    with fake.down(), pytest.raises(StripeUnavailable):
        await account.ensure_customer(*CUSTOMER, key="cus:test:c1")
    await account.ensure_customer(*CUSTOMER, key="cus:test:c1")
    assert len(fake.all("customer")) == 1


@pytest.mark.parametrize("kind", ["reset", "reply_lost", "html", "conflict"])
async def test_trouble_that_passes_is_not_noticed(fake, account, kind):
    fake.inject(kind)
    await account.ensure_customer(*CUSTOMER, key="cus:test:c1")
    assert len(fake.all("customer")) == 1
    assert {each.idempotency_key for each in _posts(fake)} == {"cus:test:c1"}


@pytest.mark.parametrize(("should_retry", "attempts"), [(None, 1), (False, 1), (True, 3)])
async def test_too_many_requests_are_told_with_the_time_to_wait(fake, account, should_retry, attempts):
    fake.inject("rate_limit", None, should_retry=should_retry, retry_after=17)
    with pytest.raises(StripeUnavailable) as refused:
        await account.account_id()
    assert refused.value.headers["Retry-After"] == "17"
    assert len(fake.requests) == attempts


async def test_a_conflict_that_lasts_is_a_503_and_no_fault_of_stripe(fake, account, told):
    fake.inject("conflict", None)
    for _ in range(6):
        with pytest.raises(StripeUnavailable):
            await account.account_id()
    assert not told.open


async def test_a_spent_key_goes_on_under_its_successor(fake, account):
    fake.inject("error")
    first = await account.ensure_customer(*CUSTOMER, key="cus:test:c1")
    assert [one["id"] for one in fake.all("customer")] == [first]
    assert _posts(fake)[-1].idempotency_key == "cus:test:c1:2"
    assert await account.ensure_customer(*CUSTOMER, key="cus:test:c1") == first
    assert len(fake.all("customer")) == 1


async def test_what_a_spent_key_had_made_is_found(fake, account, api):
    """Stripe may fail after the effect: the object is there, and the key repeats the failure."""
    theirs = api.v1.customers.create({"email": CUSTOMER[2], "metadata": {"client_id": "c1"}})
    api.v1.customers.create({"email": CUSTOMER[2], "metadata": {"client_id": "c2"}})
    fake.inject("error")
    assert await account.ensure_customer(*CUSTOMER, key="cus:test:c1") == theirs.id


async def test_what_a_spent_key_had_done_to_a_session_is_found(fake, account, wish):
    opened = await account.open_session(wish, key="other")
    fake.inject("error")
    assert (await account.open_session(wish, key="co:c1:a1")).session_id == opened.session_id
    fake.inject("error")
    assert (await account.expire_session(opened.session_id, key="ex:a1")).status == "expired"
    fake.inject("error")
    assert (await account.expire_session(opened.session_id, key="ex:a1:b")).status == "expired"


async def test_what_a_spent_key_had_done_to_a_subscription_is_found(fake, account, bought, pro):
    price = await account.price_for("pro", "monthly")
    fake.inject("error", method="POST")
    changed = await account.change_price(bought, price, key="plan:1")
    fake.inject("error", method="POST")
    assert (await account.change_price(bought, price, key="plan:1:b")).price == changed.price
    cheap = await account.price_for("starter", "monthly")
    fake.inject("error", method="POST")
    fake.inject("error", method="POST", path="/v1/subscription_schedules/*")
    planned = await account.schedule_price(changed, cheap, key="plan:2")
    assert planned.pending_plan_id == "starter"
    assert len(fake.all("subscription_schedule")) == 1
    fake.inject("error", method="POST")
    await account.release_schedule(planned.schedule_id, key="rel:1")
    fake.inject("error", method="POST")
    await account.release_schedule(planned.schedule_id, key="rel:2")
    assert len([one for one in fake.all("invoice") if one["billing_reason"] == "subscription_update"]) == 1


async def test_a_repeated_answer_is_believed_only_where_it_is_still_true(fake, account, api, bought, pro):
    """For a day Stripe repeats what it answered under a key, whatever became of it since."""
    price = await account.price_for("pro", "monthly")
    planned = await account.schedule_price(bought, price, key="plan:1")
    again = await account.schedule_price(bought, price, key="plan:1")
    assert again.schedule_id == planned.schedule_id
    await account.release_schedule(planned.schedule_id, key="rel:1")
    anew = await account.schedule_price(bought, price, key="plan:1")
    assert (anew.pending_plan_id, anew.schedule_id != planned.schedule_id) == ("pro", True)
    await account.release_schedule(anew.schedule_id, key="rel:2")
    await account.set_ending(bought.subscription_id, True, key="end:1")
    await account.set_ending(bought.subscription_id, False, key="on:1")
    assert (await account.set_ending(bought.subscription_id, True, key="end:1")).ends_at == bought.end
    assert (await account.set_ending(bought.subscription_id, False, key="on:1")).ends_at is None
    for _ in range(2):
        fake.pause(bought.subscription_id)
        resumed = await account.resume(bought.subscription_id, key="res:1")
        assert fake.get(bought.subscription_id)["status"] == resumed.status.value == "active"
    for _ in range(2):
        api.v1.subscriptions.update(bought.subscription_id, {"pause_collection": {"behavior": "void"}})
        await account.resume(bought.subscription_id, key="res:2")
        assert fake.get(bought.subscription_id)["pause_collection"] is None


async def test_a_change_that_waited_and_lapsed_is_made_anew_under_its_key(fake, account, bought, pro):
    price = await account.price_for("pro", "monthly")
    fake.decline_card(bought.customer_id)
    assert (await account.change_price(bought, price, key="plan:1")).pending_update
    fake.advance(hours=23, minutes=30)
    fake.accept_card(bought.customer_id)
    assert (await account.change_price(bought, price, key="plan:1")).price.plan_id == "pro"


async def test_a_session_that_ended_is_still_the_one_of_its_key(fake, account, wish):
    opened = await account.open_session(wish, key="co:c1:a1")
    await account.expire_session(opened.session_id, key="ex:a1")
    again = await account.open_session(wish, key="co:c1:a1")
    assert (again.session_id, again.status) == (opened.session_id, "expired")
    assert await account.session_of(wish.customer_id, "a1") == opened.session_id
    assert await account.session_of(wish.customer_id, "a2") is None


async def test_successors_end(fake, account):
    fake.inject("error", None, method="POST")
    with pytest.raises(StripeUnavailable):
        await account.ensure_customer(*CUSTOMER, key="cus:test:c1")
    fake.clear_faults()
    await account.ensure_customer(*CUSTOMER, key="cus:test:c1")
    assert {each.idempotency_key for each in _posts(fake)} == {"cus:test:c1", "cus:test:c1:2"}


@pytest.mark.parametrize("kind", ["unauthorized", "forbidden"])
async def test_a_refused_key_stops_all_calls_for_five_minutes(fake, account, ticker, told, kind, caplog):
    fake.inject(kind)
    with caplog.at_level(logging.ERROR), pytest.raises(StripeMisconfigured) as refused:
        await account.account_id()
    assert (refused.value.status_code, refused.value.code) == (503, "stripe_misconfigured")
    assert refused.value.headers["Retry-After"] == "300"
    assert len(caplog.records) == 1
    ticker.advance(299)
    with pytest.raises(StripeMisconfigured):
        await account.account_id()
    assert len(fake.requests) == 1
    assert told.open
    ticker.advance(1)
    assert await account.account_id() == "acct_1Fake000000001"
    assert not told.open


async def test_a_declined_card_is_told_with_its_reason_and_nothing_else(fake, make, caplog, buyer, starter):
    account = make()
    fake.decline_card(buyer, "insufficient_funds")
    body = {"customer": buyer, "items": [{"price": starter}], "payment_behavior": "error_if_incomplete"}
    with pytest.raises(CardDeclined) as refused:
        await account._calls.post("subscriptions.create", params=body, key="k")
    assert (refused.value.status_code, refused.value.code) == (402, "card_declined")
    assert refused.value.facts == {"decline_code": "insufficient_funds"}
    assert "Your card" not in refused.value.detail
    await account.close()


async def test_a_rejected_request_is_told_by_its_id_and_never_in_stripes_words(fake, account, caplog):
    with caplog.at_level(logging.ERROR), pytest.raises(StripeRejected) as refused:
        await account.portal(
            "cus_nobody@example", return_url="https://x.example", configuration="bpc_1", key="p:1"
        )
    assert (refused.value.status_code, refused.value.code) == (502, "stripe_rejected")
    request_id = refused.value.facts["stripe_request_id"]
    assert request_id.startswith("req_")
    assert request_id in caplog.text
    assert "No such" not in f"{refused.value.detail} {caplog.text}"


async def test_what_is_found_done_already_is_no_error_in_the_log(account, wish, caplog):
    opened = await account.open_session(wish, key="co:1")
    await account.expire_session(opened.session_id, key="ex:1")
    with caplog.at_level(logging.WARNING):
        await account.expire_session(opened.session_id, key="ex:2")
        assert await account.subscription("sub_nobody") is None
        assert await account.cancel_now("sub_nobody", prorate=False) is None
    assert caplog.records == []
    with pytest.raises(StripeRejected):
        await account.resume("sub_nobody", key="res:1")
    assert [each.levelname for each in caplog.records] == ["ERROR"]


async def test_a_key_used_for_something_else_is_a_bug_of_ours(account, caplog):
    await account.ensure_customer(*CUSTOMER, key="cus:test:c1")
    with caplog.at_level(logging.ERROR), pytest.raises(StripeRejected) as refused:
        await account.ensure_customer("c2", "Other", "o@example.com", key="cus:test:c1")
    assert str(refused.value.facts["stripe_request_id"]) in caplog.text
    assert "cus:test:c1" not in refused.value.detail


async def test_five_failures_open_the_breaker_and_one_trial_closes_it(fake, account, ticker, told):
    fake.inject("rate_limit", None)
    for _ in range(5):
        with pytest.raises(StripeUnavailable):
            await account.account_id()
    assert told.open
    asked = len(fake.requests)
    with pytest.raises(StripeUnavailable) as refused:
        await account.customer("cus_x")
    assert refused.value.headers["Retry-After"] == "30"
    assert len(fake.requests) == asked
    ticker.advance(30)
    with pytest.raises(StripeUnavailable):
        await account.account_id()
    with pytest.raises(StripeUnavailable):
        await account.account_id()
    assert len(fake.requests) == asked + 1
    fake.clear_faults()
    ticker.advance(30)
    assert await account.account_id()
    assert not told.open
    assert told.outcomes == [*["unavailable"] * 5, "skipped", "unavailable", "skipped", "ok"]


async def test_only_one_call_tries_after_the_pause(fake, hasty, ticker, told):
    fake.inject("rate_limit", 5)
    for _ in range(5):
        with pytest.raises(StripeUnavailable):
            await hasty.account_id()
    ticker.advance(30)
    asked = len(fake.requests)
    fake.inject("hang", None)
    answers = await asyncio.gather(*(hasty.customer(f"cus_{n}") for n in range(5)), return_exceptions=True)
    assert all(isinstance(each, StripeUnavailable) for each in answers)
    assert {each.path for each in fake.requests[asked:]} == {"/v1/customers/cus_0"}


async def test_an_answer_between_failures_begins_the_count_anew(fake, account, told):
    for _ in range(3):
        fake.inject("rate_limit", 4)
        for _ in range(4):
            with pytest.raises(StripeUnavailable):
                await account.account_id()
        assert await account.customer("cus_nobody") is None
    assert not told.open


async def test_a_caller_who_goes_away_leaves_the_breaker_as_it_was(fake, account, ticker, told):
    fake.inject("rate_limit", 5)
    for _ in range(5):
        with pytest.raises(StripeUnavailable):
            await account.account_id()
    ticker.advance(30)
    fake.inject("hang", 1)
    asking = asyncio.create_task(account.account_id())
    while len(fake.requests) < 6:
        await asyncio.sleep(0.001)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await account.account_id()
    assert not told.open


async def test_calls_of_one_request_share_one_budget(fake, account, ticker):
    with account.budget():
        await account.account_id()
        ticker.advance(8.9)
        await account.customer("cus_nobody")
        ticker.advance(0.2)
        asked = len(fake.requests)
        with pytest.raises(StripeUnavailable), account.budget():
            await account.customer("cus_nobody")
        assert len(fake.requests) == asked
    assert await account.customer("cus_nobody") is None


async def test_a_shared_budget_ends_a_hanging_call(fake, account):
    fake.inject("hang", None)
    began = time.monotonic()
    with account.budget(0.3), pytest.raises(StripeUnavailable):
        await account.account_id()
    assert time.monotonic() - began < 1.3


async def test_no_more_than_eight_calls_are_under_way(fake, account):
    fake.inject("hang", None)
    asking = [asyncio.create_task(account.customer(f"cus_{number}")) for number in range(20)]
    while len(fake.requests) < 8:
        await asyncio.sleep(0.001)
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert len(fake.requests) == 8
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_calls_are_counted_by_endpoint_and_outcome(fake, account, told):
    await account.customer("cus_nobody")
    await account.account_id()
    assert told.calls == [("customers.retrieve", "missing"), ("accounts.retrieve_current", "ok")]


async def test_the_metrics_show_calls_and_the_breaker(fake, ticker):
    settings = Settings(_env_file=None, stripe_secret_key=fake.key_text, stripe_api_base=fake.url)
    account = make_account(settings, observer=StripeMetrics(), seconds=ticker)
    calls = {"endpoint": "accounts.retrieve_current", "outcome": "unavailable"}

    def shown(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"openclaw_billing_stripe_{name}", labels) or 0.0

    before = shown("calls_total", **calls)
    fake.inject("rate_limit", 5)
    for _ in range(5):
        with pytest.raises(StripeUnavailable):
            await account.account_id()
    assert shown("calls_total", **calls) == before + 5
    assert shown("breaker_open") == 1
    ticker.advance(30)
    await account.account_id()
    assert shown("breaker_open") == 0
    await account.close()


async def test_every_change_carries_our_key_and_the_sdks_version(fake, account, bought, pro):
    price = await account.price_for("pro", "monthly")
    await account.preview_change(bought, price)
    await account.change_price(bought, price, key="plan:1")
    await account.set_ending(bought.subscription_id, True, key="end:1")
    sent = _posts(fake)
    assert all(each.idempotency_key for each in sent)
    assert {each.stripe_version for each in fake.requests} == {stripe._api_version._ApiVersion.CURRENT}
    own = [each.idempotency_key for each in sent if not str(each.idempotency_key).startswith("preview:")]
    assert own == ["cus:test:c1", "co:c1:a1", "plan:1", "end:1"]
    await account.cancel_now(bought.subscription_id, prorate=False)
    (gone,) = [each for each in fake.requests if each.method == "DELETE"]
    assert gone.idempotency_key is None


async def test_the_sdk_tells_stripe_who_we_are_and_nothing_of_our_calls(fake, account):
    await account.account_id()
    await account.customer("cus_nobody")
    assert "openclaw-billing" in fake.requests[0].headers["user-agent"]
    assert "x-stripe-client-telemetry" not in fake.requests[1].headers
    assert "telemetry_id" not in fake.requests[1].headers["x-stripe-client-user-agent"]
    assert stripe.enable_telemetry is False


def test_each_event_loop_has_connections_of_its_own(fake, make):
    account = make()

    async def ask() -> str:
        try:
            return await account.account_id()
        finally:
            await account.close()

    async def ask_about(number: int) -> object:
        try:
            return await account.customer(f"cus_{number}")
        finally:
            await account.close()

    assert asyncio.run(ask()) == "acct_1Fake000000001"
    for number in range(2):
        assert asyncio.run(ask_about(number)) is None
    assert len(fake.requests) == 3


def test_mock_mode_has_no_account_and_never_imports_the_sdk():
    assert make_account(Settings(_env_file=None, stripe_secret_key=None)) is None
    code = (
        "import sys; sys.modules['stripe'] = None;"
        "import client_auth, gateway, openclaw_billing.stripe_events, openclaw_billing.prices;"
        "from openclaw_billing.payments import make_account;"
        "from openclaw_billing.settings import Settings;"
        "assert make_account(Settings(_env_file=None)) is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": ""})


def test_a_key_without_the_sdk_refuses_to_start_in_one_sentence():
    code = (
        "import sys; sys.modules['stripe'] = None;"
        "from openclaw_billing.errors import BadSettings;"
        "from openclaw_billing.payments import make_account;"
        "from openclaw_billing.settings import Settings\n"
        "try: make_account(Settings(_env_file=None))\n"
        "except BadSettings as error: print(error)"
    )
    env = {"PATH": "", "STRIPE_SECRET_KEY": "sk_test_a"}
    said = subprocess.run([sys.executable, "-c", code], check=True, env=env, capture_output=True, text=True)
    assert "stripe[async]" in said.stdout
    assert "sk_test_a" not in said.stdout


async def test_whatever_a_host_logs_no_call_leaves_a_customer_in_it(fake, hasty, wish, caplog, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "stripe")
    caplog.set_level(logging.DEBUG, "httpx")
    await hasty.ensure_customer(*CUSTOMER, key="cus:1")
    fake.inject("error", method="POST")
    await hasty.ensure_customer(*CUSTOMER, key="cus:2")
    await hasty.open_session(wish, key="co:1")
    await hasty.invoices(wish.customer_id, limit=1)
    assert len(fake.requests) >= 5
    told = "\n".join([*(f"{each.name} {each.getMessage()}" for each in caplog.records), *capfd.readouterr()])
    for canary in ("cus_", "acme", "sk_test", "stripe.invalid", "cs_test"):
        assert canary not in told
    logging.getLogger("httpx").info("%s", httpx.URL("https://elsewhere.example/"))
    assert "elsewhere" in caplog.text


def test_the_sdks_own_switch_prints_nothing(fake) -> None:
    code = (
        "import asyncio, sys\n"
        "from openclaw_billing.payments import make_account\n"
        "from openclaw_billing.settings import load_settings\n"
        "async def ask():\n"
        "    account = make_account(load_settings())\n"
        "    await account.account_id()\n"
        "    await account.close()\n"
        "asyncio.run(ask())\n"
    )
    known = {"STRIPE_LOG": "debug", "STRIPE_SECRET_KEY": fake.key_text, "STRIPE_API_BASE": fake.url}
    environment = clean_environment(**known, PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout + done.stderr == b""
