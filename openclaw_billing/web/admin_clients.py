"""What an admin may do with clients: create, look up, change, credit, put on a plan, deactivate."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as QueryParameter
from pydantic import Field

from openclaw_billing import accounts, ledger, subscriptions
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import Query, Transaction
from openclaw_billing.errors import NotFound
from openclaw_billing.records import CREDITS_MAX, Client, Rate
from openclaw_billing.runtime import Runtime
from openclaw_billing.usage import standing_of
from openclaw_billing.web.auth import AdminToken
from openclaw_billing.web.csv_export import csv_response, wants_csv
from openclaw_billing.web.cursors import decode_after, encode_after
from openclaw_billing.web.endpoint import (
    Cursor,
    Limit,
    Since,
    Until,
    change,
    expected_version,
    operation_id,
)
from openclaw_billing.web.etag import etag_of, not_modified
from openclaw_billing.web.limits import RATE_LIMITED
from openclaw_billing.web.models import Email, Input, Line, Name, Output, RateIn, Reason
from openclaw_billing.web.route import BillingRoute
from openclaw_billing.web.views import ClientList, ClientView, NewClientView, WholeClientView, client_fields

ClientStatus = Literal["active", "inactive", "all"]
# Shorter than any secret: the refusal of an unknown plan names it.
PlanId = Annotated[str, Field(max_length=32)]


class NewClient(Input):
    """A client to be created."""

    name: Name
    email: Email
    plan: PlanId = "free"


class ClientChanges(Input):
    """What shall be different; a field left out stays. `rate_limit` null is the plan's again."""

    name: Name | None = None
    email: Email | None = None
    metadata: dict[Annotated[str, Field(max_length=40)], Line] | None = Field(None, max_length=50)
    rate_limit: RateIn | None = None

    @property
    def rate(self) -> Rate | Literal["plan"] | None:
        if "rate_limit" not in self.model_fields_set:
            return None
        return "plan" if self.rate_limit is None else self.rate_limit.rate


class CreditChange(Input):
    """Credits to add, or below zero to take away, and why."""

    credits: int = Field(ge=-CREDITS_MAX, le=CREDITS_MAX)
    reason: Reason


class CreditsView(Output):
    """What the client could spend before, and can now."""

    client_id: str
    previous_credits: int
    credits_added: int
    new_credits: int
    reason: str


class PlanChange(Input):
    plan: PlanId


class DeactivationView(Output):
    client_id: str
    status: Literal["deactivated", "was_inactive"]
    message: str


def admin_client_routes(runtime: Runtime) -> APIRouter:
    router = APIRouter(route_class=BillingRoute, tags=["admin"], responses=RATE_LIMITED)
    admin = AdminToken(runtime)
    _create(router, runtime, admin)
    _read(router, runtime, admin)
    _update(router, runtime, admin)
    _credit(router, runtime, admin)
    _switch(router, runtime, admin)
    return router


def _create(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.post("/api/admin/clients", operation_id="createClient", summary="Create a client")
    async def create_client(
        body: NewClient, request: Request, response: Response, actor: Actor = Depends(admin)
    ) -> NewClientView:
        """The answer shows the client's key text, once."""
        client_id = str(uuid.uuid4())
        key_text, key = runtime.new_key(client_id, name="default")

        def operation(tx: Transaction, now: datetime) -> dict[str, object]:
            accounts.create_client(
                tx,
                client_id=client_id,
                name=body.name,
                email=body.email,
                plan_id=body.plan,
                key=key,
                actor=actor,
                now=now,
            )
            return {**_shown(tx, client_id, now), "key_id": key.key_id}

        reply = await change(
            runtime, request, response, operation, principal=actor.name, body=body, name="create_client"
        )
        if not reply.replayed:
            runtime.log.info("Created client %s (%s) on %s plan", client_id, body.name, body.plan)
        return NewClientView.model_validate({**reply.body, "api_key": None if reply.replayed else key_text})


def _read(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.get(
        "/api/admin/clients", operation_id="listClients", summary="List clients", response_model=ClientList
    )
    async def list_clients(
        request: Request,
        status: ClientStatus = "all",
        plan: Annotated[str | None, QueryParameter(max_length=40)] = None,
        q: Annotated[str, QueryParameter(max_length=200, description="In name, e-mail or id")] = "",
        since: Since = None,
        until: Until = None,
        limit: Limit = 100,
        cursor: Cursor = None,
        format: Literal["json", "csv"] = "json",
        actor: Actor = Depends(admin),
    ) -> ClientList | Response:
        """Newest first, without keys."""
        equals: dict[str, str | bool | None] = {} if status == "all" else {"active": status == "active"}
        query = Query(
            equals=equals,
            text=q,
            text_fields=("name", "email", "client_id"),
            since=since,
            until=until,
            limit=limit,
        )
        scope = f"clients:{plan}"
        return await runtime.read(lambda: _listed(runtime, request, query, plan, scope, cursor, format))

    @router.get(
        "/api/admin/clients/{client_id}",
        operation_id="getClient",
        summary="One client",
        response_model=WholeClientView,
    )
    async def get_client(
        client_id: str, request: Request, response: Response, actor: Actor = Depends(admin)
    ) -> WholeClientView | Response:
        """The client as of now, with how its subscription stands."""
        client = _known(runtime, client_id)
        tag = etag_of(client.version)
        if not_modified(request, tag):
            return Response(status_code=304, headers={"ETag": tag})
        response.headers["ETag"] = tag
        return _view(runtime, client)


def _update(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.patch("/api/admin/clients/{client_id}", operation_id="updateClient", summary="Change a client")
    async def update_client(
        client_id: str,
        body: ClientChanges,
        request: Request,
        response: Response,
        actor: Actor = Depends(admin),
    ) -> ClientView:
        """Name, e-mail, metadata and rate limit. With `If-Match`, only if nobody changed the client meanwhile."""
        version = expected_version(request)

        def operation(tx: Transaction, now: datetime) -> dict[str, object]:
            accounts.update_client(
                tx,
                client_id,
                name=body.name,
                email=body.email,
                metadata=body.metadata,
                rate_limit=body.rate,
                if_version=version,
                actor=actor,
                now=now,
            )
            return _shown(tx, client_id, now)

        reply = await change(
            runtime, request, response, operation, principal=actor.name, body=body, name="update_client"
        )
        return ClientView.model_validate(reply.body)


def _credit(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.put("/api/admin/clients/{client_id}/credits", operation_id="adjustCredits", summary="Add credits")
    async def adjust_credits(
        client_id: str,
        body: CreditChange,
        request: Request,
        response: Response,
        actor: Actor = Depends(admin),
    ) -> CreditsView:
        """Adds to what the client has; below zero takes away. Each call counts, unless it repeats a key."""
        spent_id = operation_id(request, actor.name, str(uuid.uuid4()))

        def operation(tx: Transaction, now: datetime) -> dict[str, object]:
            done = accounts.adjust_credits(
                tx, client_id, body.credits, reason=body.reason, operation_id=spent_id, actor=actor, now=now
            )
            return {
                "client_id": client_id,
                "previous_credits": done.previous,
                "credits_added": done.added,
                "new_credits": done.now,
                "reason": body.reason,
            }

        reply = await change(
            runtime, request, response, operation, principal=actor.name, body=body, name="adjust_credits"
        )
        return CreditsView.model_validate(reply.body)

    @router.put("/api/admin/clients/{client_id}/plan", operation_id="changePlan", summary="Change the plan")
    async def change_plan(
        client_id: str, body: PlanChange, request: Request, response: Response, actor: Actor = Depends(admin)
    ) -> ClientView:
        """At once; what was used in this cycle stays used."""

        def operation(tx: Transaction, now: datetime) -> dict[str, object]:
            accounts.set_plan(tx, client_id, body.plan, actor=actor, now=now)
            return _shown(tx, client_id, now)

        reply = await change(
            runtime, request, response, operation, principal=actor.name, body=body, name="change_plan"
        )
        return ClientView.model_validate(reply.body)


def _switch(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.delete("/api/admin/clients/{client_id}", operation_id="deactivateClient", summary="Deactivate")
    async def deactivate_client(
        client_id: str, request: Request, response: Response, actor: Actor = Depends(admin)
    ) -> DeactivationView:
        """The client's keys stop working at once; its history stays, and it can be reactivated."""

        def operation(tx: Transaction, now: datetime) -> dict[str, object]:
            was_active = accounts.deactivate(tx, client_id, actor=actor, now=now)
            name = tx.clients.get(client_id)
            assert name is not None
            said = "has been deactivated" if was_active else "was inactive already"
            status = "deactivated" if was_active else "was_inactive"
            return {"client_id": client_id, "status": status, "message": f"Client {name.name} {said}"}

        reply = await change(
            runtime, request, response, operation, principal=actor.name, name="deactivate_client"
        )
        return DeactivationView.model_validate(reply.body)

    @router.post(
        "/api/admin/clients/{client_id}/reactivate", operation_id="reactivateClient", summary="Reactivate"
    )
    async def reactivate_client(
        client_id: str, request: Request, response: Response, actor: Actor = Depends(admin)
    ) -> ClientView:
        """The client's keys work again, but for those revoked or expired."""

        def operation(tx: Transaction, now: datetime) -> dict[str, object]:
            accounts.reactivate(tx, client_id, actor=actor, now=now)
            return _shown(tx, client_id, now)

        reply = await change(
            runtime, request, response, operation, principal=actor.name, name="reactivate_client"
        )
        return ClientView.model_validate(reply.body)


def _listed(
    runtime: Runtime,
    request: Request,
    query: Query,
    plan: str | None,
    scope: str,
    cursor: str | None,
    format: str,
) -> ClientList | Response:
    view, now = runtime.view, runtime.now()
    page = accounts.page_of_clients(view, decode_after(cursor, scope, query), plan_id=plan)
    shown = [ClientView.of(client, account, now) for client, account in page.rows]
    if format == "csv" or wants_csv(request):
        return csv_response(
            "clients", list(ClientView.model_fields), [each.model_dump(mode="json") for each in shown]
        )
    last = page.rows[-1][0] if page.has_more else None
    return ClientList(
        clients=shown,
        total=page.total,
        next_cursor=None if last is None else encode_after(last.created_at, last.client_id, scope, query),
        has_more=page.has_more,
    )


def _known(runtime: Runtime, client_id: str) -> Client:
    client: Client | None = runtime.view.clients.get(client_id)
    if client is None:
        raise NotFound("Client")
    return client


def _view(runtime: Runtime, client: Client) -> WholeClientView:
    account = runtime.view.accounts.get(client.client_id)
    assert account is not None
    known = subscriptions.find(runtime.view, client.client_id, runtime.settings.billing_mode)
    return WholeClientView.whole(client, account, known, runtime.now())


def _shown(tx: Transaction, client_id: str, now: datetime) -> dict[str, object]:
    client = tx.clients.get(client_id)
    assert client is not None
    account = ledger.touch(tx, client_id, now)
    return ClientView.model_validate(client_fields(client, standing_of(account, now))).model_dump(mode="json")
