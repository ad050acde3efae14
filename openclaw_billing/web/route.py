"""The route class of every route of ours: strict bodies with a limit and a deadline, one shape of refusals.

It works by itself on whatever application includes our routers, and adds no handler or middleware to it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from typing import Any, ClassVar, TypeAlias

from fastapi import Request, Response
from fastapi.datastructures import DefaultPlaceholder
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client import Counter
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from openclaw_billing.errors import (
    BadRequest,
    CorruptStore,
    JobRefused,
    StorageUnavailable,
    TooLarge,
    TooSlow,
)
from openclaw_billing.metrics import REFUSALS, REQUESTS
from openclaw_billing.web import strict_json
from openclaw_billing.web.described import INVALID, describe
from openclaw_billing.web.limits import CLIENT_FIELDS
from openclaw_billing.web.problems import internal_error, problem, validation_problem

BODY_BYTES_MAX = 64 * 1024
BODY_SECONDS_MAX = 10.0
CLIENT_CLOSED = 499

FIELDS = "openclaw.fields"
"""Where a request's scope keeps its header fields by name, when none of them is given twice."""

IF_MATCH = b"if-match"

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

log = logging.getLogger("openclaw_billing")

# Nothing that may be a secret, which somebody has put into the wrong field: the id is answered, logged and kept.
_REQUEST_ID = re.compile(
    rb"(?!.*(?:oc_(?:live|test|admin)_\w|[sr]k_(?:live|test)_\w|whsec_\w)|[0-9A-Fa-f]{64})[A-Za-z0-9._-]{1,64}"
)
_NO_STORE = (b"cache-control", b"no-store")
_NO_SNIFF = (b"x-content-type-options", b"nosniff")
# What is left of a refused body would be read as the next request.
_CLOSE = {"Connection": "close"}


class BillingRoute(APIRoute):
    """Set as `route_class` of a router; subclasses may raise the limits of a body."""

    body_bytes_max: ClassVar[int] = BODY_BYTES_MAX
    body_seconds_max: ClassVar[float] = BODY_SECONDS_MAX

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if isinstance(options.get("strict_content_type", True), DefaultPlaceholder):
            # JSON that a form of another site can send is refused, whatever the host has chosen.
            options["strict_content_type"] = True
        # One counter for each status that was answered, so that none is looked up by its labels again.
        self._counters: dict[int, Counter] = {}
        options["responses"] = INVALID | (options.get("responses") or {})
        super().__init__(path, endpoint, **options)
        self.ignores_conditions = describe(self)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            return await self.answer(request, handle)

        return answer

    async def answer(self, request: Request, handle: Handler) -> Response:
        """What `handle` answers to the request under our limits, or our shape of its refusal."""
        limited = LimitedRequest(request.scope, request.receive, self.body_bytes_max, self.body_seconds_max)
        try:
            if self.ignores_conditions and any(name == IF_MATCH for name, _ in request.scope["headers"]):
                # Whoever names a condition relies on it.
                raise BadRequest("If-Match has no meaning here", code="if_match_unsupported")
            response = await handle(limited)
        except Exception as error:  # noqa: BLE001 - the outermost edge: every error has its answer here
            response = refused(error, limited.request_id)
        finish(response.raw_headers, limited.scope, limited.request_id)
        self.count(response.status_code)
        return response

    def count(self, status: int) -> None:
        """One more answer of this route with that status."""
        counter = self._counters.get(status)
        if counter is None:
            counter = REQUESTS.labels(self.operation_id or self.name, str(status))
            self._counters[status] = counter
        counter.inc()


def turned_away(error: HTTPException, scope: Scope) -> Response:
    """The answer to a request that no route of ours took: shaped like those of our routes."""
    request_id = request_id_of(scope)
    response = problem(error, request_id)
    finish(response.raw_headers, scope, request_id)
    return response


def refused(error: Exception, request_id: str) -> Response:
    """The answer to what an endpoint refused with, or failed with."""
    if isinstance(error, RequestValidationError):
        return validation_problem(error)
    if isinstance(error, HTTPException):
        if isinstance(error, JobRefused):
            REFUSALS[error.code].inc()
        return problem(error, request_id)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_CLOSED)
    if isinstance(error, CorruptStore):
        # Its sentence is for the operator: it names files.
        log.error("Request %s was refused: %s", request_id, error)
        return problem(StorageUnavailable(), request_id)
    log.error("Request %s failed", request_id, exc_info=error)
    return internal_error(request_id)


def limited_route(*, body_bytes_max: int, body_seconds_max: float = BODY_SECONDS_MAX) -> type[BillingRoute]:
    """The route class with other limits."""
    limits = {"body_bytes_max": body_bytes_max, "body_seconds_max": body_seconds_max}
    return type("LimitedRoute", (BillingRoute,), limits)


class LimitedRequest(Request):
    """A request whose body is read within its limits, however it is asked for, and parsed strictly."""

    def __init__(self, scope: Scope, receive: Receive, bytes_max: int, seconds_max: float) -> None:
        super().__init__(scope, receive)
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max
        self._whole: bytes | None = None
        self.request_id = request_id_of(scope)
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            TooLarge: it is larger than the route allows, announced or not.
            TooSlow: it did not arrive in time.
        """
        if self._whole is None:
            self._check_announced()
            # Nearly every body is there already, and a deadline costs more than reading it.
            message, steps = _begun(self._receive())
            if steps is None and not message.get("more_body", False):
                self._whole = self._whole_of([message])
            else:
                try:
                    async with asyncio.timeout(self._seconds_max):
                        self._whole = await self._read(
                            message if steps is None else await _ended(message, steps)
                        )
                except TimeoutError:
                    raise TooSlow(headers=_CLOSE) from None
        return self._whole

    @property
    def query_params(self) -> QueryParams:
        """Read anew each time: a token is taken out of the address when it was looked at."""
        return QueryParams(self.scope["query_string"])

    async def stream(self) -> AsyncGenerator[bytes, None]:
        yield await self.body()
        yield b""

    async def json(self) -> Any:
        return strict_json.loads(await self.body())

    def _check_announced(self) -> None:
        for name, value in self.scope["headers"]:
            # Thirteen digits are more than any limit, and no server lets an endless number through.
            if name == b"content-length" and value.isdigit() and int(value[:13]) > self._bytes_max:
                raise TooLarge(headers=_CLOSE)

    async def _read(self, message: Message) -> bytes:
        messages, size = [message], len(message.get("body", b""))
        while message.get("more_body", False) and size <= self._bytes_max:
            message = await self._receive()
            size += len(message.get("body", b""))
            messages.append(message)
        return self._whole_of(messages)

    def _whole_of(self, messages: list[Message]) -> bytes:
        if messages[-1]["type"] == "http.disconnect":
            raise ClientDisconnect
        whole = b"".join([message.get("body", b"") for message in messages])
        if len(whole) > self._bytes_max:
            raise TooLarge(headers=_CLOSE)
        return whole


def _begun(waiting: Awaitable[Message]) -> tuple[Any, Generator[Any, Any, Message] | None]:
    """Its result, if it has one without waiting; else what it waits for, and the steps that are left of it."""
    steps: Any = waiting.__await__()
    try:
        return next(steps), steps
    except StopIteration as ended:
        return ended.value, None


@types.coroutine
def _ended(waits_for: Any, steps: Generator[Any, Any, Message]) -> Generator[Any, Any, Message]:
    """The result of what `_begun` began, once it is there."""
    try:
        while True:
            try:
                given = yield waits_for
            except BaseException as error:  # noqa: BLE001 - such as a cancellation: it is for whoever waits
                waits_for = steps.throw(error)
            else:
                waits_for = steps.send(given)
    except StopIteration as ended:
        message: Message = ended.value
        return message


def request_id_of(scope: Scope) -> str:
    """The caller's id where it is one that may be logged, else a new one."""
    fields: dict[bytes, bytes] | None = scope.get(FIELDS)
    if fields is None or b"x-request-id" in fields:
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return str(value, "ascii")
    # Told apart, not kept secret: the system's randomness would cost more than all else here.
    return f"{random.getrandbits(64):016x}"


def finish(headers: list[tuple[bytes, bytes]], scope: Scope, request_id: str) -> None:
    """Add what every answer of ours says."""
    headers.extend(scope.get(CLIENT_FIELDS, ()))
    if not any(name == b"cache-control" for name, _ in headers):
        headers.append(_NO_STORE)
    headers.append(_NO_SNIFF)
    headers.append((b"x-request-id", request_id.encode("ascii")))
