"""Reconciling: what Stripe could not tell us is looked for, and what differs is healed.

A poll stores the events that were not delivered; a sweep compares everything with Stripe's own state. Both go the
ways that events go, so that running them twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from openclaw_billing import inbox, subscriptions
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import Transaction
from openclaw_billing.effects import Effects
from openclaw_billing.errors import NotFound, StripeMisconfigured, StripeUnavailable
from openclaw_billing.inbox import Effect
from openclaw_billing.payments.account import StripeAccount
from openclaw_billing.records import Fact
from openclaw_billing.runtime import Runtime
from openclaw_billing.stripe_events import EVENT_TYPES
from openclaw_billing.stripe_facts import EventFact
from openclaw_billing.stripe_records import CheckoutState, InboxSource, InboxStatus
from openclaw_billing.subscriptions import StaleFact, UnknownReference

OVERLAP = timedelta(minutes=10)
FIRST_LOOK = timedelta(hours=1)
EVENTS_LIVE = timedelta(days=30)
SWEEP_EVERY = timedelta(days=1)
SWEEP_APART = timedelta(minutes=10)
PAGE = 100
WAITING = (InboxStatus.RECEIVED, InboxStatus.PARKED)
CAME_TO_NOTHING = (InboxStatus.FAILED, InboxStatus.ORPHAN)


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

    async def begin(self) -> None:
        """At start everything is compared once, unless another process just did."""
        last = inbox.cursor_of(self._runtime.view, self._swept)
        if last is not None and self._runtime.now() >= last + SWEEP_APART:
            await self._runtime.write(_forget_turn, self._swept)

    async def look(self) -> None:
        """Sweep daily and poll often, if nobody did lately."""
        if await self._is_my_turn(self._swept, SWEEP_EVERY):
            await self._tried(self.sweep)
        if await self._is_my_turn(
            self._polled, timedelta(minutes=self._runtime.settings.stripe_poll_minutes)
        ):
            await self._tried(self.poll)

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
                    await self._runtime.write(_queue, event.event_id, event)
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
            await self._runtime.write(_queue, event_id, event)
        return 1

    async def sweep(self, *, dry_run: bool = False) -> Found:
        """Compare every subscription, open attempt and disputed payment with Stripe's, and heal."""
        view, mode = self._runtime.view, self._account.mode
        outcomes: list[InboxStatus | None] = []
        async for fact in self._account.subscriptions():
            known = subscriptions.owner(view, mode, fact.customer_id)
            client_id = None if known is None else known.client_id
            meaning = partial(self._effects.of_fact, fact, self._runtime.now(), "sweep")
            outcomes.append(await self._heal(client_id, meaning, dry_run))
        for attempt in list(view.checkouts):
            if attempt.mode == mode and attempt.state is CheckoutState.OPEN and attempt.session_id:
                meaning = partial(self._effects.of_session, attempt.session_id, cause="sweep")
                outcomes.append(await self._heal(attempt.client_id, meaning, dry_run))
        async for dispute in self._account.open_disputes():
            bought = view.purchases.by("payment", dispute.payment_intent_id or "")
            if bought:
                meaning = partial(self._effects.of_payment, dispute.payment_intent_id or "")
                outcomes.append(await self._heal(bought[0].client_id, meaning, dry_run))
        return Found(
            checked=len(outcomes),
            healed=outcomes.count(InboxStatus.APPLIED),
            orphans=outcomes.count(InboxStatus.ORPHAN),
        )

    async def _heal(
        self, client_id: str | None, meaning: Callable[[], Awaitable[Effect]], dry_run: bool
    ) -> InboxStatus | None:
        """APPLIED where something changed, or would have; ORPHAN where nobody of ours is meant."""
        if client_id is None:
            return InboxStatus.ORPHAN
        try:
            changed = await self._runtime.write(_try, client_id, await meaning(), dry_run)
        except _Rehearsed as rehearsed:
            changed = rehearsed.changed
        except UnknownReference:
            return InboxStatus.ORPHAN
        except StaleFact:
            return None
        except ValueError as error:
            # Something of Stripe's is in no shape we know: the others must be looked at all the same.
            self._runtime.log.error("Nothing is healed for client %s: %s", client_id, error)
            return None
        return InboxStatus.APPLIED if changed else None

    def _looked_until(self) -> datetime:
        known = inbox.cursor_of(self._runtime.view, self._cursor)
        return self._runtime.now() - FIRST_LOOK if known is None else known

    async def _is_my_turn(self, name: str, pause: timedelta) -> bool:
        last = inbox.cursor_of(self._runtime.view, name)
        if last is not None and self._runtime.now() < last + pause:
            return False
        return await self._runtime.write(_take_turn, name, pause)

    async def _tried(self, look: Callable[[], Awaitable[object]]) -> None:
        try:
            await look()
        except (StripeUnavailable, StripeMisconfigured) as error:
            self._runtime.log.warning("Stripe cannot be asked for what was lost: %s", error.code)


class _Rehearsed(Exception):
    """Ends a change that was only to be tried, so that it is undone."""

    def __init__(self, changed: bool) -> None:
        super().__init__()
        self.changed = changed


def _try(tx: Transaction, client_id: str, effect: Effect, dry_run: bool, *, now: datetime) -> bool:
    """Whether the effect changes where the client stands. Raises `_Rehearsed` on a dry run."""
    before = _standing(tx, client_id)
    effect(tx, now)
    changed = _standing(tx, client_id) != before
    if dry_run:
        raise _Rehearsed(changed)
    return changed


def _standing(tx: Transaction, client_id: str) -> tuple[object, ...]:
    account, known = tx.accounts.get(client_id), tx.subscriptions.get(client_id)
    return (
        None if account is None else replace(account, due_at=None),
        None if known is None else replace(known, fetched_at=None),
    )


def _queue(tx: Transaction, event_id: str, fetched: EventFact | None, *, now: datetime) -> None:
    """Have the event applied, once more if it was; one that waits for that already goes on waiting."""
    known = tx.stripe_events.get(event_id)
    if known is None:
        assert fetched is not None, "an event that is not known was fetched"
        inbox.record_event(tx, fetched, source=InboxSource.REPLAY, now=now)
    elif known.status not in WAITING:
        inbox.replay(tx, event_id, actor=Actor("cli"), now=now)


def _take_turn(tx: Transaction, name: str, pause: timedelta, *, now: datetime) -> bool:
    """Whether it is this process that looks now."""
    last = inbox.cursor_of(tx, name)
    if last is not None and now < last + pause:
        return False
    tx.facts.put(Fact(name=name, value=now.isoformat()))
    return True


def _forget_turn(tx: Transaction, name: str, *, now: datetime) -> None:  # noqa: ARG001
    tx.facts.delete(name)
