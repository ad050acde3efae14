"""Loading: from the files to the last durable state, or a refusal that names the file, the byte and the entry."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from openclaw_billing.errors import CorruptStore, StartupError
from openclaw_billing.stores.anchors import refuse_shorter
from openclaw_billing.stores.checkpoint import Position, load_rows, read_position, write_checkpoint
from openclaw_billing.stores.clients_watch import shown_seq
from openclaw_billing.stores.codec import from_row, parsed
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import NO_SUM, Chain, Line, Reader, Tail
from openclaw_billing.stores.journal_files import (
    CHECKPOINT,
    CLIENTS,
    JOURNAL,
    closed_name,
    closed_segments,
    segment_name,
)
from openclaw_billing.stores.layers import Layer
from openclaw_billing.stores.packing import pack
from openclaw_billing.stores.schema import TABLES
from openclaw_billing.stores.tables import Base

log = logging.getLogger(__name__)


Differing = dict[str, list[str]]
"""Of which clients which fields differ; `missing` and `unknown` are said of whole clients."""


class ForeignEdit(StartupError):
    """Somebody else wrote the clients file."""

    def __init__(self, path: str, differing: Differing) -> None:
        fields = [f"{client_id}: {', '.join(names)}" for client_id, names in differing.items()]
        listed = "; ".join(fields[:10]) or "its form only"
        super().__init__(
            f"{path} was changed by somebody else ({listed}). It was left as it is. Run "
            "`python -m openclaw_billing adopt` to take the changes over, or `… discard` to drop them."
        )
        self.differing = differing


@dataclass(slots=True)
class Loaded:
    """The state after the last good line of the active segment."""

    base: Base = field(default_factory=Base)
    seq: int = 0
    head: str = NO_SUM
    batch: int = 0
    segment: int = 1
    size: int = 0
    marks: list[dict[str, Any]] = field(default_factory=list)
    marked_seq: int = -1
    """The line that the newest clients file, and no newer snapshot, stands after."""
    changed_seq: int = 0
    """The newest line that changed a record or the history."""
    bytes_behind: int = 0
    """How much was written since the newest checkpoint, by whomever."""
    torn: int | None = None
    closed: bool = False
    """The active segment has been closed, but its successor is not there yet."""
    unfinished: bool = False
    """The last line belongs to a batch of which more lines were to come."""

    def note_mark(self, mark: dict[str, Any]) -> None:
        """A line said this about the files; it is the newest."""
        before = self.marks[-1].get("checkpoint") if self.marks else None
        if mark.get("checkpoint") not in (None, before):
            self.bytes_behind = 0
        self.marks.append(mark)

    def known_clients(self) -> list[str]:
        """The digests of the clients files that are ours, the newest last."""
        names = ("clients_before", "clients")
        return [mark[name] for mark in self.marks for name in names if mark.get(name) is not None]


def apply(base: Base, line: Line) -> None:
    """Make a line's rows the base's."""
    layer = Layer()
    gather(line, layer)
    layer.publish(base)


def gather(line: Line, layer: Layer) -> None:
    """Lay a line's rows over those of the lines before it."""
    if line.raw:
        for name, key, values, row in line.rows():
            spec = TABLES[name]
            # A version with other indexes wrote it: they must be found anew.
            fits = len(values) == len(spec.indexes)
            packed = pack(values, row) if fits else from_row(spec.record, parsed(row))
            layer.puts.setdefault(name, {})[key] = packed
        return
    for name, rows in line.data.get("put", {}).items():
        spec = TABLES[name]
        puts = layer.puts.setdefault(name, {})
        for record in rows:
            puts[record[spec.primary_key]] = from_row(spec.record, record)
    for name, keys in line.data.get("del", {}).items():
        layer.puts.setdefault(TABLES[name].name, {}).update(dict.fromkeys(keys))


def load(directory: Directory, chain: Chain, *, believe_checkpoint: bool = True) -> Loaded:
    """Read the store. The caller holds the lock; a torn tail is cut from the file, nothing else is changed.

    Raises:
        CorruptStore: the files cannot be what we wrote.
    """
    loaded = Loaded()
    closed = _really_closed(directory)
    active = (closed[-1] if closed else 0) + 1
    begun = believe_checkpoint and _begin(directory, chain, loaded, active)
    offset = loaded.size
    reader = Reader("", chain, seq=loaded.seq, head=loaded.head, batch=loaded.batch)
    for segment in range(loaded.segment, active + 1):
        _read_segment(directory, segment, active, offset, reader, loaded)
        offset = 0
    loaded.segment = active
    if not begun:
        # No checkpoint says how far the journal went: it shall not be made to say less than is known.
        refuse_shorter(directory, loaded.seq)
    _refuse_shared(directory, loaded.base)
    return loaded


def check_clients_file(directory: Directory, chain: Chain, loaded: Loaded) -> bool:
    """Whether the clients file is there and the newest of ours.

    Raises:
        ForeignEdit: it is neither what the newest marks say nor absent.
    """
    try:
        data = directory.read(CLIENTS, links_max=2)
    except FileNotFoundError:
        return False
    digest = hashlib.sha256(data).hexdigest()
    ours = loaded.known_clients()
    if digest not in ours:
        # Compared as of its mark: what was charged since is nobody's edit.
        seq = loaded.marked_seq if loaded.marked_seq >= 0 else loaded.seq
        raise ForeignEdit(str(directory.path / CLIENTS), differences(data, replay(directory, chain, seq)))
    return bool(digest == ours[-1])


def differences(data: bytes, base: Base) -> Differing:
    """What of a clients file differs from the state."""
    from openclaw_billing.stores.snapshots import shown_clients

    try:
        theirs = json.loads(data)
        ours = json.loads(
            b"".join(shown_clients({name: table.rows for name, table in base.tables.items()}, base))
        )
        found = {client_id: ["missing"] for client_id in ours if client_id not in theirs}
        for client_id, client in theirs.items():
            if client_id not in ours:
                found[client_id] = ["unknown"]
            elif client != ours[client_id]:
                found[client_id] = sorted(
                    n for n in {*client, *ours[client_id]} if client.get(n) != ours[client_id].get(n)
                )
    except (ValueError, AttributeError, TypeError):
        return {"the whole file": ["it is not JSON of our form"]}
    return found


def _begin(directory: Directory, chain: Chain, loaded: Loaded, active: int) -> bool:
    """Start from the checkpoint, if there is one and the journal names it; whether there is one."""
    path = str(directory.path / CHECKPOINT)
    try:
        data = directory.read(CHECKPOINT)
    except FileNotFoundError:
        return False
    position = read_position(path, data)
    if not _is_named(directory, hashlib.sha256(data).hexdigest(), position, active):
        raise CorruptStore(
            path,
            "it is not the file that the journal says was written",
            offset=_first_difference(directory, chain, data, position),
        )
    load_rows(path, data, loaded.base)
    loaded.seq, loaded.head, loaded.batch = position.seq, position.head, position.batch
    loaded.segment, loaded.size = position.segment, position.offset
    return True


def _is_named(directory: Directory, digest: str, position: Position, active: int) -> bool:
    """Whether a mark behind that position names the digest; the chain of its line is checked later."""
    mark = f'"checkpoint":"{digest}"'.encode("ascii")
    offset = position.offset
    for segment in range(position.segment, active + 1):
        with contextlib.suppress(FileNotFoundError):
            if mark in directory.read(segment_name(segment, active), links_max=64)[offset:]:
                return True
        offset = 0
    return False


def _refuse_shared(directory: Directory, base: Base) -> None:
    for spec in TABLES.values():
        for index in spec.unique:
            for found in base.tables[spec.name].indexes[index].values():
                if not isinstance(found, str) and len(found) > 1:
                    names = " and ".join(sorted(found)[:2])
                    raise CorruptStore(
                        str(directory.path / JOURNAL), f"{spec.name} {names} share one {index}"
                    )


def _really_closed(directory: Directory) -> list[int]:
    """The closed segments, without one that is still the active file (a crash between link and replace)."""
    numbers = closed_segments(directory)
    if numbers:
        newest = os.stat(closed_name(numbers[-1]), dir_fd=directory.fd, follow_symlinks=False)
        with contextlib.suppress(FileNotFoundError):
            active = os.stat(JOURNAL, dir_fd=directory.fd, follow_symlinks=False)
            if active.st_ino == newest.st_ino:
                numbers.pop()
    if numbers != list(range(1, len(numbers) + 1)):
        raise CorruptStore(str(directory.path / JOURNAL), "a closed segment is missing")
    return numbers


def _read_segment(
    directory: Directory, segment: int, active: int, offset: int, reader: Reader, loaded: Loaded
) -> None:
    name = segment_name(segment, active)
    reader.path = str(directory.path / name)
    try:
        data = directory.read(name, links_max=64)
    except FileNotFoundError as error:
        raise CorruptStore(reader.path, "is missing") from error
    if len(data) == 0 or len(data) < offset:
        raise CorruptStore(reader.path, "ends before what is known to have been written", offset=len(data))
    rest = data[offset:] if offset else data
    good = offset
    for line in reader.lines(rest, offset):
        good = line.end
        take([line], loaded, reader.path)
    tail = reader.tail(rest, offset, good)
    loaded.size = tail.end
    if segment != active:
        # A checkpoint may stand behind the line that closes the segment: the next one's first line proves it.
        ended = loaded.closed or 0 < offset == len(data)
        if tail.torn is not None or tail.unended or not ended:
            raise CorruptStore(reader.path, "a closed segment has no proper end", offset=tail.end)
        return
    mend(directory, reader, tail, rest[tail.end - offset :], loaded)


def take(lines: Sequence[Line], loaded: Loaded, path: str) -> Layer:
    """Apply lines, all at once for whoever reads, and note what they say about the files; the rows that they put.

    Raises:
        CorruptStore: the sum of one is right, but it holds records that this version does not know.
    """
    layer = Layer()
    for line in lines:
        try:
            gather(line, layer)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"it holds a record that cannot be read ({type(error).__name__})"
            raise CorruptStore(path, reason, offset=line.start, seq=line.seq) from error
    layer.publish(loaded.base)
    for line in lines:
        _note(line, loaded)
    return layer


def _note(line: Line, loaded: Loaded) -> None:
    data = line.data
    loaded.seq, loaded.head, loaded.batch = line.seq, line.sum, data["batch"][0]
    # An operation may be called "closed" too, but it changes something.
    loaded.closed = data["op"] == "closed" and not data.keys() & {"rows", "put", "del", "ledger", "audit"}
    loaded.unfinished = not line.ends_batch
    loaded.bytes_behind += line.end - line.start
    if (mark := data.get("mark")) is not None:
        loaded.note_mark(mark)
        loaded.marked_seq = max(loaded.marked_seq, shown_seq(mark))
    elif data["op"] != "genesis" and not loaded.closed:
        loaded.changed_seq = line.seq


def mend(directory: Directory, reader: Reader, tail: Tail, rest: bytes, loaded: Loaded) -> None:
    """Cut a torn tail, or write the last bytes of a whole line; either way what stays is durable."""
    changing = tail.torn is not None or tail.unended
    fd = directory.open_file(JOURNAL, os.O_RDWR if changing else os.O_RDONLY, links_max=2)
    try:
        if tail.torn is not None:
            log.warning(
                "Cut a torn tail of %d bytes from %s at byte %d: it was never acknowledged",
                len(rest),
                reader.path,
                tail.torn,
            )
            os.ftruncate(fd, tail.torn)
            loaded.torn = tail.torn
        elif tail.unended:
            whole = reader.close_line(rest)
            os.pwrite(fd, whole, tail.end)
            os.ftruncate(fd, tail.end + len(whole))
            for line in reader.lines(whole, tail.end):
                take([line], loaded, reader.path)
                loaded.size = line.end
        os.fsync(fd)
    finally:
        os.close(fd)


def _first_difference(directory: Directory, chain: Chain, theirs: bytes, position: Position) -> int:
    """Where a checkpoint departs from what the journal alone makes of the same line."""
    try:
        base = replay(directory, chain, position.seq)
    except CorruptStore:
        return 0
    ours = b"".join(write_checkpoint(position, {name: table.rows for name, table in base.tables.items()}))
    if theirs == ours:
        return 0
    low, high = 0, min(len(theirs), len(ours))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if theirs[:middle] == ours[:middle] else (low, middle - 1)
    return low


def replay(directory: Directory, chain: Chain, seq: int) -> Base:
    """The state after line `seq`, from the first line on."""
    base = Base()
    active = len(_really_closed(directory)) + 1
    reader = Reader("", chain)
    for segment in range(1, active + 1):
        name = segment_name(segment, active)
        reader.path = str(directory.path / name)
        for line in reader.lines(directory.read(name, links_max=64), 0):
            if line.seq > seq:
                return base
            apply(base, line)
    return base
