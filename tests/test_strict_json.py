"""Strict JSON: one reading of a body, or none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openclaw_billing.errors import BadRequest, Unprocessable
from openclaw_billing.web.strict_json import loads

SAFE_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18) + 1, 10**18 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | SAFE_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SAFE_TEXT, inner, max_size=4),
    max_leaves=30,
)


@given(VALUES, st.booleans())
def test_every_ordinary_value_reads_as_it_was_written(value: object, escaped: bool) -> None:
    assert loads(json.dumps(value, ensure_ascii=escaped).encode()) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_one_refusal(raw: bytes) -> None:
    try:
        value = loads(raw)
    except (BadRequest, Unprocessable):
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"{}{}",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1, "a": 2}',
        b'{"x": {"a": 1, "\\u0061": 2}}',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        '{"a": "é"}'.encode("latin-1"),
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\\ud800"}',
        b'{"a": "\\uDFFF"}',
        b'{"\\udc00": 1}',
        b'{"a": "\n"}',
        b'{"a": 01}',
        b"[" * 33 + b"]" * 33,
        b"[" * 100_000,
        b'{"a":' * 33 + b"1" + b"}" * 33,
        b"[{},[],[]," * 33 + b"1" + b"]" * 33,
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        loads(raw)
    assert refused.value.code == "malformed_json"
    assert refused.value.detail == "The body is not valid JSON"


@pytest.mark.parametrize(
    "number", ["1e999", "-1e999", "1000000000000000000", "9" * 5000, "0." + "1" * 100, "-" + "9" * 30]
)
def test_a_number_without_bounds_is_said_to_be_one(number: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        loads(f'{{"a": {number}}}'.encode())
    assert refused.value.code == "number_out_of_range"
    assert number not in str(refused.value.detail)


def test_the_limits_themselves_are_within() -> None:
    assert loads(b"[" * 32 + b"]" * 32)
    assert loads(b'{"a": -999999999999999999}') == {"a": -999_999_999_999_999_999}
    assert loads(b"[" + b"[],{}," * 100 + b'"[[[[\\"]["]')
    assert loads('{"a": "\\ud83d\\ude00 😀"}'.encode()) == {"a": "😀 😀"}
