"""Adoption: what somebody changed in the clients file becomes changes like any other, audited one by one."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from openclaw_billing import accounts, ledger
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import BadSettings, BillingError
from openclaw_billing.records import Client
from openclaw_billing.text import clean_email, clean_text
from openclaw_billing.values import rate_of, rate_text

ACTOR = Actor(name="adopt")
NAME_MAX = 200


def adopt(tx: Transaction, *, data: bytes, now: datetime) -> list[str]:
    """Take over every legal difference; one sentence for each, taken over or not.

    Raises:
        BadSettings: the file is not one object of clients.
    """
    try:
        edited = json.loads(data)
    except ValueError as error:
        raise BadSettings("The clients file is not valid JSON: nothing was adopted") from error
    if not isinstance(edited, dict):
        raise BadSettings("The clients file is not one object of clients: nothing was adopted")
    said: list[str] = []
    for client_id, fields in edited.items():
        client = tx.clients.get(client_id)
        if client is None or not isinstance(fields, dict):
            said.append(f"{client_id}: there is no such client; left out")
            continue
        said += [f"{client_id}: {each}" for each in _adopt_client(tx, client, fields, now)]
    return said or ["The file says what the store says."]


def _adopt_client(tx: Transaction, client: Client, fields: dict[str, Any], now: datetime) -> list[str]:
    said: list[str] = []
    for name, attempt in (
        ("name or email", _words),
        ("active", _active),
        ("plan", _plan),
        ("credits", _credits),
        ("rate_limit", _rate),
    ):
        try:
            done = attempt(tx, client, fields, now)
        except (BillingError, ValueError) as error:
            said.append(f"{name} not adopted ({getattr(error, 'detail', error)})")
            continue
        if done:
            said.append(done)
    return said


def _words(tx: Transaction, client: Client, fields: dict[str, Any], now: datetime) -> str:
    name, email = fields.get("name", client.name), fields.get("email", client.email)
    if (name, email) == (client.name, client.email):
        return ""
    name, email = clean_text(name, NAME_MAX), clean_email(email)
    accounts.update_client(tx, client.client_id, name=name, email=email, actor=ACTOR, now=now)
    return "name and email adopted"


def _active(tx: Transaction, client: Client, fields: dict[str, Any], now: datetime) -> str:
    active = fields.get("active", client.active)
    if active is client.active:
        return ""
    if not isinstance(active, bool):
        raise ValueError("active must be true or false")
    switch = accounts.reactivate if active else accounts.deactivate
    switch(tx, client.client_id, reason="clients file edited", actor=ACTOR, now=now)
    return "active" if active else "inactive"


def _plan(tx: Transaction, client: Client, fields: dict[str, Any], now: datetime) -> str:
    account = ledger.touch(tx, client.client_id, now)
    plan_id = fields.get("plan", account.plan_id)
    if plan_id == account.plan_id:
        return ""
    accounts.set_plan(tx, client.client_id, plan_id, reason="clients file edited", actor=ACTOR, now=now)
    return f"plan {plan_id}"


def _rate(tx: Transaction, client: Client, fields: dict[str, Any], now: datetime) -> str:
    value = fields.get("rate_limit")
    rate = None if value is None else rate_of(value)
    if "rate_limit" not in fields or rate == client.rate_limit:
        return ""
    accounts.update_client(tx, client.client_id, rate_limit=rate or "plan", actor=ACTOR, now=now)
    return f"rate limit {'of the plan' if rate is None else rate_text(rate)}"


def _credits(tx: Transaction, client: Client, fields: dict[str, Any], now: datetime) -> str:
    account = ledger.touch(tx, client.client_id, now)
    credits = fields.get("credits_remaining", account.available)
    if not isinstance(credits, int) or isinstance(credits, bool) or credits < 0:
        raise ValueError("credits_remaining must be a whole number from 0")
    change = credits - account.available
    if change == 0 or ("plan" in fields and fields["plan"] != account.plan_id):
        return ""
    accounts.adjust_credits(
        tx,
        client.client_id,
        change,
        reason="clients file edited",
        operation_id=f"adjust:adopt:{client.client_id}:{account.entries}",
        actor=ACTOR,
        now=now,
    )
    return f"{change:+d} credits"
