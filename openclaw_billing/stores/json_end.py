"""A JSON store as one end of a move: read while gateways work on it, and written whole."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from openclaw_billing.errors import BadSettings
from openclaw_billing.records import AuditEntry, LedgerEntry
from openclaw_billing.stores.clients_watch import shown_seq
from openclaw_billing.stores.codec import from_row, parsed
from openclaw_billing.stores.digests import HISTORIES, End, Histories, Progress, Rows, counted
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import NO_SUM, Chain, Line, Reader
from openclaw_billing.stores.journal_files import BEGUN, JOURNAL, closed_name
from openclaw_billing.stores.json_create import Parts, marked, parts_of, seal_batch
from openclaw_billing.stores.json_load import Loaded, gather
from openclaw_billing.stores.layers import Layer
from openclaw_billing.stores.schema import OWN_FACTS, TABLES
from openclaw_billing.stores.tables import Base

ROWS_PER_LINE = 1_000
SEGMENT_BYTES = 64 << 20
MARKS_KEPT = 7
SECRETS = ("pepper",)
_SEQ = re.compile(rb'"seq":(\d+)')
_SEQ_WITHIN = 64
"""It stands at the beginning of a line."""


class JsonEnd:
    """The journal read from its first line on, and whatever is appended since each time that is asked for."""

    def __init__(self, directory: Directory, chain: Chain) -> None:
        self._directory = directory
        self._reader = Reader("", chain, sparing=True)
        self._closed, self._offset = 0, 0
        self._histories = Histories()
        self._changed: dict[str, dict[str, Any]] = {name: {} for name in TABLES}
        self._noting = False
        self._marks: list[dict[str, Any]] = []
        self.base = Base()
        self.first = self.head = NO_SUM
        self.seq = 0

    def ahead(self) -> int:
        """How many lines are new, by the number that the last whole one has; 0 where none tells."""
        data = self._directory.read(JOURNAL, links_max=64)
        end = data.rfind(b"\n")
        start = data.rfind(b"\n", 0, max(end, 0)) + 1
        found = _SEQ.search(data[start : start + _SEQ_WITHIN])
        return 0 if found is None else max(int(found[1]) - self.seq, 0)

    @property
    def rows_held(self) -> int:
        """How many rows there are in all tables."""
        return sum(len(table.rows) for table in self.base.tables.values())

    def new_lines(self) -> Iterator[Line]:
        """Every line that is new, whole batches only, each taken in when it is handed out.

        Raises:
            CorruptStore: one does not fit, with file, byte and entry.
        """
        while True:
            closed = closed_name(self._closed + 1)
            name = closed if self._directory.exists(closed) else JOURNAL
            self._reader.path = str(self._directory.path / name)
            data = self._directory.read(name, links_max=64)
            for batch in self._batches(data):
                for line in batch:
                    said = _whole(line)
                    self._take(line, said)
                    yield said
                self._offset = batch[-1].end
            if name == JOURNAL and not self._directory.exists(closed):
                self._check_rest(data)
                return
            if name == closed:
                self._check_rest(data)
                self._closed, self._offset = self._closed + 1, 0

    def rows(self, table: str) -> Iterator[Any]:
        found = self.base.tables[table]
        for key in sorted(found.rows):
            row = found.rows[key]
            # Not kept unpacked: there may be more of them than memory holds.
            yield found.unpacked(row) if isinstance(row, bytes) else row

    def some(self, table: str, keys: Iterable[str]) -> dict[str, Any]:
        get = self.base.tables[table].get
        return {key: record for key in keys if (record := get(key)) is not None}

    def histories(self, progress: Progress) -> Histories:  # noqa: ARG002 - summed up as the lines came
        return self._histories

    def place(self) -> Loaded:
        """Where it has been read up to, and what it says of the files, without any record."""
        place = Loaded(seq=self.seq, head=self.head, batch=self._reader.batch, marks=self._marks)
        place.segment, place.size = self._closed + 1, self._offset
        if self._marks:
            place.marked_seq = shown_seq(self._marks[-1])
        return place

    def changed(self) -> Rows:
        """The rows that were changed since this was asked before, as they were then: noted from the first time on."""
        changed, self._changed, self._noting = self._changed, {name: {} for name in TABLES}, True
        return changed

    def _batches(self, data: bytes) -> Iterator[list[Line]]:
        batch: list[Line] = []
        reader = self._reader
        before = (reader.seq, reader.head, reader.batch)
        for line in reader.lines(data[self._offset :], self._offset):
            batch.append(line)
            if line.ends_batch:
                yield batch
                batch = []
                before = (reader.seq, reader.head, reader.batch)
        # A batch that is being written is read again when it is whole.
        reader.seq, reader.head, reader.batch = before

    def _take(self, line: Line, said: Line) -> None:
        layer = Layer()
        gather(line, layer)
        if self._noting:
            self._note(layer)
        layer.publish(self.base)
        for name, record in HISTORIES.items():
            for entry in said.data.get(name, ()):
                self._histories.add(name, from_row(record, dict(entry)))
        if (mark := said.data.get("mark")) is not None:
            self._marks = [*self._marks[-MARKS_KEPT:], mark]
        self.seq, self.head = line.seq, line.sum
        if self.first == NO_SUM:
            self.first = line.sum

    def _note(self, layer: Layer) -> None:
        for name, rows in layer.puts.items():
            noted, get = self._changed[name], self.base.tables[name].get
            for key in rows:
                if key not in noted and not (name == "facts" and key.startswith(OWN_FACTS)):
                    noted[key] = get(key)

    def _check_rest(self, data: bytes) -> None:
        """Behind the last whole batch only one that is being written may stand, or was cut short."""
        self._reader.tail(data, 0, self._offset)


def _whole(line: Line) -> Line:
    """The line with everything that it says, parsed anew: making records uses up what they are made of."""
    said = parsed(line.raw) if line.raw else copy.deepcopy(line.data)
    return Line(line.start, line.end, said)


def records_of(line: Line) -> Layer:
    """What the line changed, with its history, as records; without what the store notes of itself."""
    layer = Layer()
    gather(line, layer)
    facts = layer.puts.get("facts", {})
    for name in [name for name in facts if name.startswith(OWN_FACTS)]:
        del facts[name]
    layer.ledger = [from_row(LedgerEntry, entry) for entry in line.data.get("ledger", ())]
    layer.audit = [from_row(AuditEntry, entry) for entry in line.data.get("audit", ())]
    return layer


def prepare(target: Path) -> Directory:
    """An empty directory to write a store into; what a move that broke off has left there is removed.

    Raises:
        BadSettings: it holds something else.
    """
    there = Directory(target, allow_network=True)
    there.open()
    names = there.names()
    if BEGUN not in names and [name for name in names if name not in SECRETS]:
        raise BadSettings(f"{target} is not empty: a store is moved into an empty directory only")
    there.write_new(BEGUN, [b"A move into this directory is not finished: run it again.\n"])
    there.sync()
    for name in names:
        if name.startswith("openclaw_clients.") and name != BEGUN:
            there.remove(name)
    return there


class Whole(End, Protocol):
    """An end whose history can be read too."""

    def history(self, name: str) -> Iterator[Any]:
        """The entries of `ledger` or `audit`, the oldest first."""
        ...


def fill(there: Directory, chain: Chain, source: Whole, progress: Progress) -> None:
    """Write everything that the source holds as a journal, which is believed once all of it is there."""
    writing = _Writing(chain)
    lines = _lines_of(source, progress)
    segment = 0
    more = True
    while more:
        segment += 1
        there.write_new(f"{JOURNAL}.tmp", writing.segment(lines))
        more = writing.is_closed
        there.replace(f"{JOURNAL}.tmp", closed_name(segment) if more else JOURNAL)
    there.sync()
    there.remove(BEGUN)
    there.sync()


def carry_secrets(here: Path, there: Directory) -> list[str]:
    """Copy the secrets that keys need, where they are files; the names of those copied."""
    carried = []
    if here.exists() and here.resolve() != there.path.resolve():
        source = Directory(here, allow_network=True)
        source.open()
        for name in SECRETS:
            if source.exists(name) and not there.exists(name):
                there.write_new(name, [source.read(name, links_max=2)])
                carried.append(name)
        source.close()
    return carried


class _Writing:
    """Seals lines of their own batch each, until a segment is full."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._seq, self._head, self._batch = 0, NO_SUM, 0
        self.is_closed = False

    def segment(self, lines: Iterator[Parts]) -> Iterator[bytes]:
        """One segment's lines; `is_closed` tells whether another follows."""
        first = ("segment", marked({})) if self.is_closed else ("genesis", "")
        sealed = self._seal(*first)
        size = len(sealed)
        yield sealed
        self.is_closed = False
        for parts in lines:
            sealed = self._seal("move", parts)
            size += len(sealed)
            yield sealed
            if size > SEGMENT_BYTES:
                self.is_closed = True
                yield self._seal("closed", "")
                return

    def _seal(self, name: str, parts: Parts) -> bytes:
        self._batch += 1
        sealed, self._seq, self._head = seal_batch(
            self._chain, [(name, parts)], seq=self._seq, head=self._head, batch=self._batch
        )
        return sealed


def _lines_of(source: Whole, progress: Progress) -> Iterator[Parts]:
    for name in TABLES:
        key_of = TABLES[name].key_of
        rows = counted(source.rows(name), progress)
        found = (each for each in rows if name != "facts" or not each.name.startswith(OWN_FACTS))
        for records in _chunks(found):
            layer = Layer()
            layer.puts[name] = {key_of(record): record for record in records}
            yield parts_of(layer)
    for entries in _chunks(counted(source.history("ledger"), progress)):
        layer = Layer()
        layer.ledger = entries
        yield parts_of(layer)
    for entries in _chunks(counted(source.history("audit"), progress)):
        layer = Layer()
        layer.audit = entries
        yield parts_of(layer)


def _chunks(found: Iterable[Any]) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for each in found:
        chunk.append(each)
        if len(chunk) == ROWS_PER_LINE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
