"""Credits given and taken for a reason of their own; plans changed; costs noted."""

from __future__ import annotations

from functools import partial

import pytest

from openclaw_billing import ledger, paid, turning
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


def test_credits_taken_away_are_no_jobs_and_given_again_they_end_with_the_cycle(acme: Acme) -> None:
    acme.do(ledger.charge, job_id="j")
    acme.adjust(-4, "a")
    assert (acme.account.used, acme.account.withdrawn, acme.available) == (1, 4, 0)
    acme.adjust(3, "b")
    assert (acme.account.used, acme.account.withdrawn, acme.available) == (1, 1, 3)
    acme.adjust(3, "c")
    assert [(lot.source, lot.left) for lot in acme.account.lots] == [
        (LotSource.ALLOWANCE, 4),
        (LotSource.PROMO, 2),
    ]
    assert acme.kinds() == ["grant", "capture", "adjust", "adjust", "adjust"]
    acme.clock.advance(days=30)
    assert (acme.available, acme.account.withdrawn) == (7, 0)


def test_credits_taken_away_and_given_again_on_a_smaller_plan_are_there_once(acme: Acme) -> None:
    """On the smaller plan the allowance shows nothing of them: they must not be there twice after an upgrade."""
    acme.do(ledger.change_plan, "starter")
    acme.adjust(-45, "a")
    acme.do(ledger.change_plan, "free")
    assert acme.available == 0
    acme.adjust(45, "b")
    assert acme.available == 45
    acme.do(ledger.change_plan, "starter")
    assert acme.available == 50


def test_what_was_taken_away_stays_away_after_access_was_limited(pro: Acme) -> None:
    pro.adjust(-150, "a")
    pro.store.run(lambda tx: turning.keep(tx, turning.freeze(tx, pro.account, START)), "freeze")
    assert pro.available == 5
    pro.adjust(-2, "b")
    pro.store.run(lambda tx: paid.thaw(tx, pro.account, START), "thaw")
    assert (pro.available, pro.account.used, pro.account.withdrawn) == (48, 0, 152)


def test_a_claw_back_from_the_allowance_is_no_job(acme: Acme) -> None:
    acme.claw_back(2, "dispute")
    assert (acme.available, acme.account.used, acme.account.withdrawn) == (3, 0, 2)


@pytest.mark.parametrize("credits", [0, CREDITS_MAX + 1, 1.5, True])
def test_an_adjustment_that_is_none_is_refused(acme: Acme, credits: int) -> None:
    with pytest.raises(Unprocessable, match="not 0 and at most"):
        acme.adjust(credits, "a")
    assert acme.available == 5


def test_enterprise_jobs_given_back_after_a_downgrade_count_no_more(enterprise: Acme) -> None:
    for number in range(3):
        enterprise.do(ledger.charge, job_id=f"done {number}")
    enterprise.do(ledger.reserve, job_id="waiting")
    enterprise.do(ledger.change_plan, "free")
    assert enterprise.available == 1
    enterprise.do(ledger.charge, job_id="here")
    for number in range(3):
        enterprise.do(ledger.refund, job_id=f"done {number}", reason="")
    assert (enterprise.available, enterprise.account.used) == (3, 2)
    enterprise.do(ledger.release, job_id="waiting")
    assert (enterprise.available, enterprise.account.used) == (4, 1)
    enterprise.do(ledger.change_plan, "enterprise")
    enterprise.do(ledger.change_plan, "free")
    assert enterprise.available == 4


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
