"""The clients file: `openclaw_clients.json`, for people and `jq`, in the schema that the guide promises.

It is derived from the journal and never read back to serve: who wants to change a client uses the API or
the command line. Key text is not in it, because key text is nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from openclaw_billing.records import Account, Client, Key, Recent
from openclaw_billing.stores.codec import moment_text
from openclaw_billing.values import rate_text


def clients_file(clients: Iterable[tuple[Client, Account, list[Key], Recent | None]]) -> Iterator[bytes]:
    """The whole file, client by client."""
    begun = False
    for client, account, keys, recent in clients:
        yield b",\n" if begun else b"{\n"
        begun = True
        shown = json.dumps(_client(client, account, keys, recent), ensure_ascii=True, default=_number)
        yield f"{json.dumps(client.client_id)}: {shown}".encode("ascii")
    yield b"\n}\n" if begun else b"{}\n"


def dollars(micros: int) -> float:
    """The nearest JSON number to so many micro-USD."""
    return float(Decimal(micros) / 1_000_000)


def _client(client: Client, account: Account, keys: list[Key], recent: Recent | None) -> dict[str, Any]:
    return {
        "client_id": client.client_id,
        "name": client.name,
        "email": client.email,
        "plan": account.plan_id,
        "credits_remaining": account.available,
        "credits_reserved": account.reserved,
        "total_spent": dollars(account.spent_usd_micros),
        "created_at": client.created_at,
        "updated_at": client.updated_at,
        "active": client.active,
        "stripe_customer_id": client.stripe_customer_id,
        "stripe_subscription_id": client.stripe_subscription_id,
        "rate_limit": None if client.rate_limit is None else rate_text(client.rate_limit),
        "billing_cycle_start": account.cycle_start,
        "billing_cycle_end": account.cycle_end,
        "keys": [
            {"key_id": key.key_id, "name": key.name, "shown": f"{key.start}…{key.last4}", "state": key.state}
            for key in keys
        ],
        "lots": [
            {"source": lot.source, "credits": lot.left, "expires_at": lot.expires_at} for lot in account.lots
        ],
        "metadata": {**client.metadata, **_recent(recent)},
    }


def _recent(recent: Recent | None) -> dict[str, Any]:
    if recent is None:
        return {"credit_adjustments": [], "cost_log": []}
    return {
        "credit_adjustments": [
            {"timestamp": each.timestamp, "amount": each.amount, "reason": each.reason}
            for each in recent.adjustments
        ],
        "cost_log": [
            {"timestamp": each.timestamp, "cost": dollars(each.cost_usd_micros), "job_id": each.job_id}
            for each in recent.costs
        ],
    }


def _number(value: object) -> object:
    if isinstance(value, datetime):
        return moment_text(value)
    raise TypeError(f"cannot be shown: {type(value)}")
