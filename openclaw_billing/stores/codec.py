"""The codec: records to JSON objects and back. Fields at their default are left out."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache, lru_cache
from types import NoneType, UnionType
from typing import Any, TypeVar

R = TypeVar("R")
Row = dict[str, Any]

_MISSING = object()


def to_row(record: object) -> Row:
    """The record's fields that are not at their default; nested records are lists of their fields."""
    row: Row = {}
    for name, default in _defaults(type(record)):
        value = getattr(record, name)
        if value is not default and value != default:
            row[name] = value
    return row


def from_row(record_type: type[R], row: Row) -> R:
    """The record.

    Raises:
        ValueError, TypeError, KeyError: the row is not one of ours.
    """
    values = dict(row)
    for name, decode in _decoders(record_type):
        if (value := values.get(name)) is not None:
            values[name] = decode(value)
    return record_type(**values)


def encode(value: object) -> str:
    """Canonical JSON of ours: ASCII, no spaces, no raw newline."""
    return _ENCODER.encode(value)


@lru_cache(maxsize=4096)
def moment_text(moment: datetime) -> str:
    """RFC 3339 in UTC with `+00:00`."""
    return moment.astimezone(UTC).isoformat()


def _encode_other(value: object) -> object:
    if isinstance(value, datetime):
        return moment_text(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    raise TypeError(f"cannot be written: {type(value)}")


_ENCODER = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, separators=(",", ":"), check_circular=False, default=_encode_other
)


@cache
def _defaults(record_type: type) -> tuple[tuple[str, object], ...]:
    return tuple((field.name, _default_of(field)) for field in dataclasses.fields(record_type))


def _default_of(field: dataclasses.Field[Any]) -> object:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return _MISSING


@cache
def _decoders(record_type: type) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    hints = typing.get_type_hints(record_type)
    pairs = ((field.name, _decoder(hints[field.name])) for field in dataclasses.fields(record_type))
    return tuple((name, decode) for name, decode in pairs if decode is not None)


def _decoder(hint: Any) -> Callable[[Any], Any] | None:
    if typing.get_origin(hint) in (typing.Union, UnionType):
        inner = [_decoder(each) for each in typing.get_args(hint) if each is not NoneType]
        return inner[0]
    if typing.get_origin(hint) is tuple:
        each = _decoder(typing.get_args(hint)[0])
        return tuple if each is None else (lambda values: tuple(each(value) for value in values))
    if hint is datetime:
        return datetime.fromisoformat
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _enum_decoder(hint)
    if dataclasses.is_dataclass(hint):
        return _nested_decoder(typing.cast("type", hint))
    return None


def _enum_decoder(enum: type[StrEnum]) -> Callable[[Any], Any]:
    members: dict[str, StrEnum] = {member.value: member for member in enum}
    return members.__getitem__


def _nested_decoder(record_type: type) -> Callable[[Any], Any]:
    names = [field.name for field in dataclasses.fields(record_type)]
    decoders = dict(_decoders(record_type))

    def decode(values: list[Any]) -> Any:
        given = zip(names, values, strict=False)
        return record_type(
            **{
                name: decoders[name](value) if value is not None and name in decoders else value
                for name, value in given
            }
        )

    return decode
