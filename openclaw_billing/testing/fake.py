"""FakeStripe: the whole of it, as a test holds it in its hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Literal, Self

from openclaw_billing.testing import catalog, checkout, collecting, cycling, delivery, payments, subscriptions
from openclaw_billing.testing.clock import FakeClock
from openclaw_billing.testing.delivery import Delivery, Drop, Mailman, Order, Receiver
from openclaw_billing.testing.faults import Fault, FaultKind, Faults
from openclaw_billing.testing.forms import Form
from openclaw_billing.testing.front import Front, ParamsCheck, RecordedRequest
from openclaw_billing.testing.server import HOST, Wire
from openclaw_billing.testing.world import Call, Obj, World, listing

SIGNED_WITH = "whsec_fake"


class FakeStripe:
    """A Stripe account on loopback: `STRIPE_API_BASE` points at `url`, a test pulls the strings.

    Time stands still until `advance` or `renew`. Periods turn only by `renew`; everything else that
    falls due (sessions, waiting changes, set endings) happens while time is advanced.
    """

    def __init__(
        self, *, start: datetime | None = None, livemode: bool = False, check: ParamsCheck | None = None
    ) -> None:
        self.clock = FakeClock(start or datetime.now(UTC))
        self._world = World(self.clock, livemode)
        self._front = Front(self._world, check)
        self._faults = Faults()
        self._mailman = Mailman()
        self._wire = Wire(self._front, self._faults)
        self._wire.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering and free the port."""
        self._wire.close()

    # What a test points its code at.

    @property
    def url(self) -> str:
        """The base address."""
        return f"http://{HOST}:{self._wire.port}"

    @property
    def base_addresses(self) -> dict[str, str]:
        """The four addresses the SDK knows, all of them here."""
        return dict.fromkeys(("api", "connect", "files", "meter_events"), self.url)

    @property
    def key_text(self) -> str:
        """A secret key the account accepts; any of its mode would do."""
        return "sk_live_fake" if self._world.livemode else "sk_test_fake"

    # What happened.

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request that arrived, in order."""
        with self._world.lock:
            return list(self._front.requests)

    @property
    def events(self) -> list[Obj]:
        """Every event so far, oldest first."""
        with self._world.lock:
            return [self._world.shown(one) for one in self._world.events]

    @property
    def event_types(self) -> list[str]:
        """The types of the events so far, oldest first."""
        with self._world.lock:
            return [str(one["type"]) for one in self._world.events]

    def get(self, object_id: str, expand: Sequence[str] = ()) -> Obj:
        """The object under an id, as the API would show it."""
        with self._world.lock:
            return self._world.shown(self._world.objects[object_id], expand)

    def all(self, kind: str) -> list[Obj]:
        """All objects of a kind (`invoice`, `checkout.session`), oldest first."""
        with self._world.lock:
            return [self._world.shown(one) for one in self._world.all(kind)]

    # Time.

    def advance(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Move the clock, and let happen what falls due on the way."""
        step = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        with self._world.lock:
            cycling.advance_to(self._world, self.clock.after(step))

    # The catalogue and the customer's card.

    def add_price(
        self,
        unit_amount: int,
        *,
        lookup_key: str | None = None,
        interval: str | None = None,
        currency: str = "usd",
        meter: str | None = None,
        product: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """A new price, with a product of its own unless one is named; its id."""
        form = Form(unit_amount=str(unit_amount), currency=currency, metadata=dict(metadata or {}))
        form.update({"product": product} if product else {"product_data": {"name": lookup_key or "Fake"}})
        if lookup_key is not None:
            form["lookup_key"] = lookup_key
        if interval is not None:
            form["recurring"] = {
                "interval": interval,
                **({"meter": meter, "usage_type": "metered"} if meter else {}),
            }
        with self._world.lock:
            return str(catalog.create_price(self._world, Call(form))["id"])

    def decline_card(self, customer_id: str, decline_code: str = "generic_decline") -> None:
        """Let the customer's card be refused from now on (`authentication_required`: it wants 3-D Secure)."""
        with self._world.lock:
            self._world.card_answers[customer_id] = decline_code

    def accept_card(self, customer_id: str) -> None:
        """Let the customer's card pay again."""
        with self._world.lock:
            self._world.card_answers.pop(customer_id, None)

    def set_entitlements(self, customer_id: str, lookup_keys: Sequence[str]) -> None:
        """Replace the features a customer is entitled to, and announce it."""
        with self._world.lock:
            owned = [
                {
                    "id": f"ent_{key}",
                    "object": "entitlements.active_entitlement",
                    "feature": f"feat_{key}",
                    "livemode": self._world.livemode,
                    "lookup_key": key,
                }
                for key in lookup_keys
            ]
            self._world.entitlements[customer_id] = owned
            summary = {
                "object": "entitlements.active_entitlement_summary",
                "customer": customer_id,
                "entitlements": listing(owned, f"/v1/customer/{customer_id}/entitlements"),
                "livemode": self._world.livemode,
            }
            self._world.emit("entitlements.active_entitlement_summary.updated", summary)

    # What a visitor does at the checkout.

    def complete_checkout(self, session_id: str, *, paid: bool = True) -> Obj:
        """Finish a session; `paid=False` in payment mode means a method whose money comes later."""
        with self._world.lock:
            found = self._world.find("checkout.session", session_id)
            checkout.complete(self._world, found, paid)
            return self._world.shown(found)

    def settle_checkout(self, session_id: str, *, succeeded: bool) -> Obj:
        """Decide a payment that was to come later."""
        with self._world.lock:
            found = self._world.find("checkout.session", session_id)
            checkout.settle(self._world, found, succeeded)
            return self._world.shown(found)

    def expire_checkout(self, session_id: str) -> Obj:
        """Let a session lapse before its time."""
        with self._world.lock:
            found = self._world.find("checkout.session", session_id)
            checkout.expire_session(self._world, found)
            return self._world.shown(found)

    # What a period's turn and a card do.

    def renew(self, subscription_id: str, *, paid: bool | None = True) -> Obj | None:
        """Turn the period and bill it: paid, refused, or (None) left as the draft it is for an hour.

        The invoice, or None when the subscription ended at this turn.
        """
        with self._world.lock:
            made = cycling.renew(self._world, self._world.find("subscription", subscription_id), paid)
            return None if made is None else self._world.shown(made)

    def announce_renewal(self, subscription_id: str) -> Obj:
        """Send the `invoice.upcoming` that precedes a renewal; its invoice has no id."""
        with self._world.lock:
            coming = cycling.upcoming(self._world, self._world.find("subscription", subscription_id))
            del coming["id"]
            return self._world.emit("invoice.upcoming", coming)

    def pay_invoice(self, invoice_id: str) -> Obj:
        """Have a draft or open invoice paid, whatever the card said before."""
        return self._collect(invoice_id, None)

    def fail_invoice(self, invoice_id: str, decline_code: str = "generic_decline") -> Obj:
        """Have one more attempt on an invoice refused."""
        return self._collect(invoice_id, decline_code)

    def give_up(self, subscription_id: str, status: Literal["unpaid", "canceled"] = "unpaid") -> Obj:
        """End the retries of an overdue subscription the way the account's settings say."""
        with self._world.lock:
            sub = self._world.find("subscription", subscription_id)
            if status == "unpaid":
                self._world.change("customer.subscription.updated", sub, status="unpaid")
            else:
                sub["cancellation_details"]["reason"] = "payment_failed"
                subscriptions.end(self._world, sub)
            return self._world.shown(sub)

    def cancel_now(self, subscription_id: str) -> Obj:
        """End a subscription at once, as from the dashboard."""
        with self._world.lock:
            sub = self._world.find("subscription", subscription_id)
            sub["cancellation_details"]["reason"] = "cancellation_requested"
            subscriptions.end(self._world, sub)
            return self._world.shown(sub)

    def pause(self, subscription_id: str, reason: str = "pause_requested") -> Obj:
        """Pause a subscription (`trial_end_without_payment_method`: the trial ended without a card)."""
        with self._world.lock:
            sub = self._world.find("subscription", subscription_id)
            subscriptions.hold(self._world, sub, reason)
            return self._world.shown(sub)

    # Money that goes back.

    def refund(self, target: str, amount: int | None = None, *, reason: str | None = None) -> Obj:
        """Refund a charge or payment intent, all that is left unless an amount is given."""
        with self._world.lock:
            made = payments.refund(self._world, payments.charge_of(self._world, target), amount, reason, {})
            return self._world.shown(made)

    def fail_refund(self, refund_id: str) -> Obj:
        """Let a refund bounce."""
        with self._world.lock:
            made = self._world.find("refund", refund_id)
            payments.fail_refund(self._world, made)
            return self._world.shown(made)

    def dispute(
        self,
        target: str,
        amount: int | None = None,
        *,
        reason: str = "fraudulent",
        status: str = "needs_response",
    ) -> Obj:
        """Dispute a charge or payment intent (`warning_needs_response`: an inquiry, no money moves)."""
        with self._world.lock:
            of = payments.charge_of(self._world, target)
            return self._world.shown(payments.open_dispute(self._world, of, amount, reason, status))

    def close_dispute(self, dispute_id: str, *, won: bool) -> Obj:
        """Decide a dispute."""
        with self._world.lock:
            made = self._world.find("dispute", dispute_id)
            payments.close_dispute(self._world, made, won)
            return self._world.shown(made)

    # Events.

    def emit(self, kind: str, obj: Obj) -> Obj:
        """Record an event the fake has no cause for, about an object of the test's making."""
        with self._world.lock:
            return self._world.emit(kind, obj)

    def thin_event(self, kind: str, related: Mapping[str, str] | None = None, data: Obj | None = None) -> Obj:
        """Make an event that is announced without its data; the notification, to be given to `signed`."""
        with self._world.lock:
            made = {
                "id": self._world.new_id("evt"),
                "object": "v2.core.event",
                "context": None,
                "created": self.clock.now().isoformat().replace("+00:00", ".000Z"),
                "livemode": self._world.livemode,
                "reason": None,
                "related_object": dict(related) if related is not None else None,
                "type": kind,
            }
            self._world.thin_events[str(made["id"])] = {**made, "changes": None, "data": data or {}}
            return made

    def signed(
        self, event: Obj, *, secret: str = SIGNED_WITH, at: int | None = None
    ) -> tuple[bytes, dict[str, str]]:
        """The body and headers of an event, for a test that posts it itself."""
        return delivery.signed(event, secret, at)

    def deliver_to(self, where: str | Receiver, secret: str = SIGNED_WITH) -> None:
        """Have events handed over to an address, or to a function that answers a status."""
        self._mailman.targets.append((where, secret))

    def deliver(
        self,
        *,
        order: Order = "created",
        twice: bool = False,
        drop: Drop = (),
        types: Sequence[str] = (),
        seed: int = 0,
        at: int | None = None,
    ) -> list[Delivery]:
        """Hand over the events still due; refused ones stay due, dropped ones never come."""
        with self._world.lock:
            chosen = self._mailman.choose(self._world.events, order, drop, types, seed)
        # The receiver may well ask the fake back, so the account is not held meanwhile.
        return [done for event in chosen * (2 if twice else 1) for done in self._mailman.hand_over(event, at)]

    def due(
        self, *, order: Order = "created", drop: Drop = (), types: Sequence[str] = (), seed: int = 0
    ) -> list[Obj]:
        """The events still to be handed over, for a test that posts them itself and says `taken`."""
        with self._world.lock:
            chosen = self._mailman.choose(self._world.events, order, drop, types, seed)
            return [self._world.shown(one) for one in chosen]

    def taken(self, event_id: str) -> None:
        """Note that an event was answered with success, so that it is due no more."""
        with self._world.lock:
            for event in self._world.events:
                if event["id"] == event_id:
                    event["pending_webhooks"] = 0

    # Trouble.

    def inject(
        self,
        kind: FaultKind,
        times: int | None = 1,
        *,
        method: str | None = None,
        path: str = "*",
        after: int = 0,
        should_retry: bool | None = None,
        retry_after: int | None = None,
        seconds: float | None = None,
        kept: bool = True,
    ) -> None:
        """Let the next requests that match go wrong; `kept=False` is a 500 no Idempotency-Key remembers."""
        self._faults.order(Fault(kind, times, method, path, after, should_retry, retry_after, seconds, kept))

    def clear_faults(self) -> None:
        """Let everything go right again, and let go of what hangs."""
        self._faults.clear()
        self._wire.released.set()
        self._wire.released.clear()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Refuse every connection for a while."""
        self._wire.stop()
        try:
            yield
        finally:
            self._wire.start()

    def _collect(self, invoice_id: str, refusal: str | None) -> Obj:
        with self._world.lock:
            made = self._world.find("invoice", invoice_id)
            if made["status"] not in ("draft", "open"):
                raise ValueError(f"an invoice that is {made['status']} is not collected")
            collecting.collect(self._world, made, refusal)
            return self._world.shown(made)
