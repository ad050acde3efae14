"""The front desk: who may come in, what was answered under this key before, who answers now."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from openclaw_billing.testing import (
    catalog,
    checkout,
    invoices,
    metering,
    payments,
    portal,
    schedules,
    subscriptions,
)
from openclaw_billing.testing.faults import ANSWERS, Fault
from openclaw_billing.testing.forms import Form, decode
from openclaw_billing.testing.problems import ApiError, invalid
from openclaw_billing.testing.routes import Routes
from openclaw_billing.testing.world import API_VERSION, Call, Obj, World

KEY_LENGTH_MAX = 255
KEY_SECONDS = 86_400
EXPAND_LEVELS_MAX = 4
_SECRET = re.compile(r"(sk|rk)_(test|live)_\w+")

ParamsCheck = Callable[[str, str, dict[str, Any]], list[str]]


@dataclass
class RecordedRequest:
    """One request as it arrived; `status` stays None when it was never answered."""

    method: str
    path: str
    params: dict[str, Any]
    headers: dict[str, str]
    body: bytes
    refusal: ApiError | None = None
    status: int | None = None
    fault: str | None = None

    @property
    def idempotency_key(self) -> str | None:
        """The Idempotency-Key it carried."""
        return self.headers.get("idempotency-key")

    @property
    def stripe_version(self) -> str | None:
        """The API version it asked for."""
        return self.headers.get("stripe-version")


@dataclass(frozen=True)
class Reply:
    """An answer, ready for the wire."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Kept:
    """What an Idempotency-Key was first used for, and what it was answered."""

    asked: tuple[str, str, dict[str, Any]]
    reply: Reply
    at: int


class Front:
    """Answers requests from the state of one world."""

    def __init__(self, world: World, check: ParamsCheck | None = None) -> None:
        self.world = world
        self.requests: list[RecordedRequest] = []
        self.check = check
        self._kept: dict[str, _Kept] = {}
        self._routes = Routes()
        for part in (catalog, checkout, invoices, metering, payments, portal, schedules, subscriptions):
            self._routes.include(part.routes)

    def record(self, method: str, target: str, headers: dict[str, str], body: bytes) -> RecordedRequest:
        """Note a request before anything is done about it."""
        parts = urlsplit(target)
        params, refusal = {}, None
        try:
            params = _params(parts.query, headers, body)
        except ApiError as error:
            refusal = error
        request = RecordedRequest(method, parts.path, params, headers, body, refusal)
        with self.world.lock:
            self.requests.append(request)
        return request

    def answer(self, request: RecordedRequest) -> Reply:
        """The right answer, or the one given under the same key before."""
        with self.world.lock:
            request_id = self.world.new_id("req")
            try:
                self._authenticate(request)
                reply = self._earlier(request) or self._fresh(request, request_id)
            except ApiError as error:
                reply = _json(error.status, error.body())
            reply = Reply(reply.status, reply.body, {**reply.headers, **_echo(request, request_id)})
            request.status = reply.status
            return reply

    def fail(self, request: RecordedRequest, fault: Fault) -> Reply:
        """The answer a fault puts in place of the right one."""
        status, kind, code, sentence = ANSWERS[fault.kind]
        error = {"type": kind, "message": sentence, **({"code": code} if code else {})}
        headers = {}
        if fault.should_retry is not None:
            headers["Stripe-Should-Retry"] = "true" if fault.should_retry else "false"
        if fault.retry_after is not None:
            headers["Retry-After"] = str(fault.retry_after)
        with self.world.lock:
            made = _json(status, {"error": error})
            if status >= 500 and fault.kept:
                self._keep(request, made)
            request.status = status
            return Reply(status, made.body, {**_echo(request, self.world.new_id("req")), **headers})

    def _authenticate(self, request: RecordedRequest) -> None:
        scheme, _, key_text = request.headers.get("authorization", "").partition(" ")
        if not key_text:
            raise ApiError(401, "You did not provide an API key. Provide it in the Authorization header.")
        mode = "live" if self.world.livemode else "test"
        found = _SECRET.fullmatch(key_text)
        if scheme != "Bearer" or found is None or found[2] != mode:
            raise ApiError(401, f"Invalid API Key provided: {key_text[:8]}****")

    def _earlier(self, request: RecordedRequest) -> Reply | None:
        key = request.idempotency_key
        if request.method != "POST" or key is None:
            return None
        if len(key) > KEY_LENGTH_MAX:
            raise invalid("idempotency_key", f"Idempotency keys may be at most {KEY_LENGTH_MAX} characters.")
        kept = self._kept.get(key)
        if kept is None or self.world.now() - kept.at >= KEY_SECONDS:
            return None
        if kept.asked != _asked(request):
            message = (
                "Keys for idempotent requests can only be used with the same parameters they were first used "
                f"with. Try using a key other than '{key}' if you meant to execute a different request."
            )
            raise ApiError(400, message, kind="idempotency_error")
        return Reply(kept.reply.status, kept.reply.body, {"Idempotent-Replayed": "true"})

    def _fresh(self, request: RecordedRequest, request_id: str) -> Reply:
        if request.refusal is not None:
            raise request.refusal
        route, ids = self._routes.find(request.method, request.path)
        route.check(request.params)
        for problem in self.check(request.method, request.path, request.params) if self.check else []:
            raise ApiError(400, problem, code="parameter_unknown")
        form = Form(request.params)
        expand = _expansions(form)
        call = Call(form, ids, request.path, request_id, request.idempotency_key)
        self.world.cause = call
        try:
            reply = _json(200, self._shown(route.handler(self.world, call), expand))
        except ApiError as error:
            reply = _json(error.status, error.body())
            if not error.kept:
                return reply
        finally:
            self.world.cause = None
        self._keep(request, reply)
        return reply

    def _shown(self, made: Obj, expand: list[str]) -> Obj:
        if made["object"] != "list":
            return self.world.shown(made, expand)
        below = []
        for path in expand:
            head, _, rest = path.partition(".")
            if head != "data" or not rest:
                raise ApiError(400, f"This property cannot be expanded ({path}).", param="expand")
            below.append(rest)
        return {**made, "data": [self.world.shown(one, below) for one in made["data"]]}

    def _keep(self, request: RecordedRequest, reply: Reply) -> None:
        if request.method == "POST" and request.idempotency_key is not None:
            self._kept[request.idempotency_key] = _Kept(_asked(request), reply, self.world.now())


def _asked(request: RecordedRequest) -> tuple[str, str, dict[str, Any]]:
    return request.method, request.path, request.params


def _expansions(form: Form) -> list[str]:
    paths = form.texts("expand")
    for path in paths:
        if path.count(".") >= EXPAND_LEVELS_MAX:
            message = (
                f"You cannot expand more than {EXPAND_LEVELS_MAX} levels of a property. Property: {path}"
            )
            raise ApiError(400, message, param="expand")
    return paths


def _params(query: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    if not headers.get("content-type", "").startswith("application/json"):
        return {**decode(query), **decode(body.decode(errors="replace"))}
    try:
        params = json.loads(body or b"{}")
    except ValueError as error:
        raise ApiError(400, "Invalid JSON in the body.") from error
    return params if isinstance(params, dict) else {}


def _json(status: int, body: Obj) -> Reply:
    return Reply(status, json.dumps(body).encode())


def _echo(request: RecordedRequest, request_id: str) -> dict[str, str]:
    echo = {"Request-Id": request_id, "Stripe-Version": request.stripe_version or API_VERSION}
    if request.idempotency_key is not None:
        echo["Idempotency-Key"] = request.idempotency_key
    return echo
