"""The checkpoint: every row as of one journal line, so that a start need not read the whole history.

    {"v":1,"seq":…,"head":…,"batch":…,"segment":…,"offset":…}
    table <tab> primary key <tab> index values… <tab> row

Text columns are escaped as in a Python string, so no id can hold a tab or a newline. The file is believed
only when a mark in the journal names its digest.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from openclaw_billing.errors import CorruptStore
from openclaw_billing.stores.codec import encode, row_text
from openclaw_billing.stores.packing import column_of, pack, text_of
from openclaw_billing.stores.schema import TABLES, TableSpec
from openclaw_billing.stores.tables import Base

VERSION = 1
ROWS_PER_CHUNK = 32


@dataclass(frozen=True, slots=True)
class Position:
    """Where a checkpoint stands: after line `seq`, whose sum is `head`; the next line is at `offset`."""

    seq: int
    head: str
    batch: int
    segment: int
    offset: int


def write_checkpoint(
    position: Position, rows: dict[str, dict[str, Any]], base: Base | None = None
) -> Iterator[bytes]:
    """The file in chunks small enough to write between two requests.

    With a `base`, rows of the past that were asked for since are packed there again: there are more of them
    than anybody asks for, and a garbage collector that walks them all would hold up every request.
    """
    yield encode({"v": VERSION, **asdict(position)}).encode() + b"\n"
    for name, spec in TABLES.items():
        chunk: list[bytes] = []
        start = column_of(name)
        past = base.tables[name] if base is not None and spec.seldom_read else None
        for key, row in rows[name].items():
            packed = row if isinstance(row, bytes) else _packed(spec, row)
            if past is not None and packed is not row:
                past.pack(key, row, packed)
            chunk.append(b"%b\t%b\t%b\n" % (start, column_of(key), packed))
            if len(chunk) == ROWS_PER_CHUNK:
                yield b"".join(chunk)
                chunk.clear()
        yield b"".join(chunk)


def read_position(path: str, data: bytes) -> Position:
    """Raises `CorruptStore` when the first line is not one of ours."""
    try:
        first = json.loads(data[: data.index(b"\n")])
        version = first.pop("v")
        if version > VERSION:
            raise CorruptStore(path, "written by a newer version", offset=0)
        position = Position(**first)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptStore(path, "its first line is not a checkpoint's", offset=0) from error
    numbers = (position.seq, position.batch, position.segment, position.offset)
    if not all(type(number) is int and number >= 0 for number in numbers) or type(position.head) is not str:
        raise CorruptStore(path, "its first line is not a checkpoint's", offset=0)
    return position


def load_rows(path: str, data: bytes, base: Base) -> None:
    """Take every row into the base, packed as it stands: its index values, then its JSON."""
    # One text object for each id, however many rows name it.
    known: dict[bytes, str] = {}
    tables = {name.encode(): (base.tables[name], len(spec.indexes)) for name, spec in TABLES.items()}
    lines = io.BytesIO(data)
    next(lines, b"")
    for line in lines:
        try:
            name, column, packed = line[:-1].split(b"\t", 2)
            table, indexes = tables[name]
            key = known.get(column)
            if key is None:
                key = known[column] = text_of(column)
            if indexes:
                values = packed.split(b"\t", indexes)[:-1]
                texts = [known.get(value) or known.setdefault(value, text_of(value)) for value in values]
                table.load(key, texts, packed)
            else:
                table.rows[key] = packed
        except (KeyError, ValueError) as error:
            raise CorruptStore(path, "a row cannot be read", offset=data.find(line)) from error


def _packed(spec: TableSpec, record: object) -> bytes:
    return pack([value_of(record) for value_of in spec.indexes.values()], row_text(record).encode("ascii"))
