"""The schema: every table's record, primary key and indexes, said once for every store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

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


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One table. An index gives the value a record is found by, or None where it is not indexed."""

    name: str
    record: type
    primary_key: str
    indexes: Mapping[str, Callable[[Any], str | None]]
    unique: frozenset[str] = frozenset()
    newest_by: str = "created_at"

    def key_of(self, record: object) -> str:
        key: str = getattr(record, self.primary_key)
        return key


def _email(client: Client) -> str:
    return client.email.casefold()


def _owner(record: Key | Job) -> str | None:
    return record.client_id


def _pending(reservation: Reservation) -> str | None:
    return reservation.client_id if reservation.state is ReservationState.PENDING else None


def _forgettable(spent: Spent) -> str | None:
    return None if spent.keep else "yes"


TABLES: Mapping[str, TableSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            TableSpec("clients", Client, "client_id", {"email": _email}, frozenset({"email"})),
            TableSpec("accounts", Account, "client_id", {}, newest_by="anchor"),
            TableSpec("keys", Key, "digest", {"client": _owner, "id": lambda key: key.key_id}),
            TableSpec("reservations", Reservation, "reservation_id", {"pending": _pending}),
            TableSpec("spent", Spent, "spent_id", {"forgettable": _forgettable}),
            TableSpec("jobs", Job, "job_id", {"client": _owner}),
            TableSpec("recents", Recent, "client_id", {}, newest_by="client_id"),
            TableSpec("facts", Fact, "name", {}, newest_by="name"),
        )
    }
)
