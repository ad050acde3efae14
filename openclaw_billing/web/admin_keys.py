"""What an admin may do with a client's keys: issue, list, rotate with grace, revoke."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as QueryParameter

from openclaw_billing.audit import Actor
from openclaw_billing.errors import NotFound
from openclaw_billing.runtime import Runtime
from openclaw_billing.web import billing
from openclaw_billing.web.auth import AdminToken
from openclaw_billing.web.billing import NewKey, Rotation
from openclaw_billing.web.described import CONDITIONAL, TAGGED, refusals
from openclaw_billing.web.etag import unless_known
from openclaw_billing.web.far import look
from openclaw_billing.web.lists import Filters
from openclaw_billing.web.route import BillingRoute
from openclaw_billing.web.views import KeyList, KeyView, NewKeyView

KEYS = "/api/admin/clients/{client_id}/keys"


def admin_key_routes(runtime: Runtime) -> APIRouter:
    router = APIRouter(route_class=BillingRoute, tags=["admin"])
    admin = AdminToken(runtime)
    _read(router, runtime, admin)
    _change(router, runtime, admin)
    return router


def _read(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.get(KEYS, operation_id="listKeys", summary="A client's keys")
    async def list_keys(
        client_id: str, filters: Annotated[Filters, QueryParameter()], actor: Actor = Depends(admin)
    ) -> KeyList:
        """By what may be shown of them, newest first."""

        def listed() -> KeyList:
            if runtime.view.clients.get(client_id) is None:
                raise NotFound("Client")
            return billing.key_list(runtime, client_id, filters)

        return await look(runtime, listed)

    @router.get(
        KEYS + "/{key_id}",
        operation_id="getKey",
        summary="One key",
        response_model=KeyView,
        openapi_extra=TAGGED,
    )
    async def get_key(
        client_id: str, key_id: str, request: Request, response: Response, actor: Actor = Depends(admin)
    ) -> KeyView | Response:
        """By what may be shown of it."""
        return unless_known(request, response, await billing.shown_key(runtime, client_id, key_id))


def _change(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.post(
        KEYS, operation_id="issueKey", status_code=201, summary="Issue a key", responses=refusals(409)
    )
    async def issue_key(
        client_id: str,
        request: Request,
        response: Response,
        body: NewKey = billing.NO_WISHES,
        actor: Actor = Depends(admin),
    ) -> NewKeyView:
        """The answer shows the key text, once."""
        return await billing.issue(runtime, request, response, client_id, body, actor)

    @router.post(
        KEYS + "/{key_id}/rotate",
        operation_id="rotateKey",
        summary="Rotate a key",
        responses=refusals(409),
        openapi_extra=CONDITIONAL,
    )
    async def rotate_key(
        client_id: str,
        key_id: str,
        request: Request,
        response: Response,
        body: Rotation = billing.USUAL_GRACE,
        actor: Actor = Depends(admin),
    ) -> NewKeyView:
        """A new key, shown once; the old one works until the grace (24 h unless said) is over."""
        return await billing.rotate(runtime, request, response, client_id, key_id, body, actor)

    @router.delete(
        KEYS + "/{key_id}",
        operation_id="revokeKey",
        summary="Revoke a key, at once",
        openapi_extra=CONDITIONAL,
    )
    async def revoke_key(
        client_id: str, key_id: str, request: Request, response: Response, actor: Actor = Depends(admin)
    ) -> KeyView:
        """After the answer no process of this machine accepts the key."""
        return await billing.revoke(runtime, request, response, client_id, key_id, actor)
