"""Jobs on the command line."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import typer

from openclaw_billing import jobs
from openclaw_billing.cli.output import ACTOR, Json, dumped, opened, say, show, show_one
from openclaw_billing.contracts import Query
from openclaw_billing.errors import NotFound
from openclaw_billing.records import JobStatus
from openclaw_billing.web.models import micros_of
from openclaw_billing.web.views import JobView

app = typer.Typer(no_args_is_help=True)

JobId = Annotated[str, typer.Argument(help="The job's id.")]
COLUMNS = ("job_id", "client_id", "status", "project_name", "created_at")


@app.command("list")
def list_jobs(
    client_id: Annotated[str | None, typer.Option("--client", help="Of one client only.")] = None,
    status: Annotated[JobStatus | None, typer.Option(help="In one status only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many to show at most.")] = 100,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    wanted = {"client_id": client_id, "status": status}
    equals = {name: value for name, value in wanted.items() if value is not None}
    with opened() as runtime:
        page = runtime.view.jobs.page(Query(equals=equals, limit=limit))
        show(dumped(map(JobView.of, page.rows)), COLUMNS, as_json=as_json, empty="No jobs.")
        if page.has_more:
            say(f"{len(page.rows)} of {page.total}: --limit shows more.")


@app.command("show")
def show_job(job_id: JobId, as_json: Json = False) -> None:
    """Show one job."""
    with opened() as runtime:
        job = runtime.view.jobs.get(job_id)
        if job is None:
            raise NotFound("Job")
        show_one(JobView.of(job).model_dump(mode="json"), as_json=as_json)


@app.command("move")
def move_job(
    job_id: JobId,
    status: Annotated[JobStatus, typer.Argument(help="Its next status, or the one it is in.")],
    refund: Annotated[
        bool | None, typer.Option(help="Whether its credit goes back; by default when it failed.")
    ] = None,
    cost: Annotated[str | None, typer.Option(help="What it cost, in dollars.")] = None,
    as_json: Json = False,
) -> None:
    """Move a job along: queued, running, then done, failed or cancelled."""
    with opened() as runtime:
        moved = runtime.write_and_wait(
            jobs.move,
            job_id,
            status,
            refund=refund,
            cost_usd_micros=None if cost is None else _micros(cost),
            actor=ACTOR,
        )
        show_one(JobView.of(moved).model_dump(mode="json"), as_json=as_json)


def _micros(dollars: str) -> int:
    try:
        return micros_of(Decimal(dollars))
    except (ArithmeticError, ValueError) as error:
        raise typer.BadParameter("must be an amount of dollars", param_hint="--cost") from error
