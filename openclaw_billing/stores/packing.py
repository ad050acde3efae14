"""Packed rows: a row that nobody has asked for yet stays the bytes it was on disk.

    index values… <tab> row

An index value is escaped as in a Python string, so that none can hold a tab or a newline; one that is not
there is empty. The row is its JSON.
"""

from __future__ import annotations

from collections.abc import Sequence


def pack(values: Sequence[str | None], row: bytes) -> bytes:
    """The row with the values of its indexes."""
    return b"\t".join([*[column_of(value or "") for value in values], row]) if values else row


def row_of(packed: bytes, indexes: int) -> bytes:
    """The row's JSON."""
    return packed.split(b"\t", indexes)[-1] if indexes else packed


def values_of(packed: bytes, indexes: int) -> list[str | None]:
    """The values of its indexes."""
    return [text_of(column) or None for column in packed.split(b"\t", indexes)[:-1]] if indexes else []


def column_of(text: str) -> bytes:
    """A text that may stand between tabs."""
    # Both give the same bytes for a text without an escape, and the first is the quicker.
    return (
        text.encode()
        if text.isascii() and text.isprintable() and "\\" not in text
        else text.encode("unicode_escape")
    )


def text_of(column: bytes) -> str:
    """What `column_of` was given."""
    return column.decode("ascii") if b"\\" not in column else column.decode("unicode_escape")
