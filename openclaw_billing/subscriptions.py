"""Subscriptions: a client's plan follows what Stripe says of it now, and nothing else changes it meanwhile.

`sync` takes a subscription as it was just fetched, with the paid invoices of its period. Since no event's
content is believed, the order in which events arrive makes no difference.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from openclaw_billing import outbox
from openclaw_billing.alerts import Alert, Alerts
from openclaw_billing.audit import Actor, note
from openclaw_billing.contracts import Transaction, View
from openclaw_billing.errors import Conflict, NotFound
from openclaw_billing.fitting import Told, fit_access, fit_credits
from openclaw_billing.records import Account, Client
from openclaw_billing.stripe_facts import Collection, StripeStatus, SubscriptionFact
from openclaw_billing.stripe_records import Subscription, customer_key
from openclaw_billing.turning import touch

LIVE = frozenset(
    {
        StripeStatus.TRIALING,
        StripeStatus.ACTIVE,
        StripeStatus.PAST_DUE,
        StripeStatus.UNPAID,
        StripeStatus.PAUSED,
    }
)

CHANGE_LEASE = timedelta(seconds=60)
CLOCKS_APART_MAX = timedelta(seconds=30)

STRIPE = Actor("stripe")


class UnknownReference(Exception):
    """Nobody of ours is meant, or not yet: our own commit may still be on its way."""


class StaleFact(Exception):
    """Something later is known already: ask Stripe again."""


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


def is_stale(fetched_at: datetime, known_at: datetime | None, now: datetime) -> bool:
    """Whether what Stripe was asked then is older than what is known.

    A moment far ahead of ours is another machine's wrong clock, and holds up nothing.
    """
    return known_at is not None and fetched_at < known_at <= now + CLOCKS_APART_MAX


def name_customer(tx: Transaction, client_id: str, mode: str, *, now: datetime) -> Subscription:
    """What the client's customer is to be made with: noted once, so that a retry makes the same.

    Raises:
        NotFound: there is no such client.
    """
    client = _client(tx, client_id)
    known = find(tx, client_id, mode) or Subscription(client_id=client_id, mode=mode, created_at=now)
    if known.customer_id is None and known.billing_email is None:
        known = replace(known, billing_name=client.name, billing_email=client.email)
        tx.subscriptions.put(known)
    return known


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


def sync(tx: Transaction, told: Told, *, now: datetime) -> Alerts:
    """Make the client's plan, access and cycle what this subscription says; what is to be told of it.

    Raises:
        UnknownReference, StaleFact: nothing was changed.
    """
    fact = told.fact
    known = owner(tx, mode_of(fact.livemode), fact.customer_id)
    if known is None:
        raise UnknownReference(f"customer {fact.customer_id}")
    if is_stale(told.fetched_at, known.fetched_at, now):
        raise StaleFact
    is_current, alerts = _is_current(tx, known, fact, now)
    alerts += _switched_off(tx, known, fact, now)
    if not is_current:
        return alerts
    if fact.status is StripeStatus.INCOMPLETE_EXPIRED:
        put(tx, replace(known, subscription_id=None, status=None, fetched_at=told.fetched_at), now)
        return alerts
    review = _to_review(fact)
    after = _described(known, fact, told, review)
    alerts += _review_told(known, review)
    if review or fact.status is StripeStatus.INCOMPLETE:
        put(tx, replace(after, plan_id=known.plan_id), now)
        return alerts
    before = touch(tx, known.client_id, now)
    account = fit_access(tx, fit_credits(tx, before, told, now), after, told, now)
    # Again, for what was frozen until now.
    account = fit_credits(tx, account, told, now)
    put(tx, _ended(after) if fact.status is StripeStatus.CANCELED else after, now)
    _note_sync(tx, before, account, told, now)
    return alerts


def begin_change(
    tx: Transaction, client_id: str, mode: str, asked: str, *, now: datetime
) -> tuple[Subscription, bool]:
    """Take the one turn there is for changing a subscription, for a minute.

    True where the same was asked before, and the answer was lost.

    Raises:
        Conflict: `no_subscription`, or `change_in_progress`.
    """
    known = find(tx, client_id, mode)
    if known is None or known.subscription_id is None or known.status not in LIVE:
        raise Conflict("There is no subscription: check out first", code="no_subscription")
    if known.changing_until is not None and now < known.changing_until:
        raise Conflict("Another change is under way", code="change_in_progress")
    begun = replace(known, changing_until=now + CHANGE_LEASE, change_asked=asked)
    tx.subscriptions.put(begun)
    return begun, known.change_asked == asked


def end_change(tx: Transaction, client_id: str, mode: str, answered: bool, *, now: datetime) -> None:  # noqa: ARG001
    """Give the turn back; the next change is another one where Stripe has answered this one."""
    known = find(tx, client_id, mode)
    if known is None:
        return
    if answered:
        known = replace(known, change_asked="", changes=known.changes + 1)
    tx.subscriptions.put(replace(known, changing_until=None))


def missing(tx: Transaction, mode: str, subscription_id: str, *, now: datetime) -> Alerts:
    """Stripe does not know a subscription that we know: nothing is taken away, an admin is to look."""
    review = f"Stripe does not know the subscription {subscription_id}"
    alerts: Alerts = ()
    for known in list(tx.subscriptions):
        if known.mode == mode and known.subscription_id == subscription_id:
            put(tx, replace(known, needs_review=review), now)
            alerts += _review_told(known, review)
    return alerts


def _client(tx: Transaction, client_id: str) -> Client:
    client = tx.clients.get(client_id)
    if client is None:
        raise NotFound("Client")
    return client


def _is_current(
    tx: Transaction, known: Subscription, fact: SubscriptionFact, now: datetime
) -> tuple[bool, Alerts]:
    """Whether this subscription is the one that counts; of two live ones the newest paid one does."""
    mine = known.subscription_id
    if mine == fact.subscription_id:
        return True, ()
    if fact.status not in LIVE:
        return mine is None and fact.status is StripeStatus.INCOMPLETE, ()
    if mine is None or known.status not in LIVE:
        return True, ()
    newer = known.subscribed_at is None or fact.created > known.subscribed_at
    if newer and not fact.latest_invoice_paid:
        return False, ()
    kept, ended = (fact.subscription_id, mine) if newer else (mine, fact.subscription_id)
    if not outbox.cancel(tx, known, ended, now=now):
        return newer, ()
    sentence = f"Client {known.client_id} has two subscriptions: {kept} is kept and {ended} is ended"
    return newer, (Alert(sentence),)


def _switched_off(tx: Transaction, known: Subscription, fact: SubscriptionFact, now: datetime) -> Alerts:
    """A client that is switched off has no subscription, whatever page was open when it was."""
    if fact.status not in LIVE or _client(tx, known.client_id).active:
        return ()
    if not outbox.cancel(tx, known, fact.subscription_id, now=now):
        return ()
    sentence = (
        f"Client {known.client_id} is switched off and has paid for {fact.subscription_id}, which is ended"
    )
    return (Alert(sentence),)


def _to_review(fact: SubscriptionFact) -> str:
    if fact.status is StripeStatus.UNKNOWN:
        return "The subscription has a status that is not known here"
    if fact.collection is Collection.UNKNOWN:
        return "The subscription's payments are paused in a way that is not known here"
    if fact.price.plan_id is None and fact.status is not StripeStatus.CANCELED:
        return f"The price {fact.price.price_id} is none of our plans"
    return ""


def _review_told(known: Subscription, review: str) -> Alerts:
    if not review or review == known.needs_review:
        return ()
    return (Alert(f"Client {known.client_id} needs a look: {review}"),)


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


def _ended(after: Subscription) -> Subscription:
    """What is left of a subscription that is over."""
    return replace(
        after,
        subscription_id=None,
        subscribed_at=None,
        plan_id=None,
        ends_at=None,
        pending_plan_id=None,
        pending_at=None,
        schedule_id=None,
    )


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
