"""What an admin may do with jobs: list them, and move one along."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as QueryParameter
from pydantic import Field

from openclaw_billing import jobs
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import Query, Transaction
from openclaw_billing.records import JobStatus
from openclaw_billing.runtime import Runtime
from openclaw_billing.web.auth import AdminToken
from openclaw_billing.web.csv_export import csv_response, wants_csv
from openclaw_billing.web.cursors import decode_after, encode_after
from openclaw_billing.web.endpoint import Cursor, Limit, Since, Until, change
from openclaw_billing.web.limits import RATE_LIMITED
from openclaw_billing.web.models import DollarsIn, Input, micros_of
from openclaw_billing.web.route import BillingRoute
from openclaw_billing.web.views import JobList, JobView


class JobMove(Input):
    """The job's next status. `refund` says whether its credit goes back: by default when it failed.

    `cost` is what the job cost, in dollars.
    """

    status: JobStatus = Field(strict=False)
    refund: bool | None = None
    cost: DollarsIn | None = None


def admin_job_routes(runtime: Runtime) -> APIRouter:
    router = APIRouter(route_class=BillingRoute, tags=["admin"], responses=RATE_LIMITED)
    admin = AdminToken(runtime)

    @router.get("/api/admin/jobs", operation_id="listAllJobs", summary="Jobs", response_model=JobList)
    async def list_all_jobs(
        request: Request,
        status: JobStatus | None = None,
        client_id: Annotated[str | None, QueryParameter(max_length=200)] = None,
        q: Annotated[str, QueryParameter(max_length=200, description="In the project's name or the id")] = "",
        since: Since = None,
        until: Until = None,
        limit: Limit = 100,
        cursor: Cursor = None,
        format: Literal["json", "csv"] = "json",
        actor: Actor = Depends(admin),
    ) -> JobList | Response:
        """Newest first, of every client and of none."""
        equals: dict[str, str | bool | None] = {}
        if status is not None:
            equals["status"] = status
        if client_id is not None:
            equals["client_id"] = client_id
        query = Query(
            equals=equals,
            text=q,
            text_fields=("project_name", "job_id"),
            since=since,
            until=until,
            limit=limit,
        )
        listed = await job_list(runtime, query, "jobs", cursor)
        if format == "csv" or wants_csv(request):
            rows = [each.model_dump(mode="json") for each in listed.jobs]
            return csv_response("jobs", list(JobView.model_fields), rows)
        return listed

    @router.patch("/api/admin/jobs/{job_id}", operation_id="moveJob", summary="Move a job along")
    async def move_job(
        job_id: str, body: JobMove, request: Request, response: Response, actor: Actor = Depends(admin)
    ) -> JobView:
        """queued → running → done | failed | cancelled. A failed or cancelled job is refunded by default."""
        cost = None if body.cost is None else micros_of(body.cost)

        def operation(tx: Transaction, now: datetime) -> dict[str, object]:
            moved = jobs.move(
                tx, job_id, body.status, refund=body.refund, cost_usd_micros=cost, actor=actor, now=now
            )
            return JobView.of(moved).model_dump(mode="json")

        reply = await change(
            runtime, request, response, operation, principal=actor.name, body=body, name="move_job"
        )
        view = JobView.model_validate(reply.body)
        if cost is not None and view.client_id is not None and not reply.replayed:
            runtime.log.info("Logged $%.2f cost for client %s", cost / 1_000_000, view.client_id)
        return view

    return router


async def job_list(runtime: Runtime, query: Query, scope: str, cursor: str | None) -> JobList:
    """One page of jobs."""
    placed = decode_after(cursor, scope, query)
    page = await runtime.read(lambda: runtime.view.jobs.page(placed))
    last = page.rows[-1] if page.has_more else None
    return JobList(
        jobs=[JobView.of(job) for job in page.rows],
        total=page.total,
        next_cursor=None if last is None else encode_after(last.created_at, last.job_id, scope, query),
        has_more=page.has_more,
    )
