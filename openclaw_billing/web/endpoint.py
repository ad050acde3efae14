"""What endpoints share: pages, idempotent changes and walks, and what leaves with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, TypeVar

from fastapi import Query as QueryParameter
from fastapi import Request, Response
from pydantic import BaseModel

from openclaw_billing import replies
from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import BadRequest, StaleVersion
from openclaw_billing.replies import Asked, Reply
from openclaw_billing.runtime import Runtime
from openclaw_billing.web.auth import header
from openclaw_billing.web.models import Output

V = TypeVar("V", bound=Output)

IDEMPOTENCY_KEY_MAX = 255
PAGE_MAX = 1000

Limit = Annotated[int, QueryParameter(ge=1, le=PAGE_MAX, description="Rows a page, 1 to 1000")]
Cursor = Annotated[str | None, QueryParameter(max_length=500, description="`next_cursor` of the page before")]
Since = Annotated[datetime | None, QueryParameter(alias="from", description="From this moment on (RFC 3339)")]
Until = Annotated[datetime | None, QueryParameter(alias="to", description="Before this moment (RFC 3339)")]


def asked_of(request: Request, principal: str, body: BaseModel | None) -> Asked | None:
    """What makes this request the same as another; None where the caller made no key for it.

    Raises:
        BadRequest: the Idempotency-Key is not 1 to 255 visible ASCII characters.
    """
    key = header(request, b"idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX or not all(33 <= ord(each) <= 126 for each in key):
        raise BadRequest(
            "The Idempotency-Key must be 1 to 255 visible ASCII characters", code="bad_idempotency_key"
        )
    content = b"" if body is None else body.model_dump_json().encode()
    return Asked(principal, request.method, request.scope["path"], key, content)


async def change(
    runtime: Runtime,
    request: Request,
    response: Response,
    operation: Callable[[Transaction, datetime], Mapping[str, object]],
    *,
    principal: str,
    body: BaseModel | None = None,
    name: str,
) -> Reply:
    """Make one durable change, once under its Idempotency-Key, and say so where it was made before."""
    asked = asked_of(request, principal, body)

    def run(tx: Transaction, *, now: datetime) -> Reply:
        return replies.once(tx, asked, lambda inner: operation(inner, now), now=now)

    run.__name__ = name
    reply = await runtime.write(run)
    if reply.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return reply


async def walk(
    runtime: Runtime,
    response: Response,
    asked: Asked | None,
    steps: Callable[[], Awaitable[V]],
    view: type[V],
) -> V:
    """What the steps answer, which ask Stripe in between: once under the Idempotency-Key, and again afterwards.

    Raises:
        IdMismatch: the key was used for another request.
        InFlight: the same request is being carried out.
    """
    if asked is None:
        return await steps()
    # Twice what the steps may take; the key of a process that was killed at them is free after that.
    lease = timedelta(seconds=2 * runtime.settings.stripe_budget_seconds + 2)
    claimed = await runtime.write(replies.claim, asked, lease)
    if isinstance(claimed, Reply):
        response.headers["Idempotent-Replayed"] = "true"
        return view.model_validate(claimed.body)
    body = None
    try:
        answer = await steps()
        body = answer.model_dump(mode="json", exclude=set(view.told_once))
    finally:
        await runtime.write(replies.settle, claimed, body)
    return answer


def expected_version(request: Request) -> int | None:
    """The version that `If-Match` names.

    Raises:
        StaleVersion: it names none of ours.
    """
    tag = header(request, b"if-match")
    if tag is None or tag == "*":
        return None
    text = tag.strip().strip('"')
    if not text.isdigit():
        raise StaleVersion
    return int(text)


def operation_id(request: Request, principal: str, made: str) -> str:
    """The id a change of credits is remembered by for ever: the caller's own, or one made for this call."""
    key = header(request, b"idempotency-key")
    return f"adjust:{principal}:{request.scope['path']}:{key}" if key else f"adjust:{made}"
