"""Problems: how a refusal looks. `application/problem+json`, with the sentence of the guide as `detail`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from types import MappingProxyType

from fastapi import Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from openclaw_billing.errors import BillingError, Fact

MEDIA_TYPE = "application/problem+json"
VALIDATION_BYTES_MAX = 2048
MESSAGE_LENGTH_MAX = 200
PLACE_DEPTH_MAX = 8
PLACE_LENGTH_MAX = 64

_TITLES: Mapping[int, str] = MappingProxyType({status.value: status.phrase for status in HTTPStatus})
_TYPES: Mapping[str, str] = MappingProxyType(
    {"rate_limited": "https://iana.org/assignments/http-problem-types#quota-exceeded"}
)


def problem(error: HTTPException, request_id: str) -> Response:
    """The answer to a refusal. One that is not ours is told by its status alone and keeps its sentence."""
    status = error.status_code
    title = _TITLES.get(status, "Error")
    facts: Mapping[str, Fact] = {}
    if isinstance(error, BillingError):
        code, facts = error.code, error.facts
    else:
        code = title.lower().replace(" ", "_").replace("-", "_")
    body = {
        "type": _TYPES.get(code, f"urn:openclaw:{code}"),
        "title": title,
        "status": status,
        "detail": str(error.detail),
        "code": code,
        "request_id": request_id,
    }
    assert not body.keys() & facts.keys(), "a fact must not hide what every problem says"
    return _json({**body, **facts}, status, MEDIA_TYPE, error.headers)


def validation_problem(error: RequestValidationError) -> Response:
    """What is wrong with each field, in FastAPI's shape: never the input, and never more than 2 KB."""
    kept: list[dict[str, object]] = []
    for each in error.errors():
        message, kind = _message(each["msg"]), str(each["type"])
        if each["loc"] == ("body",) and isinstance(each.get("input"), bytes):
            # So FastAPI tells of a body that it did not even read.
            message, kind = "a JSON body needs Content-Type: application/json", "content_type"
        shown: dict[str, object] = {"loc": _place(each["loc"]), "msg": message, "type": kind}
        if kept and len(json.dumps([*kept, shown])) > VALIDATION_BYTES_MAX - 64:
            break
        kept.append(shown)
    return _json({"detail": kept, "code": "validation_error"}, 422, "application/json")


def internal_error(request_id: str) -> Response:
    """All that a caller learns of a bug."""
    return _json({"detail": "internal error", "request_id": request_id}, 500, "application/json")


def _place(place: Iterable[object]) -> list[str | int]:
    """Names in it may be the caller's own, of any length."""
    steps = list(place)[:PLACE_DEPTH_MAX]
    return [step if isinstance(step, int) else str(step)[:PLACE_LENGTH_MAX] for step in steps]


def _message(text: str) -> str:
    return text.removeprefix("Value error, ")[:MESSAGE_LENGTH_MAX]


def _json(
    body: Mapping[str, object], status: int, media_type: str, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(json.dumps(body), status, dict(headers or {}), media_type)
