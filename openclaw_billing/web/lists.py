"""Lists: the filters they take, and what they hold as pages of JSON or as a file of CSV.

A file holds everything that was asked for, written as it is read; with a `limit` it is one page, which links
the next one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from openclaw_billing.plans import CATALOGUE, LEGACY_PLAN_ID
from openclaw_billing.runtime import Runtime
from openclaw_billing.text import clean_text
from openclaw_billing.web.csv_export import csv_chunks, csv_response, wants_csv
from openclaw_billing.web.cursors import CURSOR_LENGTH_MAX
from openclaw_billing.web.endpoint import address_of
from openclaw_billing.web.models import Moment, Output

PAGE_DEFAULT = 100
PAGE_MAX = 1000
FILTER_LENGTH_MAX = 200
PLANS = (*CATALOGUE, LEGACY_PLAN_ID)

V = TypeVar("V", bound=Output)
L = TypeVar("L", bound=Output)

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def _midnight(value: object) -> object:
    return f"{value}T00:00:00Z" if isinstance(value, str) and _DATE.fullmatch(value) else value


def _plain(value: str) -> str:
    return clean_text(value, FILTER_LENGTH_MAX) if value else value


def _plan(value: str) -> str:
    if value not in PLANS:
        raise ValueError(f"it must be one of {', '.join(PLANS)}")
    return value


Bound: TypeAlias = Annotated[
    Moment,
    BeforeValidator(_midnight),
    WithJsonSchema({"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}]}),
]
"""A moment with its offset; a bare date is its midnight in UTC."""
Words: TypeAlias = Annotated[str, Field(max_length=FILTER_LENGTH_MAX), AfterValidator(_plain)]
PlanName: TypeAlias = Annotated[
    str, AfterValidator(_plan), WithJsonSchema({"type": "string", "enum": list(PLANS)})
]

Format: TypeAlias = Annotated[
    Literal["json", "csv"] | None, Field(description="`csv` is a file; without it, what `Accept` names")
]


class QueryFields(BaseModel):
    """What may stand in the query of a list, and nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Filters(QueryFields):
    """Which page of a list."""

    limit: int | None = Field(
        None,
        ge=1,
        le=PAGE_MAX,
        description=f"Rows a page, 1 to {PAGE_MAX}; {PAGE_DEFAULT} unless given, and all of them as CSV",
    )
    cursor: str | None = Field(
        None, max_length=CURSOR_LENGTH_MAX, description="`next_cursor` of the page before"
    )

    @property
    def page_length(self) -> int:
        return PAGE_DEFAULT if self.limit is None else self.limit


class Dated(Filters):
    """Filters of a list whose rows have a time, and which can be had as CSV."""

    since: Bound | None = Field(
        None,
        alias="from",
        description="From this moment on: RFC 3339 with its offset, such as 2026-02-19T10:30:00Z, or a date in UTC",
    )
    until: Bound | None = Field(None, alias="to", description="Before this moment or date")
    format: Format = None


@dataclass(frozen=True, slots=True)
class Part(Generic[V]):
    """One page of a list, as it is shown."""

    rows: list[V]
    total: int
    next_cursor: str | None

    @property
    def told(self) -> dict[str, Any]:
        """What every list says beside its rows."""
        return {
            "total": self.total,
            "next_cursor": self.next_cursor,
            "has_more": self.next_cursor is not None,
        }


@dataclass(frozen=True, slots=True)
class Listed(Generic[V]):
    """A list as it was asked for: the page, and all that the pages from there on hold. Both may read for long."""

    name: str
    view: type[V]
    page: Callable[[], Part[V]]
    walk: Callable[[], Iterator[V]]


async def answered(
    runtime: Runtime,
    request: Request,
    response: Response,
    filters: Dated,
    listed: Listed[V],
    shown: Callable[[Part[V]], L],
) -> L | Response:
    """The page as `shown` makes it, or the list as a file."""
    response.headers["Vary"] = "Accept"
    if not wants_csv(request, filters.format):
        return shown(await runtime.read(listed.page))
    if filters.limit is None:
        return await file_of(runtime, listed.name, listed.view, listed.walk)
    part = await runtime.read(listed.page)
    file = await file_of(runtime, listed.name, listed.view, lambda: part.rows)
    if part.next_cursor is not None:
        following = {**request.query_params, "cursor": part.next_cursor}
        file.headers["Link"] = f'<{address_of(request)}?{urlencode(following)}>; rel="next"'
    return file


async def file_of(
    runtime: Runtime, name: str, view: type[V], rows: Callable[[], Iterable[V]]
) -> StreamingResponse:
    """The rows as a file. What goes wrong with the first of them is still a refusal."""

    def begin() -> tuple[list[bytes], Iterator[bytes]]:
        chunks = csv_chunks(list(view.model_fields), (each.model_dump(mode="json") for each in rows()))
        return list(islice(chunks, 2)), chunks

    begun, rest = await runtime.read(begin)
    return csv_response(name, chain(begun, rest), clock=runtime.clock)
