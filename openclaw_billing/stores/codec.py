"""The codec: records to JSON text and back. Fields at their default are left out.

Writing is on the path of every charge, so each record class gets a writer made for it, once, as dataclasses
make their own `__init__`: a string of its fields without a dictionary between.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache, lru_cache
from json.encoder import encode_basestring_ascii
from types import NoneType, UnionType
from typing import Any, TypeVar

from pydantic_core import from_json

R = TypeVar("R")
Row = dict[str, Any]
Writer = Callable[[Any], str]

quoted: Callable[[str], str] = encode_basestring_ascii
"""A text as JSON, in ASCII."""


def row_text(record: object) -> str:
    """The record as one JSON object: ASCII, no spaces, no raw newline."""
    kind: Any = type(record)
    return _writer(kind)(record)


def from_row(record_type: type[R], row: Row) -> R:
    """The record. The row is used up.

    Raises:
        ValueError, TypeError, KeyError: the row is not one of ours.
    """
    kind: Any = record_type
    record: R = _maker(kind)(row)
    return record


def parsed(text: bytes) -> Row:
    """What a row or a journal line says: a client's first charge reads three rows.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return typing.cast("Row", from_json(text, cache_strings="keys"))
    except ValueError:
        # Half of a character, as an earlier version let in, is read by this one only.
        return typing.cast("Row", json.loads(text))


def encode(value: object) -> str:
    """Any JSON value in the same canonical form."""
    return _ENCODER.encode(value)


@lru_cache(maxsize=16_384)
def moment_text(moment: datetime) -> str:
    """RFC 3339 in UTC with `+00:00`."""
    # Kept, because an account is written with each of its charges, and its cycle's edges stay the same.
    return (moment if moment.tzinfo is UTC else moment.astimezone(UTC)).isoformat()


_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), check_circular=False)


_HELPERS = {"quoted": quoted, "moment": moment_text, "encode": encode, "integer": int.__repr__}


@cache
def _writer(record_type: Any) -> Writer:
    """Compile `def write(r): return f'{…}'` for the class: one string, made in one go."""
    names: dict[str, Any] = {**_HELPERS}
    hints = typing.get_type_hints(record_type)
    parts: list[str] = []
    for field in dataclasses.fields(record_type):
        value = f"r.{field.name}"
        text = f"',\"{field.name}\":' + {_expression(hints[field.name], value, names, field.name)}"
        if (is_default := _is_default(field, value, names)) is not None:
            text = f"('' if {is_default} else {text})"
        parts.append(text)
    source = ", ".join(parts)
    exec(f"def write(r): return '{{' + ''.join(({source},))[1:] + '}}'", names)  # noqa: S102 - of our own field names only
    return typing.cast("Writer", names["write"])


def _is_default(field: dataclasses.Field[Any], value: str, names: dict[str, Any]) -> str | None:
    """Python source that tells whether the field need not be written; None where it always must."""
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    elif field.default is not dataclasses.MISSING:
        default = field.default
    else:
        return None
    if default is None:
        return f"{value} is None"
    if type(default) in (int, str, tuple, dict) and not default:
        # Only values of the field's own type come here, and of those just one is empty.
        return f"not {value}"
    names[f"default_{field.name}"] = default
    return f"{value} == default_{field.name}"


@cache
def _list_writer(record_type: type) -> Writer:
    """The same for a nested record, which is written as the list of its fields."""
    names: dict[str, Any] = {**_HELPERS}
    hints = typing.get_type_hints(record_type)
    parts = [
        _expression(hints[field.name], f"r.{field.name}", names, field.name)
        for field in dataclasses.fields(record_type)
    ]
    exec("def write(r): return '[' + " + " + ',' + ".join(parts) + " + ']'", names)  # noqa: S102
    return typing.cast("Writer", names["write"])


def _expression(hint: Any, value: str, names: dict[str, Any], field: str) -> str:
    """Python source that writes `value` as JSON."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        inner = next(each for each in typing.get_args(hint) if each is not NoneType)
        return f"('null' if {value} is None else {_expression(inner, value, names, field)})"
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return f"'[' + ','.join([{_expression(inner, 'each', names, field)} for each in {value}]) + ']'"
    if hint is str:
        return f"quoted({value})"
    if hint is bool:
        return f"('true' if {value} else 'false')"
    if hint is int:
        # Whatever is no whole number raises here: a line that JSON cannot hold would damage the journal.
        return f"integer({value})"
    if hint is datetime:
        return f"'\"' + moment({value}) + '\"'"
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        names[f"words_{field}"] = {member: quoted(member.value) for member in hint}
        return f"words_{field}[{value}]"
    if dataclasses.is_dataclass(hint):
        names[f"write_{field}"] = _list_writer(typing.cast("type", hint))
        return f"write_{field}({value})"
    return f"encode({value})"


@cache
def _maker(record_type: Any) -> Callable[[Row], Any]:
    """Compile `def make(row): …; return record(**row)` for the class: it refuses fields that it does not know."""
    names: dict[str, Any] = {**_READERS, "record": record_type}
    hints = typing.get_type_hints(record_type)
    lines = ["def make(row):", "    get = row.get"]
    for field in dataclasses.fields(record_type):
        value = _reading(hints[field.name], "v", names, field.name)
        if value != "v":
            lines.append(f"    if (v := get({field.name!r})) is not None: row[{field.name!r}] = {value}")
    exec("\n".join([*lines, "    return record(**row)"]), names)  # noqa: S102 - of our own field names only
    return typing.cast("Callable[[Row], Any]", names["make"])


@cache
def _list_maker(record_type: Any) -> Callable[[list[Any]], Any]:
    """The same for a nested record, which is written as the list of its fields."""
    names: dict[str, Any] = {**_READERS, "record": record_type}
    hints = typing.get_type_hints(record_type)
    parts = []
    for place, field in enumerate(dataclasses.fields(record_type)):
        value = _reading(hints[field.name], f"r[{place}]", names, field.name)
        parts.append(value if value == f"r[{place}]" else f"(None if r[{place}] is None else {value})")
    # A list written before a field was added is shorter: the field is at its default.
    lines = [
        "def make(r):",
        f"    if len(r) == {len(parts)}: return record({', '.join(parts)})",
        *(
            f"    if len(r) == {n}: return record({', '.join(parts[:n])})"
            for n in range(len(parts) - 1, 0, -1)
        ),
        "    raise ValueError('a list of another length')",
    ]
    exec("\n".join(lines), names)  # noqa: S102 - made of numbers and our own field names only
    return typing.cast("Callable[[list[Any]], Any]", names["make"])


def _reading(hint: Any, value: str, names: dict[str, Any], field: str) -> str:
    """Python source that makes of `value`, which is not null, what the field holds; `value` itself where it is that."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        inner = next(each for each in typing.get_args(hint) if each is not NoneType)
        return _reading(inner, value, names, field)
    if typing.get_origin(hint) is tuple:
        each = _reading(typing.get_args(hint)[0], "each", names, field)
        return f"tuple({value})" if each == "each" else f"tuple([{each} for each in {value}])"
    if hint is datetime:
        return f"moment_of({value})"
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        names[f"members_{field}"] = {member.value: member for member in hint}
        return f"members_{field}[{value}]"
    if dataclasses.is_dataclass(hint):
        names[f"make_{field}"] = _list_maker(typing.cast("type", hint))
        return f"make_{field}({value})"
    return value


_READERS = {"moment_of": datetime.fromisoformat}
