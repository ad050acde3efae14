"""The OpenAPI document: whole, without secrets, and true whatever is sent to what it describes."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI

import client_auth
import gateway
from openclaw_billing.settings import load_settings

TOKEN = "0123456789abcdef" * 4

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    settings = load_settings(data_dir=tmp_path / "data", admin_token=TOKEN, docs=True, rate_limits=False)
    client_auth.runtime.reconfigure(settings)
    yield gateway.create_app(settings)
    client_auth.runtime.reconfigure()


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


def operations_of(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


async def test_every_operation_has_a_name_a_summary_and_an_answer(http: httpx.AsyncClient) -> None:
    schema = (await http.get("/openapi.json")).json()
    assert schema["openapi"].startswith("3.")
    names = [operation["operationId"] for _, _, operation in operations_of(schema)]
    assert len(names) == len(set(names)) > 20
    for method, path, operation in operations_of(schema):
        assert re.fullmatch(r"[a-z]+(?:[A-Z][a-z]+)*", operation["operationId"]), path
        assert operation["summary"]
        assert operation["tags"], path
        success = [status for status in operation["responses"] if status.startswith("2")]
        assert len(success) == 1, (method, path)


def body_of(schema: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    """The schema of what an operation takes."""
    described = json.dumps(operation["requestBody"]["content"]["application/json"]["schema"])
    found = re.search(r"#/components/schemas/(\w+)", described)
    assert found is not None
    body: dict[str, Any] = schema["components"]["schemas"][found[1]]
    return body


async def test_no_body_admits_fields_that_are_not_described(http: httpx.AsyncClient) -> None:
    schema = (await http.get("/openapi.json")).json()
    for _, path, operation in operations_of(schema):
        if "requestBody" in operation:
            assert body_of(schema, operation)["additionalProperties"] is False, path


async def test_the_document_shows_no_secret_and_no_path_of_ours(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    text = (await http.get("/openapi.json")).text
    assert not re.search(r"oc_live_[0-9a-f]{8}|sk_(test|live)_|whsec_\w", text)
    assert str(tmp_path) not in text
    assert "/metrics" not in json.loads(text)["paths"]


HOSTILE: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    10**17,
    "",
    " ",
    "\x00",
    "\u202e",
    "a" * 300,
    "../../etc/passwd",
    "' OR 1=1 --",
    "{{7*7}}",
    "🎉" * 60,
    [],
    [[]],
    {},
    {"": None},
]


def requests_of(operation: dict[str, Any], fields: list[str], hostile: Any) -> Iterator[dict[str, Any]]:
    """Requests for one operation with a hostile value in one place after the other."""
    text = hostile if isinstance(hostile, str) else json.dumps(hostile)
    json_body = {"Content-Type": "application/json"}
    if fields:
        for body in (hostile, *({**dict.fromkeys(fields, "a"), field: hostile} for field in fields)):
            yield {"content": json.dumps(body), "headers": json_body}
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "query":
            yield {"params": {parameter["name"]: text}, "headers": json_body, "content": "{}"}
    for header in ("Idempotency-Key", "If-Match", "X-Request-Id", "Accept"):
        yield {"headers": {**json_body, header: text.encode().decode("latin-1")}, "content": "{}"}


async def test_nothing_hostile_is_an_error_of_ours(http: httpx.AsyncClient) -> None:
    """Every field, parameter, header and path of every operation, with every value that does not belong there."""
    admin = {"X-Auth-Token": TOKEN}
    new = {"name": "A", "email": "a@example.com", "plan": "pro"}
    made = (await http.post("/api/admin/clients", headers=admin, json=new)).json()
    schema = (await http.get("/openapi.json")).json()
    asked = 0
    for method, path, operation in operations_of(schema):
        named = path.replace("{client_id}", made["client_id"])
        fields = list(body_of(schema, operation)["properties"]) if "requestBody" in operation else []
        who = admin if path.startswith("/api/admin") else {"X-Client-Key": made["api_key"]}
        for hostile in HOSTILE:
            inside = quote(str(hostile), safe="")
            for request in requests_of(operation, fields, hostile):
                headers = {**who, **request.pop("headers")}
                raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
                where = re.sub(r"\{\w+\}", inside or "x", named)
                answer = await http.request(method, where, headers=raw, **request)
                asked += 1
                assert answer.status_code < 500 or answer.status_code == 503, (
                    method,
                    where,
                    request,
                    answer.text,
                )
                assert answer.status_code < 400 or len(answer.content) <= 2048, (method, where, request)
    assert asked > 2000
    assert (await http.get("/api/billing/plans")).status_code == 200
