"""Usage: where a client stands at a moment. Reading only: the cycle that a charge would turn is foreseen here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from openclaw_billing import cycles, plans
from openclaw_billing.contracts import View
from openclaw_billing.errors import JobRefused, NotFound, PaymentOverdue, QuotaExceeded
from openclaw_billing.lots import Lots
from openclaw_billing.plans import Plan
from openclaw_billing.records import Account, Lot, LotSource
from openclaw_billing.turning import allowance_left, free_limit


@dataclass(frozen=True, slots=True)
class Standing:
    """`available` credits may still be spent; `used` of the cycle's `limit` are gone in [start, end).

    `limited` is access for which a payment is overdue, at `invoice_url`: no more than the free plan gives.
    """

    plan: Plan
    limit: int | None
    limited: bool
    available: int
    reserved: int
    used: int
    owed: int
    start: datetime
    end: datetime
    lots: tuple[Lot, ...]
    spent_usd_micros: int
    grace_until: datetime | None
    invoice_url: str | None = None

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

    def refusal(self, needed: int = 1) -> JobRefused | None:
        """What a job would be refused with now. Advice: only a reservation decides."""
        if self.owed > 0:
            return PaymentOverdue()
        if self.unlimited or self.available >= needed:
            return None
        if self.limited:
            return PaymentOverdue(self.invoice_url)
        return QuotaExceeded(credits_remaining=self.available, resets_at=self.end)

    def verdict(self, needed: int = 1) -> tuple[bool, str]:
        """Whether a job would be accepted now, and why not."""
        refusal = self.refusal(needed)
        if refusal is not None:
            return False, str(refusal.detail)
        return True, "Unlimited jobs" if self.unlimited else f"{self.available} jobs left in this cycle"


def is_limited(account: Account, now: datetime) -> bool:
    """Whether a payment is overdue for so long that the client has no more than the free plan gives."""
    return account.frozen is not None or (account.grace_until is not None and now >= account.grace_until)


def standing(view: View, client_id: str, now: datetime) -> Standing:
    """Raises `NotFound` for an unknown client."""
    account = view.accounts.get(client_id)
    if account is None:
        raise NotFound("Client")
    stand = standing_of(account, now)
    known = view.subscriptions.get(client_id) if stand.limited else None
    return stand if known is None else replace(stand, invoice_url=known.invoice_url)


def standing_of(account: Account, now: datetime) -> Standing:
    limit, limited = plans.limit_of(account), is_limited(account, now)
    start, end, used, lots = account.cycle_start, account.cycle_end, account.used, account.lots
    left = allowance_left(account)
    if (cycle := cycles.next_cycle(account, now)) is not None:
        start, end, used = cycle.start, cycle.end, 0
        if account.period is not None:
            limit = plans.plan_of(account.plan_id).job_limit
        left = limit or 0
        lots = _with_allowance(lots, left, end)
    if account.grace_until is not None and now >= account.grace_until:
        limit = free_limit()
        start, end = now, now + cycles.CYCLE_LENGTH
        left = min(limit, left)
        used, lots = limit - left, _with_allowance(lots, left, end)
    lots = tuple(lot for lot in lots if lot.expires_at is None or lot.expires_at > now)
    return Standing(
        plan=plans.plan_of(account.plan_id),
        limit=limit,
        limited=limited,
        available=sum(lot.left for lot in lots),
        reserved=account.reserved,
        used=used,
        owed=account.owed,
        start=start,
        end=end,
        lots=lots,
        spent_usd_micros=account.spent_usd_micros,
        grace_until=None if limited else account.grace_until,
    )


def _with_allowance(lots: Lots, credits: int, end: datetime) -> Lots:
    """The lots with another allowance in the place of the one they hold."""
    kept = tuple(lot for lot in lots if lot.source is not LotSource.ALLOWANCE)
    return (Lot("next", LotSource.ALLOWANCE, credits, end), *kept) if credits else kept
