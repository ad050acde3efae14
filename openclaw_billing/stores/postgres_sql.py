"""The SQL of the PostgreSQL store: named blocks of one file, filled in for each table of the schema.

Records cross the wire as JSON of the same codec as the journal's, and are kept in real columns: the server
takes them apart and puts them together.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from openclaw_billing.records import AuditEntry, LedgerEntry
from openclaw_billing.stores.codec import encode, from_row, row_text
from openclaw_billing.stores.schema import TABLES

FILE = Path(__file__).parent / "sql" / "postgres.sql"
HISTORY: Mapping[str, type] = {"ledger": LedgerEntry, "audit": AuditEntry}


IF_UNCHANGED = "current_setting('openclaw.unchanged') = 'true'"
"""What `unchanged` has found earlier in the same transaction."""


@cache
def blocks() -> dict[str, str]:
    """Every named block of the file."""
    parts = re.split(r"^-- name: (.+)\n", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


@cache
def sql(name: str, table: str = "", index: str = "", only_if: str = "true") -> str:
    """A block for one table; page-like ones keep their `{wanted}` for `filled`."""
    if not table:
        return blocks()[name]
    fields = columns_of(table)
    written = [*fields, *(f"by_{each}" for each in indexes_of(table))]
    key = TABLES[table].primary_key if table in TABLES else ""
    filling = {
        "table": table,
        "columns": ", ".join(map(quoted_name, fields)),
        "written": ", ".join(map(quoted_name, written)),
        "assigned": ", ".join(
            f"{quoted_name(each)} = EXCLUDED.{quoted_name(each)}" for each in written if each != key
        ),
        "key": quoted_name(key),
        "newest": quoted_name(TABLES[table].newest_by) if key else "",
        "by": f"by_{index}",
        "wanted": "{wanted}",
        "only_if": only_if,
    }
    return blocks()[name].format_map(filling)


def filled(name: str, table: str, wanted: Iterable[str]) -> str:
    """A block whose rows must meet every condition."""
    return sql(name, table).format(wanted=" AND ".join(wanted) or "true")


def quoted_name(name: str) -> str:
    return f'"{name}"'


def record_of(table: str) -> type:
    return TABLES[table].record if table in TABLES else HISTORY[table]


def columns_of(table: str) -> list[str]:
    """The fields of the table's record, each a column of that name."""
    return [field.name for field in dataclasses.fields(record_of(table))]


def indexes_of(table: str) -> Mapping[str, Any]:
    return TABLES[table].indexes if table in TABLES else {}


@cache
def defaults_of(table: str) -> str:
    """The record's defaults as JSON: what a row does not say."""
    found: dict[str, object] = {}
    for field in dataclasses.fields(record_of(table)):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return encode(found)


def packed(table: str, record: Any) -> str:
    """The record as JSON, with the values that it is found by.

    Raises:
        ValueError: it holds text that PostgreSQL cannot keep.
    """
    text = row_text(record)
    if "\\u0000" in text or "\\ud" in text:
        _check_text(text)
    for name, value_of in indexes_of(table).items():
        if (value := value_of(record)) is not None:
            text = f'{text[:-1]},"by_{name}":{encode(value)}}}'
    return text


def rows_of(table: str, records: Iterable[Any]) -> str:
    return f"[{','.join([packed(table, each) for each in records])}]"


def unpacked(table: str, row: dict[str, Any]) -> Any:
    """The record of a row as the server tells it."""
    return from_row(record_of(table), row)


def _check_text(text: str) -> None:
    """Text may look so and be sound: a backslash of its own, or a pair of surrogates."""

    def check(value: Any) -> None:
        if isinstance(value, str):
            if "\0" in value:
                raise ValueError("PostgreSQL keeps no text with a NUL in it")
            value.encode()
        elif isinstance(value, dict):
            check([*value, *value.values()])
        elif isinstance(value, list):
            for each in value:
                check(each)

    check(json.loads(text))
