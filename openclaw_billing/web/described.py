"""What the OpenAPI document says of a route beside its models: how it refuses, and the fields of its requests.

Nearly all of it is read off the route: who guards it, whether it takes a body, changes something or names one thing.
Only what the endpoint itself refuses with is said where it stands, by `refusals`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader
from pydantic import ConfigDict

from openclaw_billing.web.limits import PROBLEM, RATE_LIMITED, Responses
from openclaw_billing.web.models import Output
from openclaw_billing.web.problems import MEDIA_TYPE

CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})

_TOLD: Mapping[int, str] = MappingProxyType(
    {
        400: "The request cannot be meant so: `malformed_json`, `doubled_header`, `key_in_query`, `bad_idempotency_key`, "
        "`unknown_cursor`, `unknown_plan` and the like",
        401: "No or no good key or token, for whatever reason: `invalid_key`, `invalid_token`",
        402: "A payment is needed, or the card was refused: `payment_required`, `card_declined`",
        403: "Out of credits, or in debt: `quota_exceeded`, `payment_overdue`. Trying again does not help",
        404: "It is not there, or somebody else's: `not_found`",
        408: "The body did not arrive in time: `body_too_slow`",
        409: "The state does not allow it: `code` says what stands in the way",
        412: "`If-Match` names none of what it is now: `stale`",
        413: "The body is too large: `body_too_large`",
        502: "Stripe did not take a request of ours: `stripe_rejected`",
        503: "Something is away and nothing was changed, `Retry-After` says when to try again: `storage_unavailable`, "
        "`admin_disabled`, `stripe_unavailable` and the like",
    }
)


class BillingProblem(Output):
    """A refusal (RFC 9457): one sentence for people, and one word to switch on. Some say more beside it."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


class InvalidField(Output):
    """What is wrong with one field or parameter, and where it stands."""

    loc: list[str | int]
    msg: str
    type: str


class InvalidRequest(Output):
    detail: list[InvalidField]
    code: Literal["validation_error"]


INVALID: Responses = {
    422: {
        # As a model, so that both are in the document for everything else to name.
        "model": InvalidRequest | BillingProblem,
        "description": "A field or parameter is wrong: `validation_error`, with a list of what is wrong where. Or the request "
        "cannot be carried out, as a problem: `idempotency_mismatch` and the like",
        "content": {MEDIA_TYPE: {"schema": PROBLEM}},
    }
}


def _field(name: str, told: str) -> dict[str, Any]:
    return {"in": "header", "name": name, "description": told, "schema": {"type": "string"}}


_IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "description": "Of the caller's making: the same request again within 24 hours gets the same answer and changes nothing",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_IF_NONE_MATCH = _field("If-None-Match", "The `ETag` of what the caller has: 304 while it is still so")
_IF_MATCH = _field("If-Match", "The `ETag` of what the change was decided upon: 412 if it is not so any more")

TAGGED: dict[str, Any] = {"parameters": [_IF_NONE_MATCH]}
"""`openapi_extra` of a route that answers one thing with its tag."""
CONDITIONAL: dict[str, Any] = {"parameters": [_IF_MATCH]}
"""`openapi_extra` of a route that changes one thing, if it is still as the caller has seen it."""
AS_CSV: Responses = {
    200: {
        "content": {"text/csv": {"schema": {"type": "string"}}},
        "headers": {
            "Link": {
                "description": 'The next page of a file with a `limit`: `rel="next"`',
                "schema": {"type": "string"},
            }
        },
    }
}
"""`responses` of a list that can be had as a file."""


def refusals(*statuses: int) -> Responses:
    """How a route may refuse."""
    return {
        status: {"description": _TOLD[status], "content": {MEDIA_TYPE: {"schema": PROBLEM}}}
        for status in statuses
    }


def describe(route: APIRoute) -> bool:
    """Complete what the route's document says, which has `INVALID` already; whether it changes things on no condition."""
    guarded = any(isinstance(each.call, APIKeyHeader) for each in route.dependant.dependencies)
    changing = guarded and not CHANGING.isdisjoint(route.methods or ())
    bodied = route.body_field is not None
    extra = dict(route.openapi_extra or {})
    parameters = {each["name"]: each for each in extra.get("parameters", ())}
    if changing:
        parameters["Idempotency-Key"] = _IDEMPOTENCY_KEY
    if parameters:
        route.openapi_extra = {**extra, "parameters": list(parameters.values())}
    found: Responses = {}
    if guarded:
        found |= {**refusals(400, 401, 503), **RATE_LIMITED}
    if "{" in route.path:
        found |= refusals(404)
    if bodied:
        found |= refusals(400, 408, 413)
    if "If-Match" in parameters:
        found |= refusals(412)
    if "If-None-Match" in parameters:
        found[304] = {"description": "It is still what `If-None-Match` names"}
        found[200] = {"headers": {"ETag": {"schema": {"type": "string"}}}}
    if route.status_code == 201:
        found[201] = {"headers": {"Location": {"schema": {"type": "string"}}}}
    found |= route.responses
    if not (changing or bodied or route.dependant.query_params or route.dependant.path_params):
        del found[422]
    route.responses = dict(sorted(found.items(), key=lambda pair: str(pair[0])))
    return changing and "If-Match" not in parameters
