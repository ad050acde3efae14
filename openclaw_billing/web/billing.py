"""What a client may ask: the plans, where it stands, its credits' history, its own keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from openclaw_billing import accounts, plans, subscriptions, usage
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import HistoryQuery, Transaction
from openclaw_billing.errors import NotFound
from openclaw_billing.records import Client, EntryKind, Key
from openclaw_billing.runtime import Runtime
from openclaw_billing.web.auth import ClientKey, actor_of
from openclaw_billing.web.cursors import decode_position, encode_position
from openclaw_billing.web.endpoint import Cursor, Limit, Since, Until, change
from openclaw_billing.web.far import look
from openclaw_billing.web.limits import RATE_LIMITED
from openclaw_billing.web.models import Input, Line, Moment
from openclaw_billing.web.route import BillingRoute
from openclaw_billing.web.views import (
    EntryView,
    KeyList,
    KeyView,
    LedgerPage,
    NewKeyView,
    PlanView,
    UsageView,
)

GRACE_SECONDS_DEFAULT = 24 * 3600
GRACE_SECONDS_MAX = 30 * 24 * 3600


class NewKey(Input):
    """A key to be made. Without `expires_at` it does not expire."""

    name: Line | None = None
    expires_at: Moment | None = None


class Rotation(Input):
    """How long the old key goes on working beside the new one."""

    grace_seconds: int = Field(GRACE_SECONDS_DEFAULT, ge=0, le=GRACE_SECONDS_MAX)


def billing_routes(runtime: Runtime) -> APIRouter:
    router = APIRouter()
    own = APIRouter(route_class=BillingRoute, tags=["billing"], responses=RATE_LIMITED)
    client_key = ClientKey(runtime)
    router.include_router(_public())
    _standing(own, runtime, client_key)
    _keys(own, runtime, client_key)
    router.include_router(own)
    return router


def _public() -> APIRouter:
    router = APIRouter(route_class=BillingRoute, tags=["billing"])

    @router.get("/api/billing/plans", operation_id="listPlans", summary="The plans on offer")
    async def list_plans(response: Response) -> dict[str, PlanView]:
        """Every plan by its id. Public: no key is needed."""
        response.headers["Cache-Control"] = "public, max-age=60"
        return {plan_id: PlanView.of(plan) for plan_id, plan in plans.CATALOGUE.items()}

    return router


def _standing(router: APIRouter, runtime: Runtime, client_key: ClientKey) -> None:
    @router.get("/api/billing/usage", operation_id="getUsage", summary="Where you stand in this cycle")
    async def get_usage(client: Client = Depends(client_key)) -> UsageView:
        """Credits left, the cycle's edges, and what your jobs have cost."""

        def standing() -> UsageView:
            now, view, limits = runtime.now(), runtime.view, runtime.limits
            rate = None if limits.clients is None else limits.rates.of(client, view)
            known = subscriptions.find(view, client.client_id, runtime.settings.billing_mode)
            return UsageView.of(client, usage.standing(view, client.client_id, now), rate, now, known)

        return await look(runtime, standing)

    @router.get("/api/billing/ledger", operation_id="listOwnLedger", summary="What happened to your credits")
    async def list_own_ledger(
        limit: Limit = 100,
        cursor: Cursor = None,
        kind: EntryKind | None = None,
        since: Since = None,
        until: Until = None,
        client: Client = Depends(client_key),
    ) -> LedgerPage:
        """Every change of your credits, newest first."""
        query = HistoryQuery(client_id=client.client_id, kind=kind, since=since, until=until, limit=limit)
        return await ledger_page(runtime, query, cursor)


def _keys(router: APIRouter, runtime: Runtime, client_key: ClientKey) -> None:
    @router.get("/api/billing/keys", operation_id="listOwnKeys", summary="Your keys")
    async def list_own_keys(client: Client = Depends(client_key)) -> KeyList:
        """Your keys by what may be shown of them, newest first; the secrets are stored nowhere."""
        return await look(runtime, partial(key_list, runtime, client.client_id))

    @router.post(
        "/api/billing/keys", operation_id="createOwnKey", status_code=201, summary="Make another key"
    )
    async def create_own_key(
        body: NewKey, request: Request, response: Response, client: Client = Depends(client_key)
    ) -> NewKeyView:
        """The answer shows the key text, once."""
        return await issue(runtime, request, response, client.client_id, body, _self(request, client))

    @router.post("/api/billing/keys/{key_id}/rotate", operation_id="rotateOwnKey", summary="Replace a key")
    async def rotate_own_key(
        key_id: str,
        body: Rotation,
        request: Request,
        response: Response,
        client: Client = Depends(client_key),
    ) -> NewKeyView:
        """A new key, shown once; the old one works until the grace is over."""
        return await rotate(
            runtime, request, response, client.client_id, key_id, body, _self(request, client)
        )

    @router.delete("/api/billing/keys/{key_id}", operation_id="revokeOwnKey", summary="Revoke a key, at once")
    async def revoke_own_key(
        key_id: str, request: Request, response: Response, client: Client = Depends(client_key)
    ) -> KeyView:
        """After the answer no process accepts the key. A key may revoke itself."""
        return await revoke(runtime, request, response, client.client_id, key_id, _self(request, client))


async def ledger_page(runtime: Runtime, query: HistoryQuery, cursor: str | None) -> LedgerPage:
    """One page of the ledger."""
    placed = decode_position(cursor, "ledger", query)
    page = await runtime.read(lambda: runtime.store.ledger(placed))
    last = page.positions[-1] if page.has_more else None
    return LedgerPage(
        entries=[EntryView.of(entry) for entry in page.entries],
        total=page.total,
        next_cursor=None if last is None else encode_position(last, "ledger", query),
        has_more=page.has_more,
    )


def key_list(runtime: Runtime, client_id: str) -> KeyList:
    found = sorted(runtime.view.keys.by("client", client_id), key=lambda key: key.created_at, reverse=True)
    return KeyList(keys=[KeyView.of(key) for key in found], total=len(found))


def key_by_id(runtime: Runtime, client_id: str, key_id: str) -> Key:
    """Raises `NotFound`, for another client's key as for one that is not there."""
    for key in runtime.view.keys.by("id", key_id):
        if key.client_id == client_id:
            return key
    raise NotFound("Key")


async def issue(
    runtime: Runtime, request: Request, response: Response, client_id: str, body: NewKey, actor: Actor
) -> NewKeyView:
    """Make a key for the client; the key text is in this answer only."""
    key_text, key = runtime.new_key(client_id, name=body.name or "", expires_at=body.expires_at)

    def operation(tx: Transaction, now: datetime) -> dict[str, object]:
        return _shown(accounts.issue_key(tx, client_id, key, actor=actor, now=now))

    reply = await change(
        runtime, request, response, operation, principal=actor.name, body=body, name="issue_key"
    )
    return NewKeyView.model_validate({**reply.body, "api_key": None if reply.replayed else key_text})


async def rotate(
    runtime: Runtime,
    request: Request,
    response: Response,
    client_id: str,
    key_id: str,
    body: Rotation,
    actor: Actor,
) -> NewKeyView:
    """Put a new key in the place of one; both work until the grace is over."""
    old = key_by_id(runtime, client_id, key_id)
    key_text, key = runtime.new_key(client_id, name=old.name, expires_at=old.expires_at)
    grace = timedelta(seconds=body.grace_seconds)

    def operation(tx: Transaction, now: datetime) -> dict[str, object]:
        accounts.rotate_key(tx, client_id, key_id, new_key=key, grace=grace, actor=actor, now=now)
        return _shown(key)

    reply = await change(
        runtime, request, response, operation, principal=actor.name, body=body, name="rotate_key"
    )
    return NewKeyView.model_validate({**reply.body, "api_key": None if reply.replayed else key_text})


async def revoke(
    runtime: Runtime, request: Request, response: Response, client_id: str, key_id: str, actor: Actor
) -> KeyView:
    """Revoke the key; again is the same answer."""

    def operation(tx: Transaction, now: datetime) -> dict[str, object]:
        return _shown(accounts.revoke_key(tx, client_id, key_id, actor=actor, now=now))

    reply = await change(runtime, request, response, operation, principal=actor.name, name="revoke_key")
    return KeyView.model_validate(reply.body)


def _shown(key: Key) -> dict[str, object]:
    return KeyView.of(key).model_dump(mode="json")


def _self(request: Request, client: Client) -> Actor:
    return actor_of(request, f"client:{client.client_id}")
