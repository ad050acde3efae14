"""Credits given and taken for a reason of their own; plans changed; costs noted."""

from __future__ import annotations

from functools import partial

import pytest

from openclaw_billing import ledger
from openclaw_billing.errors import (
    Conflict,
    IdMismatch,
    PaymentOverdue,
    UnlimitedPlan,
    Unprocessable,
)
from openclaw_billing.records import (
    COST_USD_MICROS_MAX,
    CREDITS_MAX,
    EntryKind,
    LotSource,
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
