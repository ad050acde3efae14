"""The keyring: whose key it is, and keys issued, rotated and revoked.

Unknown, revoked, disabled and expired keys and those of inactive clients are one and the same to a
stranger; `key_outcome` tells them apart for the log.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum

from openclaw_billing.audit import Actor, note
from openclaw_billing.contracts import Transaction, View
from openclaw_billing.errors import Conflict, NotFound, Unprocessable
from openclaw_billing.records import Client, Key, KeyState

KEYS_MAX = 100
GRACE_DEFAULT = timedelta(hours=24)
GRACE_MAX = timedelta(days=30)


class KeyOutcome(StrEnum):
    """Why a key was accepted or not: for the log, never for whoever sent it."""

    VALID = "valid"
    UNKNOWN = "unknown"
    REVOKED = "revoked"
    DISABLED = "disabled"
    EXPIRED = "expired"
    CLIENT_INACTIVE = "client_inactive"


def authenticate(view: View, digests: Sequence[str], now: datetime) -> tuple[Client, Key] | None:
    """Whose key has one of these digests, if it may be used now."""
    key = key_with(view, digests)
    client = None if key is None else owner_of(view, key, now)
    return None if key is None or client is None else (client, key)


def key_with(view: View, digests: Sequence[str]) -> Key | None:
    """The key with one of these digests, whatever its state."""
    for digest in digests:
        key = view.keys.get(digest)
        if key is not None and hmac.compare_digest(key.digest, digest):
            return key
    return None


def owner_of(view: View, key: Key, now: datetime) -> Client | None:
    """The client whose key it is, if both may be used now."""
    if key.state is not KeyState.ACTIVE:
        return None
    if key.expires_at is not None and now >= key.expires_at:
        return None
    client = view.clients.get(key.client_id)
    return client if client is not None and client.active else None


def state_of(key: Key, now: datetime) -> str:
    """`active`, `expired`, `disabled` or `revoked`: how the key stands now, whatever becomes of its client."""
    over = key.state is KeyState.ACTIVE and not _may_be_used(key, now)
    return "expired" if over else key.state.value


def key_outcome(view: View, key: Key | None, now: datetime) -> KeyOutcome:
    """What `owner_of` found out about the key."""
    if key is None:
        return KeyOutcome.UNKNOWN
    if key.state is KeyState.REVOKED:
        return KeyOutcome.REVOKED
    if key.state is KeyState.DISABLED:
        return KeyOutcome.DISABLED
    if not _may_be_used(key, now):
        return KeyOutcome.EXPIRED
    return KeyOutcome.VALID if owner_of(view, key, now) is not None else KeyOutcome.CLIENT_INACTIVE


def issue_key(tx: Transaction, client_id: str, key: Key, *, actor: Actor, now: datetime) -> Key:
    """Give the client one more key.

    Raises:
        NotFound
        Conflict: the key is known already, or the client has too many.
        Unprocessable: the key would be over already.
    """
    if tx.clients.get(client_id) is None:
        raise NotFound("Client")
    usable = [each for each in tx.keys.by("client", client_id) if _may_be_used(each, now)]
    # A key that was replaced, and works until its grace is over, takes nobody's place.
    if sum(each.rotated_to is None for each in usable) >= KEYS_MAX:
        raise _too_many()
    return _put_new(tx, client_id, key, actor, now)
    note(tx, actor, "key.issued", client_id=client_id, object_id=key.key_id, after=_shown(key), now=now)
    return key


def rotate_key(
    tx: Transaction,
    client_id: str,
    key_id: str,
    *,
    new_key: Key,
    grace: timedelta = GRACE_DEFAULT,
    actor: Actor,
    now: datetime,
) -> tuple[Key, Key]:
    """Replace a key: both work for `grace`, never past the old one's own end, then only the new one.

    Returns the old key and the new one.

    Raises:
        NotFound, Unprocessable: the grace is out of range.
        Conflict: the key cannot be used any more, was rotated before, or too many are within their grace.
    """
    if not timedelta(0) <= grace <= GRACE_MAX:
        raise Unprocessable(f"A key's grace is 0 seconds to {GRACE_MAX.days} days")
    old = _key(tx, client_id, key_id)
    if not _may_be_used(old, now):
        raise Conflict("This key cannot be used any more", code="key_not_active")
    if old.rotated_to is not None:
        raise Conflict("This key was rotated already", code="already_rotated")
    usable = [each for each in tx.keys.by("client", client_id) if _may_be_used(each, now)]
    # A full ring can be renewed whole, and no chain of graces makes it endless.
    if len(usable) >= 2 * KEYS_MAX:
        raise _too_many()
    _put_new(tx, client_id, new_key, actor, now)
    ends = now + grace if old.expires_at is None else min(old.expires_at, now + grace)
    rotated = replace(old, expires_at=ends, rotated_to=new_key.key_id)
    tx.keys.put(rotated)
    note(
        tx,
        actor,
        "key.rotated",
        client_id=client_id,
        object_id=key_id,
        before=_shown(old),
        after=_shown(rotated),
        now=now,
    )
    return rotated, new_key


def revoke_key(
    tx: Transaction, client_id: str, key_id: str, *, reason: str = "", actor: Actor, now: datetime
) -> Key:
    """The key is never accepted again. Revoking twice is the same as once.

    Raises:
        NotFound
    """
    key = _key(tx, client_id, key_id)
    if key.state is KeyState.REVOKED:
        return key
    revoked = replace(key, state=KeyState.REVOKED)
    tx.keys.put(revoked)
    note(
        tx,
        actor,
        "key.revoked",
        client_id=client_id,
        object_id=key_id,
        reason=reason,
        before=_shown(key),
        after=_shown(revoked),
        now=now,
    )
    return revoked


def rehash_key(
    tx: Transaction, client_id: str, key_id: str, *, digest: str, pepper_id: str, actor: Actor, now: datetime
) -> Key:
    """Keep the key under a newer pepper from now on."""
    key = _key(tx, client_id, key_id)
    if key.digest == digest:
        return key
    moved = replace(key, digest=digest, pepper_id=pepper_id)
    tx.keys.delete(key.digest)
    tx.keys.put(moved)
    before, after = {"pepper": key.pepper_id}, {"pepper": pepper_id}
    note(
        tx, actor, "key.rehashed", client_id=client_id, object_id=key_id, before=before, after=after, now=now
    )
    return moved


def _key(tx: Transaction, client_id: str, key_id: str) -> Key:
    for key in tx.keys.by("id", key_id):
        if key.client_id == client_id:
            return key
    # Another client's key is as unknown as none.
    raise NotFound("Key")


def _put_new(tx: Transaction, client_id: str, key: Key, actor: Actor, now: datetime) -> Key:
    assert key.client_id == client_id
    if tx.keys.get(key.digest) is not None or tx.keys.by("id", key.key_id):
        raise Conflict("This key is in use already", code="key_exists")
    if not _may_be_used(key, now):
        raise Unprocessable("This key would be over already", code="expires_in_the_past")
    tx.keys.put(key)
    note(tx, actor, "key.issued", client_id=client_id, object_id=key.key_id, after=_shown(key), now=now)
    return key


def _too_many() -> Conflict:
    return Conflict(f"A client has at most {KEYS_MAX} keys", code="too_many_keys")


def _may_be_used(key: Key, now: datetime) -> bool:
    return key.state is KeyState.ACTIVE and (key.expires_at is None or now < key.expires_at)


def _shown(key: Key) -> dict[str, str]:
    """What the audit log may show of a key."""
    return {
        "start": key.start,
        "last4": key.last4,
        "state": key.state.value,
        "expires_at": "" if key.expires_at is None else key.expires_at.isoformat(),
    }
