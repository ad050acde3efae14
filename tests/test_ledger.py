"""What the ledger promises to one client, told as sentences; `tests/money` tries everything else."""

from __future__ import annotations

from datetime import timedelta

import pytest

from openclaw_billing import ledger
from openclaw_billing.errors import (
    Conflict,
    IdMismatch,
    NotFound,
    QuotaExceeded,
    UnknownPlan,
    Unprocessable,
)
from openclaw_billing.records import (
    CREDITS_MAX,
    EntryKind,
    LotSource,
    Reservation,
    ReservationState,
)
from tests.money.acme import START, Acme


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


@pytest.mark.parametrize("job_id", ["", "x" * 201, "half\ud800", "a\nb", "a\u202eb"])
def test_a_job_id_that_cannot_be_kept_or_shown_is_refused(acme: Acme, job_id: str) -> None:
    for operation in (ledger.charge, ledger.reserve):
        with pytest.raises(Unprocessable, match="A job id"):
            acme.do(operation, job_id=job_id)
    with pytest.raises(Unprocessable, match="A job id"):
        acme.do(ledger.log_cost, 1, job_id=job_id)
    assert acme.kinds() == ["grant"]


@pytest.mark.parametrize("reason", ["x" * 501, "half\ud800", "a\nb"])
def test_a_reason_that_cannot_be_kept_or_shown_is_refused(acme: Acme, reason: str) -> None:
    acme.do(ledger.charge, job_id="j")
    with pytest.raises(Unprocessable, match="A reason"):
        acme.do(ledger.refund, job_id="j", reason=reason)
    with pytest.raises(Unprocessable, match="A reason"):
        acme.adjust(1, "a", reason=reason)
    assert acme.available == 4


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
