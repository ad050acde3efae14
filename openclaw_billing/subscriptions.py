"""Subscriptions: a client's plan follows what Stripe says of it now, and nothing else changes it meanwhile.

`sync` takes a subscription as it was just fetched, with the paid invoices of its period. Since no event's
content is believed, the order in which events arrive makes no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from openclaw_billing import outbox, paid
from openclaw_billing.audit import Actor, note
from openclaw_billing.contracts import Transaction, View
from openclaw_billing.cycles import slice_at
from openclaw_billing.errors import Conflict, NotFound
from openclaw_billing.paid_limit import paid_for, share
from openclaw_billing.plans import plan_of
from openclaw_billing.records import Account, Client, Period, Spent
from openclaw_billing.stripe_facts import (
    Collection,
    InvoiceFact,
    StripeStatus,
    SubscriptionFact,
)
from openclaw_billing.stripe_records import Subscription, customer_key
from openclaw_billing.turning import freeze, keep, touch

LIVE = frozenset(
    {
        StripeStatus.TRIALING,
        StripeStatus.ACTIVE,
        StripeStatus.PAST_DUE,
        StripeStatus.UNPAID,
        StripeStatus.PAUSED,
    }
)
PAYING = frozenset({StripeStatus.TRIALING, StripeStatus.ACTIVE, StripeStatus.PAST_DUE})
MONTHS = {"monthly": 1, "yearly": 12}

CHANGE_LEASE = timedelta(seconds=60)

STRIPE = Actor("stripe")


class UnknownReference(Exception):
    """Nobody of ours is meant, or not yet: our own commit may still be on its way."""


class StaleFact(Exception):
    """Something later is known already: ask Stripe again."""


@dataclass(frozen=True, slots=True)
class Told:
    """A fetched subscription, the paid invoices of its period, and when Stripe was asked.

    Grace begins with the oldest invoice that is open, so that a later failure does not extend it.
    """

    fact: SubscriptionFact
    paid: Sequence[InvoiceFact]
    fetched_at: datetime
    grace: timedelta
    overdue_since: datetime | None = None
    cause: str = ""
    """What made us ask: an event's id, for the audit log."""


def mode_of(livemode: bool) -> str:
    return "live" if livemode else "test"


def find(tables: Transaction | View, client_id: str, mode: str) -> Subscription | None:
    """What the client has with Stripe in that mode."""
    found = tables.subscriptions.get(client_id)
    return found if found is not None and found.mode == mode else None


def owner(tables: Transaction | View, mode: str, customer_id: str | None) -> Subscription | None:
    """Whose customer that is."""
    if customer_id is None:
        return None
    found = tables.subscriptions.by("customer", customer_key(mode, customer_id))
    return found[0] if found else None


def link_customer(
    tx: Transaction, client_id: str, mode: str, customer_id: str, *, now: datetime
) -> Subscription:
    """Remember the client's customer; one that is known already stays.

    Raises:
        NotFound: there is no such client.
    """
    client = _client(tx, client_id)
    known = find(tx, client_id, mode) or Subscription(client_id=client_id, mode=mode, created_at=now)
    if known.customer_id is None:
        known = replace(known, customer_id=customer_id)
        tx.subscriptions.put(known)
        _mirror(tx, client, known, now)
    return known


def sync(tx: Transaction, told: Told, *, now: datetime) -> None:
    """Make the client's plan, access and cycle what this subscription says.

    Raises:
        UnknownReference, StaleFact: nothing was changed.
    """
    fact = told.fact
    known = owner(tx, mode_of(fact.livemode), fact.customer_id)
    if known is None:
        raise UnknownReference(f"customer {fact.customer_id}")
    if known.fetched_at is not None and told.fetched_at < known.fetched_at:
        raise StaleFact
    if not _is_current(tx, known, fact, now):
        return
    if fact.status is StripeStatus.INCOMPLETE_EXPIRED:
        put(tx, replace(known, subscription_id=None, status=None, fetched_at=told.fetched_at), now)
        return
    review = _to_review(fact)
    after = _described(known, fact, told, review)
    if review or fact.status is StripeStatus.INCOMPLETE:
        put(tx, replace(after, plan_id=known.plan_id), now)
        return
    before = touch(tx, known.client_id, now)
    account = _fit_access(tx, _fit_credits(tx, before, told, now), after, told, now)
    # Again, for what was frozen until now.
    account = _fit_credits(tx, account, told, now)
    if fact.status is StripeStatus.CANCELED:
        after = replace(after, subscription_id=None, subscribed_at=None, plan_id=None, schedule_id=None)
    put(tx, after, now)
    _note_sync(tx, before, account, told, now)


def begin_change(tx: Transaction, client_id: str, mode: str, *, now: datetime) -> Subscription:
    """Take the one turn there is for changing a subscription, for a minute.

    Raises:
        Conflict: `no_subscription`, or `change_in_progress`.
    """
    known = find(tx, client_id, mode)
    if known is None or known.subscription_id is None or known.status not in LIVE:
        raise Conflict("There is no subscription: check out first", code="no_subscription")
    if known.changing_until is not None and now < known.changing_until:
        raise Conflict("Another change is under way", code="change_in_progress")
    known = replace(known, changing_until=now + CHANGE_LEASE)
    tx.subscriptions.put(known)
    return known


def end_change(tx: Transaction, client_id: str, mode: str, answered: bool, *, now: datetime) -> None:  # noqa: ARG001
    """Give the turn back; the next change is another one where Stripe has answered this one."""
    known = find(tx, client_id, mode)
    if known is not None:
        tx.subscriptions.put(replace(known, changing_until=None, changes=known.changes + answered))


def missing(tx: Transaction, mode: str, subscription_id: str, *, now: datetime) -> None:
    """Stripe does not know a subscription that we know: nothing is taken away, an admin is to look."""
    for known in tx.subscriptions:
        if known.mode == mode and known.subscription_id == subscription_id:
            put(tx, replace(known, needs_review="Stripe does not know this subscription"), now)


def _client(tx: Transaction, client_id: str) -> Client:
    client = tx.clients.get(client_id)
    if client is None:
        raise NotFound("Client")
    return client


def _is_current(tx: Transaction, known: Subscription, fact: SubscriptionFact, now: datetime) -> bool:
    """Whether this subscription is the one that counts; of two live ones the newest paid one does."""
    mine = known.subscription_id
    if mine == fact.subscription_id:
        return True
    if fact.status not in LIVE:
        return mine is None and fact.status is StripeStatus.INCOMPLETE
    if mine is None or known.status not in LIVE:
        return True
    newer = known.subscribed_at is None or fact.created > known.subscribed_at
    if not newer:
        outbox.cancel(tx, known, fact.subscription_id, now=now)
        return False
    if not fact.latest_invoice_paid:
        return False
    outbox.cancel(tx, known, mine, now=now)
    return True


def _to_review(fact: SubscriptionFact) -> str:
    if fact.status is StripeStatus.UNKNOWN:
        return "The subscription has a status that is not known here"
    if fact.price.plan_id is None and fact.status is not StripeStatus.CANCELED:
        return f"The price {fact.price.price_id} is none of our plans"
    return ""


def _described(known: Subscription, fact: SubscriptionFact, told: Told, review: str) -> Subscription:
    late = fact.status in (StripeStatus.PAST_DUE, StripeStatus.UNPAID)
    return replace(
        known,
        subscription_id=fact.subscription_id,
        subscribed_at=fact.created,
        status=fact.status,
        pause_kind=fact.pause_kind,
        plan_id=fact.price.plan_id,
        interval=fact.price.interval,
        start=fact.start,
        end=fact.end,
        ends_at=fact.ends_at,
        pending_plan_id=fact.pending_plan_id,
        pending_at=fact.pending_at,
        schedule_id=fact.schedule_id,
        delinquent_since=(told.overdue_since or fact.latest_invoice_at or fact.start) if late else None,
        invoice_url=fact.invoice_url,
        trial_used=known.trial_used or fact.trial_end is not None,
        needs_review=review,
        provisional=False,
        fetched_at=told.fetched_at,
    )


def _fit_credits(tx: Transaction, account: Account, told: Told, now: datetime) -> Account:
    """Open the cycle that was paid for, and give it the limit that was paid for."""
    fact = told.fact
    plan_id = fact.price.plan_id
    if plan_id is None or fact.status is StripeStatus.CANCELED:
        return account
    key = f"stripe:cycle:{fact.subscription_id}:{int(fact.start.timestamp())}"
    period = Period(key, fact.start, fact.end, MONTHS.get(fact.price.interval, 1))
    cycle = slice_at(period, now)
    bought = paid_for(told.paid, fact.start, cycle)
    if bought is None:
        if fact.status is StripeStatus.TRIALING:
            return paid.open_period(tx, account, period, plan_id, plan_of(plan_id).job_limit, now)
        return account
    account = paid.open_period(tx, account, period, plan_id, bought.limit, now)
    if account.period is None or account.period.key != key:
        return account
    account = paid.label(tx, account, plan_id)
    limit = bought.limit - _lowered(tx, fact, bought.plan_id, period, now)
    change = f"stripe:change:{fact.subscription_id}:{fact.latest_invoice_id}"
    return paid.set_limit(tx, account, max(0, limit), change, "plan changed", now)


def _lowered(tx: Transaction, fact: SubscriptionFact, bought: str, period: Period, now: datetime) -> int:
    """What a lower price inside the cycle takes from its limit, worked out when it was first seen."""
    jobs = (plan_of(bought).job_limit or 0) - (plan_of(fact.price.plan_id or "").job_limit or 0)
    if jobs <= 0:
        return 0
    cycle = slice_at(period, now)
    spent_id = f"stripe:lower:{period.key}:{cycle.number}:{fact.price.price_id}"
    known = tx.spent.get(spent_id)
    if known is None:
        known = Spent(spent_id=spent_id, fingerprint="", created_at=now, answer=str(share(jobs, now, cycle)))
        tx.spent.put(known)
    return int(known.answer)


def _fit_access(tx: Transaction, account: Account, after: Subscription, told: Told, now: datetime) -> Account:
    """Full or limited access, by the status alone."""
    fact = told.fact
    if fact.status is StripeStatus.CANCELED:
        return paid.end_paid(tx, account, fact.ended_at or told.fetched_at, now)
    if fact.status in (StripeStatus.UNPAID, StripeStatus.PAUSED):
        return keep(tx, freeze(tx, account, now))
    assert fact.price.plan_id is not None
    account = paid.label(tx, account, fact.price.plan_id)
    if fact.status is StripeStatus.PAST_DUE:
        assert after.delinquent_since is not None
        grace_until = after.delinquent_since + told.grace
        if now >= grace_until:
            return keep(tx, freeze(tx, account, now))
        return keep(tx, replace(paid.thaw(tx, account, now), grace_until=grace_until))
    if fact.collection is Collection.VOID:
        return keep(tx, freeze(tx, account, now))
    return keep(tx, paid.thaw(tx, account, now))


def put(tx: Transaction, after: Subscription, now: datetime) -> None:
    tx.subscriptions.put(after)
    client = tx.clients.get(after.client_id)
    if client is not None:
        _mirror(tx, client, after, now)


def _mirror(tx: Transaction, client: Client, known: Subscription, now: datetime) -> None:
    """The client's own fields, which the guide names, say the same."""
    ids = (known.customer_id, known.subscription_id)
    if (client.stripe_customer_id, client.stripe_subscription_id) != ids:
        tx.clients.put(
            replace(
                client,
                stripe_customer_id=ids[0],
                stripe_subscription_id=ids[1],
                updated_at=now,
                version=client.version + 1,
            )
        )


def _note_sync(tx: Transaction, before: Account, after: Account, told: Told, now: datetime) -> None:
    fact = told.fact
    note_change(tx, before, after, f"{fact.status.value}, {told.cause or 'sync'}", now, fact)


def note_change(
    tx: Transaction,
    before: Account,
    after: Account,
    reason: str,
    now: datetime,
    fact: SubscriptionFact | None = None,
) -> None:
    limited = (before.frozen is not None, after.frozen is not None)
    if before.plan_id == after.plan_id and limited[0] == limited[1]:
        return
    note(
        tx,
        STRIPE,
        "client.plan_changed" if before.plan_id != after.plan_id else "client.access_changed",
        client_id=after.client_id,
        object_id=after.client_id if fact is None else fact.subscription_id,
        reason=reason,
        before={"plan": before.plan_id, "limited": str(limited[0]).lower()},
        after={
            "plan": after.plan_id,
            "limited": str(limited[1]).lower(),
            **({} if fact is None or fact.latest_invoice_id is None else {"invoice": fact.latest_invoice_id}),
        },
        now=now,
    )
