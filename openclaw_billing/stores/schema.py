"""The schema: every table's record, primary key and indexes, said once for every store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from openclaw_billing.cycles import minute_of
from openclaw_billing.records import (
    Account,
    Client,
    Fact,
    Job,
    Key,
    Recent,
    Reservation,
    ReservationState,
    Spent,
)
from openclaw_billing.stripe_records import (
    Checkout,
    CheckoutState,
    InboxStatus,
    Invoice,
    Purchase,
    StripeCall,
    StripeEvent,
    Subscription,
    customer_key,
)

OWN_FACTS = "store:"
"""How the names of facts begin that a store notes of itself. They are not moved with the others."""
MOVED = f"{OWN_FACTS}moved"
"""Where the records are now: this store takes no change any more."""
FILLING = f"{OWN_FACTS}filling"
"""What a move that is not finished has brought here: this store is not whole."""


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One table. An index gives the value a record is found by, or None where it is not indexed."""

    name: str
    record: type
    primary_key: str
    indexes: Mapping[str, Callable[[Any], str | None]]
    unique: frozenset[str] = frozenset()
    newest_by: str = "created_at"
    seldom_read: bool = False
    """Rows of the past, seldom asked for again, which grow without end."""

    def key_of(self, record: object) -> str:
        key: str = getattr(record, self.primary_key)
        return key


def _email(client: Client) -> str:
    return client.email.casefold()


def _owner(record: Key | Job | Checkout | Purchase | Invoice) -> str | None:
    return record.client_id


def _due_minute(account: Account) -> str | None:
    # Nobody waits for what an inactive client would be given.
    return minute_of(account.due_at) if account.active and account.due_at is not None else None


def _pending(reservation: Reservation) -> str | None:
    return reservation.client_id if reservation.state is ReservationState.PENDING else None


def _forgettable(spent: Spent) -> str | None:
    return None if spent.keep else "yes"


def _customer(record: Subscription) -> str | None:
    return None if record.customer_id is None else customer_key(record.mode, record.customer_id)


def _unfinished(checkout: Checkout) -> str | None:
    open_states = (CheckoutState.NEW, CheckoutState.OPEN, CheckoutState.CLOSING)
    return checkout.client_id if checkout.state in open_states else None


def _due(record: StripeEvent) -> str | None:
    return "yes" if record.status in (InboxStatus.RECEIVED, InboxStatus.PARKED) else None


def _undone(call: StripeCall) -> str | None:
    return None if call.done else "yes"


TABLES: Mapping[str, TableSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            TableSpec("clients", Client, "client_id", {"email": _email}, frozenset({"email"})),
            TableSpec("accounts", Account, "client_id", {"due": _due_minute}, newest_by="anchor"),
            TableSpec("keys", Key, "digest", {"client": _owner, "id": lambda key: key.key_id}),
            TableSpec("reservations", Reservation, "reservation_id", {"pending": _pending}, seldom_read=True),
            TableSpec("spent", Spent, "spent_id", {"forgettable": _forgettable}),
            TableSpec("jobs", Job, "job_id", {"client": _owner}, seldom_read=True),
            TableSpec("recents", Recent, "client_id", {}, newest_by="client_id"),
            TableSpec("facts", Fact, "name", {}, newest_by="name"),
            TableSpec("subscriptions", Subscription, "client_id", {"customer": _customer}),
            TableSpec(
                "checkouts",
                Checkout,
                "attempt_id",
                {"unfinished": _unfinished, "session": lambda checkout: checkout.session_id},
            ),
            TableSpec(
                "purchases",
                Purchase,
                "session_id",
                {"client": _owner, "payment": lambda purchase: purchase.payment_intent_id},
            ),
            TableSpec("invoices", Invoice, "invoice_id", {"client": _owner}),
            TableSpec("stripe_events", StripeEvent, "event_id", {"due": _due}),
            TableSpec("stripe_calls", StripeCall, "call_id", {"undone": _undone}),
        )
    }
)
