"""Cursors: where the next page begins. Opaque, and good only for the list and the filters they came from."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from datetime import datetime

from openclaw_billing.contracts import HistoryQuery, Query
from openclaw_billing.errors import BadRequest

DIGEST_BYTES = 8
CURSOR_LENGTH_MAX = 500
POSITION_DIGITS_MAX = 18


def encode_after(created_at: datetime, key: str, scope: str, query: Query) -> str:
    """The cursor that continues behind the row with that moment and primary key."""
    return encode(f"{created_at.isoformat()} {key}", _filters(scope, query))


def decode_after(cursor: str | None, scope: str, query: Query) -> Query:
    """The query, placed where the cursor points.

    Raises:
        BadRequest: the cursor is damaged, or of another list or filter.
    """
    if cursor is None:
        return query
    place = decode(cursor, _filters(scope, query))
    try:
        return replace(query, after=_after(place))
    except ValueError as error:
        raise _unknown() from error


def encode_position(position: int, scope: str, query: HistoryQuery) -> str:
    """The cursor that continues before that position of the history."""
    return encode(str(position), _history_filters(scope, query))


def decode_position(cursor: str | None, scope: str, query: HistoryQuery) -> HistoryQuery:
    """The query, placed where the cursor points.

    Raises:
        BadRequest: the cursor is damaged, or of another list or filter.
    """
    if cursor is None:
        return query
    place = decode(cursor, _history_filters(scope, query))
    if not place.isdecimal() or len(place) > POSITION_DIGITS_MAX:
        raise _unknown()
    return replace(query, before=int(place))


def encode(place: str, filters: str) -> str:
    """Any place as a cursor, bound to the filters."""
    raw = place.encode()
    return base64.urlsafe_b64encode(_digest(raw, filters) + raw).decode("ascii").rstrip("=")


def decode(cursor: str, filters: str) -> str:
    """The place that `encode` was given with the same filters.

    Raises:
        BadRequest: it was not.
    """
    try:
        if len(cursor) > CURSOR_LENGTH_MAX:
            raise ValueError("too long")
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
        digest, place = raw[:DIGEST_BYTES], raw[DIGEST_BYTES:]
        # A digest, not a signature: a made-up cursor shows only rows that the filters show anyway.
        if digest != _digest(place, filters) or encode(place.decode(), filters) != cursor:
            raise ValueError("not of these filters")
        return place.decode()
    except ValueError as error:
        raise _unknown() from error


def _unknown() -> BadRequest:
    return BadRequest("The cursor is not of this list", code="unknown_cursor")


def _after(place: str) -> tuple[datetime, str]:
    """Anybody can make a cursor whose digest is right: it says where to go on, if it says that at all."""
    moment, blank, key = place.partition(" ")
    at = datetime.fromisoformat(moment)
    if not blank or at.tzinfo is None or not key.isprintable():
        raise ValueError("not a place in a list")
    return at, key


def _digest(place: bytes, filters: str) -> bytes:
    return hashlib.blake2b(place + b"\0" + filters.encode(), digest_size=DIGEST_BYTES).digest()


def _filters(scope: str, query: Query) -> str:
    """All but `since`: a plan's reach moves it with the clock, and the page behind a row stays the same."""
    equals = sorted((name, str(value)) for name, value in query.equals.items())
    return json.dumps([scope, equals, query.text, query.text_fields, _text(query.until)])


def _history_filters(scope: str, query: HistoryQuery) -> str:
    kind = None if query.kind is None else query.kind.value
    named = [query.client_id, query.actor, query.action, kind]
    return json.dumps([scope, named, _text(query.since), _text(query.until)])


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
