"""Digests: one sum for each table of a store, the same for the same records in whichever store they are.

A table's sum has no order, so that a row can be taken out of it and another put in; a history's is over its entries
in their own order, and goes on with each new one.
"""

from __future__ import annotations

import hashlib
import json
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from openclaw_billing.records import Account, AuditEntry, LedgerEntry
from openclaw_billing.stores.codec import row_text
from openclaw_billing.stores.schema import OWN_FACTS, TABLES

HISTORIES: Mapping[str, type] = {"ledger": LedgerEntry, "audit": AuditEntry}

Progress = Callable[[int], None]
"""Told how many more rows are done."""
Rows = Mapping[str, Mapping[str, Any]]
"""By table and key what the record was; None where there was none."""


@dataclass(slots=True)
class Sum:
    """How many records are in, and their digest: the SHA-256 of each, added up."""

    records: int = 0
    _total: int = 0

    def add(self, record: Any) -> None:
        self.records += 1
        self._total += _number(record)

    def take_out(self, record: Any) -> None:
        self.records -= 1
        self._total -= _number(record)

    @property
    def hex(self) -> str:
        return f"{self._total % 2**256:064x}"


@dataclass(slots=True)
class OrderedSum:
    """The same of records in their order, of which none is ever taken out."""

    records: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)

    def add(self, record: Any) -> None:
        self.records += 1
        self._digest.update(_canonical(record).encode("ascii") + b"\n")

    @property
    def hex(self) -> str:
        digest: str = self._digest.hexdigest()
        return digest


@dataclass(slots=True)
class Histories:
    """The sums of the ledger and the audit trail, and what the ledger says of each client's balance."""

    sums: dict[str, OrderedSum] = field(default_factory=lambda: {name: OrderedSum() for name in HISTORIES})
    available: Counter[str] = field(default_factory=Counter)
    reserved: Counter[str] = field(default_factory=Counter)
    paid: set[str] = field(default_factory=set)
    """Whose balance the entries since the last comparison have changed."""

    def add(self, name: str, entry: Any) -> None:
        self.sums[name].add(entry)
        if name == "ledger":
            self.available[entry.client_id] += entry.available
            self.reserved[entry.client_id] += entry.reserved
            self.paid.add(entry.client_id)


class End(Protocol):
    """One end of a move: everything that a store holds."""

    def rows(self, table: str) -> Iterator[Any]:
        """The records of a table in the order of their keys."""
        ...

    def some(self, table: str, keys: Iterable[str]) -> dict[str, Any]:
        """Those of the records that are there, by key."""
        ...

    def histories(self, progress: Progress) -> Histories:
        """All entries of both, the oldest first, summed up; asked again, the same with what is new."""
        ...


@dataclass(frozen=True, slots=True)
class Digests:
    """What a store holds, by table, and where an account is not the sum of its ledger."""

    sums: dict[str, Sum | OrderedSum]
    problems: list[str]

    def differences(self, other: Digests) -> list[str]:
        """The tables that are not the same."""
        return [name for name, mine in self.sums.items() if (mine.records, mine.hex) != other.key_of(name)]

    def key_of(self, name: str) -> tuple[int, str]:
        return self.sums[name].records, self.sums[name].hex

    def follow(self, end: End, before: Rows, progress: Progress = lambda _: None) -> None:
        """Be those of now: of the rows that were so before, and of the histories' new entries, no others having changed."""
        histories = end.histories(progress)
        for name, rows in before.items():
            found, changing = end.some(name, rows), self.sums[name]
            assert isinstance(changing, Sum)
            for key, record in rows.items():
                if record is not None:
                    changing.take_out(record)
                if key in found:
                    changing.add(found[key])
            progress(len(rows))
        for account in end.some("accounts", histories.paid.union(before.get("accounts", ()))).values():
            self.problems.extend(_differs(account, histories))
        histories.paid.clear()


def digest(end: End, progress: Progress = lambda _: None) -> Digests:
    """Read all of it."""
    histories = end.histories(progress)
    sums: dict[str, Sum | OrderedSum] = dict(histories.sums)
    problems = []
    for name in TABLES:
        sums[name] = Sum()
        for record in counted(end.rows(name), progress):
            if name == "facts" and record.name.startswith(OWN_FACTS):
                continue
            sums[name].add(record)
            if isinstance(record, Account):
                problems += _differs(record, histories)
    histories.paid.clear()
    return Digests(sums, problems)


def _differs(account: Account, histories: Histories) -> list[str]:
    available, reserved = histories.available[account.client_id], histories.reserved[account.client_id]
    if (available, reserved) == (account.available, account.reserved):
        return []
    return [
        f"Client {account.client_id}: the ledger says {available} + {reserved} reserved, "
        f"the account {account.available} + {account.reserved}"
    ]


def counted(found: Iterator[Any], progress: Progress) -> Iterator[Any]:
    """The same, telling of each thousand."""
    done = 0
    for each in found:
        yield each
        done += 1
        if done == 1_000:
            progress(done)
            done = 0
    progress(done)


def _number(record: Any) -> int:
    return int.from_bytes(hashlib.sha256(_canonical(record).encode("ascii")).digest())


def _canonical(record: Any) -> str:
    text = row_text(record)
    # A database keeps the names in an object in an order of its own.
    kind: Any = type(record)
    return encode_sorted(json.loads(text)) if _holds_objects(kind) else text


@cache
def _holds_objects(kind: type) -> bool:
    return any("dict" in str(hint) for hint in typing.get_type_hints(kind).values())


encode_sorted = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode
