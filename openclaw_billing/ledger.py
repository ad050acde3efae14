"""The ledger: credits granted, reserved, captured, released and refunded, each once.

Every operation carries an id of the caller's making and gives the same answer twice; the same id with
other content is refused. A released, expired or refunded job may be tried again.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from openclaw_billing.books import (
    check_credits,
    check_job_id,
    check_reason,
    give_back,
    open_account,
    open_with_balance,
    post,
    set_free,
)
from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import (
    ClientInactive,
    Conflict,
    IdMismatch,
    NotFound,
    PaymentOverdue,
    QuotaExceeded,
    Unprocessable,
)
from openclaw_billing.grants import Adjusted, adjust, change_plan, checked_cost, claw_back, grant, log_cost
from openclaw_billing.lots import Draws, allowance_id, drawn, drawn_from, total
from openclaw_billing.plans import limit_of
from openclaw_billing.records import (
    RESERVATION_LIFE_DEFAULT,
    RESERVATION_LIFE_MAX,
    Account,
    EntryKind,
    Reservation,
    ReservationState,
)
from openclaw_billing.turning import touch

__all__ = [
    "Adjusted",
    "adjust",
    "capture",
    "change_plan",
    "charge",
    "checked_cost",
    "claw_back",
    "grant",
    "log_cost",
    "open_account",
    "open_with_balance",
    "refund",
    "release",
    "reservation_id",
    "reserve",
    "touch",
]


def reservation_id(client_id: str, job_id: str) -> str:
    return f"reserve:{client_id}:{job_id}"


def reserve(
    tx: Transaction,
    client_id: str,
    *,
    job_id: str,
    credits: int = 1,
    life: timedelta = RESERVATION_LIFE_DEFAULT,
    now: datetime,
) -> Reservation:
    """Set credits aside for a job; they come back by themselves after `life`.

    Raises:
        JobRefused, IdMismatch, NotFound, Unprocessable
    """
    if not timedelta(0) < life <= RESERVATION_LIFE_MAX:
        raise Unprocessable(f"A reservation lives at most {RESERVATION_LIFE_MAX}")
    account = touch(tx, client_id, now)
    known = _known(tx, client_id, job_id, credits)
    if known is not None and known.state in _LIVE:
        return known
    return _begin(tx, account, job_id, credits, now, now + life)


def charge(tx: Transaction, client_id: str, *, job_id: str, credits: int = 1, now: datetime) -> Reservation:
    """Reserve and capture in one step.

    Raises:
        JobRefused, IdMismatch, NotFound, Unprocessable
    """
    account = touch(tx, client_id, now)
    known = _known(tx, client_id, job_id, credits)
    if known is not None:
        if known.state is ReservationState.CAPTURED:
            return known
        if known.state is ReservationState.PENDING:
            return _capture_pending(tx, account, known, now)
    return _begin(tx, account, job_id, credits, now, None)


def capture(tx: Transaction, client_id: str, *, job_id: str, now: datetime) -> Reservation:
    """The job was done: its credits are gone. A reservation that has expired is charged afresh.

    Raises:
        QuotaExceeded, PaymentOverdue: it had expired, and no credit is left to charge.
        NotFound, Conflict: it was given back.
    """
    account = touch(tx, client_id, now)
    known = _get(tx, client_id, job_id)
    if known.state is ReservationState.CAPTURED:
        return known
    if known.state is ReservationState.PENDING:
        return _capture_pending(tx, account, known, now)
    if known.state is ReservationState.EXPIRED:
        return _take(tx, account, job_id, known.credits, now, None)
    raise Conflict("The credits of this job were given back", code=f"already_{known.state.value}")


def release(tx: Transaction, client_id: str, *, job_id: str, now: datetime) -> Reservation:
    """The job was not done: its credits go back to their lots.

    Raises:
        NotFound, Conflict: it was captured.
    """
    account = touch(tx, client_id, now)
    known = _get(tx, client_id, job_id)
    if known.state in (ReservationState.CAPTURED, ReservationState.REFUNDED):
        raise Conflict("The credits of this job were captured", code="already_captured")
    if known.state is not ReservationState.PENDING:
        return known
    account, known = set_free(tx, account, known, ReservationState.RELEASED, now)
    tx.accounts.put(account)
    return known


def refund(tx: Transaction, client_id: str, *, job_id: str, reason: str, now: datetime) -> Reservation:
    """Give back what the job was charged, once.

    Raises:
        NotFound: there is no such client.
        Conflict: the job was never captured.
    """
    check_reason(reason)
    account = touch(tx, client_id, now)
    known = tx.reservations.get(reservation_id(client_id, job_id))
    if known is None or known.state not in (ReservationState.CAPTURED, ReservationState.REFUNDED):
        raise Conflict("This job was not charged", code="not_captured")
    if known.state is ReservationState.REFUNDED:
        return known
    account, known = give_back(tx, account, known, reason, now)
    tx.accounts.put(account)
    return known


_LIVE = (ReservationState.PENDING, ReservationState.CAPTURED)


def _known(tx: Transaction, client_id: str, job_id: str, credits: int) -> Reservation | None:
    """What an earlier call with this job's id left behind."""
    check_credits(credits)
    check_job_id(job_id)
    known = tx.reservations.get(reservation_id(client_id, job_id))
    if known is not None and known.credits != credits:
        raise IdMismatch
    return known


def _get(tx: Transaction, client_id: str, job_id: str) -> Reservation:
    known = tx.reservations.get(reservation_id(client_id, job_id))
    if known is None:
        raise NotFound("Reservation")
    return known


def _begin(
    tx: Transaction, account: Account, job_id: str, credits: int, now: datetime, expires_at: datetime | None
) -> Reservation:
    """Take the credits of a job that begins: one that was begun may yet be charged when its client is not active."""
    if not account.active:
        raise ClientInactive
    return _take(tx, account, job_id, credits, now, expires_at)


def _take(
    tx: Transaction, account: Account, job_id: str, credits: int, now: datetime, expires_at: datetime | None
) -> Reservation:
    """Draw credits for the job: for good, or until `expires_at` when it has one."""
    if account.owed:
        raise PaymentOverdue
    lots, draws, cost, used = account.lots, _NO_DRAWS, 0, credits
    if limit_of(account) is not None:
        available = total(lots)
        if available < credits:
            if account.frozen is not None:
                known = tx.subscriptions.get(account.client_id)
                raise PaymentOverdue(None if known is None else known.invoice_url)
            raise QuotaExceeded(credits_remaining=available, resets_at=account.cycle_end)
        lots, draws = drawn(lots, credits)
        cost, used = credits, drawn_from(draws, allowance_id(account.cycle_number))
    reservation = Reservation(
        reservation_id=reservation_id(account.client_id, job_id),
        client_id=account.client_id,
        job_id=job_id,
        credits=credits,
        state=ReservationState.CAPTURED if expires_at is None else ReservationState.PENDING,
        created_at=now,
        cycle_number=account.cycle_number,
        draws=draws,
        expires_at=expires_at,
    )
    after = post(
        tx,
        account,
        EntryKind.CAPTURE if expires_at is None else EntryKind.RESERVE,
        operation_id=reservation.reservation_id,
        now=now,
        lots=lots,
        available=-cost,
        reserved=0 if expires_at is None else cost,
        used=used,
        lot_id=draws[0].lot_id if len(draws) == 1 else None,
        job_id=job_id,
        due_at=expires_at,
    )
    tx.accounts.put(after)
    tx.reservations.put(reservation)
    return reservation


def _capture_pending(tx: Transaction, account: Account, known: Reservation, now: datetime) -> Reservation:
    captured = replace(known, state=ReservationState.CAPTURED)
    after = post(
        tx,
        account,
        EntryKind.CAPTURE,
        operation_id=known.reservation_id,
        now=now,
        reserved=-sum(draw.credits for draw in known.draws),
        job_id=known.job_id,
    )
    tx.accounts.put(after)
    tx.reservations.put(captured)
    return captured


_NO_DRAWS: Draws = ()
