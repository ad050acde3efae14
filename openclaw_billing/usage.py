"""Usage: where a client stands at a moment. Reading only: what a charge would find to end or to turn is foreseen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from openclaw_billing import plans
from openclaw_billing.contracts import View
from openclaw_billing.errors import ClientInactive, JobRefused, NotFound, PaymentOverdue, QuotaExceeded
from openclaw_billing.plans import Plan
from openclaw_billing.records import Account, Lot, LotSource
from openclaw_billing.turning import foreseen


@dataclass(frozen=True, slots=True)
class Standing:
    """`available` credits may still be spent; jobs have `used` so many of the cycle's `limit` in [start, end).

    `withdrawn` are those that were taken from it for another reason.

    `limited` is access for which a payment is overdue, at `invoice_url`: no more than the free plan gives.
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
        if not self.active:
            return ClientInactive()
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
    return standing_of(view, account, now)


def standing_of(view: View, account: Account, now: datetime) -> Standing:
    account = foreseen(view, account, now)
    limited = account.frozen is not None
    known = view.subscriptions.get(account.client_id) if limited else None
    return Standing(
        plan=plans.plan_of(account.plan_id),
        limit=plans.limit_of(account),
        limited=limited,
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
        invoice_url=None if known is None else known.invoice_url,
    )
