"""Which plan or pack a price sells: by the setting, the look-up key, the metadata, the product; never by guessing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openclaw_billing.prices import PriceBook
from openclaw_billing.settings import Settings

BOOK = PriceBook.of(
    Settings(
        _env_file=None,
        stripe_price_starter="price_s",
        stripe_price_pro_yearly="price_py",
        stripe_price_topups={100: "price_100"},
        currency="eur",
    )
)


@pytest.mark.parametrize(
    ("price", "found"),
    [
        (("price_s", "pro_monthly_eur", "pro", "ca_pro"), ("starter", "monthly")),
        (("price_py", None, None, None), ("pro", "yearly")),
        (("price_x", "starter_yearly_eur", "pro", "ca_pro"), ("starter", "yearly")),
        (("price_x", "pro_monthly_usd", None, None), ("pro", "monthly")),
        (("price_x", None, "pro", "ca_starter"), ("pro", "")),
        (("price_x", "something", None, "ca_starter"), ("starter", "")),
        (("price_x", None, "enterprise", None), ("enterprise", "")),
        (("price_x", None, None, None), (None, "")),
        ((None, None, None, None), (None, "")),
    ],
)
def test_a_price_is_looked_up_in_order(price, found):
    assert BOOK.plan_of(*price) == found


@pytest.mark.parametrize(
    "price",
    [
        ("price_x", "enterprise_monthly_eur", None, None),
        ("price_x", "free_monthly_eur", "free", "ca_free"),
        ("price_x", "starter_weekly_eur", "platinum", "ca_platinum"),
        ("price_x", "starter_monthly_eur_old", "Pro", "pro"),
        ("price_x", "xstarter_monthly_eur", "", ""),
        ("price_x", "starter_monthly_EUR", None, "prod_ca_pro"),
    ],
)
def test_what_only_looks_like_a_name_of_ours_is_none(price):
    assert BOOK.plan_of(*price) == (None, "")


@given(*[st.none() | st.text("_-0159acelmnoprsty\n٥", max_size=24)] * 4)
def test_no_words_of_strangers_make_a_plan_that_is_not_sold(price_id, lookup_key, plan, product_id):
    found, interval = BOOK.plan_of(price_id, lookup_key, plan, product_id)
    assert found in (None, "starter", "pro", "enterprise")
    assert interval in ("", "monthly", "yearly")
    assert BOOK.credits_of(price_id, lookup_key, plan) >= 0


@pytest.mark.parametrize(
    ("price", "credits"),
    [
        (("price_100", "topup_5_eur", "7"), 100),
        (("price_x", "topup_5_eur", "7"), 5),
        (("price_x", None, "7"), 7),
        (("price_x", "topup_9999999_eur", None), 1_000_000),
        (("price_x", "topup_05_eur", None), 0),
        (("price_x", "topup_-5_eur", "-5"), 0),
        (("price_x", "topup_5", "1e9"), 0),
        (("price_x", None, "٥"), 0),
        ((None, None, None), 0),
    ],
)
def test_a_packs_credits_are_whole_and_bounded(price, credits):
    assert BOOK.credits_of(*price) == credits


def test_the_settings_are_asked_first_and_the_keys_carry_the_currency():
    assert BOOK.setting_for("starter", "monthly") == "price_s"
    assert BOOK.setting_for("starter", "yearly") is None
    assert BOOK.lookup_key("pro", "monthly") == "pro_monthly_eur"
    assert BOOK.pack_key(100) == "topup_100_eur"
    assert BOOK.plan_of(None, BOOK.lookup_key("pro", "yearly")) == ("pro", "yearly")
    assert BOOK.credits_of(None, BOOK.pack_key(20)) == 20
