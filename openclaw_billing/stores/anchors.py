"""Anchors: what is known from elsewhere of how far the journal went.

A journal whose last lines were cut off is a chain that fits. The checkpoint, every backup and the log name a
line by its number and its sum: the journal must hold it, and nothing is rebuilt from one that does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from openclaw_billing.errors import CorruptStore
from openclaw_billing.stores.checkpoint import read_position
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import Line
from openclaw_billing.stores.journal_files import CHECKPOINT, JOURNAL

BACKUPS = "backups"
MANIFEST = "backup.json"
_HEAD = re.compile(r"(\d{1,18}):([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Anchor:
    """A line that the journal must hold, and who says so."""

    seq: int
    head: str
    source: str

    @classmethod
    def parsed(cls, text: str) -> Anchor:
        """From the words of a log line. Raises `ValueError`."""
        found = _HEAD.fullmatch(text)
        if found is None:
            raise ValueError("must be SEQ:HEAD as the log has it, a number and 64 hex digits")
        return cls(int(found[1]), found[2], "the head that you name")

    def problem(self, seq: int, head: str | None) -> str | None:
        """What is wrong with a journal of so many lines, in which this one has that sum."""
        if head is None:
            return f"The journal ends at entry {seq}, and {self.source} knows entry {self.seq}: its end was cut off."
        if head != self.head:
            return f"Entry {self.seq} is not the one that {self.source} knows: the history was written anew."
        return None


class Heads:
    """Notes the sums of the lines that anchors name, as the journal is walked through."""

    def __init__(self, anchors: Iterable[Anchor]) -> None:
        self._anchors = list(anchors)
        self._wanted = {anchor.seq for anchor in self._anchors}
        self._found: dict[int, str] = {}

    def see(self, line: Line) -> None:
        if line.seq in self._wanted:
            self._found[line.seq] = line.sum

    def problems(self, seq: int) -> list[str]:
        """Which anchors the journal, which ends with line `seq`, does not hold."""
        told = (anchor.problem(seq, self._found.get(anchor.seq)) for anchor in self._anchors)
        return [problem for problem in told if problem is not None]


def anchors_of(directory: Directory) -> list[Anchor]:
    """What the checkpoint and the backups in the directory know. What is damaged of them knows nothing."""
    found = []
    try:
        position = read_position("", directory.read(CHECKPOINT))
        found.append(Anchor(position.seq, position.head, "the checkpoint"))
    except (FileNotFoundError, CorruptStore):
        pass
    return [*found, *(anchor for anchor in _backups(directory) if anchor.head)]


def refuse_shorter(directory: Directory, seq: int) -> None:
    """Refuse a journal that ends with line `seq` where a backup knows of a later one.

    Raises:
        CorruptStore
    """
    for anchor in _backups(directory):
        if anchor.seq > seq:
            reason = f"ends at entry {seq}, and {anchor.source} knows entry {anchor.seq}: restore that one"
            raise CorruptStore(str(directory.path / JOURNAL), reason)


def backups_of(directory: Directory) -> list[str]:
    """What a sentence calls the backups there, the oldest first."""
    return [anchor.source for anchor in _backups(directory)]


def manifest_of(directory: Directory) -> tuple[int, str] | None:
    """Where the backup in that directory ends; None where there is none.

    Raises:
        CorruptStore: its manifest cannot be read.
    """
    try:
        return _read(directory.read(MANIFEST))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CorruptStore(str(directory.path / MANIFEST), "it cannot be read") from error


def _backups(directory: Directory) -> list[Anchor]:
    """One for each backup; one whose manifest cannot be read knows line 0 without a sum."""
    if BACKUPS not in directory.names():
        return []
    found = []
    for path in sorted((directory.path / BACKUPS).glob(f"*/{MANIFEST}")):
        try:
            seq, head = _read(path.read_bytes())
        except (ValueError, OSError):
            seq, head = 0, ""
        found.append(Anchor(seq, head, f"the backup {path.parent.name}"))
    return found


def _read(data: bytes) -> tuple[int, str]:
    said: Any = json.loads(data)
    if not isinstance(said, dict) or type(said.get("seq")) is not int or type(said.get("head")) is not str:
        raise ValueError("it is no manifest")
    return said["seq"], said["head"]
