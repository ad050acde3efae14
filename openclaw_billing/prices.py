"""Prices: which of Stripe's prices sells which plan or pack of credits, and by which names we look for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from openclaw_billing import plans
from openclaw_billing.settings import Settings

MONTHLY: Final = "monthly"
YEARLY: Final = "yearly"
INTERVALS: Final = (MONTHLY, YEARLY)
SOLD: Final = ("starter", "pro")
"""The plans that are paid for by a checkout."""
PRODUCT_PREFIX: Final = "ca_"
CREDITS_MAX: Final = 1_000_000

_PLAN_KEY = re.compile(rf"({'|'.join(SOLD)})_({MONTHLY}|{YEARLY})_[a-z]{{3}}")
_PACK_KEY = re.compile(r"topup_([1-9]\d{0,6})_[a-z]{3}")
_CREDITS = re.compile(r"[1-9]\d{0,6}")


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The price ids that the settings name, and how to read all the others."""

    subscriptions: Mapping[tuple[str, str], str]
    """By plan and interval."""
    packs: Mapping[int, str]
    """By the credits in a pack."""
    currency: str

    @classmethod
    def of(cls, settings: Settings) -> PriceBook:
        named = {
            ("starter", MONTHLY): settings.stripe_price_starter,
            ("starter", YEARLY): settings.stripe_price_starter_yearly,
            ("pro", MONTHLY): settings.stripe_price_pro,
            ("pro", YEARLY): settings.stripe_price_pro_yearly,
        }
        return cls(
            subscriptions={what: price_id for what, price_id in named.items() if price_id is not None},
            packs=dict(settings.stripe_price_topups),
            currency=settings.currency,
        )

    def plan_of(
        self,
        price_id: str | None,
        lookup_key: str | None = None,
        metadata_plan: str | None = None,
        product_id: str | None = None,
    ) -> tuple[str | None, str]:
        """The plan that a price sells and its interval, if its name tells one; None where it is none of ours."""
        for (plan_id, interval), known in self.subscriptions.items():
            if known == price_id:
                return plan_id, interval
        found = _PLAN_KEY.fullmatch(lookup_key or "")
        if found is not None:
            return found[1], found[2]
        if metadata_plan is not None and _is_paid(metadata_plan):
            return metadata_plan, ""
        plan_id = (product_id or "").removeprefix(PRODUCT_PREFIX)
        if product_id is not None and plan_id != product_id and _is_paid(plan_id):
            return plan_id, ""
        return None, ""

    def credits_of(
        self, price_id: str | None, lookup_key: str | None = None, metadata_credits: str | None = None
    ) -> int:
        """The credits in a pack that is sold at this price; 0 where it is no pack of ours."""
        for credits, known in self.packs.items():
            if known == price_id:
                return credits
        found = _PACK_KEY.fullmatch(lookup_key or "")
        text = found[1] if found is not None else metadata_credits or ""
        return min(int(text), CREDITS_MAX) if _CREDITS.fullmatch(text) else 0

    def setting_for(self, plan_id: str, interval: str) -> str | None:
        """The price id that the settings name for a plan."""
        return self.subscriptions.get((plan_id, interval))

    def lookup_key(self, plan_id: str, interval: str) -> str:
        """The name that a plan's price is found by where the settings are silent."""
        return f"{plan_id}_{interval}_{self.currency}"

    def pack_key(self, credits: int) -> str:
        """The same for a pack."""
        return f"topup_{credits}_{self.currency}"


def _is_paid(plan_id: str) -> bool:
    return plan_id != "free" and plan_id in plans.CATALOGUE
