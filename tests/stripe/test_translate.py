"""Stripe's objects in our words: today's shapes as the fake shows them, and a corpus from before March 2025."""

from __future__ import annotations

import copy
from datetime import UTC, datetime

import pytest

from openclaw_billing.payments import translate
from openclaw_billing.prices import PriceBook
from openclaw_billing.settings import Settings
from openclaw_billing.stripe_facts import Collection, DisputeStatus, StripeStatus

BOOK = PriceBook.of(Settings(_env_file=None, stripe_price_starter="price_s", stripe_price_pro="price_p"))

START, END = 1_769_860_800, 1_772_280_000


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# Shapes as API versions from before 2025-03-31 ("basil") show them.
PRICE_2022 = {
    "id": "price_s",
    "object": "price",
    "active": True,
    "currency": "usd",
    "lookup_key": None,
    "metadata": {},
    "product": "prod_1",
    "recurring": {"interval": "month", "interval_count": 1, "usage_type": "licensed"},
    "type": "recurring",
    "unit_amount": 4900,
}
PLAN_2018 = {
    "id": "price_s",
    "object": "plan",
    "active": True,
    "amount": 4900,
    "currency": "usd",
    "interval": "month",
    "interval_count": 1,
    "metadata": {},
    "product": "prod_1",
}
SUBSCRIPTION_2022 = {
    "id": "sub_1",
    "object": "subscription",
    "cancel_at": None,
    "cancel_at_period_end": True,
    "canceled_at": START + 60,
    "created": START,
    "current_period_end": END,
    "current_period_start": START,
    "customer": "cus_1",
    "ended_at": None,
    "items": {
        "object": "list",
        "data": [{"id": "si_1", "object": "subscription_item", "price": PRICE_2022, "quantity": 1}],
    },
    "latest_invoice": {
        "id": "in_1",
        "object": "invoice",
        "status": "open",
        "paid": False,
        "hosted_invoice_url": "https://invoice.stripe.invalid/i/1",
        "status_transitions": {"finalized_at": START + 3_600},
    },
    "livemode": True,
    "pause_collection": {"behavior": "void", "resumes_at": None},
    "schedule": None,
    "status": "past_due",
    "trial_end": None,
}
SUBSCRIPTION_2018 = {
    **SUBSCRIPTION_2022,
    "cancel_at_period_end": False,
    "items": {
        "object": "list",
        "data": [{"id": "si_1", "object": "subscription_item", "plan": PLAN_2018, "quantity": 1}],
    },
    "latest_invoice": "in_1",
    "status": "active",
}
del SUBSCRIPTION_2018["pause_collection"], SUBSCRIPTION_2018["cancel_at"]
LINE_2022 = {
    "id": "il_1",
    "object": "line_item",
    "amount": 4900,
    "currency": "usd",
    "invoice_item": None,
    "period": {"start": START, "end": END},
    "plan": PLAN_2018,
    "price": PRICE_2022,
    "proration": False,
    "subscription": "sub_1",
    "type": "subscription",
}
LINE_2018 = {name: value for name, value in LINE_2022.items() if name != "price"}
INVOICE_2022 = {
    "id": "in_1",
    "object": "invoice",
    "amount_due": 4900,
    "amount_paid": 4900,
    "amount_remaining": 0,
    "charge": "ch_1",
    "created": START,
    "currency": "usd",
    "customer": "cus_1",
    "hosted_invoice_url": "https://invoice.stripe.invalid/i/1",
    "lines": {"object": "list", "data": [LINE_2022, LINE_2018], "has_more": False},
    "livemode": True,
    "number": "A-0001",
    "paid": True,
    "payment_intent": "pi_1",
    "period_end": START,
    "period_start": START,
    "status": "paid",
    "subscription": "sub_1",
}


def _subscription(shape=SUBSCRIPTION_2022, **fields):
    return translate.subscription_fact({**shape, **fields}, BOOK, {})


def test_a_subscription_from_before_basil_has_its_period_at_the_top():
    fact = _subscription()
    assert (fact.start, fact.end) == (at(START), at(END))
    assert (fact.status, fact.price.plan_id, fact.item_id) == (StripeStatus.PAST_DUE, "starter", "si_1")
    assert (fact.ends_at, fact.collection, fact.livemode) == (at(END), Collection.VOID, True)
    assert (fact.latest_invoice_id, fact.latest_invoice_paid) == ("in_1", False)
    assert (fact.latest_invoice_at, fact.invoice_url) == (
        at(START + 3_600),
        "https://invoice.stripe.invalid/i/1",
    )


def test_a_subscription_from_before_prices_has_plans():
    fact = _subscription(SUBSCRIPTION_2018)
    assert (fact.price.plan_id, fact.price.interval, fact.price.unit_amount) == ("starter", "monthly", 4900)
    assert (fact.latest_invoice_id, fact.latest_invoice_paid, fact.latest_invoice_at) == ("in_1", False, None)
    assert (fact.ends_at, fact.collection) == (None, Collection.NORMAL)


def test_an_invoice_from_before_basil_names_its_subscription_itself():
    lines = INVOICE_2022["lines"]["data"]
    fact = translate.invoice_fact(INVOICE_2022, BOOK, {}, lines)
    assert (fact.subscription_id, fact.paid, fact.amount_remaining) == ("sub_1", True, 0)
    assert [(line.plan_id, line.proration, line.start, line.end) for line in fact.lines] == [
        ("starter", False, at(START), at(END))
    ] * 2


def test_an_invoice_without_a_status_is_paid_if_it_says_so():
    old = {name: value for name, value in INVOICE_2022.items() if name not in ("status", "amount_remaining")}
    assert translate.invoice_fact(old, BOOK).paid
    unpaid = translate.invoice_fact({**old, "paid": False, "amount_paid": 900}, BOOK)
    assert (unpaid.status, unpaid.amount_remaining) == ("unknown", 4_000)


def test_a_proration_from_before_basil_says_so_itself():
    line = {**LINE_2022, "proration": True, "amount": -100}
    (read,) = translate.invoice_fact(INVOICE_2022, BOOK, {}, [line]).lines
    assert (read.proration, read.amount) == (True, -100)


def test_a_paused_subscription_from_before_pausing_had_a_trial_without_a_card():
    assert _subscription(status="paused").pause_kind == "trial_end_without_payment_method"
    assert _subscription(status="paused", status_details={"paused": {}}).pause_kind == "unknown"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"current_period_end": None}, "current_period_end"),
        ({"current_period_start": None}, "current_period_start"),
        ({"items": None}, "items"),
        ({"items": {"data": []}}, "items"),
        ({"customer": None}, "customer"),
        ({"created": None}, "created"),
        ({"livemode": None}, "livemode"),
        ({"id": ""}, "id"),
    ],
)
def test_what_is_missing_from_a_subscription_is_named_and_never_made_up(change, named):
    with pytest.raises(ValueError, match=named):
        _subscription(**change)


@pytest.mark.parametrize("name", ["start", "end"])
def test_an_invoice_line_without_a_period_is_refused(name):
    line = copy.deepcopy(LINE_2022)
    del line["period"][name]
    with pytest.raises(ValueError, match=name):
        translate.invoice_fact(INVOICE_2022, BOOK, {}, [line])


def test_a_moved_field_is_not_read_from_where_nothing_is(fake, sub):
    """What today's objects hold, taken away, must be missed: a guarded look at a field that moved says nothing."""
    shown = fake.get(sub.id, ["latest_invoice"])
    for name in ("current_period_start", "current_period_end"):
        lacking = copy.deepcopy(shown)
        del lacking["items"]["data"][0][name]
        with pytest.raises(ValueError, match=name):
            translate.subscription_fact(lacking, BOOK, {})


def test_words_that_are_not_known_are_unknown():
    assert _subscription(status="hibernating").status is StripeStatus.UNKNOWN
    assert _subscription(pause_collection={"behavior": "x"}).collection is Collection.UNKNOWN
    dispute = {"id": "dp_1", "amount": 5, "livemode": False, "status": "in_appeal", "payment_intent": None}
    assert translate.dispute_fact(dispute).status is DisputeStatus.UNKNOWN


@pytest.mark.parametrize(
    ("status", "read"),
    [
        ("needs_response", DisputeStatus.OPEN),
        ("under_review", DisputeStatus.OPEN),
        ("warning_needs_response", DisputeStatus.WARNING),
        ("warning_closed", DisputeStatus.WARNING),
        ("prevented", DisputeStatus.WARNING),
        ("won", DisputeStatus.WON),
        ("lost", DisputeStatus.LOST),
    ],
)
def test_a_disputes_status_says_where_the_money_is(status, read):
    dispute = {"id": "dp_1", "amount": 5, "livemode": False, "status": status, "payment_intent": "pi_1"}
    assert translate.dispute_fact(dispute).status is read


def test_the_plans_item_is_found_beside_others():
    tokens = {**PRICE_2022, "id": "price_tokens"}
    items = [{"id": "si_0", "price": tokens}, {"id": "si_1", "price": PRICE_2022}]
    assert _subscription(items={"data": items}).item_id == "si_1"
    foreign = _subscription(items={"data": items[:1]})
    assert (foreign.item_id, foreign.price.plan_id) == ("si_0", None)


@pytest.mark.parametrize(
    ("recurring", "interval"),
    [
        ({"interval": "month", "interval_count": 1}, "monthly"),
        ({"interval": "year", "interval_count": 1}, "yearly"),
        ({"interval": "month", "interval_count": 12}, "yearly"),
        ({"interval": "month", "interval_count": 3}, ""),
        ({"interval": "week", "interval_count": 1}, ""),
    ],
)
def test_a_prices_interval_is_stripes_whatever_its_name_says(recurring, interval):
    assert translate.price_fact({**PRICE_2022, "recurring": recurring}, BOOK).interval == interval


def test_only_a_price_paid_once_is_a_pack():
    once = {**PRICE_2022, "id": "price_x", "recurring": None, "lookup_key": "topup_100_usd"}
    assert translate.price_fact(once, BOOK).credits == 100
    assert translate.price_fact({**once, "recurring": PRICE_2022["recurring"]}, BOOK).credits == 0


def test_a_schedule_tells_its_next_phase_only_while_it_runs():
    phases = [
        {"start_date": START, "end_date": END, "items": [{"price": "price_p"}]},
        {"start_date": END, "end_date": END + 9, "items": [{"price": "price_s"}]},
    ]
    schedule = {
        "id": "sub_sched_1",
        "status": "active",
        "current_phase": {"start_date": START, "end_date": END},
        "phases": phases,
    }
    prices = {"price_s": translate.price_fact(PRICE_2022, BOOK)}
    pro = {**PRICE_2022, "id": "price_p"}
    sub = {**SUBSCRIPTION_2022, "items": {"data": [{"id": "si_1", "price": pro}]}, "schedule": schedule}
    fact = translate.subscription_fact(sub, BOOK, prices)
    assert (fact.schedule_id, fact.pending_plan_id, fact.pending_at) == ("sub_sched_1", "starter", at(END))
    for change in (
        {"status": "released", "current_phase": None},
        {"current_phase": {"start_date": END, "end_date": END + 9}},
        {"phases": phases[:1]},
        {"phases": [phases[0], {**phases[1], "items": [{"price": "price_p"}]}]},
    ):
        idle = translate.subscription_fact({**sub, "schedule": {**schedule, **change}}, BOOK, prices)
        assert (idle.pending_plan_id, idle.pending_at) == (None, None)
    named = translate.subscription_fact({**sub, "schedule": "sub_sched_1"}, BOOK, prices)
    assert (named.schedule_id, named.pending_plan_id) == ("sub_sched_1", None)
