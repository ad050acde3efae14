"""The worker: applies the Stripe events that were stored, and makes the calls that Stripe must hear.

Every gateway process runs one; leases in the store keep them out of each other's way, and everything they do
may be done twice. Nothing on the path of a job waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

from openclaw_billing import inbox, outbox
from openclaw_billing.effects import Effects
from openclaw_billing.errors import BillingError, StorageUnavailable, StripeMisconfigured, StripeUnavailable
from openclaw_billing.payments.account import StripeAccount
from openclaw_billing.reconcile import Reconciler
from openclaw_billing.runtime import Runtime
from openclaw_billing.stripe_records import CallKind, InboxStatus, StripeCall, StripeEvent
from openclaw_billing.subscriptions import StaleFact, UnknownReference

IDLE_SECONDS = 1.0
LOOK_SECONDS = 5.0
ROUNDS_MAX = 1000
STALE_TRIES_MAX = 5

T = TypeVar("T")


@contextlib.asynccontextmanager
async def working(runtime: Runtime) -> AsyncIterator[None]:
    """A worker for as long as the block lasts, where there is a Stripe key; nothing without one."""
    account = runtime.stripe
    if account is None:
        yield
        return
    worker = Worker(runtime, account)
    runtime.wake_worker = worker.wake
    tasks = [asyncio.create_task(worker.work()), asyncio.create_task(worker.look())]
    try:
        yield
    finally:
        runtime.wake_worker = _nobody
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await account.close()


def _nobody() -> None:
    """There is no worker here to be woken."""


class Worker:
    """One process's worker on one Stripe account."""

    def __init__(self, runtime: Runtime, account: StripeAccount) -> None:
        self._runtime = runtime
        self._account = account
        self.effects = Effects(runtime, account)
        self.reconciler = Reconciler(runtime, account, self.effects)
        self._awake = asyncio.Event()
        # Twice what one row may take; the rows of a worker that was killed wait so long.
        self._lease = timedelta(seconds=2 * runtime.settings.stripe_budget_seconds + 2)

    def wake(self) -> None:
        """An event was stored: apply it now rather than in a second."""
        self._awake.set()

    async def work(self) -> None:
        """Apply events and make calls until cancelled."""
        while True:
            # Before the work: what is stored meanwhile must not wait.
            self._awake.clear()
            await self._outlived(self.drain)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._awake.wait()

    async def look(self) -> None:
        """Look for what was lost until cancelled. It may take long, so no event waits for it."""
        while True:
            if await self._outlived(self.reconciler.look):
                self.wake()
            await asyncio.sleep(LOOK_SECONDS)

    async def _outlived(self, some: Callable[[], Awaitable[T]]) -> T | None:
        """The outermost edge of both tasks: they must outlive their own bugs."""
        try:
            return await some()
        except StorageUnavailable:
            self._runtime.log.warning("Stripe events wait: the storage is away")
        except Exception:
            self._runtime.log.exception("The Stripe worker stumbled and goes on")
        return None

    async def drain(self) -> int:
        """Apply the events and make the calls that are due now; how many there were."""
        done = 0
        for _ in range(ROUNDS_MAX):
            events, calls = await self._claim()
            if not events and not calls:
                break
            done += len(events) + len(calls)
            await asyncio.gather(*map(self._handle, events), *map(self._call, calls))
        await self._show_backlog()
        return done

    async def _show_backlog(self) -> None:
        view, now = self._runtime.view, self._runtime.now()
        state = await self._runtime.read(partial(inbox.backlog, view, self._account.mode))
        self._runtime.stripe_observer.backlog(
            state.waiting,
            0.0 if state.oldest is None else (now - state.oldest).total_seconds(),
            None if state.newest_event is None else (now - state.newest_event).total_seconds(),
        )

    async def _claim(self) -> tuple[list[StripeEvent], list[StripeCall]]:
        view, mode = self._runtime.view, self._account.mode
        events: list[StripeEvent] = []
        calls: list[StripeCall] = []
        # Looking costs nothing; claiming is a change, made only where there is something.
        if await self._runtime.read(partial(view.stripe_events.by, "due", "yes")):
            events = await self._runtime.write(inbox.claim, mode, self._lease)
        if await self._runtime.read(partial(view.stripe_calls.by, "undone", "yes")):
            calls = await self._runtime.write(outbox.claim, mode, self._lease)
        return events, calls

    async def _handle(self, event: StripeEvent) -> None:
        """Find out what the event means now, and let it have its effect."""
        write, event_id = self._runtime.write, event.event_id
        try:
            with self._account.budget():
                await self._apply(event)
        except UnknownReference as error:
            self._tell(event, await write(inbox.park, event_id, f"unknown {error}"), str(error))
        except (StripeUnavailable, StripeMisconfigured) as error:
            self._tell(event, await write(inbox.delay, event_id, error.code), error.code)
        except StorageUnavailable:
            # Nothing can be noted; the lease runs out, and the event is taken up again.
            raise
        except BillingError as error:
            self._tell(event, await write(inbox.stumble, event_id, error.code), error.code)
        except Exception as error:
            self._runtime.log.exception("Applying Stripe event %s failed", event_id)
            self._tell(event, await write(inbox.stumble, event_id, type(error).__name__))

    async def _apply(self, event: StripeEvent) -> None:
        for _ in range(STALE_TRIES_MAX):
            effect = await self.effects.of(event)
            with contextlib.suppress(StaleFact):
                alerts = await self._runtime.write(inbox.apply, event.event_id, effect)
                if alerts is not None:
                    self._tell(event, InboxStatus.IGNORED if effect is None else InboxStatus.APPLIED)
                    self.effects.tell(alerts)
                return
        await self._runtime.write(inbox.again, event.event_id)

    async def _call(self, call: StripeCall) -> None:
        """Make a call that Stripe must hear; one that was not heard is made again later."""
        write = self._runtime.write
        try:
            with self._account.budget():
                heard = await {CallKind.CANCEL: self._cancel, CallKind.CLOSE: self._close}[call.kind](call)
        except StorageUnavailable:
            # Nothing can be noted; the lease runs out, and the call is made again.
            raise
        except BillingError as error:
            self._runtime.log.warning("Call %s waits: %s", call.call_id, error.code)
            await write(outbox.delay, call.call_id, error.code)
        except Exception as error:
            self._runtime.log.exception("Call %s failed", call.call_id)
            await write(outbox.delay, call.call_id, type(error).__name__)
        else:
            if heard:
                await write(outbox.finish, call.call_id)
            else:
                await write(outbox.delay, call.call_id, "nothing to be seen yet")

    async def _cancel(self, call: StripeCall) -> bool:
        """Whether the subscription is over; one that Stripe does not know is for an admin to look at."""
        fact = await self._account.cancel_now(call.object_id, prorate=call.prorate)
        if fact is None:
            await self.effects.apply(self.effects.of_missing(call.object_id))
        state = "gone" if fact is None else fact.status.value
        self._runtime.log.info("Subscription %s is %s at Stripe", call.object_id, state)
        return True

    async def _close(self, call: StripeCall) -> bool:
        """Whether the attempt's page is closed, or will never be."""
        attempt = self._runtime.view.checkouts.get(call.object_id)
        return attempt is None or await self.effects.close_page(attempt)

    def _tell(self, event: StripeEvent, status: InboxStatus | None, why: str = "") -> None:
        if status is None:
            return
        self._runtime.stripe_observer.event(event.type, status.value)
        bad = status in (InboxStatus.ORPHAN, InboxStatus.FAILED)
        say = self._runtime.log.error if bad else self._runtime.log.info
        say(
            "Stripe event %s (%s): %s%s", event.event_id, event.type, status.value, f" ({why})" if why else ""
        )
