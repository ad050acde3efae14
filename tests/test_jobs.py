from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest

from openclaw_billing import jobs, ledger
from openclaw_billing.audit import Actor
from openclaw_billing.clock import ManualClock
from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.errors import Conflict, IdMismatch, NotFound, QuotaExceeded, Unprocessable
from openclaw_billing.plans import CATALOGUE, plan_of
from openclaw_billing.records import COST_USD_MICROS_MAX, Job, JobStatus, Priority, TaskType
from openclaw_billing.stores.memory import MemoryStore

T = TypeVar("T")
START = datetime(2026, 2, 19, 10, 30, tzinfo=UTC)
ADMIN = Actor("admin")


class Yard:
    """A memory store with one client on the free plan."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.store = MemoryStore()
        self.store.open()
        self.do(ledger.open_account, "acme", "free")

    def do(self, operation: Callable[..., T], *args: object, **kwargs: object) -> T:
        now = self.clock.now()
        return self.store.run(lambda tx: operation(tx, *args, **kwargs, now=now), operation.__name__)

    def job(self, job_id: str = "j", client_id: str | None = "acme") -> Job:
        now = self.clock.now()
        return Job(
            job_id=job_id,
            client_id=client_id,
            project_name="Feature Build",
            description="Add user authentication",
            task_type=TaskType.FEATURE_BUILD,
            priority=Priority.P1,
            created_at=now,
            updated_at=now,
        )

    def submit(self, job: Job | None = None) -> Job:
        return self.do(jobs.submit, job=job or self.job(), actor=ADMIN)

    def move(self, status: JobStatus, **kwargs: object) -> Job:
        return self.do(jobs.move, "j", status, actor=ADMIN, **kwargs)

    @property
    def available(self) -> int:
        return self.store.view.accounts.get("acme").available

    @property
    def actions(self) -> list[str]:
        return [entry.action for entry in self.store.audit(HistoryQuery()).entries[::-1]]


@pytest.fixture
def yard() -> Yard:
    return Yard()


def test_a_job_is_recorded_and_charged_in_one_step(yard: Yard) -> None:
    job = yard.submit()
    assert yard.store.view.jobs.get("j") == job
    assert yard.available == 4


def test_a_job_without_a_credit_is_not_recorded(yard: Yard) -> None:
    for number in range(5):
        yard.submit(yard.job(str(number)))
    with pytest.raises(QuotaExceeded):
        yard.submit(yard.job("one more"))
    assert yard.store.view.jobs.get("one more") is None
    assert yard.available == 0


def test_a_job_submitted_twice_is_charged_once_and_answered_as_it_stands(yard: Yard) -> None:
    yard.submit()
    yard.move(JobStatus.RUNNING)
    yard.clock.advance(hours=1)
    assert yard.submit().status is JobStatus.RUNNING
    assert yard.available == 4


def test_the_same_id_for_another_job_is_refused(yard: Yard) -> None:
    yard.submit()
    yard.do(ledger.open_account, "other", "free")
    for other in (replace(yard.job(), description="else"), yard.job(client_id="other")):
        with pytest.raises(IdMismatch):
            yard.submit(other)
    assert yard.store.view.accounts.get("other").available == 5


def test_a_job_of_an_unknown_client_is_not_recorded(yard: Yard) -> None:
    with pytest.raises(NotFound):
        yard.submit(yard.job(client_id="nobody"))
    assert yard.store.view.jobs.get("j") is None


def test_an_unbilled_job_is_audited_and_costs_no_client(yard: Yard) -> None:
    yard.submit(yard.job(client_id=None))
    assert yard.available == 5
    assert yard.actions == ["job.unbilled"]
    yard.move(JobStatus.RUNNING)
    assert yard.move(JobStatus.FAILED, cost_usd_micros=7).cost_usd_micros == 7
    assert yard.available == 5
    with pytest.raises(NotFound):
        yard.do(jobs.cancel, "j", "acme")


def test_a_waiting_job_is_cancelled_and_refunded_once(yard: Yard) -> None:
    yard.submit()
    cancelled = yard.do(jobs.cancel, "j", "acme")
    assert cancelled.status is JobStatus.CANCELLED
    assert yard.do(jobs.cancel, "j", "acme") == cancelled
    assert yard.available == 5


def test_a_job_that_runs_or_ended_is_not_cancelled_by_its_client(yard: Yard) -> None:
    yard.submit()
    for status in (JobStatus.RUNNING, JobStatus.DONE):
        yard.move(status)
        with pytest.raises(Conflict):
            yard.do(jobs.cancel, "j", "acme")
    assert yard.available == 4


def test_another_clients_job_is_not_found(yard: Yard) -> None:
    yard.submit()
    with pytest.raises(NotFound):
        yard.do(jobs.cancel, "j", "other")
    with pytest.raises(NotFound):
        yard.do(jobs.cancel, "unknown", "acme")
    assert yard.available == 4


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED])
@pytest.mark.parametrize(("refund", "available"), [(None, 5), (True, 5), (False, 4)])
def test_a_failed_or_cancelled_job_is_refunded_unless_told_otherwise(
    yard: Yard, status: JobStatus, refund: bool | None, available: int
) -> None:
    yard.submit()
    yard.move(status, refund=refund)
    assert yard.available == available
    yard.move(status)
    assert yard.available == available


@pytest.mark.parametrize(("refund", "available"), [(None, 4), (True, 5), (False, 4)])
def test_a_job_done_is_refunded_only_when_told(yard: Yard, refund: bool | None, available: int) -> None:
    yard.submit()
    yard.move(JobStatus.RUNNING)
    yard.move(JobStatus.DONE, refund=refund)
    assert yard.available == available


def test_a_job_that_goes_on_is_not_refunded(yard: Yard) -> None:
    yard.submit()
    for status in (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.RUNNING):
        with pytest.raises(Unprocessable):
            yard.move(status, refund=True)
        yard.move(JobStatus.RUNNING)
    assert yard.available == 4


@pytest.mark.parametrize("status", [JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_job_that_ended_can_still_be_refunded_once(yard: Yard, status: JobStatus) -> None:
    yard.submit()
    yard.move(JobStatus.RUNNING)
    yard.move(status, refund=False)
    assert yard.available == 4
    for _ in range(2):
        yard.move(status, refund=True)
        assert yard.available == 5
    assert yard.actions == ["job.moved", "job.moved", "job.moved"]
    with pytest.raises(Conflict):
        yard.move(JobStatus.FAILED if status is JobStatus.DONE else JobStatus.DONE, refund=True)


ENDS = (JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED)


@pytest.mark.parametrize("status", JobStatus)
@pytest.mark.parametrize("start", ENDS)
def test_a_job_that_ended_goes_nowhere(yard: Yard, start: JobStatus, status: JobStatus) -> None:
    yard.submit()
    yard.move(JobStatus.RUNNING)
    ended = yard.move(start)
    if status is start:
        assert yard.move(status) == ended
    else:
        with pytest.raises(Conflict):
            yard.move(status)
    assert yard.store.view.jobs.get("j") == ended


def test_a_waiting_job_is_not_done_before_it_ran_and_a_running_one_waits_no_more(yard: Yard) -> None:
    yard.submit()
    with pytest.raises(Conflict):
        yard.move(JobStatus.DONE)
    yard.move(JobStatus.RUNNING)
    with pytest.raises(Conflict):
        yard.move(JobStatus.QUEUED)


def test_a_cost_is_logged_once_however_often_the_move_is_repeated(yard: Yard) -> None:
    yard.submit()
    yard.move(JobStatus.RUNNING)
    for _ in range(2):
        job = yard.move(JobStatus.DONE, cost_usd_micros=5_500_000)
    assert job.cost_usd_micros == 5_500_000
    assert yard.store.view.accounts.get("acme").spent_usd_micros == 5_500_000
    assert yard.actions == ["job.moved", "job.moved"]


def test_a_cost_told_after_the_move_is_logged_and_another_one_is_refused(yard: Yard) -> None:
    yard.submit()
    yard.move(JobStatus.RUNNING, cost_usd_micros=1_000_000)
    yard.move(JobStatus.DONE)
    for _ in range(2):
        assert yard.move(JobStatus.DONE, cost_usd_micros=3_000_000).cost_usd_micros == 4_000_000
    with pytest.raises(Conflict) as refused:
        yard.move(JobStatus.DONE, cost_usd_micros=2_000_000)
    assert refused.value.code == "cost_logged"
    assert yard.store.view.jobs.get("j").cost_usd_micros == 4_000_000
    assert yard.store.view.accounts.get("acme").spent_usd_micros == 4_000_000
    assert len(yard.actions) == 3


@pytest.mark.parametrize("cost", [-1, COST_USD_MICROS_MAX + 1, 0.5])
@pytest.mark.parametrize("client_id", ["acme", None])
def test_a_cost_that_cannot_be_stops_the_move(yard: Yard, cost: int, client_id: str | None) -> None:
    yard.submit(yard.job(client_id=client_id))
    with pytest.raises(Unprocessable):
        yard.move(JobStatus.FAILED, cost_usd_micros=cost)
    assert yard.store.view.jobs.get("j").status is JobStatus.QUEUED
    assert yard.available == (5 if client_id is None else 4)


def test_an_unknown_job_is_not_found(yard: Yard) -> None:
    with pytest.raises(NotFound):
        yard.move(JobStatus.RUNNING)


def test_a_client_sees_its_jobs_as_far_back_as_its_plan_says() -> None:
    assert jobs.visible_since(CATALOGUE["free"], START) == START - timedelta(hours=24)
    assert jobs.visible_since(CATALOGUE["enterprise"], START) is None
    assert jobs.visible_since(plan_of("gone"), START) == START - timedelta(days=30)
