"""Accounts: clients and their keys, made, changed, switched off; and who a key belongs to.

Every change is audited in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from openclaw_billing import checkouts, ledger, outbox
from openclaw_billing.audit import Actor, note
from openclaw_billing.contracts import Duplicate, Page, Query, Transaction, View
from openclaw_billing.cycles import cycle_number
from openclaw_billing.errors import (
    Conflict,
    DuplicateEmail,
    NotFound,
    UnknownPlan,
    Unprocessable,
)
from openclaw_billing.keyring import (
    KeyOutcome,
    authenticate,
    issue_key,
    rehash_key,
    revoke_key,
    rotate_key,
)
from openclaw_billing.keys import Peppers, key_of
from openclaw_billing.ledger import Adjusted
from openclaw_billing.plans import CATALOGUE, LEGACY_PLAN_ID
from openclaw_billing.records import CREDITS_MAX, Account, Adjustment, Client, Cost, Key, Rate, Recent
from openclaw_billing.subscriptions import LIVE
from openclaw_billing.values import rate_text

__all__ = [
    "KeyOutcome",
    "SeedClient",
    "adjust_credits",
    "authenticate",
    "create_client",
    "deactivate",
    "import_client",
    "issue_key",
    "page_of_clients",
    "reactivate",
    "rehash_key",
    "revoke_key",
    "rotate_key",
    "set_plan",
    "update_client",
    "walk_of_clients",
]

CLIENTS_WALKED_MAX = 1_000_000

_TAKE_OVER = Actor("import")


def create_client(
    tx: Transaction,
    *,
    client_id: str,
    name: str,
    email: str,
    plan_id: str,
    key: Key | None,
    actor: Actor,
    now: datetime,
) -> Client:
    """A new client with an account, and with a key where one is given.

    Raises:
        UnknownPlan, DuplicateEmail, Conflict: the id is taken.
    """
    if plan_id not in CATALOGUE:
        raise UnknownPlan(plan_id)
    if tx.clients.get(client_id) is not None:
        raise Conflict("This client id is taken", code="client_exists")
    client = Client(client_id=client_id, name=name, email=email, created_at=now, updated_at=now)
    _put_client(tx, client)
    ledger.open_account(tx, client_id, plan_id, now)
    after = {"name": name, "email": email, "plan": plan_id}
    note(tx, actor, "client.created", client_id=client_id, object_id=client_id, after=after, now=now)
    if key is not None:
        issue_key(tx, client_id, key, actor=actor, now=now)
    return client


def update_client(
    tx: Transaction,
    client_id: str,
    *,
    name: str | None = None,
    email: str | None = None,
    metadata: Mapping[str, str] | None = None,
    rate_limit: Rate | Literal["plan"] | None = None,
    actor: Actor,
    now: datetime,
) -> Client:
    """Change what is given; `metadata` as a whole. With `rate_limit="plan"` the plan's counts again.

    What makes no difference changes nothing, the version neither.

    Raises:
        NotFound, DuplicateEmail
    """
    before = _client(tx, client_id)
    client = replace(
        before,
        name=before.name if name is None else name,
        email=before.email if email is None else email,
        metadata=before.metadata if metadata is None else dict(metadata),
        rate_limit=before.rate_limit if rate_limit is None else None if rate_limit == "plan" else rate_limit,
    )
    if client == before:
        return before
    changed = [each for each in _CHANGEABLE if getattr(before, each) != getattr(client, each)]
    client = replace(client, updated_at=now, version=before.version + 1)
    _put_client(tx, client)
    note(
        tx,
        actor,
        "client.updated",
        client_id=client_id,
        object_id=client_id,
        before={each: _audited(getattr(before, each)) for each in changed},
        after={each: _audited(getattr(client, each)) for each in changed},
        now=now,
    )
    return client


def deactivate(tx: Transaction, client_id: str, *, reason: str = "", actor: Actor, now: datetime) -> bool:
    """From now on no key of the client's is accepted, it takes no credit, its subscription ends, nothing can be paid.

    Whether it was active.
    """
    switched = _switch(tx, client_id, False, "client.deactivated", reason, actor, now)
    for attempt in checkouts.withdraw(tx, client_id):
        outbox.close_page(tx, attempt, now=now)
    known = tx.subscriptions.get(client_id)
    if known is not None and known.subscription_id is not None and known.status in LIVE:
        outbox.cancel(tx, known, known.subscription_id, now=now)
    return switched


def reactivate(tx: Transaction, client_id: str, *, reason: str = "", actor: Actor, now: datetime) -> bool:
    """The client's keys are accepted again. Whether the client was inactive."""
    return _switch(tx, client_id, True, "client.reactivated", reason, actor, now)


def set_plan(
    tx: Transaction, client_id: str, plan_id: str, *, reason: str = "", actor: Actor, now: datetime
) -> Account:
    """`ledger.change_plan`, audited.

    Raises:
        Conflict: the plan follows a live subscription, and is changed there.
    """
    before = ledger.touch(tx, client_id, now)
    known = tx.subscriptions.get(client_id)
    if known is not None and known.subscription_id is not None and known.status in LIVE:
        raise Conflict(
            "The client has a subscription: its plan is changed through Stripe", code="has_subscription"
        )
    account = ledger.change_plan(tx, client_id, plan_id, now=now)
    _put_changed(tx, client_id, now)
    note(
        tx,
        actor,
        "client.plan_changed",
        client_id=client_id,
        object_id=client_id,
        reason=reason,
        before={"plan": before.plan_id, "credits": str(before.available)},
        after={"plan": plan_id, "credits": str(account.available)},
        now=now,
    )
    return account


def adjust_credits(
    tx: Transaction,
    client_id: str,
    credits: int,
    *,
    reason: str,
    operation_id: str,
    actor: Actor,
    now: datetime,
) -> Adjusted:
    """`ledger.adjust`, audited; a repeated id is audited once."""
    repeated = tx.spent.get(operation_id) is not None
    done = ledger.adjust(tx, client_id, credits, reason=reason, operation_id=operation_id, now=now)
    if not repeated:
        _put_changed(tx, client_id, now)
        note(
            tx,
            actor,
            "client.credits_adjusted",
            client_id=client_id,
            object_id=operation_id,
            reason=reason,
            before={"credits": str(done.previous)},
            after={"credits": str(done.now)},
            now=now,
        )
    return done


def page_of_clients(view: View, query: Query, *, plan_id: str | None = None) -> Page[tuple[Client, Account]]:
    """A page of clients with their accounts, of one plan only where it is named."""
    if plan_id is None:
        page = view.clients.page(query)
        return Page(_with_accounts(view, page.rows), page.total, page.has_more)
    # The plan stands in the account: what is asked of the clients is asked without a limit first.
    found = view.clients.page(replace(query, after=None, limit=CLIENTS_WALKED_MAX)).rows
    wanted = [
        (client, account) for client, account in _with_accounts(view, found) if account.plan_id == plan_id
    ]
    total = len(wanted)
    if query.after is not None:
        wanted = [each for each in wanted if (each[0].created_at, each[0].client_id) < query.after]
    return Page(wanted[: query.limit], total, len(wanted) > query.limit)


def walk_of_clients(
    view: View, query: Query, *, plan_id: str | None = None
) -> Iterator[tuple[Client, Account]]:
    """What all pages from this one on hold together, looked up as it is walked."""
    for client in view.clients.walk(query):
        account = view.accounts.get(client.client_id)
        if account is not None and plan_id in (None, account.plan_id):
            yield client, account


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedClient:
    """A client as the seed's file has it, read and checked, its times aware, its dollars whole micro-USD."""

    client_id: str
    name: str
    email: str
    key_text: str | None = field(repr=False)
    plan_id: str
    credits_remaining: int
    spent_usd_micros: int
    created_at: datetime
    cycle_start: datetime
    active: bool = True
    stripe_customer_id: str | None = None
    stripe_subscription_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    rate_limit: Rate | None = None
    adjustments: tuple[Adjustment, ...] = ()
    costs: tuple[Cost, ...] = ()


def import_client(
    tx: Transaction, seed: SeedClient, *, peppers: Peppers, actor: Actor = _TAKE_OVER, now: datetime
) -> Client:
    """Take over a client with its key and its balance; a plan we do not know becomes the legacy plan.

    Raises:
        DuplicateEmail, Unprocessable: a balance or a cost that cannot be.
        Conflict: the id or the key is taken.
    """
    if tx.clients.get(seed.client_id) is not None:
        raise Conflict("This client id is taken", code="client_exists")
    if not 0 <= seed.credits_remaining <= CREDITS_MAX or seed.spent_usd_micros < 0:
        raise Unprocessable("The balance or the cost of this client cannot be")
    client = Client(
        client_id=seed.client_id,
        name=seed.name,
        email=seed.email,
        created_at=seed.created_at,
        updated_at=now,
        active=seed.active,
        metadata=dict(seed.metadata),
        stripe_customer_id=seed.stripe_customer_id,
        stripe_subscription_id=seed.stripe_subscription_id,
        rate_limit=seed.rate_limit,
    )
    _put_client(tx, client)
    cycle = cycle_number(seed.cycle_start, 0)
    account = Account(
        client_id=seed.client_id,
        plan_id=seed.plan_id if seed.plan_id in CATALOGUE else LEGACY_PLAN_ID,
        anchor=seed.cycle_start,
        cycle_number=cycle.number,
        cycle_start=cycle.start,
        cycle_end=cycle.end,
        spent_usd_micros=seed.spent_usd_micros,
        due_at=cycle.end,
        active=seed.active,
    )
    ledger.open_with_balance(tx, account, seed.credits_remaining, now)
    if seed.adjustments or seed.costs:
        recent = Recent(client_id=seed.client_id, adjustments=seed.adjustments[-5:], costs=seed.costs[-5:])
        tx.recents.put(recent)
    after = {"plan": seed.plan_id, "credits": str(seed.credits_remaining)}
    note(
        tx, actor, "client.imported", client_id=seed.client_id, object_id=seed.client_id, after=after, now=now
    )
    if seed.key_text is not None:
        # The id is made of the client's, so that taking over twice makes the same record.
        key = key_of(
            seed.key_text,
            peppers,
            key_id=f"key-{seed.client_id}",
            client_id=seed.client_id,
            name="imported",
            now=now,
        )
        issue_key(tx, seed.client_id, key, actor=actor, now=now)
    return client


_CHANGEABLE = ("name", "email", "metadata", "rate_limit")


def _audited(value: object) -> str:
    if value is None:
        return "plan"
    return rate_text(value) if isinstance(value, Rate) else str(value)


def _client(tx: Transaction, client_id: str) -> Client:
    client = tx.clients.get(client_id)
    if client is None:
        raise NotFound("Client")
    return client


def _put_changed(tx: Transaction, client_id: str, now: datetime) -> None:
    """The client with what an admin changed of its account."""
    client = _client(tx, client_id)
    tx.clients.put(replace(client, updated_at=now, version=client.version + 1))


def _put_client(tx: Transaction, client: Client) -> None:
    try:
        tx.clients.put(client)
    except Duplicate as error:
        raise DuplicateEmail from error


def _switch(
    tx: Transaction, client_id: str, active: bool, action: str, reason: str, actor: Actor, now: datetime
) -> bool:
    client = _client(tx, client_id)
    if client.active is active:
        return False
    account = tx.accounts.get(client_id)
    assert account is not None
    tx.clients.put(replace(client, active=active, updated_at=now, version=client.version + 1))
    tx.accounts.put(replace(account, active=active))
    note(tx, actor, action, client_id=client_id, object_id=client_id, reason=reason, now=now)
    return True


def _with_accounts(view: View, clients: list[Client]) -> list[tuple[Client, Account]]:
    pairs = ((client, view.accounts.get(client.client_id)) for client in clients)
    return [(client, account) for client, account in pairs if account is not None]
