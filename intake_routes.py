"""Intake: clients submit jobs here. A job and its charge are one change: both are there, or neither is."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as QueryParameter
from pydantic import Field

import client_auth
from openclaw_billing import jobs, plans, replies
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import Query, Transaction, View
from openclaw_billing.errors import KeyRejected, NotFound
from openclaw_billing.records import Client, Job, JobStatus, Priority, TaskType
from openclaw_billing.replies import Asked
from openclaw_billing.runtime import Runtime
from openclaw_billing.web.admin_jobs import JobFilters, answered_jobs
from openclaw_billing.web.auth import AdminToken, ClientKey, OptionalClientKey
from openclaw_billing.web.described import AS_CSV, CONDITIONAL, TAGGED, refusals
from openclaw_billing.web.direct import DirectRoute
from openclaw_billing.web.endpoint import asked_of, change
from openclaw_billing.web.etag import tagged, unless_known
from openclaw_billing.web.far import look
from openclaw_billing.web.models import (
    Description,
    DollarsIn,
    Email,
    Input,
    Moment,
    Name,
    Output,
    micros_of,
)
from openclaw_billing.web.route import BillingRoute
from openclaw_billing.web.views import JobList, JobView

# How long a job of each priority may wait before somebody picks it up.
START_WITHIN: Mapping[Priority, timedelta] = MappingProxyType(
    {
        Priority.P0: timedelta(0),
        Priority.P1: timedelta(minutes=5),
        Priority.P2: timedelta(minutes=30),
        Priority.P3: timedelta(hours=4),
    }
)
ASKED_JOBS = uuid.UUID("6f1d3b52-0c0e-4b8e-9f63-2a6f0f6f5a11")
"""What the ids of jobs are made under that come with an Idempotency-Key: the same key is the same job for ever."""


class IntakeRequest(Input):
    """A job to be done."""

    project_name: Name
    description: Description
    task_type: TaskType = Field(strict=False)
    priority: Priority = Field(Priority.P2, strict=False)
    budget_limit: DollarsIn | None = None
    contact_email: Email | None = None


class IntakeResponse(Output):
    """The job as accepted. `credits_remaining` is null for an unlimited plan and an internal job."""

    job_id: str
    status: JobStatus
    estimated_start: Moment
    message: str
    credits_remaining: int | None


class Submitter(OptionalClientKey):
    """Who may submit: a client by its key or, where there is none, an admin by the token."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._admin = AdminToken(runtime)

    async def __call__(self, request: Request) -> Client | Actor:  # type: ignore[override]
        caller: Client | Actor | None
        caller = await self.admit(request) or self._admin.identify(request)
        if caller is None:
            raise KeyRejected
        return caller


def create_intake_router(runtime: Runtime) -> APIRouter:
    """The routes of `/api/intake` and `/api/jobs` on that runtime."""
    router = APIRouter(route_class=BillingRoute, tags=["intake"])
    # Before the others: every job passes here.
    _submitting(router, runtime)
    _own_jobs(router, runtime, ClientKey(runtime))
    return router


def _submitting(router: APIRouter, runtime: Runtime) -> None:
    submitter = Submitter(runtime)

    async def submit_intake(
        body: IntakeRequest,
        request: Request,
        response: Response,
        caller: Client | Actor = Depends(submitter),
    ) -> IntakeResponse:
        """Costs one credit. Without a client key it takes an admin token, and the job is not billed."""
        client_id = caller.client_id if isinstance(caller, Client) else None
        actor = caller if isinstance(caller, Actor) else None
        asked = asked_of(request, client_id or "admin", body)
        job = _job(client_id, body, asked, runtime.now())
        answer, replayed = await runtime.write(submit, job=job, actor=actor, asked=asked)
        if replayed:
            response.headers["Idempotent-Replayed"] = "true"
        if answer.credits_remaining is not None:
            response.raw_headers.append((b"x-credits-remaining", b"%d" % answer.credits_remaining))
        return answer

    router.add_api_route(
        "/api/intake",
        submit_intake,
        methods=["POST"],
        operation_id="submitJob",
        summary="Submit a job",
        responses=refusals(402, 403),
        openapi_extra={"security": [{"AdminToken": []}]},
        route_class_override=DirectRoute,
    )


def submit(
    tx: Transaction, *, job: Job, actor: Actor | None, asked: Asked | None, now: datetime
) -> tuple[IntakeResponse, bool]:
    """Make and charge the job, once under its Idempotency-Key; the answer, and whether it was made before."""
    if asked is None:
        return _accepted(tx, jobs.submit(tx, job=job, actor=actor, now=now)), False
    # The answer is kept for a day, the job for ever.
    known = tx.jobs.get(job.job_id) is not None

    def made(inner: Transaction) -> Mapping[str, object]:
        answer = _accepted(inner, jobs.submit(inner, job=job, actor=actor, now=now))
        shown: dict[str, object] = answer.model_dump(mode="json")
        return shown

    reply = replies.once(tx, asked, made, now=now)
    return IntakeResponse.model_validate(reply.body), reply.replayed or known


def _own_jobs(router: APIRouter, runtime: Runtime, client_key: ClientKey) -> None:
    @router.get(
        "/api/jobs", operation_id="listJobs", summary="Your jobs", response_model=JobList, responses=AS_CSV
    )
    async def list_jobs(
        request: Request,
        response: Response,
        filters: Annotated[JobFilters, QueryParameter()],
        client: Client = Depends(client_key),
    ) -> JobList | Response:
        """Newest first, as far back as your plan's history reaches."""
        account = await look(runtime, lambda: runtime.view.accounts.get(client.client_id))
        assert account is not None
        reach = jobs.visible_since(plans.plan_of(account.plan_id), runtime.now())
        bounds = [moment for moment in (reach, filters.since) if moment is not None]
        query = Query(equals={"client_id": client.client_id}, since=max(bounds, default=None))
        scope = f"own:{filters.since}"
        return await answered_jobs(runtime, request, response, filters, query, scope)

    @router.get(
        "/api/jobs/{job_id}",
        operation_id="getJob",
        summary="One of your jobs",
        response_model=JobView,
        openapi_extra=TAGGED,
    )
    async def get_job(
        job_id: str, request: Request, response: Response, client: Client = Depends(client_key)
    ) -> JobView | Response:
        """Another client's job is not there."""
        view = await look(runtime, lambda: _own(runtime.view, client.client_id, job_id))
        return unless_known(request, response, view)

    @router.delete(
        "/api/jobs/{job_id}",
        operation_id="cancelJob",
        summary="Cancel a queued job",
        responses=refusals(409),
        openapi_extra=CONDITIONAL,
    )
    async def cancel_job(
        job_id: str, request: Request, response: Response, client: Client = Depends(client_key)
    ) -> JobView:
        """Gives the credit back, once. A job that runs already is not cancelled."""

        def operation(tx: Transaction, now: datetime) -> dict[str, object]:
            return JobView.of(jobs.cancel(tx, job_id, client.client_id, now=now)).model_dump(mode="json")

        reply = await change(
            runtime,
            request,
            response,
            operation,
            principal=f"client:{client.client_id}",
            name="cancel_job",
            current=lambda tx, _: _own(tx, client.client_id, job_id),
        )
        return tagged(response, JobView.model_validate(reply.body))


def _own(rows: View | Transaction, client_id: str, job_id: str) -> JobView:
    job = rows.jobs.get(job_id)
    if job is None or job.client_id != client_id:
        raise NotFound("Job")
    return JobView.of(job)


def _job(client_id: str | None, body: IntakeRequest, asked: Asked | None, now: datetime) -> Job:
    return Job(
        # An id that tells jobs apart; whose job it is decides who may see it, not whether they guess it.
        job_id=_random_uuid() if asked is None else str(uuid.uuid5(ASKED_JOBS, asked.digest)),
        client_id=client_id,
        project_name=body.project_name,
        description=body.description,
        task_type=body.task_type,
        priority=body.priority,
        budget_limit_usd_micros=None if body.budget_limit is None else micros_of(body.budget_limit),
        contact_email=body.contact_email,
        created_at=now,
        updated_at=now,
    )


def _random_uuid() -> str:
    """A version 4 UUID, written without making one first."""
    text = f"{random.getrandbits(128):032x}"
    variant = "89ab"[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"


def _accepted(tx: Transaction, job: Job) -> IntakeResponse:
    account = None if job.client_id is None else tx.accounts.get(job.client_id)
    counted = account is not None and not plans.plan_of(account.plan_id).unlimited
    return IntakeResponse.made(
        job_id=job.job_id,
        status=job.status,
        estimated_start=job.created_at + START_WITHIN[job.priority],
        message="Job accepted" if job.client_id is not None else "Internal job accepted, not billed",
        credits_remaining=account.available if account is not None and counted else None,
    )


router = create_intake_router(client_auth.runtime)
