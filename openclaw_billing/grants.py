"""Grants: credits given and taken for a reason of their own, not for a job; plans changed, costs noted.

Each spends the id its caller made. What is owed is paid before anything else.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from openclaw_billing.books import check_credits, check_job_id, check_reason, fit_allowance, post, settle
from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import Conflict, IdMismatch, UnknownPlan, UnlimitedPlan, Unprocessable
from openclaw_billing.lots import (
    LOTS_MAX,
    Lots,
    added,
    allowance_id,
    drawn,
    drawn_from,
    drawn_of,
    find,
    lot_of,
    total,
)
from openclaw_billing.plans import CATALOGUE, limit_of, plan_of
from openclaw_billing.records import (
    COST_USD_MICROS_MAX,
    CREDITS_MAX,
    Account,
    Adjustment,
    Cost,
    EntryKind,
    LotSource,
    Recent,
    Spent,
)
from openclaw_billing.turning import touch

RECENT_MAX = 5
SPENT_USD_MICROS_MAX = 10**18


@dataclass(frozen=True, slots=True)
class Adjusted:
    """Credits before, added and after a grant, an adjustment or a claw-back, and what is owed after it."""

    previous: int
    added: int
    now: int
    owed: int = 0


def grant(
    tx: Transaction,
    client_id: str,
    credits: int,
    *,
    source: LotSource,
    reason: str,
    operation_id: str,
    expires_at: datetime | None = None,
    now: datetime,
) -> Adjusted:
    """Add credits of that source; what is owed is paid from them first.

    Raises:
        NotFound, IdMismatch, Unprocessable
    """
    check_credits(credits)
    if source is LotSource.ALLOWANCE:
        raise Unprocessable("An allowance comes with the plan")
    if expires_at is not None and expires_at <= now:
        raise Unprocessable("These credits would be over already")
    account = touch(tx, client_id, now)
    asked = _fingerprint(
        "grant", client_id, credits, source, reason, None if expires_at is None else expires_at.isoformat()
    )
    if (answer := _answered(tx, operation_id, asked)) is not None:
        return answer
    coming = (lot_of(source, credits, expires_at),)
    after = _add(tx, account, coming, EntryKind.GRANT, operation_id, reason, now)
    return _remember(tx, account, after, credits, operation_id, asked, reason, now)


def adjust(
    tx: Transaction, client_id: str, credits: int, *, reason: str, operation_id: str, now: datetime
) -> Adjusted:
    """Add promotional credits, or take credits away, soonest lost first.

    What was taken from this cycle's allowance goes back there first, and ends with it.

    Raises:
        NotFound, IdMismatch
        UnlimitedPlan: there is nothing to change.
        Unprocessable: out of range, or more than there are.
    """
    if type(credits) is not int or not 1 <= abs(credits) <= CREDITS_MAX:
        raise Unprocessable(f"An adjustment is a whole number of credits, not 0 and at most {CREDITS_MAX}")
    account = touch(tx, client_id, now)
    asked = _fingerprint("adjust", client_id, credits, reason)
    if (answer := _answered(tx, operation_id, asked)) is not None:
        return answer
    if plan_of(account.plan_id).unlimited:
        raise UnlimitedPlan
    if credits > 0:
        coming = _coming(account, credits)
        after = _add(tx, account, coming, EntryKind.ADJUST, operation_id, reason, now)
    else:
        if -credits > account.available:
            raise Unprocessable("There are fewer credits than that", code="too_few_credits")
        lots, draws = drawn(account.lots, -credits)
        after = post(
            tx,
            account,
            EntryKind.ADJUST,
            operation_id=operation_id,
            now=now,
            lots=lots,
            available=credits,
            withdrawn=drawn_from(draws, allowance_id(account.cycle_number)),
            reason=reason,
        )
    return _remember(tx, account, after, credits, operation_id, asked, reason, now)


def claw_back(
    tx: Transaction,
    client_id: str,
    credits: int,
    *,
    operation_id: str,
    reason: str,
    lot_id: str = "",
    now: datetime,
) -> Adjusted:
    """Take back credits whose payment was undone, from their own lot, then purchased ones, then the others.

    What is not there is owed.

    Raises:
        NotFound, IdMismatch, Unprocessable
    """
    check_credits(credits)
    account = touch(tx, client_id, now)
    asked = _fingerprint("claw_back", client_id, credits, reason)
    if (answer := _answered(tx, operation_id, asked)) is not None:
        return answer
    taken = min(credits, account.available)
    if account.owed + credits - taken > CREDITS_MAX:
        raise Unprocessable("More would be owed than can be")
    own = find(account.lots, lot_id)
    from_own = 0 if own is None else min(taken, own.left)
    lots, first = drawn_of(account.lots, lot_id, from_own)
    lots, rest = drawn(lots, taken - from_own, last_lost_first=True)
    draws = first + rest
    after = post(
        tx,
        account,
        EntryKind.CLAWBACK,
        operation_id=operation_id,
        now=now,
        lots=lots,
        available=-taken,
        withdrawn=drawn_from(draws, allowance_id(account.cycle_number)),
        owed=credits - taken,
        reason=reason,
    )
    return _remember(tx, account, after, -taken, operation_id, asked, reason, now)


def change_plan(tx: Transaction, client_id: str, plan_id: str, *, now: datetime) -> Account:
    """Put the client on another plan; what was used in this cycle counts against the new limit.

    Raises:
        UnknownPlan, NotFound
        Conflict: the client is on that plan.
    """
    if plan_id not in CATALOGUE:
        raise UnknownPlan(plan_id)
    account = touch(tx, client_id, now)
    if account.plan_id == plan_id:
        raise Conflict("The client is on this plan already", code="already_on_plan")
    account = replace(account, plan_id=plan_id, cycle_limit=None)
    operation_id = f"plan:{client_id}:{account.entries + 1}"
    account = settle(tx, fit_allowance(tx, account, operation_id, f"plan {plan_id}", now), now)
    tx.accounts.put(account)
    return account


def log_cost(
    tx: Transaction, client_id: str, cost_usd_micros: int, *, job_id: str | None = None, now: datetime
) -> Account:
    """Add what a job cost us. It touches no credits.

    Raises:
        NotFound
        Unprocessable: out of range.
    """
    if job_id is not None:
        check_job_id(job_id)
    account = touch(tx, client_id, now)
    spent = account.spent_usd_micros + checked_cost(cost_usd_micros)
    if spent > SPENT_USD_MICROS_MAX:
        raise Unprocessable(f"A client's costs are at most {SPENT_USD_MICROS_MAX} micro-USD")
    account = replace(account, spent_usd_micros=spent)
    tx.accounts.put(account)
    recent = tx.recents.get(client_id) or Recent(client_id=client_id)
    costs = (*recent.costs, Cost(now, cost_usd_micros, job_id))[-RECENT_MAX:]
    tx.recents.put(replace(recent, costs=costs))
    return account


def checked_cost(cost_usd_micros: int) -> int:
    """Raises `Unprocessable` where it is no cost."""
    if type(cost_usd_micros) is not int or not 0 <= cost_usd_micros <= COST_USD_MICROS_MAX:
        raise Unprocessable(f"A cost is a whole number of micro-USD from 0 to {COST_USD_MICROS_MAX}")
    return cost_usd_micros


def _coming(account: Account, credits: int) -> Lots:
    """Credits that are given: back to this cycle's allowance what was withdrawn from it, the rest promotional."""
    allowance, limit = find(account.lots, allowance_id(account.cycle_number)), limit_of(account)
    back = 0
    # Beyond the limit they would not show there now, and would after an upgrade: given twice.
    if allowance is not None and limit is not None and account.used + account.withdrawn <= limit:
        back = min(credits, account.withdrawn)
    lots = (replace(allowance, left=back),) if allowance is not None and back else ()
    return lots if back == credits else (*lots, lot_of(LotSource.PROMO, credits - back, None))


def _add(
    tx: Transaction,
    account: Account,
    coming: Lots,
    kind: EntryKind,
    operation_id: str,
    reason: str,
    now: datetime,
) -> Account:
    """The account with these credits more, after paying what is owed."""
    credits, lots = total(coming), account.lots
    if account.available + account.reserved + credits > CREDITS_MAX:
        raise Unprocessable(f"A balance is at most {CREDITS_MAX} credits")
    for lot in coming:
        # What was paid for is never turned away.
        crowded = len(lots) >= LOTS_MAX and lot.source is not LotSource.PURCHASED
        if crowded and find(lots, lot.lot_id) is None:
            raise Unprocessable(f"A client has at most {LOTS_MAX} kinds of credits at a time")
        lots = added(lots, lot)
    after = post(
        tx,
        account,
        kind,
        operation_id=operation_id,
        now=now,
        lots=lots,
        available=credits,
        withdrawn=-sum(lot.left for lot in coming if lot.source is LotSource.ALLOWANCE),
        lot_id=coming[0].lot_id if len(coming) == 1 else None,
        reason=reason,
        due_at=min((lot.expires_at for lot in coming if lot.expires_at is not None), default=None),
    )
    return settle(tx, after, now)


def _fingerprint(*asked: str | int | None) -> str:
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _answered(tx: Transaction, operation_id: str, asked: str) -> Adjusted | None:
    """The answer that this id was given before."""
    spent = tx.spent.get(operation_id)
    if spent is None:
        return None
    if spent.fingerprint != asked:
        raise IdMismatch
    return Adjusted(**json.loads(spent.answer))


def _remember(
    tx: Transaction,
    before: Account,
    after: Account,
    credits: int,
    operation_id: str,
    asked: str,
    reason: str,
    now: datetime,
) -> Adjusted:
    """Put the account, spend the id, and keep the adjustment among the newest few."""
    check_reason(reason)
    answer = Adjusted(before.available, credits, after.available, after.owed)
    tx.accounts.put(after)
    tx.spent.put(
        Spent(spent_id=operation_id, fingerprint=asked, created_at=now, answer=json.dumps(asdict(answer)))
    )
    recent = tx.recents.get(after.client_id) or Recent(client_id=after.client_id)
    adjustments = (*recent.adjustments, Adjustment(now, credits, reason))[-RECENT_MAX:]
    tx.recents.put(replace(recent, adjustments=adjustments))
    return answer
