"""The direct route: FastAPI's for the documentation, and a straight line for the request.

An endpoint on the path of every job takes a body, the request, the response and who is calling, and nothing
else. FastAPI's general solver spends on such a call about as much time as the whole job needs, so this class
makes its plan once and calls the endpoint by it. With `dependency_overrides` set, as in a host's tests, and
for whatever the plan does not cover, FastAPI's own way is taken.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from openclaw_billing.web.route import FIELDS, IF_MATCH, BillingRoute, LimitedRequest, finish, refused

_JSON = b"application/json"

_JSON_FIELD = (b"content-type", _JSON)

Caller = Callable[[Request], Awaitable[Any]]
Headers = list[tuple[bytes, bytes]]


class Fields(Response):
    """A response for an endpoint to put header fields on, and without any of its own."""

    def __init__(self) -> None:
        self.background = None
        self.raw_headers: Headers = []


class DirectRoute(BillingRoute):
    """For endpoints of a body model, `Request`, `Response` and `Depends(of a request)`, answering a model."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        general = super().get_route_handler()
        self._plan = plan = Plan(self.endpoint)
        self._status = status = self.status_code or 200

        async def straight(request: Request) -> Response:
            assert isinstance(request, LimitedRequest)
            content, headers = await plan.call(request)
            response = Response(content, status, media_type="application/json")
            response.raw_headers.extend(headers)
            return response

        async def answer(request: Request) -> Response:
            if not self.is_plain(request.scope):
                return await general(request)
            return await self.answer(request, straight)

        return answer

    def is_plain(self, scope: Scope) -> bool:
        """Whether the request needs nothing of what the application prepares for FastAPI's own way."""
        provider = self.dependency_overrides_provider
        if scope["method"] not in (self.methods or ()):
            return False
        if provider is not None and provider.dependency_overrides:
            return False
        headers = scope["headers"]
        fields = dict(headers)
        # A field that is given twice is looked at more closely than is needed for the others.
        if len(fields) != len(headers) or fields.get(b"content-type") != _JSON or IF_MATCH in fields:
            return False
        scope[FIELDS] = fields
        return True

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.is_plain(scope):
            await self.straight(scope, receive, send)
            return
        await super().handle(scope, receive, send)

    async def straight(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a plain request at once: every error has its answer, and nothing was opened that must be closed."""
        request = LimitedRequest(scope, receive, self.body_bytes_max, self.body_seconds_max)
        try:
            content, own = await self._plan.call(request)
        except Exception as error:  # noqa: BLE001 - the outermost edge: every error has its answer here
            response = refused(error, request.request_id)
            finish(response.raw_headers, scope, request.request_id)
            self.count(response.status_code)
            await response(scope, receive, send)
            return
        headers = [(b"content-length", b"%d" % len(content)), _JSON_FIELD, *own]
        finish(headers, scope, request.request_id)
        self.count(self._status)
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": content})


class Plan:
    """How one endpoint is called."""

    def __init__(self, endpoint: Callable[..., Awaitable[BaseModel]]) -> None:
        self._endpoint = endpoint
        self._callers: list[tuple[str, Caller]] = []
        self._body = self._request = self._response = ""
        self._model: type[BaseModel] | None = None
        hints = typing.get_type_hints(endpoint)
        for name, parameter in inspect.signature(endpoint).parameters.items():
            self._add(name, hints[name], parameter.default)
        assert self._model is not None, "a direct route has a body"
        self._validate: Callable[[Any], Any] = self._model.__pydantic_validator__.validate_python

    async def call(self, request: LimitedRequest) -> tuple[bytes, Headers]:
        """The answer's content, and the header fields that the endpoint gave it.

        Raises:
            RequestValidationError: and whatever the endpoint refuses with.
        """
        body = await request.json()
        values: dict[str, Any] = {}
        for name, caller in self._callers:
            values[name] = await caller(request)
        try:
            values[self._body] = self._validate(body)
        except ValidationError as error:
            raise RequestValidationError(
                [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]
            ) from None
        fields = Fields()
        if self._request:
            values[self._request] = request
        if self._response:
            values[self._response] = fields
        answer = await self._endpoint(**values)
        return answer.__pydantic_serializer__.to_json(answer), fields.raw_headers

    def _add(self, name: str, hint: Any, default: Any) -> None:
        if isinstance(default, Depends):
            assert default.dependency is not None
            self._callers.append((name, typing.cast("Caller", default.dependency)))
        elif hint is Request:
            self._request = name
        elif hint is Response:
            self._response = name
        else:
            assert isinstance(hint, type), f"{name} is none of what a direct route takes"
            assert issubclass(hint, BaseModel), f"{name} is none of what a direct route takes"
            self._body, self._model = name, hint
