"""The route class: strict bodies within limits, and one shape of refusals, on any host."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from starlette.types import Message

from openclaw_billing.errors import KeyRejected, QuotaExceeded, StorageUnavailable, TooManyRequests
from openclaw_billing.web.models import Input, Name
from openclaw_billing.web.route import BillingRoute, LimitedRequest, limited_route

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
REFUSALS = {
    "key": KeyRejected(),
    "store": StorageUnavailable(),
    "rate": TooManyRequests(retry_after_seconds=3),
    "foreign": HTTPException(418, "Teapot", headers={"X-Pot": "tea"}),
}


class Thing(Input):
    name: Name
    count: int = 0


def make_router() -> APIRouter:
    inner = APIRouter(route_class=BillingRoute)

    @inner.post("/things")
    async def create(body: Thing, request: Request) -> dict[str, str]:
        return {"name": body.name, "request_id": request.state.request_id}

    @inner.get("/plans")
    async def plans(response: Response) -> dict[str, str]:
        response.headers["Cache-Control"] = "public, max-age=60"
        return {}

    @inner.get("/number/{n}")
    async def number(n: int) -> int:
        return n

    @inner.get("/refuse/{which}")
    async def refuse(which: str) -> None:
        raise REFUSALS[which]

    @inner.get("/bug")
    async def bug() -> None:
        raise RuntimeError("secret of the house")

    events = APIRouter(route_class=limited_route(body_bytes_max=1024 * 1024, body_seconds_max=0.05))

    @events.post("/events")
    async def event(request: Request) -> int:
        return len(await request.body())

    outer = APIRouter(prefix="/outer")
    outer.include_router(inner)
    outer.include_router(events)
    return outer


@pytest.fixture
def app() -> FastAPI:
    # The host's choice must not weaken ours.
    host = FastAPI(strict_content_type=False)
    host.include_router(make_router(), prefix="/v1")
    return host


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://host/v1/outer") as client:
        yield client


async def test_a_plain_answer_carries_its_headers(http: httpx.AsyncClient) -> None:
    answer = await http.post("/things", json={"name": "Acme"}, headers={"X-Request-Id": "my-1.2_3"})
    assert answer.json() == {"name": "Acme", "request_id": "my-1.2_3"}
    assert answer.headers.get_list("x-request-id") == ["my-1.2_3"]
    assert answer.headers.get_list("cache-control") == ["no-store"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a\tb", "<b>", "ü"])
async def test_a_request_id_that_may_not_be_logged_is_replaced(http: httpx.AsyncClient, given: str) -> None:
    answer = await http.get("/plans", headers={"X-Request-Id": given.encode()})
    assert answer.headers["x-request-id"].isalnum()
    assert len(answer.headers["x-request-id"]) == 16


@pytest.mark.parametrize(
    "secret",
    [
        "oc_live_" + "0a" * 16,
        "oc_live_" + "Zz09" * 7,
        "req-oc_live_" + "0a" * 16,
        "req_oc_live_" + "0a" * 16,
        "oc_admin_" + "0" * 32,
        "sk_test_" + "a1" * 12,
        "rk_live_" + "a1" * 12,
        "whsec_" + "a1" * 16,
        "0a" * 32,
        "0A" * 32,
    ],
)
async def test_a_request_id_that_may_be_a_secret_is_replaced(http: httpx.AsyncClient, secret: str) -> None:
    answer = await http.get("/plans", headers={"X-Request-Id": secret})
    assert answer.headers["x-request-id"].isalnum()
    assert len(answer.headers["x-request-id"]) == 16


@pytest.mark.parametrize(
    "given", ["task_live", "doc_7", "x" * 64, "0a" * 16, "0a1b2c3d-1234-4abc-8def-0123456789ab"]
)
async def test_any_other_id_of_the_callers_is_kept(http: httpx.AsyncClient, given: str) -> None:
    assert (await http.get("/plans", headers={"X-Request-Id": given})).headers["x-request-id"] == given


async def test_two_requests_have_two_ids(http: httpx.AsyncClient) -> None:
    ids = {(await http.get("/plans")).headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


async def test_an_endpoint_may_choose_its_own_caching(http: httpx.AsyncClient) -> None:
    answer = await http.get("/plans")
    assert answer.headers.get_list("cache-control") == ["public, max-age=60"]


async def test_a_refusal_is_a_problem_that_keeps_the_guides_sentence(http: httpx.AsyncClient) -> None:
    answer = await http.get("/refuse/key", headers={"X-Request-Id": "r1"})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == 'ApiKey realm="openclaw", header="X-Client-Key"'
    assert answer.json() == {
        "type": "urn:openclaw:invalid_key",
        "title": "Unauthorized",
        "status": 401,
        "detail": "Invalid or inactive API key",
        "code": "invalid_key",
        "request_id": "r1",
    }


async def test_two_refusals_differ_by_their_request_id_alone(http: httpx.AsyncClient) -> None:
    first, second = await http.get("/refuse/key"), await http.get("/refuse/key")
    ids = [answer.headers["x-request-id"].encode() for answer in (first, second)]
    assert first.content.replace(ids[0], b"") == second.content.replace(ids[1], b"")
    headers = [{k: v for k, v in answer.headers.items() if k != "x-request-id"} for answer in (first, second)]
    assert headers[0] == headers[1]


async def test_facts_stand_beside_the_problem(app: FastAPI, http: httpx.AsyncClient) -> None:
    from datetime import UTC, datetime

    REFUSALS["quota"] = QuotaExceeded(credits_remaining=0, resets_at=datetime(2026, 3, 1, tzinfo=UTC))
    answer = await http.get("/refuse/quota")
    assert answer.status_code == 403
    assert answer.json()["credits_remaining"] == 0
    assert answer.json()["resets_at"] == "2026-03-01T00:00:00+00:00"
    assert "retry-after" not in answer.headers


async def test_a_wait_is_told_in_a_header(http: httpx.AsyncClient) -> None:
    answer = await http.get("/refuse/rate")
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert (await http.get("/refuse/store")).json()["code"] == "storage_unavailable"


async def test_an_exception_of_the_host_has_the_same_shape(http: httpx.AsyncClient) -> None:
    answer = await http.get("/refuse/foreign")
    assert (answer.status_code, answer.headers["x-pot"]) == (418, "tea")
    assert answer.json()["detail"] == "Teapot"
    assert answer.headers["cache-control"] == "no-store"


async def test_a_bug_tells_the_caller_nothing_and_the_log_everything_once(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = await http.get("/bug", headers={"X-Request-Id": "r2"})
    assert answer.status_code == 500
    assert answer.json() == {"detail": "internal error", "request_id": "r2"}
    records = [record for record in caplog.records if record.name.startswith("openclaw_billing")]
    assert [record.getMessage() for record in records] == ["Request r2 failed"]
    assert "secret of the house" in caplog.text


@pytest.mark.parametrize(
    "raw", [b"{", b'{"name": NaN}', b'{"name": "a", "name": "b"}', b"\xff", b"[" * 50_000]
)
async def test_a_body_that_is_no_strict_json_is_400(http: httpx.AsyncClient, raw: bytes) -> None:
    answer = await http.post("/things", content=raw, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_json")


async def test_a_boundless_number_is_422(http: httpx.AsyncClient) -> None:
    content = b'{"name": "a", "count": 1' + b"0" * 30 + b"}"
    answer = await http.post("/things", content=content, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "number_out_of_range")


@pytest.mark.parametrize(
    "body",
    [{}, {"name": 1}, {"name": ""}, {"name": "a", "count": True}, {"name": "a", "more": 1}, [], 7, "x"],
)
async def test_a_body_of_another_shape_is_422_without_its_content(
    http: httpx.AsyncClient, body: object
) -> None:
    answer = await http.post("/things", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["code"] == "validation_error"
    assert answer.json()["detail"]
    assert all(set(each) == {"loc", "msg", "type"} for each in answer.json()["detail"])


async def test_a_422_says_what_is_wrong_in_our_words(http: httpx.AsyncClient) -> None:
    answer = await http.post("/things", json={"name": "a\nb"})
    assert answer.json()["detail"] == [
        {"loc": ["body", "name"], "msg": "it must not have control characters", "type": "value_error"}
    ]
    assert (await http.get("/number/x")).json()["detail"][0]["loc"] == ["path", "n"]


async def test_a_422_is_never_larger_than_two_kilobytes(http: httpx.AsyncClient) -> None:
    many = {f"{n}-{'x' * 90}": "hunter2" for n in range(300)}
    answer = await http.post("/things", json=many)
    assert answer.status_code == 422
    assert len(answer.content) <= 2048
    assert b"hunter2" not in answer.content
    huge = await http.post("/things", json={"x" * 60_000: 1})
    assert len(huge.content) <= 2048
    wide = await http.post("/things", json={"😀" * 5_000: 1, "name": "a"})
    assert len(wide.content) <= 2048


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/merge-patch+json", 200),
        ("text/plain", 422),
        ("application/x-www-form-urlencoded", 422),
        (None, 422),
    ],
)
async def test_a_form_of_another_site_cannot_send_json(
    http: httpx.AsyncClient, content_type: str | None, status: int
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await http.post("/things", content=b'{"name": "Acme"}', headers=headers)
    assert answer.status_code == status
    if status == 422:
        (said,) = answer.json()["detail"]
        assert said["msg"] == "a JSON body needs Content-Type: application/json"


def sized(size: int) -> bytes:
    body = b'{"name": "Acme"}'
    return body + b" " * (size - len(body))


async def chunks_of(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]


@pytest.mark.parametrize("announced", [True, False])
async def test_the_largest_body_passes_and_one_byte_more_does_not(
    http: httpx.AsyncClient, announced: bool
) -> None:
    for size, status in ((65536, 200), (65537, 413), (500_000, 413)):
        content = sized(size) if announced else chunks_of(sized(size))
        answer = await http.post("/things", content=content, headers=JSON)
        assert answer.status_code == status
        assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["code"] == "body_too_large"
    assert answer.headers["connection"] == "close"


async def test_a_body_that_is_announced_too_large_is_not_read(http: httpx.AsyncClient) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("read")
        yield b""

    answer = await http.post("/things", content=never(), headers={**JSON, "Content-Length": "9" * 300})
    assert answer.status_code == 413


async def test_a_route_may_take_larger_bodies_as_they_are(http: httpx.AsyncClient) -> None:
    assert (await http.post("/events", content=b"{" * 1024 * 1024)).json() == 1024 * 1024
    assert (await http.post("/events", content=b"{" * (1024 * 1024 + 1))).status_code == 413


async def answer_to(app: FastAPI, messages: list[Message]) -> list[Message]:
    """What the application sends when these messages arrive and then nothing more."""
    sent: list[Message] = []

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    path = "/v1/outer/events"
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [],
        "server": ("host", 80),
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    return sent


async def test_a_body_that_does_not_arrive_is_408(app: FastAPI) -> None:
    sent = await answer_to(app, [{"type": "http.request", "body": b"{", "more_body": True}])
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["code"] == "body_too_slow"
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_a_sender_who_hangs_up_leaves_no_trace(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "openclaw_billing"):
        await answer_to(
            app, [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
        )
    assert [record for record in caplog.records if record.name.startswith("openclaw_billing")] == []


async def test_a_body_that_arrives_bit_by_bit_is_read_whole(app: FastAPI) -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": part, "more_body": part != b"c"} for part in (b"a", b"b", b"c")
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        # Each takes two turns of the loop, the first as well.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(
        {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/outer/events",
            "raw_path": b"/v1/outer/events",
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [],
            "server": ("host", 80),
            "client": ("127.0.0.1", 1),
        },
        receive,
        send,
    )
    assert (sent[0]["status"], sent[1]["body"]) == (200, b"3")


async def test_a_request_that_is_cancelled_while_its_body_is_awaited_ends_there(app: FastAPI) -> None:
    ended: list[str] = []

    async def receive() -> Message:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("receive")
        raise AssertionError

    request = LimitedRequest({"type": "http", "headers": []}, receive, 100, 10.0)
    reading = asyncio.create_task(request.body())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert ended == ["receive"]
