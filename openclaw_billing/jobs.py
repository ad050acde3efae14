"""Jobs: submitted and charged in one step, moved along, refunded where they failed.

queued → running → done | failed | cancelled        and  queued → failed | cancelled
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType

from openclaw_billing import ledger
from openclaw_billing.audit import Actor, note
from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import Conflict, IdMismatch, NotFound, Unprocessable
from openclaw_billing.plans import Plan
from openclaw_billing.records import COST_USD_MICROS_MAX, Job, JobStatus, ReservationState

MOVES: Mapping[JobStatus, frozenset[JobStatus]] = MappingProxyType(
    {
        JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELLED}),
        JobStatus.RUNNING: frozenset({JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED}),
        JobStatus.DONE: frozenset(),
        JobStatus.FAILED: frozenset(),
        JobStatus.CANCELLED: frozenset(),
    }
)


def visible_since(plan: Plan, now: datetime) -> datetime | None:
    """From when on a client of that plan sees its own jobs; None is from the first."""
    return None if plan.history is None else now - plan.history


def submit(tx: Transaction, *, job: Job, actor: Actor | None, now: datetime) -> Job:
    """Record the job and charge its client; a job without a client is unbilled, and audited.

    Submitting it again gives the job as it stands, and charges nothing.

    Raises:
        JobRefused, NotFound, Unprocessable
        IdMismatch: another job has this id.
    """
    known = tx.jobs.get(job.job_id)
    if known is not None:
        if _asked(known) != _asked(job):
            raise IdMismatch
        return known
    if job.client_id is not None:
        ledger.charge(tx, job.client_id, job_id=job.job_id, now=now)
    else:
        assert actor is not None, "an unbilled job is somebody's doing"
        note(tx, actor, "job.unbilled", object_id=job.job_id, after={"project": job.project_name}, now=now)
    tx.jobs.put(job)
    return job


def cancel(tx: Transaction, job_id: str, client_id: str, *, now: datetime) -> Job:
    """A client takes back its own job while it waits, and gets its credit back once.

    Raises:
        NotFound: the client has no such job.
        Conflict: it waits no more.
    """
    job = tx.jobs.get(job_id)
    if job is None or job.client_id != client_id:
        raise NotFound("Job")
    if job.status is JobStatus.CANCELLED:
        return job
    if job.status is not JobStatus.QUEUED:
        raise Conflict(f"The job is {job.status.value}", code="job_not_queued")
    _refund(tx, job, "cancelled by the client", now)
    return _put(tx, replace(job, status=JobStatus.CANCELLED), now)


def move(
    tx: Transaction,
    job_id: str,
    status: JobStatus,
    *,
    refund: bool | None = None,
    cost_usd_micros: int | None = None,
    actor: Actor,
    now: datetime,
) -> Job:
    """Take the job to its next status. A failed or cancelled one is refunded unless `refund` says no.

    Moving it to where it is does what has not been done yet: a refund goes once, and so does a cost.

    Raises:
        NotFound, Unprocessable: the cost is out of range, or a job that goes on cannot be refunded.
        Conflict: from where it is, it cannot go there; or another cost was logged there.
    """
    job = tx.jobs.get(job_id)
    if job is None:
        raise NotFound("Job")
    again = job.status is status
    if not again and status not in MOVES[job.status]:
        raise Conflict(f"A {job.status.value} job cannot become {status.value}", code="illegal_move")
    if refund and MOVES[status]:
        raise Unprocessable(f"A {status.value} job cannot be refunded")
    by_default = not again and status in (JobStatus.FAILED, JobStatus.CANCELLED)
    wants_refund = by_default if refund is None else refund
    refunded = wants_refund and _refund(tx, job, f"job {status.value}", now)
    before = replace(job, status=status, step_cost_usd_micros=job.step_cost_usd_micros if again else None)
    after = _with_cost(tx, before, cost_usd_micros, now)
    if after == job and not refunded:
        return job
    moved = _put(tx, after, now)
    note(
        tx,
        actor,
        "job.moved",
        client_id=job.client_id,
        object_id=job_id,
        before={"status": job.status.value, "cost_usd_micros": str(job.cost_usd_micros)},
        after={
            "status": status.value,
            "cost_usd_micros": str(moved.cost_usd_micros),
            **({"refunded": "yes"} if refunded else {}),
        },
        now=now,
    )
    return moved


def _with_cost(tx: Transaction, job: Job, cost_usd_micros: int | None, now: datetime) -> Job:
    """The job after this part of its cost was logged, unless it was before."""
    if cost_usd_micros is None or cost_usd_micros == job.step_cost_usd_micros:
        return job
    if job.step_cost_usd_micros is not None:
        raise Conflict("Another cost was logged with this move", code="cost_logged")
    total = job.cost_usd_micros + ledger.checked_cost(cost_usd_micros)
    if total > COST_USD_MICROS_MAX:
        raise Unprocessable(f"A job costs at most {COST_USD_MICROS_MAX} micro-USD")
    if job.client_id is not None:
        ledger.log_cost(tx, job.client_id, cost_usd_micros, job_id=job.job_id, now=now)
    return replace(job, cost_usd_micros=total, step_cost_usd_micros=cost_usd_micros)


def _refund(tx: Transaction, job: Job, reason: str, now: datetime) -> bool:
    """Give back what the job holds, if it holds anything: it may be unbilled, or refunded already."""
    if job.client_id is None:
        return False
    held = tx.reservations.get(ledger.reservation_id(job.client_id, job.job_id))
    if held is not None and held.state is ReservationState.CAPTURED:
        ledger.refund(tx, job.client_id, job_id=job.job_id, reason=reason, now=now)
    elif held is not None and held.state is ReservationState.PENDING:
        ledger.release(tx, job.client_id, job_id=job.job_id, now=now)
    else:
        return False
    return True


def _put(tx: Transaction, job: Job, now: datetime) -> Job:
    job = replace(job, updated_at=now, version=job.version + 1)
    tx.jobs.put(job)
    return job


def _asked(job: Job) -> tuple[object, ...]:
    """What makes two jobs the same one."""
    return (
        job.client_id,
        job.project_name,
        job.description,
        job.task_type,
        job.priority,
        job.budget_limit_usd_micros,
        job.contact_email,
    )
