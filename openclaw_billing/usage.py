"""Usage: where a client stands at a moment. Reading only: the cycle that a charge would turn is foreseen here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from openclaw_billing import cycles, plans
from openclaw_billing.contracts import View
from openclaw_billing.errors import NotFound
from openclaw_billing.plans import Plan
from openclaw_billing.records import Account, Lot, LotSource


@dataclass(frozen=True, slots=True)
class Standing:
    """`available` credits may still be spent; `used` of the plan's limit are gone in [start, end)."""

    plan: Plan
    available: int
    reserved: int
    used: int
    owed: int
    start: datetime
    end: datetime
    lots: tuple[Lot, ...]
    spent_usd_micros: int

    @property
    def used_percent(self) -> float:
        """0 to 100, one decimal; 0 where jobs are unlimited."""
        limit = self.plan.job_limit
        if not limit:
            return 0.0
        return min(100.0, round(100 * self.used / limit, 1))

    def days_remaining(self, now: datetime) -> int:
        """Whole days to the end of the cycle."""
        return max(0, (self.end - now).days)

    def verdict(self, needed: int = 1) -> tuple[bool, str]:
        """Whether a job would be accepted now, and why not. Advice: only a reservation decides."""
        if self.owed > 0:
            return False, "A payment is overdue: settle it to submit jobs"
        if self.plan.unlimited:
            return True, "Unlimited jobs"
        if self.available >= needed:
            return True, f"{self.available} jobs left in this cycle"
        return False, "Monthly job limit reached"


def standing(view: View, client_id: str, now: datetime) -> Standing:
    """Raises `NotFound` for an unknown client."""
    account = view.accounts.get(client_id)
    if account is None:
        raise NotFound("Client")
    return standing_of(account, now)


def standing_of(account: Account, now: datetime) -> Standing:
    plan = plans.plan_of(account.plan_id)
    start, end, used, lots = account.cycle_start, account.cycle_end, account.used, account.lots
    if now >= end:
        cycle = cycles.cycle_at(account.anchor, now)
        start, end, used = cycle.start, cycle.end, 0
        kept = tuple(lot for lot in lots if lot.source is not LotSource.ALLOWANCE)
        fresh = () if not plan.job_limit else (Lot("next", LotSource.ALLOWANCE, plan.job_limit, end),)
        lots = fresh + kept
    lots = tuple(lot for lot in lots if lot.expires_at is None or lot.expires_at > now)
    return Standing(
        plan=plan,
        available=sum(lot.left for lot in lots),
        reserved=account.reserved,
        used=used,
        owed=account.owed,
        start=start,
        end=end,
        lots=lots,
        spent_usd_micros=account.spent_usd_micros,
    )
