"""Strict JSON: one reading of a body, or none. What two parsers could read differently is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from openclaw_billing.errors import BadRequest, Unprocessable

DEPTH_MAX = 32
INTEGER_DIGITS_MAX = 18
FLOAT_LENGTH_MAX = 40

_BLANKS = " \t\n\r"
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"[{]}", b"(())")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))


def loads(raw: bytes) -> object:
    """The one value that the body holds.

    Raises:
        BadRequest: it is not UTF-8 JSON, or has doubled names, surrogates, or boundless depths.
        Unprocessable: a number in it is boundless.
    """
    try:
        _check_depth(raw)
        # What `decode` does, without looking for blanks twice.
        text = raw.decode("utf-8").strip(_BLANKS)
        value: object
        value, end = _scan(text, 0)
        if end != len(text):
            raise ValueError("more than one value")
        if rb"\ud" in raw or rb"\uD" in raw:
            # An escaped half of a character parses, and then cannot be written anywhere.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except _Boundless as error:
        raise Unprocessable(
            "A number in the body is out of range, or has too many digits", code="number_out_of_range"
        ) from error
    except (ValueError, StopIteration, RecursionError) as error:
        raise BadRequest("The body is not valid JSON", code="malformed_json") from error
    return value


class _Boundless(ValueError):
    """JSON knows no largest number; we do."""


def _check_depth(raw: bytes) -> None:
    if raw.count(b"[") + raw.count(b"{") <= DEPTH_MAX:
        return
    brackets = _STRING.sub(b"", raw).translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(DEPTH_MAX):
        # Each pass takes off the innermost pairs, so what is left was nested deeper.
        brackets = brackets.replace(b"()", b"")
    if brackets:
        raise ValueError("too deep")


def _integer(text: str) -> int:
    if len(text) - text.startswith("-") > INTEGER_DIGITS_MAX:
        raise _Boundless
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if len(text) > FLOAT_LENGTH_MAX or not math.isfinite(value):
        raise _Boundless
    return value


def _constant(text: str) -> float:
    raise ValueError("not a JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name is given twice")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
)
_scan: Callable[[str, int], tuple[object, int]] = _DECODER.scan_once  # type: ignore[attr-defined]
