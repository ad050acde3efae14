"""Reconciling: what Stripe could not tell us is looked for, and what differs is healed.

A poll stores the events that were not delivered; a sweep compares everything with Stripe's own state. Both go the
ways that events go, so that running them twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from openclaw_billing import inbox, subscriptions
from openclaw_billing.alerts import Alert, Alerts, once
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import Transaction, View
from openclaw_billing.effects import Effects
from openclaw_billing.errors import NotFound, StripeMisconfigured, StripeUnavailable
from openclaw_billing.inbox import Effect
from openclaw_billing.payments.account import StripeAccount
from openclaw_billing.records import Fact
from openclaw_billing.runtime import Runtime
from openclaw_billing.stripe_events import EVENT_TYPES
from openclaw_billing.stripe_facts import DisputeFact, EventFact, SubscriptionFact
from openclaw_billing.stripe_records import CheckoutState, InboxSource, InboxStatus
from openclaw_billing.subscriptions import StaleFact, UnknownReference

OVERLAP = timedelta(minutes=10)
FIRST_LOOK = timedelta(hours=1)
EVENTS_LIVE = timedelta(days=30)
SWEEP_EVERY = timedelta(days=1)
SWEEP_APART = timedelta(minutes=10)
# Whoever looks has so long; a look that failed, or whose process died, is another's turn then.
TURN = timedelta(hours=1)
TRY_AGAIN = timedelta(minutes=5)
SILENCE = timedelta(days=3)
PAGE = 100
WAITING = (InboxStatus.RECEIVED, InboxStatus.PARKED)
CAME_TO_NOTHING = (InboxStatus.FAILED, InboxStatus.ORPHAN)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """What a sweep came to. An orphan is something at Stripe that belongs to no client of ours."""

    checked: int = 0
    healed: int = 0
    orphans: int = 0


class Reconciler:
    """Looks on one Stripe account, in turn with every other process's."""

    def __init__(self, runtime: Runtime, account: StripeAccount, effects: Effects) -> None:
        self._runtime = runtime
        self._account = account
        self._effects = effects
        self._cursor = f"stripe:cursor:{account.mode}"
        self._swept = f"stripe:swept:{account.mode}"
        self._polled = f"stripe:polled:{account.mode}"
        self._begun = False

    async def look(self) -> int:
        """Sweep daily and poll often, if nobody did lately; how many events were found.

        The first time everything is compared, unless another process just did.
        """
        if not self._begun:
            await self._runtime.write(_forget_sweep, self._swept)
            self._begun = True
        await self._in_turn(self._swept, SWEEP_EVERY, self.sweep)
        every = timedelta(minutes=self._runtime.settings.stripe_poll_minutes)
        return await self._in_turn(self._polled, every, self.poll) or 0

    async def poll(self) -> int:
        """Store the events since the last look, and a little before it; how many were new."""
        now, cursor = self._runtime.now(), self._looked_until()
        if now - cursor > EVENTS_LIVE:
            self._runtime.log.error("Stripe's events do not reach back to %s: comparing everything", cursor)
            await self.sweep()
        new = 0
        page: list[tuple[EventFact, str]] = []
        async for event in self._account.events(EVENT_TYPES, cursor - OVERLAP):
            page.append((event, ""))
            if len(page) == PAGE:
                # The cursor follows what is stored, so that a look cut short goes on where it ended.
                new += await self._runtime.write(inbox.record_polled, page, (self._cursor, event.created))
                page = []
        new += await self._runtime.write(inbox.record_polled, page, (self._cursor, now))
        if new:
            self._runtime.log.warning("%d Stripe events had not been delivered", new)
        await self._hear_silence()
        return new

    async def undelivered(self) -> list[EventFact]:
        """The events that a poll would store now."""
        known = self._runtime.view.stripe_events
        events = self._account.events(EVENT_TYPES, self._looked_until() - OVERLAP)
        return [event async for event in events if known.get(event.event_id) is None]

    async def replay_since(self, since: datetime, *, dry_run: bool = False) -> int:
        """Have every event since then applied that is not known or came to nothing; how many there were."""
        found = 0
        async for event in self._account.events(EVENT_TYPES, since):
            known = self._runtime.view.stripe_events.get(event.event_id)
            if known is None or known.status in CAME_TO_NOTHING:
                found += 1
                if not dry_run:
                    await self._runtime.write(_queue, event.event_id, self._account.mode, event)
        return found

    async def replay(self, event_id: str, *, dry_run: bool = False) -> int:
        """Have one event applied once more, fetched if it is not known here; how many there were.

        Raises:
            NotFound: neither we nor Stripe know it.
        """
        known = self._runtime.view.stripe_events.get(event_id)
        event = None if known is not None else await self._account.event(event_id)
        if known is None and event is None:
            raise NotFound("Stripe event")
        if not dry_run:
            await self._runtime.write(_queue, event_id, self._account.mode, event)
        return 1

    async def sweep(self, *, dry_run: bool = False) -> Found:
        """Compare every subscription, open attempt and disputed payment with Stripe's, and heal."""
        outcomes = [
            *await self._sweep_subscriptions(dry_run),
            *await self._sweep_attempts(dry_run),
            *await self._sweep_disputes(dry_run),
        ]
        return Found(
            checked=len(outcomes),
            healed=outcomes.count(InboxStatus.APPLIED),
            orphans=outcomes.count(InboxStatus.ORPHAN),
        )

    async def _sweep_subscriptions(self, dry_run: bool) -> list[InboxStatus | None]:
        outcomes: list[InboxStatus | None] = []
        async for fact in self._account.subscriptions():
            known = subscriptions.owner(self._runtime.view, self._account.mode, fact.customer_id)
            if known is not None:
                meaning = partial(self._effects.of_fact, fact, self._runtime.now(), "sweep")
                outcomes.append(await self._heal(known.client_id, meaning, dry_run))
                continue
            outcomes.append(InboxStatus.ORPHAN)
            if not dry_run:
                self._effects.tell(await self._runtime.write(_orphaned, fact))
        return outcomes

    async def _sweep_attempts(self, dry_run: bool) -> list[InboxStatus | None]:
        outcomes = []
        for attempt in list(self._runtime.view.checkouts):
            waits = attempt.state in (CheckoutState.OPEN, CheckoutState.CLOSING)
            if attempt.mode == self._account.mode and waits and attempt.session_id is not None:
                meaning = partial(self._effects.of_session, attempt.session_id, cause="sweep")
                outcomes.append(await self._heal(attempt.client_id, meaning, dry_run))
        return outcomes

    async def _sweep_disputes(self, dry_run: bool) -> list[InboxStatus | None]:
        """Those that are open at Stripe, and those that we believe to be."""
        view, mode = self._runtime.view, self._account.mode
        outcomes, seen = [], set()
        async for dispute in self._account.open_disputes():
            seen.add(dispute.dispute_id)
            bought = view.purchases.by("payment", dispute.payment_intent_id or "")
            payer = bought[0] if bought else subscriptions.owner(view, mode, dispute.customer_id)
            if payer is not None:
                outcomes.append(await self._heal_payment(payer.client_id, dispute, dry_run))
        for known in [each for each in view.subscriptions if each.mode == mode]:
            for dispute_id in set(known.disputes) - seen:
                decided = await self._account.dispute(dispute_id)
                if decided is not None:
                    outcomes.append(await self._heal_payment(known.client_id, decided, dry_run))
        return outcomes

    async def _heal_payment(self, client_id: str, dispute: DisputeFact, dry_run: bool) -> InboxStatus | None:
        meaning = partial(self._effects.of_payment, dispute.payment_intent_id or "")
        return await self._heal(client_id, meaning, dry_run)

    async def _heal(
        self, client_id: str, meaning: Callable[[], Awaitable[Effect]], dry_run: bool
    ) -> InboxStatus | None:
        """APPLIED where something changed, or would have; ORPHAN where nobody of ours is meant."""
        try:
            effect = await meaning()
            if dry_run:
                before = _standing(self._runtime.view, client_id)
                after = await self._effects.rehearse(effect, partial(_standing, client_id=client_id))
                return InboxStatus.APPLIED if after != before else None
            changed, alerts = await self._runtime.write(_heal, client_id, effect)
        except UnknownReference:
            return InboxStatus.ORPHAN
        except StaleFact:
            return None
        except ValueError as error:
            # Something of Stripe's is in no shape we know: the others must be looked at all the same.
            self._runtime.log.error("Nothing is healed for client %s: %s", client_id, error)
            return None
        self._effects.tell(alerts)
        return InboxStatus.APPLIED if changed else None

    def _looked_until(self) -> datetime:
        known = inbox.cursor_of(self._runtime.view, self._cursor)
        return self._runtime.now() - FIRST_LOOK if known is None else known

    async def _hear_silence(self) -> None:
        """Tell once where no event has come for long, though there is something to tell of."""
        view, mode = self._runtime.view, self._account.mode
        newest = (await self._runtime.read(partial(inbox.backlog, view, mode))).newest_event
        if newest is None or self._runtime.now() < newest + SILENCE:
            return
        if any(each.mode == mode and each.status in subscriptions.LIVE for each in view.subscriptions):
            self._effects.tell(await self._runtime.write(_silent, mode, newest))

    async def _in_turn(self, name: str, every: timedelta, look: Callable[[], Awaitable[T]]) -> T | None:
        """What the look found, if it was this process's turn and Stripe answered."""
        view = self._runtime.view
        if not await self._runtime.read(partial(_is_due, view, name, every, self._runtime.now())):
            return None
        if not await self._runtime.write(_take_turn, name, every):
            return None
        found = None
        try:
            found = await look()
        except (StripeUnavailable, StripeMisconfigured) as error:
            self._runtime.log.warning("Stripe cannot be asked for what was lost: %s", error.code)
        await self._runtime.write(_end_turn, name, done=found is not None)
        return found


def _heal(tx: Transaction, client_id: str, effect: Effect, *, now: datetime) -> tuple[bool, Alerts]:
    """Whether the effect changes where the client stands, and what is to be told of it."""
    before = _standing(tx, client_id)
    alerts = effect(tx, now)
    return _standing(tx, client_id) != before, alerts


def _standing(tables: Transaction | View, client_id: str) -> tuple[object, ...]:
    account, known = tables.accounts.get(client_id), tables.subscriptions.get(client_id)
    return (
        None if account is None else replace(account, due_at=None),
        None if known is None else replace(known, fetched_at=None),
    )


def _queue(tx: Transaction, event_id: str, mode: str, fetched: EventFact | None, *, now: datetime) -> None:
    """Have the event applied, once more if it was; one that waits for that already goes on waiting."""
    known = tx.stripe_events.get(event_id)
    if known is None:
        assert fetched is not None, "an event that is not known was fetched"
        inbox.record_event(tx, fetched, source=InboxSource.REPLAY, now=now)
    elif known.status not in WAITING:
        inbox.replay(tx, event_id, mode, actor=Actor("cli"), now=now)


def _orphaned(tx: Transaction, fact: SubscriptionFact, *, now: datetime) -> Alerts:
    if fact.status not in subscriptions.LIVE or fact.price.plan_id is None:
        return ()
    sentence = f"Subscription {fact.subscription_id} of customer {fact.customer_id} is paid for by no client"
    return once(tx, f"orphan:{fact.subscription_id}", Alert(sentence), now)


def _silent(tx: Transaction, mode: str, newest: datetime, *, now: datetime) -> Alerts:
    sentence = f"No Stripe event has come since {newest}: `stripe check` tells whether the endpoint is well"
    return once(tx, f"silence:{mode}:{newest.isoformat()}", Alert(sentence, urgent=False), now)


def _is_due(tables: Transaction | View, name: str, every: timedelta, now: datetime) -> bool:
    last, taken = inbox.cursor_of(tables, name), inbox.cursor_of(tables, _turn(name))
    return (last is None or now >= last + every) and (taken is None or now >= taken)


def _take_turn(tx: Transaction, name: str, every: timedelta, *, now: datetime) -> bool:
    """Whether it is this process that looks now."""
    due = _is_due(tx, name, every, now)
    if due:
        tx.facts.put(Fact(name=_turn(name), value=(now + min(every, TURN)).isoformat()))
    return due


def _end_turn(tx: Transaction, name: str, *, done: bool, now: datetime) -> None:
    if done:
        tx.facts.put(Fact(name=name, value=now.isoformat()))
        tx.facts.delete(_turn(name))
    else:
        tx.facts.put(Fact(name=_turn(name), value=(now + TRY_AGAIN).isoformat()))


def _forget_sweep(tx: Transaction, name: str, *, now: datetime) -> None:
    last = inbox.cursor_of(tx, name)
    if last is not None and now >= last + SWEEP_APART:
        tx.facts.delete(name)


def _turn(name: str) -> str:
    """Until when somebody has the turn, or leaves it be."""
    return f"{name}:turn"
