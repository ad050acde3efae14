"""Cursors: opaque, and good only for the list and the filters they came from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openclaw_billing.contracts import HistoryQuery, Query
from openclaw_billing.errors import BadRequest
from openclaw_billing.records import EntryKind
from openclaw_billing.web.cursors import (
    decode,
    decode_after,
    decode_position,
    encode,
    encode_after,
    encode_position,
)

MOMENT = datetime(2026, 2, 19, 10, 30, 0, 123456, tzinfo=UTC)
QUERY = Query(equals={"active": True}, text="acme", text_fields=("name",), until=MOMENT)
HISTORY = HistoryQuery(client_id="c1", kind=EntryKind.GRANT)
SAFE_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)


@given(SAFE_TEXT, SAFE_TEXT)
def test_a_cursor_gives_back_its_place(place: str, filters: str) -> None:
    cursor = encode(place, filters)
    assert decode(cursor, filters) == place
    assert cursor.isascii()
    assert not set(cursor) & set("+/=&?# ")


@given(SAFE_TEXT, st.integers(0, 200), st.characters())
def test_a_changed_cursor_is_unknown(place: str, where: int, other: str) -> None:
    cursor = encode(place, "filters")
    spot = where % len(cursor)
    changed = cursor[:spot] + other + cursor[spot + 1 :]
    if changed != cursor:
        with pytest.raises(BadRequest):
            decode(changed, "filters")


@pytest.mark.parametrize("cursor", ["", "x", "====", "é", "AAAAAAAAAAA", "A" * 501, "\ud800", "a\nb"])
def test_what_is_no_cursor_is_unknown(cursor: str) -> None:
    with pytest.raises(BadRequest) as refused:
        decode_after(cursor, "clients", QUERY)
    assert refused.value.code == "unknown_cursor"


def test_the_first_page_has_no_cursor() -> None:
    assert decode_after(None, "clients", QUERY) == QUERY
    assert decode_position(None, "ledger", HISTORY) == HISTORY


def test_the_next_page_begins_behind_the_row() -> None:
    cursor = encode_after(MOMENT, "client 7", "clients", QUERY)
    assert decode_after(cursor, "clients", replace(QUERY, limit=5)).after == (MOMENT, "client 7")
    position = encode_position(41, "ledger", HISTORY)
    assert decode_position(position, "ledger", HISTORY).before == 41


@pytest.mark.parametrize(
    ("scope", "query"),
    [
        ("jobs", QUERY),
        ("clients", replace(QUERY, equals={"active": False})),
        ("clients", replace(QUERY, equals={})),
        ("clients", replace(QUERY, text="acm")),
        ("clients", replace(QUERY, until=None)),
    ],
)
def test_a_cursor_of_other_filters_is_unknown(scope: str, query: Query) -> None:
    with pytest.raises(BadRequest):
        decode_after(encode_after(MOMENT, "c1", "clients", QUERY), scope, query)


@pytest.mark.parametrize(
    "query",
    [
        replace(HISTORY, client_id="c2"),
        replace(HISTORY, client_id=None),
        replace(HISTORY, kind=None),
        replace(HISTORY, since=MOMENT),
    ],
)
def test_a_cursor_of_another_history_is_unknown(query: HistoryQuery) -> None:
    with pytest.raises(BadRequest):
        decode_position(encode_position(41, "ledger", HISTORY), "ledger", query)
