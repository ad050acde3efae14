"""FakeStripe on the wire: keys, refusals, replays, and everything that can go wrong."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import stripe

# The SDK hands httpx its form as `data`, which httpx would rather be given as `content`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_a_key_is_demanded(fake, once):
    stranger = httpx.get(f"{fake.url}/v1/customers")
    assert stranger.status_code == 401
    assert stranger.json()["error"]["type"] == "invalid_request_error"
    with pytest.raises(stripe.AuthenticationError):
        once.v1.customers.list({}, {"api_key": "sk_live_wrong_mode"})


def test_what_the_sdk_would_not_send_is_refused(fake):
    head = {"Authorization": f"Bearer {fake.key_text}"}
    for path, body, code in [
        ("/v1/customers", "nickname=x", "parameter_unknown"),
        ("/v1/checkout/sessions", "mode=subscription&payment_method_types[0]=card", "parameter_unknown"),
        ("/v1/refunds", "", "parameter_missing"),
        ("/v1/customers", "email=a&email[b]=c", "parameter_invalid_empty"),
    ]:
        answer = httpx.post(f"{fake.url}{path}", content=body, headers=head)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert httpx.get(f"{fake.url}/v1/nothing", headers=head).status_code == 404


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/prices?limit=0", "Must be 1 to 100"),
        ("/v1/prices?limit=many", "is not int"),
        ("/v1/prices?starting_after=price_x", "No such"),
        ("/v1/prices?starting_after=a&ending_before=b", "Only one"),
        ("/v1/prices?expand[0]=data.tiers_of_mine", "cannot be expanded"),
        ("/v1/prices?expand[0]=data.product.a.b.c", "more than 4 levels"),
        ("/v1/events?type=a&types[0]=b", "not both"),
        ("/v1/customers/price_x", "No such customer"),
    ],
)
def test_a_question_asked_wrongly_is_refused(fake, starter, path, said):
    answer = httpx.get(f"{fake.url}{path}", headers={"Authorization": f"Bearer {fake.key_text}"})
    assert answer.status_code in (400, 404)
    assert said in answer.json()["error"]["message"]


def test_the_sdks_own_types_can_be_the_check(fake, once, customer):
    with pytest.raises(stripe.InvalidRequestError, match="not Literal"):
        once.v1.customers.update(customer, {"tax_exempt": "sometimes"})  # type: ignore[typeddict-item]


def test_every_request_is_recorded_with_its_key_and_version(fake, session):
    sent = next(one for one in fake.requests if one.path == "/v1/checkout/sessions")
    assert sent.idempotency_key == "co:c1:a1"
    assert sent.stripe_version == "2026-10-28.endive"
    assert sent.params["subscription_data"]["metadata"] == {"attempt_id": "a1"}
    assert sent.status == 200


def test_the_same_key_gives_the_same_answer_and_no_second_object(fake, once):
    first = once.v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "cus:1"})
    again = once.v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "cus:1"})
    assert again.id == first.id
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert len(fake.all("customer")) == 1
    with pytest.raises(stripe.IdempotencyError):
        once.v1.customers.create({"email": "b@example.com"}, {"idempotency_key": "cus:1"})
    fake.advance(days=1)
    other = once.v1.customers.create({"email": "b@example.com"}, {"idempotency_key": "cus:1"})
    assert other.id != first.id


def test_one_key_sent_by_many_at_once_makes_one_object(fake):
    head = {"Authorization": f"Bearer {fake.key_text}", "Idempotency-Key": "cus:1"}
    with httpx.Client(headers=head) as line, ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(line.post, f"{fake.url}/v1/customers") for _ in range(16)]
        assert len({one.result().json()["id"] for one in sent}) == 1


def test_a_key_spent_on_an_error_of_theirs_stays_spent(fake, once):
    fake.inject("error")
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            once.v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "cus:1"})
    assert fake.all("customer") == []
    assert once.v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "cus:1:2"}).id


def test_a_key_is_not_spent_on_a_request_that_failed_validation(once):
    with pytest.raises(stripe.InvalidRequestError):
        once.v1.billing_portal.sessions.create({"customer": "cus_nobody"}, {"idempotency_key": "k"})
    assert once.v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "k"}).id


@pytest.mark.parametrize("kind", ["html", "reset", "conflict"])
def test_passing_trouble_is_survived_by_the_sdks_retries(fake, api, kind):
    fake.inject(kind, method="POST", path="/v1/customers")
    assert api.v1.customers.create({"email": "a@example.com"}).id
    keys = [one.idempotency_key for one in fake.requests]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_reply_that_was_lost_is_fetched_by_its_key(fake, api):
    fake.inject("reply_lost")
    assert api.v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "cus:1"}).id
    assert len(fake.all("customer")) == 1


@pytest.mark.parametrize(("should_retry", "attempts"), [(None, 1), (False, 1), (True, 2)])
def test_too_many_requests_are_retried_only_when_told_to(fake, api, should_retry, attempts):
    fake.inject("rate_limit", should_retry=should_retry, retry_after=0)
    if should_retry:
        assert api.v1.customers.list().data == []
    else:
        with pytest.raises(stripe.RateLimitError) as caught:
            api.v1.customers.list()
        assert caught.value.headers["Retry-After"] == "0"
    assert len(fake.requests) == attempts


@pytest.mark.parametrize(
    ("kind", "error"), [("unauthorized", stripe.AuthenticationError), ("forbidden", stripe.PermissionError)]
)
def test_a_bad_key_is_told_as_such(fake, api, kind, error):
    fake.inject(kind, times=None)
    with pytest.raises(error):
        api.v1.customers.list()
    fake.clear_faults()
    assert api.v1.customers.list().data == []


def test_a_trouble_nobody_knows_is_not_ordered(fake):
    with pytest.raises(ValueError, match="down"):
        fake.inject("refuse")


def test_a_fault_may_let_some_requests_pass_first(fake, once):
    fake.inject("error", after=1, method="GET")
    assert once.v1.customers.list().data == []
    with pytest.raises(stripe.APIError):
        once.v1.customers.list()


def test_an_account_that_is_down_refuses_and_comes_back_on_its_port(fake, once):
    assert once.v1.customers.list().data == []
    with fake.down(), pytest.raises(stripe.APIConnectionError):
        once.v1.customers.list()
    assert once.v1.customers.list().data == []


@pytest.mark.anyio
async def test_a_hang_ends_by_the_callers_budget(fake, later):
    fake.inject("hang", times=None)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await later.v1.customers.list_async()
    assert time.monotonic() - began < 1
    fake.clear_faults()


@pytest.mark.anyio
async def test_a_dripping_answer_outlives_every_read_timeout(fake, later):
    fake.add_price(100)
    fake.inject("drip", times=None, seconds=0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.4):
            await later.v1.prices.list_async()
    assert len(fake.requests) == 1
    fake.clear_faults()


@pytest.mark.anyio
async def test_the_async_sdk_walks_from_customer_to_cancellation(fake, later, starter):
    made = await later.v1.customers.create_async({"email": "a@example.com"}, {"idempotency_key": "cus:1"})
    begun = await later.v1.checkout.sessions.create_async(
        {
            "mode": "subscription",
            "customer": made.id,
            "line_items": [{"price": starter, "quantity": 1}],
            "success_url": "https://x.example.com",
        }
    )
    done = fake.complete_checkout(begun.id)
    gone = await later.v1.subscriptions.cancel_async(done["subscription"])
    assert gone.status == "canceled"
    bills = await later.v1.invoices.list_async({"customer": made.id, "status": "paid"})
    assert [bill.amount_paid async for bill in bills.auto_paging_iter()] == [2_900]
