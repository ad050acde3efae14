"""Usage: where a client stands at a moment. Reading only: what a charge would find to end or to turn is foreseen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from openclaw_billing import plans
from openclaw_billing.contracts import View
from openclaw_billing.errors import ClientInactive, NotFound
from openclaw_billing.plans import Plan
from openclaw_billing.records import Account, Lot, LotSource
from openclaw_billing.turning import foreseen


@dataclass(frozen=True, slots=True)
class Standing:
    """`available` credits may still be spent; jobs have `used` so many of the cycle's `limit` in [start, end).

    `withdrawn` are those that were taken from it for another reason.

    `limited` is access for which a payment is overdue: no more than the free plan gives.
    """

    plan: Plan
    limit: int | None
    limited: bool
    active: bool
    available: int
    reserved: int
    used: int
    withdrawn: int
    owed: int
    start: datetime
    end: datetime
    lots: tuple[Lot, ...]
    spent_usd_micros: int
    grace_until: datetime | None

    @property
    def used_percent(self) -> float:
        """0 to 100, one decimal; 0 where jobs are unlimited."""
        if not self.limit:
            return 0.0
        return min(100.0, round(100 * self.used / self.limit, 1))

    @property
    def unlimited(self) -> bool:
        return self.limit is None

    def credits_of(self, *sources: LotSource) -> int:
        """The credits left of these sources."""
        return sum(lot.left for lot in self.lots if lot.source in sources)

    def days_remaining(self, now: datetime) -> int:
        """Whole days to the end of the cycle."""
        return max(0, (self.end - now).days)

    def verdict(self, needed: int = 1) -> tuple[bool, str]:
        """Whether a job would be accepted now, and why not. Advice: only a reservation decides."""
        if not self.active:
            return False, ClientInactive.sentence
        if self.owed > 0:
            return False, "A payment is overdue: settle it to submit jobs"
        if self.unlimited:
            return True, "Unlimited jobs"
        if self.available >= needed:
            return True, f"{self.available} jobs left in this cycle"
        if self.limited:
            return False, "A payment is overdue: settle it to submit jobs"
        return False, "Monthly job limit reached"


def standing(view: View, client_id: str, now: datetime) -> Standing:
    """Raises `NotFound` for an unknown client."""
    account = view.accounts.get(client_id)
    if account is None:
        raise NotFound("Client")
    return standing_of(view, account, now)


def standing_of(view: View, account: Account, now: datetime) -> Standing:
    account = foreseen(view, account, now)
    return Standing(
        plan=plans.plan_of(account.plan_id),
        limit=plans.limit_of(account),
        limited=account.frozen is not None,
        active=account.active,
        available=account.available,
        reserved=account.reserved,
        used=account.used,
        withdrawn=account.withdrawn,
        owed=account.owed,
        start=account.cycle_start,
        end=account.cycle_end,
        lots=account.lots,
        spent_usd_micros=account.spent_usd_micros,
        grace_until=account.grace_until,
    )
