"""Eight bugs planted on purpose: the machine, or the ledger's own assertions, must find each within 30 s."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from openclaw_billing import books, grants, ledger, turning
from openclaw_billing.contracts import Transaction
from openclaw_billing.cycles import Cycle, cycle_at
from openclaw_billing.lots import Draws, Lots
from openclaw_billing.plans import plan_of
from openclaw_billing.records import Account, Draw, EntryKind, Reservation, ReservationState
from tests.money.machine import Money

SECONDS_MAX = 30
SEARCH = settings(
    max_examples=5_000,
    stateful_step_count=30,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)

Plant = Callable[[pytest.MonkeyPatch], None]


def negative_allowed(patch: pytest.MonkeyPatch) -> None:
    """Out of credits, it draws on: the last lot goes below zero."""

    def drawn(lots: Lots, credits: int) -> tuple[Lots, Draws]:
        last = lots[-1]
        return (*lots[:-1], replace(last, left=last.left - credits)), (Draw(last.lot_id, credits),)

    patch.setattr(ledger, "total", lambda lots: 10**9)
    patch.setattr(ledger, "drawn", drawn)


def duplicate_id(patch: pytest.MonkeyPatch) -> None:
    """It forgets the jobs it has seen."""
    patch.setattr(ledger, "_known", lambda *asked: None)


def double_grant(patch: pytest.MonkeyPatch) -> None:
    """A cycle's turn grants the allowance twice."""
    turn = turning._turn_cycle

    def twice(tx: Transaction, account: Account, cycle: Cycle, now: datetime) -> Account:
        account = turn(tx, account, cycle, now)
        limit = plan_of(account.plan_id).job_limit
        if not limit:
            return account
        lots = (replace(account.lots[0], left=account.lots[0].left + limit), *account.lots[1:])
        operation_id = f"grant:{account.client_id}:{account.cycle_number}"
        return books.post(
            tx, account, EntryKind.GRANT, operation_id=operation_id, now=now, lots=lots, available=limit
        )

    patch.setattr(turning, "_turn_cycle", twice)


def double_release(patch: pytest.MonkeyPatch) -> None:
    """Released again, the credits come back again."""
    release = ledger.release

    def again(tx: Transaction, client_id: str, *, job_id: str, now: datetime) -> Reservation:
        known = tx.reservations.get(ledger.reservation_id(client_id, job_id))
        if known is None or known.state is not ReservationState.RELEASED or not known.draws:
            return release(tx, client_id, job_id=job_id, now=now)
        account = ledger.touch(tx, client_id, now)
        lots = tuple(
            replace(lot, left=lot.left + known.credits) if lot.lot_id == known.draws[0].lot_id else lot
            for lot in account.lots
        )
        if lots != account.lots:
            account = books.post(
                tx,
                account,
                EntryKind.RELEASE,
                operation_id=known.reservation_id,
                now=now,
                lots=lots,
                available=known.credits,
            )
            tx.accounts.put(account)
        return known

    patch.setattr(ledger, "release", again)


def grant_on_a_clock_going_back(patch: pytest.MonkeyPatch) -> None:
    """A moment outside the cycle turns it, also one before its start."""
    touch = turning.touch

    def either_way(tx: Transaction, client_id: str, now: datetime) -> Account:
        account = touch(tx, client_id, now)
        if now < account.cycle_start:
            cycle = cycle_at(account.anchor, now)
            account = turning._turn_cycle(tx, turning._end_lots(tx, account, account.cycle_end), cycle, now)
            tx.accounts.put(account)
        return account

    patch.setattr(ledger, "touch", either_way)
    patch.setattr(grants, "touch", either_way)


def lost_adjustment(patch: pytest.MonkeyPatch) -> None:
    """The answer says so, the entry stands, the account was not put."""
    adjust = ledger.adjust

    def lose(tx: Transaction, client_id: str, credits: int, **kwargs: Any) -> ledger.Adjusted:
        before = ledger.touch(tx, client_id, kwargs["now"])
        done = adjust(tx, client_id, credits, **kwargs)
        tx.accounts.put(before)
        return done

    patch.setattr(ledger, "adjust", lose)


def release_after_capture(patch: pytest.MonkeyPatch) -> None:
    """A job done and charged is released all the same."""
    release = ledger.release

    def either(tx: Transaction, client_id: str, *, job_id: str, now: datetime) -> Reservation:
        known = tx.reservations.get(ledger.reservation_id(client_id, job_id))
        if known is None or known.state is not ReservationState.CAPTURED:
            return release(tx, client_id, job_id=job_id, now=now)
        account, known = books.give_back(tx, ledger.touch(tx, client_id, now), known, "", now)
        tx.accounts.put(account)
        known = replace(known, state=ReservationState.RELEASED)
        tx.reservations.put(known)
        return known

    patch.setattr(ledger, "release", either)


def float_money(patch: pytest.MonkeyPatch) -> None:
    """Costs are dollars, rounded to cents, as the seed had them."""
    log_cost = ledger.log_cost

    def in_dollars(tx: Transaction, client_id: str, cost_usd_micros: int, **kwargs: Any) -> Account:
        before = ledger.touch(tx, client_id, kwargs["now"])
        account = log_cost(tx, client_id, cost_usd_micros, **kwargs)
        dollars = round(before.spent_usd_micros / 1e6 + cost_usd_micros / 1e6, 2)
        account = replace(account, spent_usd_micros=int(dollars * 1e6))
        tx.accounts.put(account)
        return account

    patch.setattr(ledger, "log_cost", in_dollars)


MUTANTS: tuple[Plant, ...] = (
    negative_allowed,
    duplicate_id,
    double_grant,
    double_release,
    grant_on_a_clock_going_back,
    lost_adjustment,
    release_after_capture,
    float_money,
)


def search() -> None:
    """Let the machine look for a bug. Raises `AssertionError` when it finds one."""
    run_state_machine_as_test(Money, settings=SEARCH)


@pytest.mark.slow
@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    begun = time.monotonic()
    with pytest.raises(AssertionError):
        search()
    assert time.monotonic() - begun < SECONDS_MAX
