"""The OpenAPI document: whole, without secrets, and true whatever is sent to what it describes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

import client_auth
import gateway
from openclaw_billing.settings import load_settings
from openclaw_billing.web.examples import EXAMPLES
from openclaw_billing.web.models import Input, Output
from tests.in_process import gateway_app

TOKEN = "0123456789abcdef" * 4
SNAPSHOT = Path(__file__).parent / "openapi.txt"

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    settings = load_settings(data_dir=tmp_path / "data", admin_token=TOKEN, docs=True, rate_limits=False)
    client_auth.runtime.reconfigure(settings)
    yield gateway_app(docs=True)
    client_auth.runtime.reconfigure()


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


def models() -> dict[str, type[BaseModel]]:
    """Every model of ours by its name."""
    found: dict[str, type[BaseModel]] = {}
    waiting: list[type[BaseModel]] = [Input, Output]
    while waiting:
        for each in waiting.pop().__subclasses__():
            found[each.__name__] = each
            waiting.append(each)
    return found


async def test_every_model_that_comes_or_goes_has_an_example_that_is_true(http: httpx.AsyncClient) -> None:
    schema = (await http.get("/openapi.json")).json()
    known, seen = models(), set[str]()
    for _, path, operation in operations_of(schema):
        bodies = [operation["requestBody"]["content"]] if "requestBody" in operation else []
        bodies += [each.get("content", {}) for each in operation["responses"].values()]
        described = json.dumps([content.get("application/json", {}) for content in bodies])
        names = re.findall(r"#/components/schemas/(\w+)", described)
        assert names, path
        seen |= set(names)
    for name in sorted(seen):
        (shown,) = schema["components"]["schemas"][name]["examples"]
        example = EXAMPLES[name]
        # FastAPI leaves out what is null.
        assert set(shown) == {field for field, value in example.items() if value is not None}
        made = known[name].model_validate_json(json.dumps(example))
        if issubclass(known[name], Output):
            assert made.model_dump(mode="json") == example, name
    assert len(seen) > 30


async def test_the_examples_tell_of_no_model_that_is_not_there() -> None:
    assert set(EXAMPLES) <= set(models())


async def test_the_document_is_as_it_was_agreed_upon(http: httpx.AsyncClient) -> None:
    """A change of it is a change for callers: see it here, and run `python -m tests.test_openapi` where it is meant."""
    assert told((await http.get("/openapi.json")).json()) == SNAPSHOT.read_text()


def told(schema: dict[str, Any]) -> str:
    """A line for each operation: what it is called, takes, and may answer."""
    lines = []
    for method, path, operation in operations_of(schema):
        parameters = [f"{each['in']}:{each['name']}" for each in operation.get("parameters", ())]
        bodies = re.findall(r"schemas/(\w+)", json.dumps(operation.get("requestBody", {})))
        answers = [
            status + ("+csv" if "text/csv" in answer.get("content", {}) else "")
            for status, answer in operation["responses"].items()
        ]
        shown = " ".join([*sorted(parameters), *(f"body:{each}" for each in bodies)])
        lines.append(f"{method.upper()} {path} {operation['operationId']}({shown}) {' '.join(answers)}\n")
    return "".join(sorted(lines))


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
                # A path that is cut by what stands in it leads to no operation at all.
                assert str(answer.status_code) in operation["responses"] or answer.status_code == 405, (
                    method,
                    where,
                    answer.status_code,
                )
    assert asked > 2000
    assert (await http.get("/api/billing/plans")).status_code == 200


if __name__ == "__main__":
    SNAPSHOT.write_text(told(gateway.create_app(load_settings(admin_token=TOKEN, docs=True)).openapi()))
