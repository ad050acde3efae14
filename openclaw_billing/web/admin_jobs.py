"""What an admin may do with jobs: list them, and move one along."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as QueryParameter
from pydantic import Field

from openclaw_billing import jobs
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import Query, Transaction
from openclaw_billing.errors import NotFound
from openclaw_billing.records import JobStatus
from openclaw_billing.runtime import Runtime
from openclaw_billing.web.auth import AdminToken
from openclaw_billing.web.cursors import decode_after, encode_after
from openclaw_billing.web.described import AS_CSV, CONDITIONAL, refusals
from openclaw_billing.web.endpoint import change
from openclaw_billing.web.etag import tagged
from openclaw_billing.web.lists import Dated, Listed, Part, Words, answered
from openclaw_billing.web.models import DollarsIn, Input, micros_of
from openclaw_billing.web.route import BillingRoute
from openclaw_billing.web.views import JobList, JobView


class JobFilters(Dated):
    """Which jobs to list."""

    status: JobStatus | None = None


class AllJobFilters(JobFilters):
    client_id: Words | None = None
    q: Words = Field("", description="In the project's name or the id")


class JobMove(Input):
    """The job's next status. `refund` says whether its credit goes back: by default when it failed.

    `cost` is what the job cost, in dollars.
    """

    status: JobStatus = Field(strict=False)
    refund: bool | None = None
    cost: DollarsIn | None = None


def admin_job_routes(runtime: Runtime) -> APIRouter:
    router = APIRouter(route_class=BillingRoute, tags=["admin"])
    admin = AdminToken(runtime)
    _list(router, runtime, admin)
    _move(router, runtime, admin)
    return router


def _list(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.get(
        "/api/admin/jobs",
        operation_id="listAllJobs",
        summary="Jobs",
        response_model=JobList,
        responses=AS_CSV,
    )
    async def list_all_jobs(
        request: Request,
        response: Response,
        filters: Annotated[AllJobFilters, QueryParameter()],
        actor: Actor = Depends(admin),
    ) -> JobList | Response:
        """Newest first, of every client and of none."""
        equals: dict[str, str | bool | None] = {}
        if filters.client_id is not None:
            equals["client_id"] = filters.client_id
        query = Query(
            equals=equals,
            text=filters.q,
            text_fields=("project_name", "job_id"),
            since=filters.since,
        )
        return await answered_jobs(runtime, request, response, filters, query, "jobs")


def _move(router: APIRouter, runtime: Runtime, admin: AdminToken) -> None:
    @router.patch(
        "/api/admin/jobs/{job_id}",
        operation_id="moveJob",
        summary="Move a job along",
        responses=refusals(409),
        openapi_extra=CONDITIONAL,
    )
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
            runtime,
            request,
            response,
            operation,
            principal=actor.name,
            body=body,
            name="move_job",
            current=partial(_current, job_id),
        )
        view = JobView.model_validate(reply.body)
        if cost is not None and view.client_id is not None and not reply.replayed:
            runtime.log.info("Logged $%.2f cost for client %s", cost / 1_000_000, view.client_id)
        return tagged(response, view)


def _current(job_id: str, tx: Transaction, now: datetime) -> JobView:
    job = tx.jobs.get(job_id)
    if job is None:
        raise NotFound("Job")
    return JobView.of(job)


async def answered_jobs(
    runtime: Runtime, request: Request, response: Response, filters: JobFilters, query: Query, scope: str
) -> JobList | Response:
    """The jobs of the query, as far as the filters that all lists of jobs have in common let them pass."""
    equals = query.equals if filters.status is None else {**query.equals, "status": filters.status}
    query = replace(query, equals=equals, until=filters.until, limit=filters.page_length)
    placed = decode_after(filters.cursor, scope, query)

    def page() -> Part[JobView]:
        found = runtime.view.jobs.page(placed)
        last = found.rows[-1] if found.has_more else None
        return Part(
            [JobView.of(job) for job in found.rows],
            found.total,
            None if last is None else encode_after(last.created_at, last.job_id, scope, query),
        )

    listed = Listed("jobs", JobView, page, lambda: map(JobView.of, runtime.view.jobs.walk(placed)))
    return await answered(
        runtime, request, response, filters, listed, lambda part: JobList(jobs=part.rows, **part.told)
    )
