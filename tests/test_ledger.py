"""What the ledger promises to one client, told as sentences; `tests/money` tries everything else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

import pytest

from openclaw_billing import ledger
from openclaw_billing.clock import ManualClock
from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.errors import (
    Conflict,
    IdMismatch,
    NotFound,
    PaymentOverdue,
    QuotaExceeded,
    UnknownPlan,
    UnlimitedPlan,
    Unprocessable,
)
from openclaw_billing.records import (
    COST_USD_MICROS_MAX,
    CREDITS_MAX,
    Account,
    EntryKind,
    LedgerEntry,
    LotSource,
    Reservation,
    ReservationState,
)
from openclaw_billing.stores.memory import MemoryStore

T = TypeVar("T")
START = datetime(2026, 2, 19, 10, 30, tzinfo=UTC)


class Acme:
    """One client of a memory store, and the clock that its operations are told."""

    def __init__(self, plan_id: str) -> None:
        self.clock = ManualClock(START)
        self.store = MemoryStore()
        self.store.open()
        self.do(ledger.open_account, plan_id)

    def do(self, operation: Callable[..., T], *args: object, **kwargs: object) -> T:
        now = self.clock.now()
        return self.store.run(lambda tx: operation(tx, "acme", *args, **kwargs, now=now), operation.__name__)

    @property
    def account(self) -> Account:
        account = self.store.view.accounts.get("acme")
        assert account is not None
        return account

    @property
    def available(self) -> int:
        return self.do(ledger.touch).available

    @property
    def entries(self) -> list[LedgerEntry]:
        return self.store.ledger(HistoryQuery(client_id="acme", limit=10_000)).entries[::-1]

    def kinds(self) -> list[str]:
        return [entry.kind.value for entry in self.entries]

    def buy(self, credits: int, operation_id: str) -> ledger.Adjusted:
        return self.do(
            ledger.grant, credits, source=LotSource.PURCHASED, reason="pack", operation_id=operation_id
        )

    def adjust(self, credits: int, operation_id: str, reason: str = "promo") -> ledger.Adjusted:
        return self.do(ledger.adjust, credits, reason=reason, operation_id=operation_id)

    def claw_back(self, credits: int, operation_id: str) -> ledger.Adjusted:
        return self.do(ledger.claw_back, credits, reason="dispute", operation_id=operation_id)


@pytest.fixture
def acme() -> Acme:
    return Acme("free")


@pytest.fixture
def pro() -> Acme:
    return Acme("pro")


@pytest.fixture
def enterprise() -> Acme:
    return Acme("enterprise")


def test_a_new_account_has_its_allowance_once(acme: Acme) -> None:
    assert acme.available == 5
    assert [entry.operation_id for entry in acme.entries] == ["grant:acme:0"]
    with pytest.raises(Conflict):
        acme.do(ledger.open_account, "free")
    assert acme.available == 5


def test_an_unknown_plan_or_client_is_refused(acme: Acme) -> None:
    with pytest.raises(UnknownPlan):
        acme.do(ledger.change_plan, "platinum")
    with pytest.raises(UnknownPlan):
        acme.do(ledger.change_plan, "legacy")
    with pytest.raises(NotFound):
        acme.store.run(lambda tx: ledger.touch(tx, "nobody", START), "touch")


def test_a_charge_is_one_entry_and_the_credit_is_gone(acme: Acme) -> None:
    reservation = acme.do(ledger.charge, job_id="j")
    assert reservation.state is ReservationState.CAPTURED
    last = acme.entries[-1]
    assert (last.kind, last.available, last.reserved, last.balance) == (EntryKind.CAPTURE, -1, 0, 4)
    assert (acme.account.available, acme.account.used, len(acme.entries)) == (4, 1, 2)


def test_a_job_repeated_is_charged_once(acme: Acme) -> None:
    first = acme.do(ledger.charge, job_id="j")
    acme.clock.advance(minutes=5)
    assert acme.do(ledger.charge, job_id="j") == first
    assert acme.do(ledger.reserve, job_id="j") == first
    assert (acme.available, len(acme.entries)) == (4, 2)


def test_a_job_repeated_with_other_credits_is_refused(acme: Acme) -> None:
    acme.do(ledger.charge, job_id="j")
    with pytest.raises(IdMismatch):
        acme.do(ledger.charge, job_id="j", credits=2)
    assert acme.available == 4


def test_the_last_credit_is_spent_once_and_the_balance_is_never_below_zero(acme: Acme) -> None:
    for number in range(5):
        acme.do(ledger.charge, job_id=str(number))
    with pytest.raises(QuotaExceeded) as refused:
        acme.do(ledger.charge, job_id="one more")
    assert refused.value.facts == {
        "credits_remaining": 0,
        "resets_at": (START + timedelta(days=30)).isoformat(),
    }
    with pytest.raises(QuotaExceeded):
        acme.do(ledger.reserve, job_id="one more")
    assert acme.available == 0
    assert len(acme.entries) == 6


def test_a_charge_takes_all_its_credits_or_none(acme: Acme) -> None:
    with pytest.raises(QuotaExceeded):
        acme.do(ledger.charge, job_id="j", credits=6)
    assert acme.available == 5


@pytest.mark.parametrize("credits", [0, -1, CREDITS_MAX + 1, True, 1.0])
def test_credits_that_are_no_count_are_refused(acme: Acme, credits: object) -> None:
    with pytest.raises(Unprocessable):
        acme.do(ledger.charge, job_id="j", credits=credits)
    with pytest.raises(Unprocessable):
        acme.do(ledger.grant, credits, source=LotSource.PROMO, reason="", operation_id="x")
    assert acme.available == 5


@pytest.mark.parametrize("job_id", ["", "x" * 201])
def test_a_job_id_of_the_wrong_length_is_refused(acme: Acme, job_id: str) -> None:
    with pytest.raises(Unprocessable):
        acme.do(ledger.charge, job_id=job_id)


def test_reserved_credits_are_set_aside_then_captured(acme: Acme) -> None:
    acme.do(ledger.reserve, job_id="j", credits=2)
    assert (acme.account.available, acme.account.reserved) == (3, 2)
    captured = acme.do(ledger.capture, job_id="j")
    assert acme.do(ledger.capture, job_id="j") == captured
    assert (acme.account.available, acme.account.reserved) == (3, 0)
    assert acme.kinds() == ["grant", "reserve", "capture"]


def test_released_credits_come_back_once(acme: Acme) -> None:
    acme.do(ledger.reserve, job_id="j", credits=2)
    released = acme.do(ledger.release, job_id="j")
    assert acme.do(ledger.release, job_id="j") == released
    assert (acme.account.available, acme.account.reserved, acme.account.used) == (5, 0, 0)
    with pytest.raises(Conflict):
        acme.do(ledger.capture, job_id="j")


def test_a_release_after_the_capture_is_refused(acme: Acme) -> None:
    acme.do(ledger.charge, job_id="j")
    with pytest.raises(Conflict) as refused:
        acme.do(ledger.release, job_id="j")
    assert refused.value.code == "already_captured"
    assert acme.available == 4


def test_what_was_never_reserved_is_neither_captured_nor_released_nor_refunded(acme: Acme) -> None:
    for operation in (ledger.capture, ledger.release):
        with pytest.raises(NotFound):
            acme.do(operation, job_id="j")
    with pytest.raises(Conflict):
        acme.do(ledger.refund, job_id="j", reason="")
    acme.do(ledger.reserve, job_id="j")
    with pytest.raises(Conflict):
        acme.do(ledger.refund, job_id="j", reason="")


def test_a_released_job_may_be_tried_again_and_is_charged_once(acme: Acme) -> None:
    acme.do(ledger.reserve, job_id="j")
    acme.do(ledger.release, job_id="j")
    acme.do(ledger.charge, job_id="j")
    acme.do(ledger.charge, job_id="j")
    assert acme.available == 4


def test_a_refund_comes_back_once_and_the_job_may_be_tried_again(acme: Acme) -> None:
    acme.do(ledger.charge, job_id="j", credits=2)
    refunded = acme.do(ledger.refund, job_id="j", reason="failed")
    assert acme.do(ledger.refund, job_id="j", reason="failed") == refunded
    assert (acme.available, acme.account.used) == (5, 0)
    with pytest.raises(Conflict):
        acme.do(ledger.release, job_id="j")
    acme.do(ledger.charge, job_id="j", credits=2)
    assert acme.available == 3


def test_a_forgotten_reservation_expires_and_not_a_moment_sooner(acme: Acme) -> None:
    acme.do(ledger.reserve, job_id="j", life=timedelta(minutes=15))
    acme.clock.advance(minutes=15, microseconds=-1)
    assert acme.available == 4
    acme.clock.advance(microseconds=1)
    assert acme.available == 5
    assert acme.store.view.reservations.get("reserve:acme:j").state is ReservationState.EXPIRED


@pytest.mark.parametrize("life", [timedelta(0), timedelta(hours=24, microseconds=1), timedelta(-1)])
def test_a_reservation_lives_for_a_day_at_most(acme: Acme, life: timedelta) -> None:
    with pytest.raises(Unprocessable):
        acme.do(ledger.reserve, job_id="j", life=life)


def test_a_late_capture_charges_afresh(acme: Acme) -> None:
    acme.do(ledger.reserve, job_id="j")
    acme.clock.advance(hours=1)
    assert acme.do(ledger.capture, job_id="j").state is ReservationState.CAPTURED
    assert (acme.account.available, acme.account.reserved) == (4, 0)


def test_a_late_capture_without_a_credit_left_is_refused(acme: Acme) -> None:
    acme.do(ledger.reserve, job_id="j", credits=5)
    acme.clock.advance(hours=1)
    acme.do(ledger.charge, job_id="k")
    with pytest.raises(QuotaExceeded):
        acme.do(ledger.capture, job_id="j")
    assert acme.available == 4


def test_credits_are_drawn_soonest_lost_first_and_purchased_last(acme: Acme) -> None:
    acme.do(
        ledger.grant,
        1,
        source=LotSource.PURCHASED,
        reason="short pack",
        operation_id="pack",
        expires_at=START + timedelta(days=1),
    )
    acme.adjust(1, "promo")
    acme.do(
        ledger.grant,
        1,
        source=LotSource.PROMO,
        reason="week",
        operation_id="week",
        expires_at=START + timedelta(days=7),
    )
    draws = acme.do(ledger.charge, job_id="j", credits=8).draws
    sources = [draw.lot_id.split(":")[0] for draw in draws]
    assert sources == ["promo", "allowance", "promo", "purchased"]
    assert acme.account.used == 5


def test_a_lot_that_ends_takes_its_credits_along_and_leaves_the_others(acme: Acme) -> None:
    acme.do(
        ledger.grant,
        3,
        source=LotSource.PROMO,
        reason="week",
        operation_id="week",
        expires_at=START + timedelta(days=7),
    )
    acme.do(ledger.reserve, job_id="j", credits=1, life=timedelta(hours=24))
    acme.clock.advance(days=7)
    assert acme.available == 5
    assert [entry.available for entry in acme.entries if entry.kind is EntryKind.EXPIRE] == [-3]


def test_the_cycle_turns_at_its_end_and_not_a_moment_sooner(acme: Acme) -> None:
    acme.do(ledger.charge, job_id="j")
    acme.clock.advance(days=30, microseconds=-1)
    assert acme.available == 4
    acme.clock.advance(microseconds=1)
    assert acme.available == 5
    assert acme.account.used == 0
    assert acme.kinds() == ["grant", "capture", "expire", "grant"]


def test_missed_cycles_give_one_grant_and_the_edges_stay_where_they_are(acme: Acme) -> None:
    acme.clock.advance(days=101)
    assert acme.available == 5
    grants = [entry.operation_id for entry in acme.entries if entry.kind is EntryKind.GRANT]
    assert grants == ["grant:acme:0", "grant:acme:3"]
    assert acme.account.cycle_start == START + timedelta(days=90)


def test_a_clock_that_goes_back_grants_nothing_and_moves_no_end_back(acme: Acme) -> None:
    acme.clock.advance(days=400)
    acme.do(ledger.charge, job_id="j")
    end = acme.account.cycle_end
    for days in (-400, -4000, 4400):
        acme.clock.advance(days=days)
        assert acme.available == 4
    assert acme.account.cycle_end == end


def test_promotional_and_purchased_credits_outlive_the_cycle(acme: Acme) -> None:
    acme.buy(10, "pack")
    acme.adjust(3, "promo")
    acme.clock.advance(days=30)
    assert acme.available == 5 + 10 + 3


def test_a_reservation_counts_for_the_cycle_that_admitted_it(acme: Acme) -> None:
    acme.clock.advance(days=29, hours=23)
    acme.do(ledger.reserve, job_id="kept", life=timedelta(hours=24))
    acme.do(ledger.reserve, job_id="given back", life=timedelta(hours=24))
    acme.clock.advance(hours=2)
    assert (acme.available, acme.account.reserved, acme.account.used) == (5, 2, 0)
    acme.do(ledger.capture, job_id="kept")
    acme.do(ledger.release, job_id="given back")
    # The old allowance has ended: its credit lapses instead of making a sixth job of the new cycle.
    assert (acme.available, acme.account.reserved, acme.account.used) == (5, 0, 0)
    assert acme.kinds()[-2:] == ["release", "expire"]


def test_a_refund_of_a_former_cycle_lasts_until_the_end_of_this_one(acme: Acme) -> None:
    acme.do(ledger.charge, job_id="j", credits=2)
    acme.clock.advance(days=30)
    acme.do(ledger.refund, job_id="j", reason="late")
    assert (acme.available, acme.account.used) == (7, 0)
    acme.clock.advance(days=30)
    assert acme.available == 5


def test_a_repeated_grant_gives_the_first_answer(acme: Acme) -> None:
    first = acme.buy(10, "pack")
    assert (first.previous, first.added, first.now) == (5, 10, 15)
    acme.do(ledger.charge, job_id="j")
    assert acme.buy(10, "pack") == first
    assert acme.available == 14
    with pytest.raises(IdMismatch):
        acme.buy(11, "pack")
    with pytest.raises(IdMismatch):
        acme.adjust(10, "pack")
    assert acme.available == 14


def test_an_allowance_cannot_be_granted_by_hand_nor_credits_that_are_over(acme: Acme) -> None:
    grant = partial(acme.do, ledger.grant, 1, reason="", operation_id="x")
    with pytest.raises(Unprocessable):
        grant(source=LotSource.ALLOWANCE)
    with pytest.raises(Unprocessable):
        grant(source=LotSource.PROMO, expires_at=START)
    assert acme.available == 5


def test_a_balance_has_a_limit(acme: Acme) -> None:
    with pytest.raises(Unprocessable):
        acme.adjust(CREDITS_MAX, "much")
    acme.adjust(CREDITS_MAX - 5, "just enough")
    assert acme.available == CREDITS_MAX
    acme.clock.advance(days=30)
    assert acme.available == CREDITS_MAX


def test_an_adjustment_takes_away_no_more_than_there_is(acme: Acme) -> None:
    assert acme.adjust(-2, "a").now == 3
    with pytest.raises(Unprocessable):
        acme.adjust(-4, "b")
    assert acme.available == 3


def test_taking_credits_away_is_not_undone_by_changing_the_plan(acme: Acme) -> None:
    acme.adjust(-2, "a")
    acme.do(ledger.change_plan, "starter")
    acme.do(ledger.change_plan, "free")
    assert acme.available == 3


def test_the_newest_five_adjustments_are_kept_for_a_person_to_read(acme: Acme) -> None:
    for number in range(7):
        acme.adjust(1, str(number), reason=f"gift {number}")
    recent = acme.store.view.recents.get("acme")
    assert [each.reason for each in recent.adjustments] == [f"gift {number}" for number in range(2, 7)]


def test_a_reason_has_a_limit(acme: Acme) -> None:
    with pytest.raises(Unprocessable):
        acme.adjust(1, "a", reason="x" * 501)
    assert acme.available == 5


def test_a_claw_back_takes_what_there_is_and_the_rest_is_owed(acme: Acme) -> None:
    acme.buy(10, "pack")
    acme.do(ledger.charge, job_id="j", credits=12)
    done = acme.claw_back(10, "dispute")
    assert (done.added, done.now, done.owed) == (-3, 0, 7)
    assert acme.claw_back(10, "dispute") == done
    with pytest.raises(PaymentOverdue):
        acme.do(ledger.charge, job_id="k")
    assert acme.buy(10, "another pack").now == 3
    assert acme.account.owed == 0


def test_a_claw_back_takes_purchased_credits_first(acme: Acme) -> None:
    acme.buy(10, "pack")
    acme.claw_back(10, "dispute")
    assert [(lot.source, lot.left) for lot in acme.account.lots if lot.left] == [(LotSource.ALLOWANCE, 5)]


def test_released_credits_pay_what_is_owed_first(acme: Acme) -> None:
    acme.do(ledger.reserve, job_id="j", credits=5)
    acme.claw_back(3, "dispute")
    acme.do(ledger.release, job_id="j")
    assert (acme.account.available, acme.account.owed) == (2, 0)


def test_a_plan_change_counts_what_was_used(pro: Acme) -> None:
    pro.do(ledger.charge, job_id="j", credits=60)
    assert pro.do(ledger.change_plan, "starter").available == 0
    assert pro.do(ledger.change_plan, "pro").available == 140
    assert pro.account.anchor == START
    with pytest.raises(Conflict) as refused:
        pro.do(ledger.change_plan, "pro")
    assert refused.value.code == "already_on_plan"


def test_no_order_of_plan_changes_and_releases_mints_a_credit(pro: Acme) -> None:
    pro.do(ledger.reserve, job_id="j", credits=100)
    pro.do(ledger.change_plan, "free")
    pro.do(ledger.release, job_id="j")
    assert (pro.available, pro.account.used) == (5, 0)
    pro.do(ledger.charge, job_id="k", credits=5)
    pro.do(ledger.change_plan, "pro")
    assert pro.available == 195


def test_a_plan_change_leaves_purchased_credits_alone(pro: Acme) -> None:
    pro.buy(10, "pack")
    assert pro.do(ledger.change_plan, "free").available == 15


def test_enterprise_deducts_nothing_and_records_every_job(enterprise: Acme) -> None:
    for number in range(300):
        enterprise.do(ledger.charge, job_id=str(number))
    enterprise.do(ledger.reserve, job_id="held")
    enterprise.do(ledger.capture, job_id="held")
    assert (enterprise.account.available, enterprise.account.reserved, enterprise.account.used) == (0, 0, 301)
    assert all((entry.available, entry.reserved, entry.balance) == (0, 0, 0) for entry in enterprise.entries)
    assert sum(entry.kind is EntryKind.CAPTURE for entry in enterprise.entries) == 301
    with pytest.raises(UnlimitedPlan):
        enterprise.adjust(1, "a")


def test_enterprise_jobs_of_this_cycle_count_on_the_way_down(enterprise: Acme) -> None:
    for number in range(20):
        enterprise.do(ledger.charge, job_id=str(number))
    enterprise.do(ledger.refund, job_id="0", reason="failed")
    assert enterprise.do(ledger.change_plan, "pro").available == 200 - 19
    assert enterprise.do(ledger.change_plan, "enterprise").available == 0


def test_a_cost_is_whole_micro_dollars_and_touches_no_credit(acme: Acme) -> None:
    for number in range(50):
        acme.do(ledger.log_cost, 4_000, job_id=str(number))
    assert (acme.account.spent_usd_micros, acme.available) == (200_000, 5)
    recent = acme.store.view.recents.get("acme")
    assert [each.job_id for each in recent.costs] == ["45", "46", "47", "48", "49"]


@pytest.mark.parametrize("cost", [-1, COST_USD_MICROS_MAX + 1, 0.5, float("nan"), True, "1"])
def test_a_cost_that_cannot_be_is_refused(acme: Acme, cost: object) -> None:
    with pytest.raises(Unprocessable):
        acme.do(ledger.log_cost, cost)
    assert acme.account.spent_usd_micros == 0


def test_an_account_that_is_not_due_is_not_written_by_looking_at_it(acme: Acme) -> None:
    before = acme.account
    acme.clock.advance(days=29)
    assert acme.do(ledger.touch) is before


def test_a_reservation_of_many_lots_goes_back_to_each(acme: Acme) -> None:
    acme.buy(3, "pack")
    before = acme.account.lots
    reservation: Reservation = acme.do(ledger.reserve, job_id="j", credits=8)
    assert len(reservation.draws) == 2
    assert acme.account.available == 0
    acme.do(ledger.release, job_id="j")
    assert acme.account.lots == before
