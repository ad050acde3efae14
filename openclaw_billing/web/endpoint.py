"""What endpoints share: pages, idempotent changes and walks, and what leaves with them."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar
from urllib.parse import quote

from fastapi import Request, Response
from pydantic import BaseModel

from openclaw_billing import replies
from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import BadRequest
from openclaw_billing.replies import Asked, Reply
from openclaw_billing.runtime import Runtime
from openclaw_billing.web.auth import header
from openclaw_billing.web.etag import condition_of
from openclaw_billing.web.models import Output

V = TypeVar("V", bound=Output)

IDEMPOTENCY_KEY_MAX = 255


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
    current: Callable[[Transaction, datetime], BaseModel] | None = None,
    spent_id: str = "",
) -> Reply:
    """Make one durable change, once under its Idempotency-Key, and say so where it was made before.

    `current` is what changes, as its GET would show it, for callers who name it in `If-Match`. `spent_id` is what
    the operation spends, if it does: that is remembered for longer than a day.
    """
    asked = asked_of(request, principal, body)
    check = condition_of(request)

    def run(tx: Transaction, *, now: datetime) -> Reply:
        def checked(inner: Transaction) -> Mapping[str, object]:
            if current is not None:
                check(partial(current, inner, now))
            return operation(inner, now)

        spent = bool(spent_id) and tx.spent.get(spent_id) is not None
        reply = replies.once(tx, asked, checked, now=now)
        return replace(reply, replayed=reply.replayed or spent)

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


def spent_id_of(request: Request, principal: str) -> str:
    """The id that a change of credits spends for ever: of the caller's Idempotency-Key, or made for this call."""
    asked = asked_of(request, principal, None)
    return f"adjust:{uuid.uuid4() if asked is None else asked.digest}"


def address_of(request: Request) -> str:
    """The path that was asked for, as it is written: which scheme and host the caller used, a proxy knows better."""
    return quote(request.scope["path"])
