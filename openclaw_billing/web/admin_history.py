"""What an admin may read of the past: a client's ledger and the audit log, as pages or CSV."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as QueryParameter

from openclaw_billing.audit import Actor
from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.errors import NotFound
from openclaw_billing.runtime import Runtime
from openclaw_billing.web.auth import AdminToken
from openclaw_billing.web.billing import LedgerFilters, answered_ledger
from openclaw_billing.web.cursors import decode_position, encode_position
from openclaw_billing.web.described import AS_CSV
from openclaw_billing.web.far import look
from openclaw_billing.web.lists import Dated, Listed, Part, Words, answered
from openclaw_billing.web.route import BillingRoute
from openclaw_billing.web.views import AuditPage, AuditView, LedgerPage


class AuditFilters(Dated):
    """Which entries of the audit log to list."""

    client_id: Words | None = None
    actor: Words | None = None
    action: Words | None = None


def admin_history_routes(runtime: Runtime) -> APIRouter:
    router = APIRouter(route_class=BillingRoute, tags=["admin"])
    admin = AdminToken(runtime)
    _ledger(router, runtime, admin)
    _audit(router, runtime, admin)
    return router


def _ledger(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.get(
        "/api/admin/clients/{client_id}/ledger",
        operation_id="listLedger",
        summary="A client's ledger",
        response_model=LedgerPage,
        responses=AS_CSV,
    )
    async def list_ledger(
        client_id: str,
        request: Request,
        response: Response,
        filters: Annotated[LedgerFilters, QueryParameter()],
        actor: Actor = Depends(admin),
    ) -> LedgerPage | Response:
        """Every change of the client's credits, newest first; their sum is the balance."""
        if await look(runtime, lambda: runtime.view.clients.get(client_id)) is None:
            raise NotFound("Client")
        return await answered_ledger(runtime, request, response, filters, client_id)


def _audit(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.get(
        "/api/admin/audit",
        operation_id="listAudit",
        summary="The audit log",
        response_model=AuditPage,
        responses=AS_CSV,
    )
    async def list_audit(
        request: Request,
        response: Response,
        filters: Annotated[AuditFilters, QueryParameter()],
        actor: Actor = Depends(admin),
    ) -> AuditPage | Response:
        """Who did what, when and from where, newest first."""
        return await answered(
            runtime,
            request,
            response,
            filters,
            _entries(runtime, filters),
            lambda part: AuditPage(entries=part.rows, **part.told),
        )


def _entries(runtime: Runtime, filters: AuditFilters) -> Listed[AuditView]:
    query = HistoryQuery(
        client_id=filters.client_id,
        actor=filters.actor,
        action=filters.action,
        since=filters.since,
        until=filters.until,
        limit=filters.page_length,
    )
    placed = decode_position(filters.cursor, "audit", query)

    def page() -> Part[AuditView]:
        found = runtime.store.audit(placed)
        at = encode_position(found.positions[-1], "audit", query) if found.has_more else None
        return Part([AuditView.of(entry) for entry in found.entries], found.total, at)

    return Listed("audit", AuditView, page, lambda: map(AuditView.of, runtime.store.walk_audit(placed)))
