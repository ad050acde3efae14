"""Plans: what a client may do in one billing cycle, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openclaw_billing.records import Account


@dataclass(frozen=True, slots=True)
class Plan:
    """One item of the catalogue. `job_limit` is None where jobs are unlimited."""

    plan_id: str
    name: str
    price_cents: int
    job_limit: int | None
    features: tuple[str, ...]
    history: timedelta | None
    """How far back a client sees its own jobs; None is for ever."""

    @property
    def unlimited(self) -> bool:
        return self.job_limit is None


CATALOGUE: Mapping[str, Plan] = MappingProxyType(
    {
        plan.plan_id: plan
        for plan in (
            Plan(
                plan_id="free",
                name="Free",
                price_cents=0,
                job_limit=5,
                features=("Basic job submission", "24h history", "Email support"),
                history=timedelta(hours=24),
            ),
            Plan(
                plan_id="starter",
                name="Starter",
                price_cents=4_900,
                job_limit=50,
                features=("Priority support", "API access", "30-day history"),
                history=timedelta(days=30),
            ),
            Plan(
                plan_id="pro",
                name="Pro",
                price_cents=19_900,
                job_limit=200,
                features=("24/7 support", "Advanced analytics", "Webhooks", "90-day history"),
                history=timedelta(days=90),
            ),
            Plan(
                plan_id="enterprise",
                name="Enterprise",
                price_cents=0,
                job_limit=None,
                features=("Dedicated support", "SLA", "Custom integrations", "Forever history"),
                history=None,
            ),
        )
    }
)

FREE_PLAN_ID = "free"
LEGACY_PLAN_ID = "legacy"


def plan_of(plan_id: str) -> Plan:
    """The catalogue's plan, or one that grants nothing where an old record names a plan we do not sell."""
    return CATALOGUE.get(plan_id) or _LEGACY


def limit_of(account: Account) -> int | None:
    """The jobs of this cycle; None is unlimited. Limited access is what the free plan gives."""
    if account.frozen is not None:
        return CATALOGUE[FREE_PLAN_ID].job_limit
    return plan_of(account.plan_id).job_limit if account.cycle_limit is None else account.cycle_limit


_LEGACY = Plan(
    plan_id=LEGACY_PLAN_ID,
    name="Legacy",
    price_cents=0,
    job_limit=0,
    features=(),
    history=timedelta(days=30),
)
