"""Turning: one client's account brought up to the moment.

`touch` comes before every operation: it lets end what has ended, limits access where grace is over, and
turns the billing cycle. An account that is not due costs one comparison. Accounts that nobody touches are
`turn`ed some at a time, so that the ledger and the clients file show it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import cast

from openclaw_billing.books import begin_cycle, end_lot, set_free
from openclaw_billing.contracts import Transaction, View
from openclaw_billing.cycles import Cycle, cycle_at, minute_of, next_cycle
from openclaw_billing.errors import NotFound
from openclaw_billing.lots import NEVER, allowance_id, find
from openclaw_billing.plans import CATALOGUE, FREE_PLAN_ID
from openclaw_billing.records import Account, Frozen, LedgerEntry, Reservation, ReservationState

MINUTE = timedelta(minutes=1)
TURNED_MAX = 20
"""How many accounts one operation turns, so that it stays short."""


def touch(tx: Transaction, client_id: str, now: datetime) -> Account:
    """The account as it is at `now`: what has ended is ended, the cycle is the one that holds `now`.

    Raises:
        NotFound: there is no such client.
    """
    account = tx.accounts.get(client_id)
    if account is None:
        raise NotFound("Client")
    if not _is_due(account, now):
        return account
    pending = tx.reservations.by("pending", client_id)
    return keep(tx, _turned(tx, account, pending, now))


def foreseen(view: View, account: Account, now: datetime) -> Account:
    """The account as touching it at `now` would leave it. Nothing comes about."""
    if not _is_due(account, now):
        return account
    pending = view.reservations.by("pending", account.client_id)
    # Whoever ended one of these meanwhile has left another account.
    account = view.accounts.get(account.client_id) or account
    return _turned(_UNWRITTEN, account, pending, now) if _is_due(account, now) else account


def due(view: View, *, now: datetime, limit: int = TURNED_MAX) -> list[str]:
    """The ids of some clients whose accounts have been due for a minute, the longest due first."""
    return [account.client_id for account in view.accounts.upto("due", minute_of(now - MINUTE), limit)]


def turn(tx: Transaction, client_ids: Sequence[str], *, now: datetime) -> int:
    """Touch these accounts; how many are due no more. One that stays due must not be asked for without end."""
    return sum(not _is_due(touch(tx, client_id, now), now) for client_id in client_ids)


def keep(tx: Transaction, account: Account) -> Account:
    """Put the account, with the moment when something of it is next due."""
    account = replace(account, due_at=_due_at(tx, account))
    tx.accounts.put(account)
    return account


def freeze(tx: Transaction, account: Account, now: datetime) -> Account:
    """Limit access until a payment comes: no more than the free plan's allowance, by the clock.

    What was left of the paid cycle is remembered; at most the free plan's share of it may still be spent.
    """
    if account.frozen is not None:
        return account
    since = account.cycle_number + 1
    left = allowance_left(account)
    base = max(0, free_limit() - left)
    frozen = Frozen(
        start=account.cycle_start,
        end=account.cycle_end,
        used=account.used,
        limit=account.cycle_limit,
        period=account.period,
        since=since,
        base=base,
        withdrawn=account.withdrawn,
    )
    account = replace(account, frozen=frozen, period=None, cycle_limit=None, grace_until=None, anchor=now)
    operation_id = f"limited:{account.client_id}:{since}"
    return begin_cycle(
        tx,
        account,
        cycle_at(now, now),
        used=base,
        operation_id=operation_id,
        reason="payment overdue",
        now=now,
    )


def allowance_left(account: Account) -> int:
    lot = find(account.lots, allowance_id(account.cycle_number))
    return 0 if lot is None else lot.left


def free_limit() -> int:
    return CATALOGUE[FREE_PLAN_ID].job_limit or 0


def _is_due(account: Account, now: datetime) -> bool:
    return account.due_at is None or now >= account.due_at


def _turned(tx: Transaction, account: Account, pending: list[Reservation], now: datetime) -> Account:
    """The account brought up to `now`. The transaction is written to, and not read."""
    account = _end_reservations(tx, account, pending, now)
    account = _end_lots(tx, account, now)
    if (cycle := next_cycle(account, now)) is not None:
        account = _turn_cycle(tx, account, cycle, now)
    if account.grace_until is not None and now >= account.grace_until:
        account = freeze(tx, account, now)
    return account


class _Unwritten:
    """Takes what turning an account writes, and forgets it."""

    @property
    def reservations(self) -> _Unwritten:
        return self

    def put(self, record: Reservation) -> None: ...

    def write_ledger(self, entry: LedgerEntry) -> None: ...


_UNWRITTEN = cast("Transaction", _Unwritten())


def _end_reservations(
    tx: Transaction, account: Account, pending: list[Reservation], now: datetime
) -> Account:
    ended = [(each.expires_at, each) for each in pending if each.expires_at and now >= each.expires_at]
    for _, reservation in sorted(ended, key=lambda pair: (pair[0], pair[1].reservation_id)):
        account, _ = set_free(tx, account, reservation, ReservationState.EXPIRED, now)
    return account


def _end_lots(tx: Transaction, account: Account, now: datetime) -> Account:
    for lot in account.lots:
        if lot.expires_at is not None and now >= lot.expires_at:
            account = end_lot(tx, account, lot, now)
    return account


def _turn_cycle(tx: Transaction, account: Account, cycle: Cycle, now: datetime) -> Account:
    period = account.period
    number = max(cycle.number, account.cycle_number + 1)
    # By the clock a limit of its own is what an unpaid plan leaves, and stays.
    operation_id = f"grant:{account.client_id}:{number}" if period is None else f"{period.key}:{cycle.number}"
    if period is not None:
        account = replace(account, cycle_limit=None)
    return begin_cycle(tx, account, cycle, used=0, operation_id=operation_id, reason="cycle", now=now)


def _due_at(tx: Transaction, account: Account) -> datetime:
    waits = account.period is not None and account.cycle_end >= account.period.end
    moments = [NEVER if waits else account.cycle_end]
    if account.grace_until is not None:
        moments.append(account.grace_until)
    moments += [lot.expires_at for lot in account.lots if lot.expires_at is not None]
    pending = tx.reservations.by("pending", account.client_id)
    moments += [each.expires_at for each in pending if each.expires_at is not None]
    return min(moments)
