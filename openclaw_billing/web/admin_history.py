"""What an admin may read of the past: a client's ledger and the audit log, as pages or CSV."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as QueryParameter

from openclaw_billing.audit import Actor
from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.errors import NotFound
from openclaw_billing.records import EntryKind
from openclaw_billing.runtime import Runtime
from openclaw_billing.web.auth import AdminToken
from openclaw_billing.web.billing import ledger_page
from openclaw_billing.web.csv_export import csv_response, wants_csv
from openclaw_billing.web.cursors import decode_position, encode_position
from openclaw_billing.web.endpoint import Cursor, Limit, Since, Until
from openclaw_billing.web.limits import RATE_LIMITED
from openclaw_billing.web.route import BillingRoute
from openclaw_billing.web.views import AuditPage, AuditView, EntryView, LedgerPage

Format = Literal["json", "csv"]
Filter = Annotated[str | None, QueryParameter(max_length=200)]


def admin_history_routes(runtime: Runtime) -> APIRouter:
    router = APIRouter(route_class=BillingRoute, tags=["admin"], responses=RATE_LIMITED)
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
    )
    async def list_ledger(
        client_id: str,
        request: Request,
        kind: EntryKind | None = None,
        since: Since = None,
        until: Until = None,
        limit: Limit = 100,
        cursor: Cursor = None,
        format: Format = "json",
        actor: Actor = Depends(admin),
    ) -> LedgerPage | Response:
        """Every change of the client's credits, newest first; their sum is the balance."""
        if runtime.view.clients.get(client_id) is None:
            raise NotFound("Client")
        query = HistoryQuery(client_id=client_id, kind=kind, since=since, until=until, limit=limit)
        page = await ledger_page(runtime, query, cursor)
        if format == "csv" or wants_csv(request):
            rows = [each.model_dump(mode="json") for each in page.entries]
            return csv_response("ledger", list(EntryView.model_fields), rows)
        return page


def _audit(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.get(
        "/api/admin/audit", operation_id="listAudit", summary="The audit log", response_model=AuditPage
    )
    async def list_audit(
        request: Request,
        client_id: Filter = None,
        actor_name: Annotated[str | None, QueryParameter(alias="actor", max_length=200)] = None,
        action: Filter = None,
        since: Since = None,
        until: Until = None,
        limit: Limit = 100,
        cursor: Cursor = None,
        format: Format = "json",
        actor: Actor = Depends(admin),
    ) -> AuditPage | Response:
        """Who did what, when and from where, newest first."""
        query = HistoryQuery(
            client_id=client_id, actor=actor_name, action=action, since=since, until=until, limit=limit
        )
        placed = decode_position(cursor, "audit", query)
        page = await runtime.read(lambda: runtime.store.audit(placed))
        entries = [AuditView.of(entry) for entry in page.entries]
        if format == "csv" or wants_csv(request):
            return csv_response(
                "audit", list(AuditView.model_fields), [each.model_dump(mode="json") for each in entries]
            )
        last = page.positions[-1] if page.has_more else None
        return AuditPage(
            entries=entries,
            total=page.total,
            next_cursor=None if last is None else encode_position(last, "audit", query),
            has_more=page.has_more,
        )
