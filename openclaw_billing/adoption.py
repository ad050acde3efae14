"""Adoption: what somebody changed in the clients file becomes changes like any other, audited one by one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from openclaw_billing import accounts, ledger
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import BillingError
from openclaw_billing.text import clean_email, clean_text
from openclaw_billing.values import rate_of, rate_text

ACTOR = Actor(name="adopt")
REASON = "clients file edited"
NAME_MAX = 200


@dataclass(slots=True)
class Adopted:
    """What was taken over, and what was not, in sentences."""

    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def adopt(tx: Transaction, *, data: bytes, differing: Mapping[str, Sequence[str]], now: datetime) -> Adopted:
    """Take over every legal difference. `differing` names the fields of each client that were edited.

    What stands in the file beside them may be older than the store, and is nobody's wish.
    """
    adopted, clients = Adopted(), _clients_in(data)
    for client_id, names in differing.items():
        fields = clients.get(client_id) if tx.clients.get(client_id) is not None else None
        edited = {name: fields.get(name) for name in names if name in _ADOPTING} if fields else {}
        if beyond := [name for name in names if name not in edited]:
            adopted.left.append(f"{client_id}: {', '.join(beyond)} not adopted")
        _adopt_client(tx, client_id, edited, adopted, now)
    return adopted


def _clients_in(data: bytes) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    clients = found.items() if isinstance(found, dict) else ()
    return {client_id: fields for client_id, fields in clients if isinstance(fields, dict)}


def _adopt_client(
    tx: Transaction, client_id: str, edited: Mapping[str, Any], adopted: Adopted, now: datetime
) -> None:
    for name, attempt in _ADOPTING.items():
        if name not in edited:
            continue
        try:
            adopted.done.append(f"{client_id}: {attempt(tx, client_id, edited[name], now)}")
        except (BillingError, ValueError) as error:
            reason = getattr(error, "detail", error)
            adopted.left.append(f"{client_id}: {name} not adopted ({reason})")


def _name(tx: Transaction, client_id: str, name: Any, now: datetime) -> str:
    name = clean_text(_checked(name, str, "it must be a text"), NAME_MAX)
    accounts.update_client(tx, client_id, name=name, actor=ACTOR, now=now)
    return "name adopted"


def _email(tx: Transaction, client_id: str, email: Any, now: datetime) -> str:
    email = clean_email(_checked(email, str, "it must be a text"))
    accounts.update_client(tx, client_id, email=email, actor=ACTOR, now=now)
    return "email adopted"


def _active(tx: Transaction, client_id: str, active: Any, now: datetime) -> str:
    switch = (
        accounts.reactivate if _checked(active, bool, "it must be true or false") else accounts.deactivate
    )
    switch(tx, client_id, reason=REASON, actor=ACTOR, now=now)
    return "active" if active else "inactive"


def _plan(tx: Transaction, client_id: str, plan_id: Any, now: datetime) -> str:
    accounts.set_plan(
        tx, client_id, _checked(plan_id, str, "it must be a text"), reason=REASON, actor=ACTOR, now=now
    )
    return f"plan {plan_id}"


def _credits(tx: Transaction, client_id: str, credits: Any, now: datetime) -> str:
    account = ledger.touch(tx, client_id, now)
    if _checked(credits, int, "it must be a whole number from 0") < 0:
        raise ValueError("it must be a whole number from 0")
    change = credits - account.available
    if change:
        accounts.adjust_credits(
            tx,
            client_id,
            change,
            reason=REASON,
            operation_id=f"adjust:adopt:{client_id}:{account.entries}",
            actor=ACTOR,
            now=now,
        )
    return f"{change:+d} credits"


def _rate(tx: Transaction, client_id: str, value: Any, now: datetime) -> str:
    rate = None if value is None else rate_of(value)
    accounts.update_client(tx, client_id, rate_limit=rate or "plan", actor=ACTOR, now=now)
    return f"rate limit {'of the plan' if rate is None else rate_text(rate)}"


def _checked(value: Any, kind: type, sentence: str) -> Any:
    if type(value) is not kind:
        raise ValueError(sentence)
    return value


_ADOPTING: Mapping[str, Callable[[Transaction, str, Any, datetime], str]] = MappingProxyType(
    {
        "name": _name,
        "email": _email,
        "active": _active,
        "plan": _plan,
        "credits_remaining": _credits,
        "rate_limit": _rate,
    }
)
