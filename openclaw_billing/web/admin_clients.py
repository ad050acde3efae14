"""What an admin may do with clients: create, look up, change, credit, put on a plan, deactivate."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as QueryParameter
from pydantic import Field

from openclaw_billing import accounts, ledger, subscriptions
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import Query, Transaction, View
from openclaw_billing.errors import NotFound
from openclaw_billing.records import CREDITS_MAX, Rate
from openclaw_billing.runtime import Runtime
from openclaw_billing.usage import standing_of
from openclaw_billing.web.auth import AdminToken
from openclaw_billing.web.cursors import decode_after, encode_after
from openclaw_billing.web.described import AS_CSV, CONDITIONAL, TAGGED, refusals
from openclaw_billing.web.endpoint import change, spent_id_of
from openclaw_billing.web.etag import tagged, unless_known
from openclaw_billing.web.far import look
from openclaw_billing.web.lists import Dated, Listed, Part, PlanName, Words, answered
from openclaw_billing.web.models import Email, Input, Label, Line, Name, Output, RateIn, Reason
from openclaw_billing.web.route import BillingRoute
from openclaw_billing.web.views import ClientList, ClientView, NewClientView, WholeClientView

ClientStatus = Literal["active", "inactive", "all"]
# Shorter than any secret: the refusal of an unknown plan names it.
PlanId = Annotated[str, Field(max_length=32)]


class ClientFilters(Dated):
    """Which clients to list."""

    status: ClientStatus = "all"
    plan: PlanName | None = None
    q: Words = Field("", description="In name, e-mail or id")


class NewClient(Input):
    """A client to be created."""

    name: Name
    email: Email
    plan: PlanId = "free"


class ClientChanges(Input):
    """What shall be different; a field left out stays. `rate_limit` null is the plan's again."""

    name: Name | None = None
    email: Email | None = None
    metadata: dict[Label, Line] | None = Field(None, max_length=50)
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
    router = APIRouter(route_class=BillingRoute, tags=["admin"])
    admin = AdminToken(runtime)
    _create(router, runtime, admin)
    _read(router, runtime, admin)
    _update(router, runtime, admin)
    _credit(router, runtime, admin)
    _plan(router, runtime, admin)
    _switch(router, runtime, admin)
    return router


def _create(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.post(
        "/api/admin/clients", operation_id="createClient", summary="Create a client", responses=refusals(409)
    )
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
            return {**_shown(runtime, tx, client_id, now), "key_id": key.key_id}

        reply = await change(
            runtime, request, response, operation, principal=actor.name, body=body, name="create_client"
        )
        if not reply.replayed:
            runtime.log.info("Created client %s (%s) on %s plan", client_id, body.name, body.plan)
        return NewClientView.model_validate({**reply.body, "api_key": None if reply.replayed else key_text})


def _read(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.get(
        "/api/admin/clients",
        operation_id="listClients",
        summary="List clients",
        response_model=ClientList,
        responses=AS_CSV,
    )
    async def list_clients(
        request: Request,
        response: Response,
        filters: Annotated[ClientFilters, QueryParameter()],
        actor: Actor = Depends(admin),
    ) -> ClientList | Response:
        """Newest first, without keys."""
        return await answered(
            runtime,
            request,
            response,
            filters,
            _listed(runtime, filters),
            lambda part: ClientList(clients=part.rows, **part.told),
        )

    @router.get(
        "/api/admin/clients/{client_id}",
        operation_id="getClient",
        summary="One client",
        response_model=WholeClientView,
        openapi_extra=TAGGED,
    )
    async def get_client(
        client_id: str, request: Request, response: Response, actor: Actor = Depends(admin)
    ) -> WholeClientView | Response:
        """The client as of now, with how its subscription stands."""
        view = await look(runtime, lambda: _view(runtime, runtime.view, client_id, runtime.now()))
        return unless_known(request, response, view)


def _update(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.patch(
        "/api/admin/clients/{client_id}",
        operation_id="updateClient",
        summary="Change a client",
        responses=refusals(409),
        openapi_extra=CONDITIONAL,
    )
    async def update_client(
        client_id: str,
        body: ClientChanges,
        request: Request,
        response: Response,
        actor: Actor = Depends(admin),
    ) -> WholeClientView:
        """Name, e-mail, metadata and rate limit; what is left out stays."""

        def operation(tx: Transaction, now: datetime) -> dict[str, object]:
            accounts.update_client(
                tx,
                client_id,
                name=body.name,
                email=body.email,
                metadata=body.metadata,
                rate_limit=body.rate,
                actor=actor,
                now=now,
            )
            return _shown(runtime, tx, client_id, now)

        reply = await change(
            runtime,
            request,
            response,
            operation,
            principal=actor.name,
            body=body,
            name="update_client",
            current=partial(_current, runtime, client_id),
        )
        return tagged(response, WholeClientView.model_validate(reply.body))


def _credit(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.put(
        "/api/admin/clients/{client_id}/credits",
        operation_id="adjustCredits",
        summary="Add credits",
        openapi_extra=CONDITIONAL,
    )
    async def adjust_credits(
        client_id: str,
        body: CreditChange,
        request: Request,
        response: Response,
        actor: Actor = Depends(admin),
    ) -> CreditsView:
        """Adds to what the client has; below zero takes away. Each call counts, unless it repeats a key."""
        spent_id = spent_id_of(request, actor.name)

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
            runtime,
            request,
            response,
            operation,
            principal=actor.name,
            body=body,
            name="adjust_credits",
            current=partial(_current, runtime, client_id),
            spent_id=spent_id,
        )
        return CreditsView.model_validate(reply.body)


def _plan(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.put(
        "/api/admin/clients/{client_id}/plan",
        operation_id="changePlan",
        summary="Change the plan",
        responses=refusals(409),
        openapi_extra=CONDITIONAL,
    )
    async def change_plan(
        client_id: str, body: PlanChange, request: Request, response: Response, actor: Actor = Depends(admin)
    ) -> WholeClientView:
        """At once; what was used in this cycle stays used."""

        def operation(tx: Transaction, now: datetime) -> dict[str, object]:
            accounts.set_plan(tx, client_id, body.plan, actor=actor, now=now)
            return _shown(runtime, tx, client_id, now)

        reply = await change(
            runtime,
            request,
            response,
            operation,
            principal=actor.name,
            body=body,
            name="change_plan",
            current=partial(_current, runtime, client_id),
        )
        return tagged(response, WholeClientView.model_validate(reply.body))


def _switch(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.delete(
        "/api/admin/clients/{client_id}",
        operation_id="deactivateClient",
        summary="Deactivate",
        openapi_extra=CONDITIONAL,
    )
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
            runtime,
            request,
            response,
            operation,
            principal=actor.name,
            name="deactivate_client",
            current=partial(_current, runtime, client_id),
        )
        return DeactivationView.model_validate(reply.body)

    @router.post(
        "/api/admin/clients/{client_id}/reactivate",
        operation_id="reactivateClient",
        summary="Reactivate",
        openapi_extra=CONDITIONAL,
    )
    async def reactivate_client(
        client_id: str, request: Request, response: Response, actor: Actor = Depends(admin)
    ) -> WholeClientView:
        """The client's keys work again, but for those revoked or expired."""

        def operation(tx: Transaction, now: datetime) -> dict[str, object]:
            accounts.reactivate(tx, client_id, actor=actor, now=now)
            return _shown(runtime, tx, client_id, now)

        reply = await change(
            runtime,
            request,
            response,
            operation,
            principal=actor.name,
            name="reactivate_client",
            current=partial(_current, runtime, client_id),
        )
        return tagged(response, WholeClientView.model_validate(reply.body))


def _listed(runtime: Runtime, filters: ClientFilters) -> Listed[ClientView]:
    query = Query(
        equals={} if filters.status == "all" else {"active": filters.status == "active"},
        text=filters.q,
        text_fields=("name", "email", "client_id"),
        since=filters.since,
        until=filters.until,
        limit=filters.page_length,
    )
    scope = f"clients:{filters.plan}"
    placed = decode_after(filters.cursor, scope, query)
    now = runtime.now()

    def page() -> Part[ClientView]:
        found = accounts.page_of_clients(runtime.view, placed, plan_id=filters.plan)
        last = found.rows[-1][0] if found.has_more else None
        return Part(
            [
                ClientView.of(client, standing_of(runtime.view, account, now))
                for client, account in found.rows
            ],
            found.total,
            None if last is None else encode_after(last.created_at, last.client_id, scope, query),
        )

    def walk() -> Iterator[ClientView]:
        for client, account in accounts.walk_of_clients(runtime.view, placed, plan_id=filters.plan):
            yield ClientView.of(client, standing_of(runtime.view, account, now))

    return Listed("clients", ClientView, page, walk)


def _view(runtime: Runtime, rows: View | Transaction, client_id: str, now: datetime) -> WholeClientView:
    client, account = rows.clients.get(client_id), rows.accounts.get(client_id)
    if client is None:
        raise NotFound("Client")
    assert account is not None
    known = subscriptions.find(rows, client_id, runtime.settings.billing_mode)
    return WholeClientView.whole(client, standing_of(rows, account, now), known, now)


def _current(runtime: Runtime, client_id: str, tx: Transaction, now: datetime) -> WholeClientView:
    return _view(runtime, tx, client_id, now)


def _shown(runtime: Runtime, tx: Transaction, client_id: str, now: datetime) -> dict[str, object]:
    ledger.touch(tx, client_id, now)
    return _view(runtime, tx, client_id, now).model_dump(mode="json")
