"""CSV exports: RFC 4180 rows, streamed, that a spreadsheet opens without running anything in them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from fastapi import Request
from fastapi.responses import StreamingResponse

from openclaw_billing.clock import Clock

ROWS_A_CHUNK = 200
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\0")


def wants_csv(request: Request, asked: str | None = None) -> bool:
    """Whether the caller asked for `csv`; without a word of that, whether it accepts it and names it before JSON."""
    if asked is not None:
        return asked == "csv"
    accepted = [
        part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")
    ]
    return "text/csv" in accepted and "application/json" not in accepted[: accepted.index("text/csv")]


def csv_response(name: str, chunks: Iterable[bytes], *, clock: Clock) -> StreamingResponse:
    """The file, written as its pieces come, under a name with the day."""
    return StreamingResponse(
        chunks,
        media_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="openclaw-{name}-{clock.now().date()}.csv"',
            "Vary": "Accept",
        },
    )


def csv_chunks(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> Iterator[bytes]:
    """The file in pieces of a few hundred rows, with the JSON names as its first row."""
    yield _lines([list(columns)])
    remaining = iter(rows)
    while chunk := list(islice(remaining, ROWS_A_CHUNK)):
        yield _lines([[_cell(row.get(column)) for column in columns] for row in chunk])


def _lines(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
