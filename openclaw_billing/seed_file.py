"""The seed's own clients file: one JSON object of clients with plain keys, float dollars and naive times.

It is taken over as it meant, not as it was written: keys become digests, dollars whole micro-USD, naive
times UTC; an unknown plan is kept and admits no job; every balance stays what it was.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from openclaw_billing import accounts
from openclaw_billing.accounts import SeedClient
from openclaw_billing.contracts import Duplicate, Transaction
from openclaw_billing.errors import BadSettings, Conflict, DuplicateEmail
from openclaw_billing.keys import Peppers, is_key_shape
from openclaw_billing.plans import plan_of
from openclaw_billing.records import COST_USD_MICROS_MAX, CREDITS_MAX, Adjustment, Cost, Rate
from openclaw_billing.text import clean_id, clean_text
from openclaw_billing.values import rate_of

CLIENTS_MAX = 1_000_000
TEXT_LENGTH_MAX = 1000
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
RECENT_MAX = 5
REASON_LENGTH_MAX = 500


def read(data: bytes) -> list[SeedClient]:
    """Every client of the file.

    Raises:
        BadSettings: the file is not of the seed's form; the text names the client and the field, or the place.
    """
    try:
        clients = json.loads(
            data.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_no_doubles
        )
    except (ValueError, RecursionError) as error:
        raise BadSettings(f"it is not valid JSON: {error}") from error
    if not isinstance(clients, dict) or len(clients) > CLIENTS_MAX:
        raise BadSettings("it must be one object of clients, each under its id")
    read_clients = [_client(client_id, fields) for client_id, fields in clients.items()]
    _refuse_shared(read_clients)
    return read_clients


def take_over(tx: Transaction, *, data: bytes, peppers: Peppers, now: datetime) -> int:
    """Make every client of the file one of ours; how many there were.

    Raises:
        BadSettings: the file is not of the seed's form.
        Conflict: one of its clients, or its email, is here already.
    """
    clients = read(data)
    for client in clients:
        if tx.clients.get(client.client_id) is not None:
            raise Conflict(f"Client {client.client_id} is in the store already", code="client_exists")
        try:
            accounts.import_client(tx, client, peppers=peppers, now=now)
        except (Duplicate, DuplicateEmail) as error:
            said = f"Client {client.client_id}: its email belongs to another client"
            raise Conflict(said, code="duplicate_email") from error
    return len(clients)


def _client(client_id: str, fields: Any) -> SeedClient:
    _check_characters(client_id, fields)
    if not isinstance(fields, dict):
        raise BadSettings(f"Client {client_id}: it must be an object")
    created = _moment(client_id, fields, "created_at", datetime.now(UTC))
    return SeedClient(
        client_id=client_id,
        name=_text(client_id, fields, "name"),
        email=_text(client_id, fields, "email"),
        key_text=_key_text(client_id, fields),
        plan_id=_text(client_id, fields, "plan"),
        credits_remaining=_count(client_id, fields),
        spent_usd_micros=_micros(client_id, fields),
        created_at=created,
        cycle_start=_moment(client_id, fields, "billing_cycle_start", created),
        active=fields.get("active", True) is True,
        stripe_customer_id=_optional(fields, "stripe_customer_id"),
        stripe_subscription_id=_optional(fields, "stripe_subscription_id"),
        metadata={
            name: value
            for name, value in _metadata(fields).items()
            if isinstance(value, str) and len(value) <= 200
        },
        rate_limit=_rate(client_id, fields),
        adjustments=_adjustments(client_id, _metadata(fields)),
        costs=_costs(client_id, _metadata(fields)),
    )


def _metadata(fields: dict[str, Any]) -> dict[str, Any]:
    metadata = fields.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _adjustments(client_id: str, metadata: dict[str, Any]) -> tuple[Adjustment, ...]:
    """The newest few; what they added is in the balance already."""
    return tuple(
        Adjustment(
            _moment(client_id, each, "timestamp", datetime.now(UTC)),
            each["amount"],
            str(each.get("reason", ""))[:REASON_LENGTH_MAX],
        )
        for each in _entries(metadata, "credit_adjustments")
        if isinstance(each.get("amount"), int)
    )


def _costs(client_id: str, metadata: dict[str, Any]) -> tuple[Cost, ...]:
    return tuple(
        Cost(
            _moment(client_id, each, "timestamp", datetime.now(UTC)),
            _micros(client_id, each, "cost"),
            _optional(each, "job_id"),
        )
        for each in _entries(metadata, "cost_log")
    )


def _entries(metadata: dict[str, Any], name: str) -> list[dict[str, Any]]:
    entries = metadata.get(name)
    if not isinstance(entries, list):
        return []
    return [each for each in entries if isinstance(each, dict)][-RECENT_MAX:]


def _text(client_id: str, fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    try:
        if not isinstance(value, str):
            raise ValueError("it must be a text")
        return clean_text(value, TEXT_LENGTH_MAX)
    except ValueError as error:
        raise BadSettings(f"Client {client_id}: {name}: {error}") from error


def _optional(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= 255 else None


def _key_text(client_id: str, fields: dict[str, Any]) -> str | None:
    value = fields.get("api_key")
    if value is None:
        return None
    if not isinstance(value, str) or not is_key_shape(value):
        raise BadSettings(f"Client {client_id}: api_key must be oc_live_ and 32 hex digits")
    return value


def _rate(client_id: str, fields: dict[str, Any]) -> Rate | None:
    value = fields.get("rate_limit")
    try:
        return None if value is None else rate_of(value)
    except ValueError as error:
        raise BadSettings(f"Client {client_id}: rate_limit: {error}") from error


def _count(client_id: str, fields: dict[str, Any]) -> int:
    value = fields.get("credits_remaining", 0)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # -1 is how some files write unlimited.
    least = -1 if plan_of(str(fields.get("plan"))).unlimited else 0
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= CREDITS_MAX:
        raise BadSettings(f"Client {client_id}: credits_remaining must be a whole number of credits")
    return max(0, value)


def _micros(client_id: str, fields: dict[str, Any], name: str = "total_spent") -> int:
    value = fields.get(name, 0)
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise InvalidOperation
        micros = int((Decimal(str(value)) * 1_000_000).to_integral_value())
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise BadSettings(f"Client {client_id}: {name} must be dollars") from error
    if not 0 <= micros <= COST_USD_MICROS_MAX:
        raise BadSettings(f"Client {client_id}: {name} is out of range")
    return micros


def _moment(client_id: str, fields: dict[str, Any], name: str, missing: datetime) -> datetime:
    value = fields.get(name)
    if value is None:
        return missing
    try:
        moment = datetime.fromisoformat(value)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadSettings(f"Client {client_id}: {name} must be a time") from error
    if not EARLIEST <= moment < LATEST:
        raise BadSettings(
            f"Client {client_id}: {name} must be from {EARLIEST.year} on and before {LATEST.year}"
        )
    return moment


def _check_characters(client_id: str, fields: Any) -> None:
    try:
        clean_id(client_id)
        # JSON can name half of a character, which cannot be written anywhere.
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadSettings(f"Client {client_id}: it holds half of a character") from error
    except ValueError as error:
        raise BadSettings(f"Client {client_id!a}: its id: {error}") from error


def _refuse_shared(clients: list[SeedClient]) -> None:
    """No two clients may share an e-mail or a key: whose it is cannot be guessed."""
    for name, values in (
        ("email", {client.client_id: client.email.casefold() for client in clients}),
        ("api_key", {client.client_id: client.key_text for client in clients if client.key_text}),
    ):
        first: dict[str, str] = {}
        for client_id, value in values.items():
            if value in first:
                raise BadSettings(f"Clients {first[value]} and {client_id} share one {name}")
            first[value] = client_id


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found
