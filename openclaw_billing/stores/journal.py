"""The journal: one checksummed, chained JSON line per operation.

    {"v":1, "seq":7, "prev":<sum of line 6>, "batch":[4,1,3], "time":…, "op":…,
     "rows":[[table, length of the row, primary key, index values…]…], "put":{table:[row…]},
     "del":{table:[key…]}, "ledger":[…], "audit":[…], "mark":{…}, "sum":…}

`sum` covers every byte before it. Without a chain key it is SHA-256 and finds accidents; with one it is
HMAC-SHA256 and finds tampering. `batch` is [number, line, of]: a batch is begun only after the one before
is durable, which is what lets a reader tell a torn tail from damage. `rows` is there where a line deletes
nothing: it lets the other processes of a machine take each other's rows in as they stand, unparsed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import Any

from openclaw_billing.errors import CorruptStore
from openclaw_billing.stores.codec import parsed

VERSION = 1
NO_SUM = "0" * 64
_SUM_START = b',"sum":"'
_END = b'"}'
_ROWS = b',"rows":['
_PUT = b',"put":{'
_SUM_LENGTH = len(_SUM_START) + 64 + len(_END)
_UNCLOSED = re.compile(rb'^(?P<body>.*,"sum":"[0-9a-f]{64})(?:"?)$', re.DOTALL)
_COMPLETE_SUM = re.compile(rb',"sum":"[0-9a-f]{64}')
_BLOCK = 512


class Chain:
    """Sums lines: with a key nobody without it can make a line that fits."""

    def __init__(self, key: bytes | None = None) -> None:
        self._keyed = None if key is None else hmac.new(key, digestmod=hashlib.sha256)

    def sum(self, body: bytes) -> str:
        if self._keyed is None:
            return hashlib.sha256(body).hexdigest()
        summing = self._keyed.copy()
        summing.update(body)
        return summing.hexdigest()

    def seal(self, body: bytes) -> tuple[bytes, str]:
        """The line, which is open at its end, with its sum and newline; and the sum."""
        total = self.sum(body)
        return body + sealed_end(total), total

    def is_sealed(self, line: bytes) -> bool:
        """Whether the line (without newline) carries its own right sum."""
        body, rest = line[:-_SUM_LENGTH], line[-_SUM_LENGTH:]
        if not rest.startswith(_SUM_START) or not rest.endswith(_END):
            return False
        given = rest[len(_SUM_START) : -len(_END)]
        return hmac.compare_digest(given, self.sum(body).encode("ascii"))


def sealed_end(total: str) -> bytes:
    """How a line with that sum ends."""
    return _SUM_START + total.encode("ascii") + _END + b"\n"


@dataclass(frozen=True, slots=True)
class Line:
    """One line as read: where it stands, what it says, and its sum."""

    start: int
    end: int
    data: dict[str, Any]
    raw: bytes = b""
    """The line, where `data` is only what it says before its rows."""

    @property
    def seq(self) -> int:
        seq: int = self.data["seq"]
        return seq

    @property
    def sum(self) -> str:
        total: str = self.data["sum"]
        return total

    @property
    def ends_batch(self) -> bool:
        _, line, of = self.data["batch"]
        return bool(line == of)

    def rows(self) -> Iterator[tuple[str, str, list[str], bytes]]:
        """Table, primary key, index values and JSON of each row, where `raw` is there."""
        at, before = self.raw.index(_PUT) + len(_PUT), ""
        for name, length, key, *values in self.data["rows"]:
            if name == before:
                at += len(",")
            else:
                at += len(f'"{name}":[') + (len("],") if before else 0)
            row = self.raw[at : at + length]
            if not (row.startswith(b"{") and row.endswith(b"}")):
                raise ValueError("a row is not where the line says")
            yield name, key, values, row
            at, before = at + length, name


@dataclass(frozen=True, slots=True)
class Tail:
    """Where the good lines end. `torn` is where a tail begins that never was durable; None when there is none."""

    end: int
    torn: int | None = None
    unended: bool = False
    """The last line is whole but for its last bytes, which must be written before anything else is."""


class Reader:
    """Reads lines in order and checks that each follows the one before."""

    def __init__(
        self,
        path: str,
        chain: Chain,
        *,
        seq: int = 0,
        head: str = NO_SUM,
        batch: int = 0,
        unfinished: bool = False,
        sparing: bool = False,
    ) -> None:
        """`sparing`: of lines that say where their rows are, only what stands before them is parsed."""
        self.path, self._chain = path, chain
        self._sparing = sparing
        self.seq, self.head, self.batch = seq, head, batch
        self._unfinished = unfinished

    def lines(self, data: bytes, base: int) -> Iterator[Line]:
        """Every good line of `data`, which begins at byte `base` of the file; stops before the first bad one."""
        start = 0
        while True:
            end = data.find(b"\n", start)
            if end < 0:
                return
            line = self._read(data[start:end], base + start, base + end + 1)
            if line is None:
                return
            yield line
            start = end + 1

    def follow(self, data: mmap | bytes, start: int) -> None:
        """Go on from byte `start` through whole lines, and look only whether each follows the one before.

        Raises:
            CorruptStore: one does not.
        """
        while start < len(data):
            stop = data.find(b"\n", start)
            line = data[start : stop if stop >= 0 else len(data)]
            begins = f'{{"v":{VERSION},"seq":{self.seq + 1},"prev":"{self.head}",'.encode("ascii")
            if not (line.startswith(begins) and self._chain.is_sealed(line)):
                raise CorruptStore(self.path, self._reason(line), offset=start, seq=self.seq + 1)
            self.seq, self.head = self.seq + 1, line[-len(_END) - 64 : -len(_END)].decode("ascii")
            start += len(line) + 1

    def tail(self, data: bytes, base: int, good: int) -> Tail:
        """What stands behind the good lines, which end at byte `good` of the file.

        Raises:
            CorruptStore: it is damage, not a tail that never reached the disk.
        """
        rest = data[good - base :]
        if not rest:
            return Tail(good)
        if b"\n" not in rest and self._follows(self._parse(self.close_line(rest)[:-1])):
            return Tail(good, unended=True)
        if self._later_batch(rest) or not _never_written(rest, good):
            raise CorruptStore(self.path, self._reason(rest), offset=good, seq=self.seq + 1)
        return Tail(good, torn=good)

    def close_line(self, rest: bytes) -> bytes:
        """The whole last line, newline included, from one that lacks only its last bytes."""
        written = rest.rstrip(b"\0")
        found = _UNCLOSED.match(written)
        return (found["body"] + _END if found else written) + b"\n"

    def _read(self, raw: bytes, start: int, end: int) -> Line | None:
        data = self._parse(raw, start)
        if data is None or not self._follows(data):
            return None
        line = Line(start, end, data, raw if "rows" in data and "put" not in data else b"")
        self.seq, self.head, self.batch = line.seq, line.sum, data["batch"][0]
        self._unfinished = not line.ends_batch
        return line

    def _follows(self, data: dict[str, Any] | None) -> bool:
        return data is not None and data["seq"] == self.seq + 1 and data["prev"] == self.head

    def _parse(self, raw: bytes, start: int = 0) -> dict[str, Any] | None:
        """What a sealed line says; None for any other, and for one that no store would have written.

        Raises:
            CorruptStore: a newer version wrote it.
        """
        said = _head(raw) if self._sparing else raw
        if not said.isascii() or not self._chain.is_sealed(raw):
            return None
        try:
            data = parsed(said)
            if data["v"] > VERSION:
                raise CorruptStore(self.path, "written by a newer version", offset=start, seq=self.seq + 1)
            number, line, of = data["batch"]
            numbers = {type(data["v"]), type(data["seq"]), type(number), type(line), type(of)}
            texts = {type(data["prev"]), type(data["op"]), type(data["time"]), type(data["sum"])}
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return data if numbers == {int} and texts == {str} else None

    def _later_batch(self, rest: bytes) -> bool:
        broken = self.batch if self._unfinished else self.batch + 1
        for raw in rest.split(b"\n"):
            data = self._parse(raw)
            if data is not None and data["batch"][0] > broken:
                return True
        return False

    def _reason(self, rest: bytes) -> str:
        first = self._parse(rest.split(b"\n", 1)[0])
        if first is None:
            return "this line was changed after it was written, or the chain key is another"
        return "a line is missing or doubled before this one"


def _head(raw: bytes) -> bytes:
    """The line without its rows and what follows them, where it says how long each is."""
    at = raw.find(_PUT)
    return raw[:at] + raw[-_SUM_LENGTH:] if raw.find(_ROWS, 0, max(at, 0)) >= 0 else raw


def _never_written(rest: bytes, start: int) -> bool:
    """Whether the tail shows bytes that no disk held: an unfinished line, or unwritten blocks of NULs."""
    last = rest[rest.rfind(b"\n") + 1 :]
    if last and b"\0" not in last and _COMPLETE_SUM.search(last) is None:
        return True
    for run in re.finditer(rb"\0+", rest):
        begins, ends = start + run.start(), start + run.end()
        begins_well = run.start() == 0 or begins % _BLOCK == 0
        ends_well = run.end() == len(rest) or ends % _BLOCK == 0
        if begins_well and ends_well:
            return True
    return False
