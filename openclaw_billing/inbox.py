"""The inbox: every Stripe event that was told to us, once, and what became of it.

An event is stored before it is acknowledged and applied afterwards, by whichever worker holds its lease. What
it brings about and its mark here are one change, so a process that dies between costs one more try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from openclaw_billing.alerts import Alerts
from openclaw_billing.audit import Actor, note
from openclaw_billing.contracts import Page, Query, Transaction, View
from openclaw_billing.errors import Conflict, NotFound
from openclaw_billing.pauses import pause
from openclaw_billing.records import Fact
from openclaw_billing.stripe_facts import EventFact
from openclaw_billing.stripe_records import InboxSource, InboxStatus, StripeEvent
from openclaw_billing.subscriptions import link_customer, mode_of, owner

CLAIMED_MAX = 8
PARKED_MAX = 5
PARKED_PAUSE = timedelta(minutes=2)
BUGS_MAX = 5
# Long enough that nobody hammers Stripe where clocks differ, short enough that nobody notices.
STALE_PAUSE = timedelta(seconds=5)
AWAY_MAX = timedelta(days=3)
LIFE = timedelta(days=40)
SETTLED = (InboxStatus.APPLIED, InboxStatus.IGNORED)
FORGOTTEN_MAX = 1000
REASON_MAX = 200

STORED, DUPLICATE, IGNORED = "stored", "duplicate", "ignored"

Effect = Callable[[Transaction, datetime], Alerts]


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits to be applied, and since when."""

    waiting: int
    oldest: datetime | None
    parked: int
    newest_event: datetime | None


def record_event(
    tx: Transaction, event: EventFact, *, source: InboxSource, ignored: str = "", now: datetime
) -> str:
    """Store an event that is new; `stored`, `duplicate`, or `ignored` for the reason given."""
    if tx.stripe_events.get(event.event_id) is not None:
        return DUPLICATE
    tx.stripe_events.put(
        StripeEvent(
            event_id=event.event_id,
            type=event.type,
            mode=mode_of(event.livemode),
            created_at=now,
            happened_at=event.created,
            source=source,
            status=InboxStatus.IGNORED if ignored else InboxStatus.RECEIVED,
            api_version=event.api_version,
            object_id=event.object_id,
            customer_id=event.customer_id,
            subscription_id=event.subscription_id,
            payment_intent_id=event.payment_intent_id,
            facts=dict(event.facts),
            next_at=None if ignored else now,
            reason=ignored,
        )
    )
    return IGNORED if ignored else STORED


def record_polled(
    tx: Transaction,
    events: Iterable[tuple[EventFact, str]],
    cursor: tuple[str, datetime],
    *,
    source: InboxSource = InboxSource.POLL,
    now: datetime,
) -> int:
    """Store what a look for lost events found, and move its cursor; how many were new."""
    new = sum(
        record_event(tx, event, source=source, ignored=ignored, now=now) == STORED
        for event, ignored in events
    )
    name, moment = cursor
    known = cursor_of(tx, name)
    if known is None or known < moment:
        tx.facts.put(Fact(name=name, value=moment.isoformat()))
    return new


def cursor_of(tables: Transaction | View, name: str) -> datetime | None:
    """How far the looks for lost events have come."""
    fact = tables.facts.get(name)
    return None if fact is None else datetime.fromisoformat(fact.value)


def claim(tx: Transaction, mode: str, lease: timedelta, *, now: datetime) -> list[StripeEvent]:
    """Events that are due, oldest first, no two of one customer, kept from other workers for `lease`."""
    waiting = [event for event in tx.stripe_events.by("due", "yes") if event.mode == mode]
    busy = {_subject(event) for event in waiting if event.lease_until and event.lease_until > now}
    claimed: list[StripeEvent] = []
    for event in sorted(waiting, key=lambda event: (event.happened_at, event.event_id)):
        if len(claimed) == CLAIMED_MAX:
            break
        if _subject(event) in busy or (event.next_at is not None and event.next_at > now):
            continue
        busy.add(_subject(event))
        claimed.append(replace(event, lease_until=now + lease))
    for event in claimed:
        tx.stripe_events.put(event)
    return claimed


def apply(
    tx: Transaction, event_id: str, effect: Effect | None, reason: str = "", *, now: datetime
) -> Alerts | None:
    """Let an event have its effect, and mark it, in one change; what is to be told. None: another has done it."""
    event = tx.stripe_events.get(event_id)
    if event is None or event.status not in (InboxStatus.RECEIVED, InboxStatus.PARKED):
        return None
    alerts = () if effect is None else effect(tx, now)
    status = InboxStatus.APPLIED if effect is not None else InboxStatus.IGNORED
    tx.stripe_events.put(
        replace(event, status=status, next_at=None, lease_until=None, reason=reason[:REASON_MAX])
    )
    return alerts


def park(tx: Transaction, event_id: str, reason: str, *, now: datetime) -> InboxStatus | None:
    """Nobody of ours is meant, as far as we know yet: try again for ten minutes, then leave it to an admin."""
    event = tx.stripe_events.get(event_id)
    if event is None:
        return None
    over = event.parkings >= PARKED_MAX
    status = InboxStatus.ORPHAN if over else InboxStatus.PARKED
    event = replace(event, parkings=event.parkings + 1, status=status)
    return _wait(tx, event, None if over else now + PARKED_PAUSE, reason)


def delay(tx: Transaction, event_id: str, reason: str, *, now: datetime) -> InboxStatus | None:
    """Stripe is away: later, for three days."""
    event = tx.stripe_events.get(event_id)
    if event is None:
        return None
    over = now - event.created_at > AWAY_MAX
    next_at = now + pause(event.attempts, event_id)
    status = InboxStatus.FAILED if over else event.status
    event = replace(event, attempts=event.attempts + 1, status=status)
    return _wait(tx, event, None if over else next_at, reason)


def stumble(tx: Transaction, event_id: str, reason: str, *, now: datetime) -> InboxStatus | None:
    """Applying it failed for a reason of ours: a few more tries, then an admin is needed."""
    event = tx.stripe_events.get(event_id)
    if event is None:
        return None
    stumbles = event.stumbles + 1
    over = stumbles >= BUGS_MAX
    event = replace(event, stumbles=stumbles, status=InboxStatus.FAILED if over else event.status)
    return _wait(tx, event, None if over else now + pause(min(stumbles, 3), event_id), reason)


def again(tx: Transaction, event_id: str, *, now: datetime) -> None:
    """Something later was known already: soon, with another answer of Stripe's."""
    event = tx.stripe_events.get(event_id)
    if event is not None:
        _wait(tx, event, now + STALE_PAUSE, event.reason)


def replay(tx: Transaction, event_id: str, mode: str, *, actor: Actor, now: datetime) -> StripeEvent:
    """Have the event applied once more; what it did before is not done twice.

    Raises:
        NotFound
        Conflict: it is waiting to be applied anyway, or of another mode than ours, in which nobody would apply it.
    """
    event = _known(tx, event_id, mode)
    if event.status in (InboxStatus.RECEIVED, InboxStatus.PARKED):
        raise Conflict("The event is waiting to be applied", code="event_waiting")
    event = _anew(replace(event, status=InboxStatus.RECEIVED, reason="replayed"), now)
    tx.stripe_events.put(event)
    note(tx, actor, "stripe_event.replayed", object_id=event_id, now=now)
    return event


def attach(
    tx: Transaction, event_id: str, client_id: str, mode: str, *, actor: Actor, now: datetime
) -> StripeEvent:
    """Say whose customer an orphaned event is about, and have it applied.

    Raises:
        NotFound
        Conflict: the event names no customer, or one of another client's, or the client has another one; or it is
            of another mode than ours.
    """
    event = _known(tx, event_id, mode)
    if event.customer_id is None:
        raise Conflict("The event names no customer", code="no_customer")
    other = owner(tx, event.mode, event.customer_id)
    if other is not None and other.client_id != client_id:
        raise Conflict("The customer belongs to another client", code="other_client")
    known = link_customer(tx, client_id, event.mode, event.customer_id, now=now)
    if known.customer_id != event.customer_id:
        raise Conflict("The client has another customer at Stripe", code="other_customer")
    note(
        tx,
        actor,
        "stripe_event.attached",
        client_id=client_id,
        object_id=event_id,
        after={"customer": event.customer_id},
        now=now,
    )
    if event.status in (InboxStatus.RECEIVED, InboxStatus.PARKED):
        event = _anew(event, now)
        tx.stripe_events.put(event)
        return event
    return replay(tx, event_id, mode, actor=actor, now=now)


def page_of_events(
    view: View, *, status: str | None, limit: int, after: tuple[datetime, str] | None
) -> Page[StripeEvent]:
    """A page of the inbox, newest first."""
    equals = {} if status is None else {"status": status}
    return view.stripe_events.page(Query(equals=equals, limit=limit, after=after))


def backlog(view: View, mode: str) -> Backlog:
    """What waits; the newest event is of any kind, so that silence can be noticed."""
    waiting = [event for event in view.stripe_events.by("due", "yes") if event.mode == mode]
    newest = view.stripe_events.page(Query(equals={"mode": mode}, limit=1)).rows
    return Backlog(
        waiting=len(waiting),
        oldest=min((event.created_at for event in waiting), default=None),
        parked=sum(event.status is InboxStatus.PARKED for event in waiting),
        newest_event=newest[0].created_at if newest else None,
    )


def old(view: View, *, now: datetime, limit: int = FORGOTTEN_MAX) -> list[str]:
    """The ids of some events that came over forty days ago and are settled. Reading holds up nobody."""
    found: list[str] = []
    for status in SETTLED:
        query = Query(equals={"status": status}, until=now - LIFE, limit=limit)
        found += [event.event_id for event in view.stripe_events.page(query).rows]
    return found


def forget(tx: Transaction, event_ids: Sequence[str], *, now: datetime) -> int:
    """Drop those of them that are settled and old; how many went. Their effects are remembered elsewhere."""
    gone = 0
    for event_id in event_ids:
        event = tx.stripe_events.get(event_id)
        if event is not None and event.status in SETTLED and event.created_at < now - LIFE:
            tx.stripe_events.delete(event_id)
            gone += 1
    return gone


def _known(tx: Transaction, event_id: str, mode: str) -> StripeEvent:
    event = tx.stripe_events.get(event_id)
    if event is None:
        raise NotFound("Stripe event")
    if event.mode != mode:
        raise Conflict(f"The event is of {event.mode} mode, and this is {mode} mode", code="other_mode")
    return event


def _anew(event: StripeEvent, now: datetime) -> StripeEvent:
    """The event with all of its tries before it."""
    return replace(event, attempts=0, parkings=0, stumbles=0, next_at=now, lease_until=None)


def _wait(tx: Transaction, event: StripeEvent, next_at: datetime | None, reason: str) -> InboxStatus:
    tx.stripe_events.put(replace(event, next_at=next_at, lease_until=None, reason=reason[:REASON_MAX]))
    return event.status


def _subject(event: StripeEvent) -> str:
    """Events of one customer are applied one after the other."""
    return event.customer_id or event.subscription_id or event.object_id or event.event_id
