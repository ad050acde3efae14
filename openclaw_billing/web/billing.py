"""What a client may ask: the plans, where it stands, its credits' history, its own keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as QueryParameter
from pydantic import Field

from openclaw_billing import accounts, plans, subscriptions, usage
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import HistoryQuery, Query, Transaction, View
from openclaw_billing.errors import NotFound
from openclaw_billing.records import Client, EntryKind, Key
from openclaw_billing.runtime import Runtime
from openclaw_billing.web.auth import ClientKey, actor_of
from openclaw_billing.web.csv_export import wants_csv
from openclaw_billing.web.cursors import decode_after, decode_position, encode_after, encode_position
from openclaw_billing.web.described import AS_CSV, CONDITIONAL, TAGGED, refusals
from openclaw_billing.web.endpoint import address_of, change
from openclaw_billing.web.etag import tagged, unless_known
from openclaw_billing.web.far import look
from openclaw_billing.web.lists import Dated, Filters, Format, Listed, Part, answered, file_of
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


class LedgerFilters(Dated):
    """Which entries of a ledger to list."""

    kind: EntryKind | None = None


class NewKey(Input):
    """A key to be made. Without `expires_at` it does not expire."""

    name: Line | None = None
    expires_at: Moment | None = None


class Rotation(Input):
    """How long the old key goes on working beside the new one."""

    grace_seconds: int = Field(GRACE_SECONDS_DEFAULT, ge=0, le=GRACE_SECONDS_MAX)


NO_WISHES = NewKey()
USUAL_GRACE = Rotation()


def billing_routes(runtime: Runtime) -> APIRouter:
    router = APIRouter()
    own = APIRouter(route_class=BillingRoute, tags=["billing"])
    client_key = ClientKey(runtime)
    router.include_router(_public())
    _standing(own, runtime, client_key)
    _keys(own, runtime, client_key)
    _key_changes(own, runtime, client_key)
    router.include_router(own)
    return router


def _public() -> APIRouter:
    router = APIRouter(route_class=BillingRoute, tags=["billing"])

    @router.get("/api/billing/plans", operation_id="listPlans", summary="The plans on offer")
    async def list_plans(response: Response) -> dict[str, PlanView]:
        """Every plan by its id. Public: no key is needed."""
        response.headers["Cache-Control"] = "public, max-age=60"
        return {plan_id: PlanView.of(plan) for plan_id, plan in plans.CATALOGUE.items()}

    router.add_api_route(
        "/api/billing/plans",
        list_plans,
        methods=["HEAD"],
        operation_id="listPlans",
        include_in_schema=False,
    )
    return router


def _standing(router: APIRouter, runtime: Runtime, client_key: ClientKey) -> None:
    @router.get(
        "/api/billing/usage",
        operation_id="getUsage",
        summary="Where you stand in this cycle",
        response_model=UsageView,
        responses=AS_CSV,
    )
    async def get_usage(
        request: Request, response: Response, format: Format = None, client: Client = Depends(client_key)
    ) -> UsageView | Response:
        """Credits left, the cycle's edges, and what your jobs have cost."""

        def standing() -> UsageView:
            now, view, limits = runtime.now(), runtime.view, runtime.limits
            rate = None if limits.clients is None else limits.rates.of(client, view)
            known = subscriptions.find(view, client.client_id, runtime.settings.billing_mode)
            return UsageView.of(client, usage.standing(view, client.client_id, now), rate, now, known)

        stand = await look(runtime, standing)
        response.headers["Vary"] = "Accept"
        if wants_csv(request, format):
            return await file_of(runtime, "usage", UsageView, lambda: [stand])
        return stand

    @router.get(
        "/api/billing/ledger",
        operation_id="listOwnLedger",
        summary="What happened to your credits",
        response_model=LedgerPage,
        responses=AS_CSV,
    )
    async def list_own_ledger(
        request: Request,
        response: Response,
        filters: Annotated[LedgerFilters, QueryParameter()],
        client: Client = Depends(client_key),
    ) -> LedgerPage | Response:
        """Every change of your credits, newest first."""
        return await answered_ledger(runtime, request, response, filters, client.client_id)


def _keys(router: APIRouter, runtime: Runtime, client_key: ClientKey) -> None:
    @router.get("/api/billing/keys", operation_id="listOwnKeys", summary="Your keys")
    async def list_own_keys(
        filters: Annotated[Filters, QueryParameter()], client: Client = Depends(client_key)
    ) -> KeyList:
        """Your keys by what may be shown of them, newest first; the secrets are stored nowhere."""
        return await look(runtime, partial(key_list, runtime, client.client_id, filters))

    @router.get(
        "/api/billing/keys/{key_id}",
        operation_id="getOwnKey",
        summary="One of your keys",
        response_model=KeyView,
        openapi_extra=TAGGED,
    )
    async def get_own_key(
        key_id: str, request: Request, response: Response, client: Client = Depends(client_key)
    ) -> KeyView | Response:
        """By what may be shown of it."""
        return unless_known(request, response, await shown_key(runtime, client.client_id, key_id))


def _key_changes(router: APIRouter, runtime: Runtime, client_key: ClientKey) -> None:
    @router.post(
        "/api/billing/keys",
        operation_id="createOwnKey",
        status_code=201,
        summary="Make another key",
        responses=refusals(409),
    )
    async def create_own_key(
        request: Request,
        response: Response,
        body: NewKey = NO_WISHES,
        client: Client = Depends(client_key),
    ) -> NewKeyView:
        """The answer shows the key text, once."""
        return await issue(runtime, request, response, client.client_id, body, _self(request, client))

    @router.post(
        "/api/billing/keys/{key_id}/rotate",
        operation_id="rotateOwnKey",
        summary="Replace a key",
        responses=refusals(409),
        openapi_extra=CONDITIONAL,
    )
    async def rotate_own_key(
        key_id: str,
        request: Request,
        response: Response,
        body: Rotation = USUAL_GRACE,
        client: Client = Depends(client_key),
    ) -> NewKeyView:
        """A new key, shown once; the old one works until the grace is over."""
        return await rotate(
            runtime, request, response, client.client_id, key_id, body, _self(request, client)
        )

    @router.delete(
        "/api/billing/keys/{key_id}",
        operation_id="revokeOwnKey",
        summary="Revoke a key, at once",
        openapi_extra=CONDITIONAL,
    )
    async def revoke_own_key(
        key_id: str, request: Request, response: Response, client: Client = Depends(client_key)
    ) -> KeyView:
        """After the answer no process accepts the key. A key may revoke itself."""
        return await revoke(runtime, request, response, client.client_id, key_id, _self(request, client))


async def answered_ledger(
    runtime: Runtime, request: Request, response: Response, filters: LedgerFilters, client_id: str
) -> LedgerPage | Response:
    """The ledger of a client, as far as the filters let it pass."""
    query = HistoryQuery(
        client_id=client_id,
        kind=filters.kind,
        since=filters.since,
        until=filters.until,
        limit=filters.page_length,
    )
    placed = decode_position(filters.cursor, "ledger", query)

    def page() -> Part[EntryView]:
        found = runtime.store.ledger(placed)
        at = encode_position(found.positions[-1], "ledger", query) if found.has_more else None
        return Part([EntryView.of(entry) for entry in found.entries], found.total, at)

    listed = Listed("ledger", EntryView, page, lambda: map(EntryView.of, runtime.store.walk_ledger(placed)))
    return await answered(
        runtime, request, response, filters, listed, lambda part: LedgerPage(entries=part.rows, **part.told)
    )


def key_list(runtime: Runtime, client_id: str, filters: Filters | None = None) -> KeyList:
    """The client's keys, newest first; all of them where no page is asked for."""
    now = runtime.now()
    found = sorted(runtime.view.keys.by("client", client_id), key=_place, reverse=True)
    total = len(found)
    if filters is None:
        return KeyList(keys=[KeyView.of(key, now) for key in found], total=total)
    query = Query(equals={"client_id": client_id})
    after = decode_after(filters.cursor, "keys", query).after
    behind = [key for key in found if after is None or _place(key) < after]
    shown = behind[: filters.page_length]
    at = encode_after(*_place(shown[-1]), "keys", query) if len(behind) > len(shown) else None
    part = Part([KeyView.of(key, now) for key in shown], total, at)
    return KeyList(keys=part.rows, **part.told)


def key_by_id(rows: View | Transaction, client_id: str, key_id: str) -> Key:
    """Raises `NotFound`, for another client's key as for one that is not there."""
    for key in rows.keys.by("id", key_id):
        if key.client_id == client_id:
            return key
    raise NotFound("Key")


async def shown_key(runtime: Runtime, client_id: str, key_id: str) -> KeyView:
    """Raises `NotFound`, as above."""
    return await look(runtime, lambda: KeyView.of(key_by_id(runtime.view, client_id, key_id), runtime.now()))


async def issue(
    runtime: Runtime, request: Request, response: Response, client_id: str, body: NewKey, actor: Actor
) -> NewKeyView:
    """Make a key for the client; the key text is in this answer only."""
    key_text, key = runtime.new_key(client_id, name=body.name or "", expires_at=body.expires_at)

    def operation(tx: Transaction, now: datetime) -> dict[str, object]:
        return _shown(accounts.issue_key(tx, client_id, key, actor=actor, now=now), now)

    reply = await change(
        runtime, request, response, operation, principal=actor.name, body=body, name="issue_key"
    )
    response.headers["Location"] = f"{address_of(request)}/{reply.body['key_id']}"
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
    old = await look(runtime, lambda: key_by_id(runtime.view, client_id, key_id))
    key_text, key = runtime.new_key(client_id, name=old.name, expires_at=old.expires_at)
    grace = timedelta(seconds=body.grace_seconds)

    def operation(tx: Transaction, now: datetime) -> dict[str, object]:
        accounts.rotate_key(tx, client_id, key_id, new_key=key, grace=grace, actor=actor, now=now)
        return _shown(key, now)

    reply = await change(
        runtime,
        request,
        response,
        operation,
        principal=actor.name,
        body=body,
        name="rotate_key",
        current=partial(_current, client_id, key_id),
    )
    return NewKeyView.model_validate({**reply.body, "api_key": None if reply.replayed else key_text})


async def revoke(
    runtime: Runtime, request: Request, response: Response, client_id: str, key_id: str, actor: Actor
) -> KeyView:
    """Revoke the key; again is the same answer."""

    def operation(tx: Transaction, now: datetime) -> dict[str, object]:
        return _shown(accounts.revoke_key(tx, client_id, key_id, actor=actor, now=now), now)

    reply = await change(
        runtime,
        request,
        response,
        operation,
        principal=actor.name,
        name="revoke_key",
        current=partial(_current, client_id, key_id),
    )
    return tagged(response, KeyView.model_validate(reply.body))


def _place(key: Key) -> tuple[datetime, str]:
    """Where the key stands among others: by its id, because a cursor shows what it is made of."""
    return key.created_at, key.key_id


def _current(client_id: str, key_id: str, tx: Transaction, now: datetime) -> KeyView:
    return KeyView.of(key_by_id(tx, client_id, key_id), now)


def _shown(key: Key, now: datetime) -> dict[str, object]:
    return KeyView.of(key, now).model_dump(mode="json")


def _self(request: Request, client: Client) -> Actor:
    return actor_of(request, f"client:{client.client_id}")
