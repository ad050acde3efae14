"""CSV exports: a spreadsheet opens them and runs nothing in them."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from openclaw_billing.clock import ManualClock
from openclaw_billing.web.csv_export import ROWS_A_CHUNK, csv_chunks, csv_response, wants_csv

CELL_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)


def read(chunks: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(chunks.decode(), newline="")))


@given(st.lists(st.fixed_dictionaries({"a": CELL_TEXT, "b": st.integers()}), max_size=5))
def test_what_is_written_reads_back_but_for_the_guard(rows: list[dict[str, object]]) -> None:
    header, *lines = read(b"".join(csv_chunks(["a", "b"], rows)))
    assert header == ["a", "b"]
    for row, (a, b) in zip(rows, lines, strict=True):
        assert a.removeprefix("'") == str(row["a"]).removeprefix("'")
        assert not a.startswith(("=", "+", "-", "@", "\t", "\r", "\0"))
        assert b == str(row["b"])


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\0"])
def test_text_that_would_be_a_formula_is_guarded(start: str) -> None:
    lines = read(b"".join(csv_chunks(["a"], [{"a": f"{start}1+1"}])))
    assert lines[1][0] == f"'{start}1+1"


def test_cells_are_what_json_would_say() -> None:
    row = {"n": -5, "f": 5.5, "t": True, "nothing": None, "d": {"k": "ü"}, "s": 'a "b", c'}
    text = b"".join(csv_chunks([*row, "missing"], [row])).decode()
    assert text == 'n,f,t,nothing,d,s,missing\r\n-5,5.5,true,,"{""k"": ""ü""}","a ""b"", c",\r\n'


def test_rows_are_written_in_pieces() -> None:
    pieces = list(csv_chunks(["n"], ({"n": n} for n in range(ROWS_A_CHUNK * 2 + 1))))
    assert len(pieces) == 4
    assert len(read(b"".join(pieces))) == ROWS_A_CHUNK * 2 + 2


def test_the_file_has_a_name_and_a_date() -> None:
    response = csv_response("jobs", iter([b"a"]), clock=ManualClock(datetime(2026, 2, 19, tzinfo=UTC)))
    assert response.headers["content-disposition"] == 'attachment; filename="openclaw-jobs-2026-02-19.csv"'
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["vary"] == "Accept"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("text/csv", True),
        ("Text/CSV; q=0.9, */*", True),
        ("text/csv, application/json", True),
        ("application/json, text/csv", False),
        ("*/*", False),
        ("", False),
        ("text/csvx", False),
    ],
)
def test_csv_is_sent_where_it_is_named(accept: str, wanted: bool) -> None:
    request = Request({"type": "http", "headers": [(b"accept", accept.encode())]})
    assert wants_csv(request) is wanted
    assert wants_csv(request, "csv")
    assert not wants_csv(request, "json")
