"""A directory on a disk: what its readers see, what the disk holds, and what a power cut may leave of it.

After a power cut each sector of a file is as it was after any of the writes since the last flush, or as it
was at the flush; the file's length is one it had meanwhile; names come back in any selection of what was
done to them since the directory was flushed. A truncation that reached the disk is not undone by older bytes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

SECTOR = 512
PAGE = 4096


@dataclass(frozen=True, slots=True)
class Change:
    """A write at `offset`, or a cut to that length when `data` is None."""

    offset: int
    data: bytes | None

    def apply(self, content: bytearray) -> None:
        if self.data is None:
            del content[self.offset :]
            content.extend(bytes(self.offset - len(content)))
            return
        content.extend(bytes(max(0, self.offset - len(content))))
        content[self.offset : self.offset + len(self.data)] = self.data


@dataclass(eq=False)
class File:
    number: int
    mode: int = 0o600
    content: bytearray = field(default_factory=bytearray)
    """What whoever reads the file sees."""
    held: bytes = b""
    """What the disk holds for certain."""
    changes: list[Change] = field(default_factory=list)
    """What was done since the disk held everything."""
    lost: dict[int, bytes] = field(default_factory=dict)
    """Sectors that a failed flush called clean, and what the disk holds there."""
    failures: int = 0
    changed_at: int = 0

    def change(self, change: Change) -> None:
        change.apply(self.content)
        self.changes.append(change)
        if not self.lost:
            return
        if change.data is None:
            self.lost = {each: there for each, there in self.lost.items() if each * SECTOR < change.offset}
            return
        first = change.offset // PAGE * PAGE // SECTOR
        last = (change.offset + len(change.data) + PAGE - 1) // PAGE * PAGE // SECTOR
        for sector in [each for each in self.lost if first <= each < last]:
            # A page that is written again is written whole.
            begin = sector * SECTOR
            self.changes.append(Change(begin, bytes(self.content[begin : begin + SECTOR])))
            del self.lost[sector]

    def flush(self) -> None:
        if self.changes or self.lost:
            self.held = self._with_lost(self.content)
            self.changes.clear()

    def fail_flush(self, choice: random.Random) -> None:
        """The disk took some of it, the caller is told so, and the pages count as clean."""
        held = self.torn(choice)
        for sector in range((len(self.content) + SECTOR - 1) // SECTOR):
            there = held[sector * SECTOR : (sector + 1) * SECTOR]
            if there != self.content[sector * SECTOR : (sector + 1) * SECTOR]:
                self.lost[sector] = there.ljust(SECTOR, b"\0")
        self.held = held
        self.changes = [Change(len(self.content), None)]
        self.failures += 1

    def evict(self) -> None:
        """Clean pages leave memory: what is read next comes from the disk."""
        self.content = bytearray(self._with_lost(self.content))
        self.lost.clear()

    def torn(self, choice: random.Random) -> bytes:
        """What a power cut leaves."""
        if not self.changes:
            return self.held
        versions = [bytearray(self.held)]
        for change in self.changes:
            after = bytearray(versions[-1])
            change.apply(after)
            versions.append(after)
        newest = len(self.changes)
        reached = choice.choice((newest, newest, choice.randint(0, newest)))
        length = len(versions[reached])
        before = len(versions[max(0, reached - 1)])
        if length > before and choice.random() < 0.3:
            # Lengths grow page by page, or what passes for one; never below what was there.
            length = max(before, choice.randrange(before, length) // SECTOR * SECTOR)
        content = bytearray(versions[reached][:length].ljust(length, b"\0"))
        fate = choice.random()
        if fate < 0.25:
            return bytes(content)
        for sector in self._changed(length):
            begin, end = sector * SECTOR, min((sector + 1) * SECTOR, length)
            oldest = self._cut_above(reached, begin)
            version = oldest if fate < 0.5 else choice.randint(oldest, newest)
            content[begin:end] = versions[version][begin:end].ljust(end - begin, b"\0")
        return bytes(content)

    def _cut_above(self, reached: int, begin: int) -> int:
        """The oldest version whose bytes may show in a sector: those behind a cut are gone with it."""
        cuts = [
            index + 1
            for index, change in enumerate(self.changes[:reached])
            if change.data is None and change.offset < begin + SECTOR
        ]
        return cuts[-1] if cuts else 0

    def _changed(self, length: int) -> list[int]:
        sectors: set[int] = set()
        for change in self.changes:
            end = length if change.data is None else min(length, change.offset + len(change.data))
            sectors.update(range(change.offset // SECTOR, (end + SECTOR - 1) // SECTOR))
        return sorted(sectors)

    def _with_lost(self, content: bytearray) -> bytes:
        held = bytearray(content)
        for sector, there in self.lost.items():
            end = min((sector + 1) * SECTOR, len(held))
            held[sector * SECTOR : end] = there[: max(0, end - sector * SECTOR)]
        return bytes(held)


@dataclass(frozen=True, slots=True)
class Naming:
    """`file` gets the name `new`; `old` ceases to be one. Either may be missing."""

    new: str | None
    file: File | None
    old: str | None = None

    def apply(self, names: dict[str, File]) -> None:
        if self.old is not None:
            if self.old not in names:
                return
            moved = names.pop(self.old)
            if self.new is not None:
                names[self.new] = moved
        elif self.new is not None and self.file is not None:
            names[self.new] = self.file


class Disk:
    """One directory; its number is 1."""

    def __init__(self) -> None:
        self.names: dict[str, File] = {}
        self._held_names: dict[str, File] = {}
        self._namings: list[Naming] = []
        self._numbers = 1

    def create(self, name: str) -> File:
        self._numbers += 1
        file = File(self._numbers)
        self.name(Naming(name, file))
        return file

    def name(self, naming: Naming) -> None:
        naming.apply(self.names)
        self._namings.append(naming)

    def flush_names(self) -> None:
        self._held_names = dict(self.names)
        self._namings.clear()

    def links(self, file: File) -> int:
        return sum(each is file for each in self.names.values())

    def cut_power(self, choice: random.Random) -> None:
        """Nothing is left but what the disk holds, which is one of many possible things."""
        fate = choice.random()
        for naming in self._namings:
            if fate < 0.3 or (fate < 0.7 and choice.random() < 0.5):
                naming.apply(self._held_names)
        self._namings.clear()
        self.names = dict(self._held_names)
        for file in {id(each): each for each in self.names.values()}.values():
            file.held = file.torn(choice)
            file.content = bytearray(file.held)
            file.changes.clear()
            file.lost.clear()

    def copy(self) -> dict[str, bytes]:
        """Every file's content as its readers see it."""
        return {name: bytes(file.content) for name, file in self.names.items()}
