"""The books: the one way to change a client's credits.

`post` writes every ledger entry there is.

On a limited plan the allowance lot always holds `max(0, limit - used - withdrawn)`: what a job takes from it
counts as used, whatever else is taken as withdrawn, and what comes back never lifts it above the limit. So no
order of plan changes and releases mints a credit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from openclaw_billing.contracts import Transaction
from openclaw_billing.cycles import Cycle, cycle_at
from openclaw_billing.errors import Conflict, UnknownPlan, Unprocessable
from openclaw_billing.lots import (
    Lots,
    added,
    allowance_id,
    drawn,
    drawn_from,
    find,
    lot_of,
    total,
    without,
)
from openclaw_billing.plans import CATALOGUE, limit_of, plan_of
from openclaw_billing.records import (
    CREDITS_MAX,
    Account,
    EntryKind,
    LedgerEntry,
    Lot,
    LotSource,
    Reservation,
    ReservationState,
)
from openclaw_billing.text import clean_id, clean_text

REASON_LENGTH_MAX = 500


def open_account(tx: Transaction, client_id: str, plan_id: str, now: datetime) -> Account:
    """A new account whose first cycle begins now, with its allowance granted.

    Raises:
        UnknownPlan, Conflict: the client has an account.
    """
    if plan_id not in CATALOGUE:
        raise UnknownPlan(plan_id)
    if tx.accounts.get(client_id) is not None:
        raise Conflict("This client has an account", code="already_open")
    cycle = cycle_at(now, now)
    account = Account(
        client_id=client_id,
        plan_id=plan_id,
        anchor=now,
        cycle_number=cycle.number,
        cycle_start=cycle.start,
        cycle_end=cycle.end,
        due_at=cycle.end,
    )
    account = fit_allowance(tx, account, f"grant:{client_id}:{cycle.number}", "cycle", now)
    tx.accounts.put(account)
    return account


def open_with_balance(tx: Transaction, account: Account, credits: int, now: datetime) -> Account:
    """Open that account with a balance from elsewhere; what the plan's limit cannot hold is promotional.

    On an unlimited plan there is nothing to hold.
    """
    limit = plan_of(account.plan_id).job_limit
    if limit is not None:
        account = replace(account, used=max(0, limit - credits))
        operation_id = f"grant:{account.client_id}:{account.cycle_number}"
        account = fit_allowance(tx, account, operation_id, "taken over", now)
    beyond = 0 if limit is None else max(0, credits - limit)
    if beyond:
        lot = lot_of(LotSource.PROMO, beyond, None)
        account = post(
            tx,
            account,
            EntryKind.GRANT,
            operation_id=f"import:{account.client_id}",
            now=now,
            lots=added(account.lots, lot),
            available=beyond,
            lot_id=lot.lot_id,
            reason="taken over",
        )
    tx.accounts.put(account)
    return account


def post(
    tx: Transaction,
    account: Account,
    kind: EntryKind,
    *,
    operation_id: str,
    now: datetime,
    lots: Lots | None = None,
    available: int = 0,
    reserved: int = 0,
    used: int = 0,
    withdrawn: int = 0,
    owed: int = 0,
    lot_id: str | None = None,
    job_id: str | None = None,
    reason: str = "",
    due_at: datetime | None = None,
) -> Account:
    """Write one entry and return the account after it. `lots` is what they become, numbers are changes."""
    lots_after = account.lots if lots is None else lots
    available_after = total(lots_after)
    reserved_after = account.reserved + reserved
    balance = total(account.lots) + account.reserved + available + reserved
    assert available_after >= 0
    assert reserved_after >= 0
    assert balance == available_after + reserved_after
    assert min(account.used + used, account.withdrawn + withdrawn, account.owed + owed) >= 0
    number = account.entries + 1
    tx.write_ledger(
        LedgerEntry(
            client_id=account.client_id,
            number=number,
            kind=kind,
            time=now,
            operation_id=operation_id,
            available=available,
            reserved=reserved,
            balance=balance,
            lot_id=lot_id,
            job_id=job_id,
            cycle_number=account.cycle_number,
            reason=reason,
        )
    )
    # Spelled out: `replace` would double the cost of a charge.
    return Account(
        client_id=account.client_id,
        plan_id=account.plan_id,
        anchor=account.anchor,
        cycle_number=account.cycle_number,
        cycle_start=account.cycle_start,
        cycle_end=account.cycle_end,
        lots=lots_after,
        reserved=reserved_after,
        used=account.used + used,
        owed=account.owed + owed,
        spent_usd_micros=account.spent_usd_micros,
        entries=number,
        due_at=account.due_at if due_at is None or account.due_at is None else min(account.due_at, due_at),
        period=account.period,
        cycle_limit=account.cycle_limit,
        grace_until=account.grace_until,
        frozen=account.frozen,
        active=account.active,
        withdrawn=account.withdrawn + withdrawn,
    )


def fit_allowance(
    tx: Transaction, account: Account, operation_id: str, reason: str, now: datetime
) -> Account:
    """Make the allowance lot what the plan leaves after what was used and withdrawn in this cycle."""
    lot_id = allowance_id(account.cycle_number)
    lot = find(account.lots, lot_id)
    before = 0 if lot is None else lot.left
    limit = limit_of(account)
    after = 0 if limit is None else max(0, limit - account.used - account.withdrawn)
    lots = without(account.lots, lot_id)
    if limit is not None:
        # What was paid for is not lost before the next payment has had its time to arrive.
        waits = account.period is not None and account.cycle_end >= account.period.end
        lots = added(lots, Lot(lot_id, LotSource.ALLOWANCE, after, None if waits else account.cycle_end))
    if after == before:
        return replace(account, lots=lots)
    return post(
        tx,
        account,
        EntryKind.GRANT if after > before else EntryKind.EXPIRE,
        operation_id=operation_id,
        now=now,
        lots=lots,
        available=after - before,
        lot_id=lot_id,
        reason=reason,
    )


def settle(tx: Transaction, account: Account, now: datetime) -> Account:
    """Pay what is owed from what has come in."""
    paid = min(account.owed, total(account.lots))
    if paid == 0:
        return account
    lots, draws = drawn(account.lots, paid, last_lost_first=True)
    return post(
        tx,
        account,
        EntryKind.CLAWBACK,
        operation_id=f"settle:{account.client_id}:{account.entries + 1}",
        now=now,
        lots=lots,
        available=-paid,
        withdrawn=drawn_from(draws, allowance_id(account.cycle_number)),
        owed=-paid,
        reason="owed",
    )


@dataclass(frozen=True, slots=True)
class Return:
    """Where a job's credits go when they come back: into `lots`, but for `lapsed` and `homeless` ones.

    `lapsed` belonged to this cycle's allowance, which has no more room; `homeless` to a lot that has ended.
    """

    lots: Lots
    back: int
    lapsed: int
    homeless: int
    used: int


def returned(account: Account, reservation: Reservation) -> Return:
    """What giving back the credits of that reservation does to the account."""
    limit = limit_of(account)
    if not reservation.draws:
        counts = reservation.cycle_number == account.cycle_number
        return Return(account.lots, 0, 0, 0, -reservation.credits if counts else 0)
    allowance = allowance_id(account.cycle_number)
    lots = account.lots
    back = lapsed = homeless = used = 0
    for draw in reservation.draws:
        lot = find(lots, draw.lot_id)
        credits = draw.credits
        if draw.lot_id == allowance:
            used -= draw.credits
            room = max(0, (limit or 0) - account.withdrawn - account.used + draw.credits)
            room -= lot.left if lot else 0
            credits = min(draw.credits, room)
            lapsed += draw.credits - credits
        elif lot is None:
            homeless += draw.credits
        if lot is not None and credits:
            lots = added(lots, replace(lot, left=credits))
            back += credits
    return Return(lots, back, lapsed, homeless, used)


def set_free(
    tx: Transaction, account: Account, reservation: Reservation, state: ReservationState, now: datetime
) -> tuple[Account, Reservation]:
    """End a pending reservation without a charge; credits whose lot has ended are lost with it."""
    assert reservation.state is ReservationState.PENDING
    after = replace(reservation, state=state)
    home = returned(account, reservation)
    account = post(
        tx,
        account,
        EntryKind.RELEASE,
        operation_id=reservation.reservation_id,
        now=now,
        lots=home.lots,
        available=home.back,
        reserved=-home.back,
        used=home.used,
        job_id=reservation.job_id,
        reason=state.value,
    )
    lost = home.lapsed + home.homeless
    if lost:
        account = post(
            tx,
            account,
            EntryKind.EXPIRE,
            operation_id=reservation.reservation_id,
            now=now,
            reserved=-lost,
            job_id=reservation.job_id,
            reason="lot ended",
        )
    tx.reservations.put(after)
    return settle(tx, _refitted(tx, account, reservation, now), now), after


def give_back(
    tx: Transaction, account: Account, reservation: Reservation, reason: str, now: datetime
) -> tuple[Account, Reservation]:
    """Refund a captured reservation; credits whose lot has ended live on until this cycle's end."""
    assert reservation.state is ReservationState.CAPTURED
    after = replace(reservation, state=ReservationState.REFUNDED)
    home = returned(account, reservation)
    lots = home.lots
    if home.homeless:
        lots = added(lots, lot_of(LotSource.REFUND, home.homeless, account.cycle_end))
    account = post(
        tx,
        account,
        EntryKind.REFUND,
        operation_id=reservation.reservation_id,
        now=now,
        lots=lots,
        available=home.back + home.homeless,
        used=home.used,
        job_id=reservation.job_id,
        reason=reason,
    )
    tx.reservations.put(after)
    return settle(tx, _refitted(tx, account, reservation, now), now), after


def _refitted(tx: Transaction, account: Account, reservation: Reservation, now: datetime) -> Account:
    """The account after a job that drew nothing is counted no more: a limited plan's allowance grows by it."""
    if reservation.draws:
        return account
    return fit_allowance(tx, account, reservation.reservation_id, "job given back", now)


def check_credits(credits: int) -> None:
    if type(credits) is not int or not 1 <= credits <= CREDITS_MAX:
        raise Unprocessable(f"Credits are a whole number from 1 to {CREDITS_MAX}")


def check_reason(reason: str) -> None:
    """A reason may be empty."""
    try:
        if reason:
            clean_text(reason, REASON_LENGTH_MAX)
    except ValueError as error:
        raise Unprocessable(f"A reason: {error}") from error


def check_job_id(job_id: str) -> None:
    try:
        clean_id(job_id)
    except ValueError as error:
        raise Unprocessable(f"A job id: {error}") from error


def end_lot(tx: Transaction, account: Account, lot: Lot, now: datetime) -> Account:
    lots = without(account.lots, lot.lot_id)
    if lot.left == 0:
        return replace(account, lots=lots)
    return post(
        tx,
        account,
        EntryKind.EXPIRE,
        operation_id=f"expire:{account.client_id}:{lot.lot_id}",
        now=now,
        lots=lots,
        available=-lot.left,
        lot_id=lot.lot_id,
        reason="lot ended",
    )


def begin_cycle(
    tx: Transaction,
    account: Account,
    cycle: Cycle,
    *,
    used: int,
    withdrawn: int = 0,
    operation_id: str,
    reason: str,
    now: datetime,
) -> Account:
    """End what is left of the allowance and grant that of the next cycle, of which this much is gone already."""
    lot = find(account.lots, allowance_id(account.cycle_number))
    if lot is not None:
        account = end_lot(tx, account, lot, now)
    account = replace(
        account,
        cycle_number=max(cycle.number, account.cycle_number + 1),
        cycle_start=cycle.start,
        cycle_end=cycle.end,
        used=used,
        withdrawn=withdrawn,
    )
    return settle(tx, fit_allowance(tx, account, operation_id, reason, now), now)
