"""The clients file: `openclaw_clients.json`, for people and `jq`, in the schema that the guide promises.

It is derived from the journal and never read back to serve: who wants to change a client uses the API or
the command line. Key text is not in it, because key text is nowhere. Of a hundred thousand clients it is most
of what a snapshot costs, so its text is put together field by field.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal

from openclaw_billing.records import Account, Client, Key, Lot, Recent
from openclaw_billing.stores.codec import moment_text, quoted
from openclaw_billing.values import rate_text


def clients_file(clients: Iterable[tuple[Client, Account, list[Key], Recent | None]]) -> Iterator[bytes]:
    """The whole file, client by client."""
    begun = False
    for client, account, keys, recent in clients:
        start = ",\n" if begun else "{\n"
        begun = True
        yield f"{start}{quoted(client.client_id)}: {_client(client, account, keys, recent)}".encode("ascii")
    yield b"\n}\n" if begun else b"{}\n"


def dollars(micros: int) -> float:
    """The nearest JSON number to so many micro-USD."""
    return float(Decimal(micros) / 1_000_000) if micros else 0.0


def _client(client: Client, account: Account, keys: list[Key], recent: Recent | None) -> str:
    limit = client.rate_limit
    return (
        f'{{"client_id": {quoted(client.client_id)}, "name": {quoted(client.name)}, '
        f'"email": {quoted(client.email)}, "plan": {quoted(account.plan_id)}, '
        f'"credits_remaining": {account.available}, "credits_reserved": {account.reserved}, '
        f'"total_spent": {dollars(account.spent_usd_micros)!r}, '
        f'"created_at": {_moment(client.created_at)}, "updated_at": {_moment(client.updated_at)}, '
        f'"active": {"true" if client.active else "false"}, '
        f'"stripe_customer_id": {_text(client.stripe_customer_id)}, '
        f'"stripe_subscription_id": {_text(client.stripe_subscription_id)}, '
        f'"rate_limit": {_text(None if limit is None else rate_text(limit))}, '
        f'"billing_cycle_start": {_moment(account.cycle_start)}, '
        f'"billing_cycle_end": {_moment(account.cycle_end)}, '
        f'"keys": [{", ".join([_key(key) for key in keys])}], '
        f'"lots": [{", ".join([_lot(lot) for lot in account.lots])}], '
        f'"metadata": {_NOTHING_RECENT if recent is None and not client.metadata else _metadata(client, recent)}}}'
    )


def _key(key: Key) -> str:
    shown = quoted(f"{key.start}…{key.last4}")
    return (
        f'{{"key_id": {quoted(key.key_id)}, "name": {quoted(key.name)}, "shown": {shown}, '
        f'"state": "{key.state.value}"}}'
    )


def _lot(lot: Lot) -> str:
    return (
        f'{{"source": "{lot.source.value}", "credits": {lot.left}, "expires_at": {_moment(lot.expires_at)}}}'
    )


def _metadata(client: Client, recent: Recent | None) -> str:
    recent = recent or Recent(client_id=client.client_id)
    adjustments = [
        {"timestamp": moment_text(each.timestamp), "amount": each.amount, "reason": each.reason}
        for each in recent.adjustments
    ]
    costs = [
        {
            "timestamp": moment_text(each.timestamp),
            "cost": dollars(each.cost_usd_micros),
            "job_id": each.job_id,
        }
        for each in recent.costs
    ]
    return json.dumps({**client.metadata, "credit_adjustments": adjustments, "cost_log": costs})


_NOTHING_RECENT = '{"credit_adjustments": [], "cost_log": []}'


def _moment(moment: datetime | None) -> str:
    return "null" if moment is None else f'"{moment_text(moment)}"'


def _text(text: str | None) -> str:
    return "null" if text is None else quoted(text)
