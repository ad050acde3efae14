"""Client authentication and billing for a FastAPI gateway, with one import.

    from client_auth import router, get_client_by_api_key, can_submit_job, deduct_job_credit

    app.include_router(router)

The plain helpers make an `async def` wait for the disk, as they must before they may answer; where that
matters, use `async with job_credit(…)` and the dependencies. Nothing is opened before first use.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from types import TracebackType
from typing import Annotated, TypedDict

from fastapi import APIRouter, Request, Security

from openclaw_billing import ledger, usage
from openclaw_billing.audit import Actor
from openclaw_billing.errors import BillingError, JobRefused, NotFound, Unprocessable
from openclaw_billing.metrics import StoreMetrics, StripeMetrics
from openclaw_billing.records import Client, Reservation, ReservationState
from openclaw_billing.runtime import Runtime
from openclaw_billing.web.admin_clients import admin_client_routes
from openclaw_billing.web.admin_history import admin_history_routes
from openclaw_billing.web.admin_jobs import admin_job_routes
from openclaw_billing.web.admin_keys import admin_key_routes
from openclaw_billing.web.admin_stripe import admin_stripe_routes
from openclaw_billing.web.auth import AdminToken, ClientKey, OptionalClientKey, key_of
from openclaw_billing.web.billing import billing_routes
from openclaw_billing.web.checkout import checkout_routes
from openclaw_billing.web.serving import serving
from openclaw_billing.web.subscription import subscription_routes
from openclaw_billing.web.webhook import webhook_routes

__all__ = [
    "AdminActor",
    "ClientRecord",
    "CurrentClient",
    "JobCredit",
    "OptionalClient",
    "authenticate_client",
    "can_submit_job",
    "capture_job_credit",
    "create_router",
    "deduct_job_credit",
    "get_client_by_api_key",
    "job_credit",
    "log_client_cost",
    "refund_job_credit",
    "release_job_credit",
    "require_admin",
    "require_credits",
    "reserve_job_credit",
    "router",
    "runtime",
]


class ClientRecord(TypedDict):
    """A client as the helpers give it: the guide's fields, without any key text.

    `credits_remaining` is None where jobs are unlimited; `total_spent` is in dollars; times are RFC 3339.
    """

    client_id: str
    name: str
    email: str
    plan: str
    credits_remaining: int | None
    total_spent: float
    created_at: str
    updated_at: str
    active: bool
    stripe_customer_id: str | None
    stripe_subscription_id: str | None
    billing_cycle_start: str
    billing_cycle_end: str


def create_router(runtime: Runtime) -> APIRouter:
    """Every route of the module on that runtime, which opens and closes with the application."""
    whole = APIRouter(lifespan=serving(runtime))
    for routes in (
        billing_routes,
        checkout_routes,
        subscription_routes,
        webhook_routes,
        admin_client_routes,
        admin_key_routes,
        admin_history_routes,
        admin_job_routes,
        admin_stripe_routes,
    ):
        whole.include_router(routes(runtime))
    return whole


runtime = Runtime(observer=StoreMetrics(), stripe_observer=StripeMetrics())
router = create_router(runtime)
current_client = ClientKey(runtime)
require_admin = AdminToken(runtime)

CurrentClient = Annotated[Client, Security(current_client)]
OptionalClient = Annotated[Client | None, Security(OptionalClientKey(runtime))]
AdminActor = Annotated[Actor, Security(require_admin)]


async def authenticate_client(client: CurrentClient) -> ClientRecord:
    """A dependency: the calling client's record, or a 401."""
    return _record(client)


def get_client_by_api_key(key_text: str) -> ClientRecord | None:
    """The active client that holds this key, or None, for whatever reason there is none."""
    found = key_of(runtime, key_text)
    return None if found is None else _record(found[0])


def can_submit_job(client: ClientRecord | Client | str) -> tuple[bool, str]:
    """Whether a job would be accepted now, and why. Advice: only taking the credit decides."""
    try:
        return usage.standing(runtime.view, _id_of(client), runtime.now()).verdict()
    except NotFound:
        return False, "Client not found"


def deduct_job_credit(client_id: str, job_id: str | None = None) -> bool:
    """Take one credit for a job, once however often it is asked for one `job_id`. False when there is none.

    Raises:
        StorageUnavailable: it could not be made durable; nothing was taken.
        Unprocessable: the id is too long, or has characters that do not show.
    """
    try:
        runtime.write_and_wait(ledger.charge, client_id, job_id=job_id or str(uuid.uuid4()))
    except (JobRefused, NotFound):
        return False
    return True


def log_client_cost(client_id: str, cost: float | Decimal | str, job_id: str | None = None) -> None:
    """Add what a job cost us, in dollars, exact to a millionth.

    Raises:
        Unprocessable: the cost is not a finite number from 0 up, or the id has characters that do not show.
        NotFound: there is no such client.
    """
    try:
        micros = int((Decimal(str(cost)) * 1_000_000).to_integral_value())
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise Unprocessable("A cost must be a finite number of dollars") from error
    runtime.write_and_wait(ledger.log_cost, client_id, micros, job_id=job_id)
    runtime.log.info("Logged $%.2f cost for client %s", micros / 1_000_000, client_id)


def reserve_job_credit(
    client_id: str, job_id: str, *, credits: int = 1, life: timedelta | None = None
) -> Reservation:
    """Set credits aside for a job, to be captured or released before `life` (a setting, 15 minutes) is over.

    Raises:
        JobRefused, NotFound: nothing was set aside.
    """
    return runtime.write_and_wait(
        ledger.reserve, client_id, job_id=job_id, credits=credits, life=life or _life()
    )


def capture_job_credit(client_id: str, job_id: str) -> Reservation:
    """The job was done: its credits are spent."""
    return runtime.write_and_wait(ledger.capture, client_id, job_id=job_id)


def release_job_credit(client_id: str, job_id: str) -> Reservation:
    """The job did not happen: its credits come back."""
    return runtime.write_and_wait(ledger.release, client_id, job_id=job_id)


def refund_job_credit(client_id: str, job_id: str, *, reason: str = "") -> Reservation:
    """Give back what a job has cost, once."""
    return runtime.write_and_wait(ledger.refund, client_id, job_id=job_id, reason=reason)


class JobCredit:
    """A credit for the length of a block: reserved, then captured if the block ends well, else released.

    A process that dies inside the block leaves a reservation, which gives the credit back when it expires.
    """

    def __init__(self, client_id: str, job_id: str, credits: int) -> None:
        self.client_id, self.job_id, self.credits = client_id, job_id, credits
        self._spent_before = False

    def __enter__(self) -> JobCredit:
        reserved = reserve_job_credit(self.client_id, self.job_id, credits=self.credits)
        self._spent_before = reserved.state is ReservationState.CAPTURED
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            capture_job_credit(self.client_id, self.job_id)
        elif not self._spent_before:
            release_job_credit(self.client_id, self.job_id)

    async def __aenter__(self) -> JobCredit:
        reserving = asyncio.ensure_future(
            runtime.write(
                ledger.reserve, self.client_id, job_id=self.job_id, credits=self.credits, life=_life()
            )
        )
        try:
            reserved = await asyncio.shield(reserving)
            self._spent_before = reserved.state is ReservationState.CAPTURED
        except asyncio.CancelledError:
            # The reservation is on its way to the disk already: wait for it, and undo it.
            with contextlib.suppress(BillingError):
                await reserving
                await self._finish(ledger.release)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await asyncio.shield(self._finish(ledger.capture))
        elif not self._spent_before:
            await asyncio.shield(self._finish(ledger.release))

    async def _finish(self, operation: Callable[..., Reservation]) -> None:
        await runtime.write(operation, self.client_id, job_id=self.job_id)


def job_credit(client_id: str, job_id: str | None = None, *, credits: int = 1) -> JobCredit:
    """`with job_credit(client_id):` or `async with …`: the job inside is paid if it succeeds.

    Raises, on entering:
        JobRefused, NotFound: there is no credit; the block is not run.
    """
    return JobCredit(client_id, job_id or str(uuid.uuid4()), credits)


def require_credits(credits: int = 1) -> Callable[[Request, Client], Awaitable[Client]]:
    """A dependency: the calling client, refused now if a job of so many credits would be.

    Advice that saves work; the credit itself is taken by `job_credit` or `deduct_job_credit`.
    """

    async def dependency(request: Request, client: CurrentClient) -> Client:
        stand = usage.standing(runtime.view, client.client_id, runtime.now())
        if (refusal := stand.refusal(credits)) is not None:
            raise runtime.refusal(refusal)
        return client

    return dependency


def _life() -> timedelta:
    return timedelta(minutes=runtime.settings.reservation_minutes)


def _id_of(client: ClientRecord | Client | str) -> str:
    if isinstance(client, str):
        return client
    return client["client_id"] if isinstance(client, Mapping) else client.client_id


def _record(client: Client) -> ClientRecord:
    stand = usage.standing(runtime.view, client.client_id, runtime.now())
    return {
        "client_id": client.client_id,
        "name": client.name,
        "email": client.email,
        "plan": stand.plan.plan_id,
        "credits_remaining": None if stand.unlimited else stand.available,
        "total_spent": stand.spent_usd_micros / 1_000_000,
        "created_at": client.created_at.isoformat(),
        "updated_at": client.updated_at.isoformat(),
        "active": client.active,
        "stripe_customer_id": client.stripe_customer_id,
        "stripe_subscription_id": client.stripe_subscription_id,
        "billing_cycle_start": stand.start.isoformat(),
        "billing_cycle_end": stand.end.isoformat(),
    }


if __name__ == "__main__":
    from openclaw_billing.cli import main

    main()
