"""A journal under a chain key that somebody tampers with: what `python -m openclaw_billing verify` says of it."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from openclaw_billing import cli
from openclaw_billing.stores.json_store import JsonStore
from reliability.figure import Seen
from tests.stores.charging import charging, opening

KEY = "a chain key of the operator's, kept elsewhere"
FOUND = (1, 78)
"""How `verify` ends with problems, and with a store that it cannot even read."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A store, and where its checkpoint, its backup and its last line stand: how many lines it had by then."""

    data: Path
    whole: bytes
    at_checkpoint: int
    at_backup: int
    head: str
    """The last line as `--head` takes it: its number and its sum."""


def tampering(times: int = 50) -> Seen:
    """Edits, deletions, swaps, doubled lines and cut tails, so many of each: those that the command finds."""
    found, done = Counter[str](), Counter[str]()
    choice = random.Random(times)
    with tempfile.TemporaryDirectory() as name:
        kept = _laid_out(Path(name) / "data")
        untouched = _verify(kept), _verify(kept, "--head", kept.head)
        for _ in range(times):
            for what, changed, options in _tampered(kept, choice):
                (kept.data / "openclaw_clients.journal").write_bytes(changed)
                done[what] += 1
                found[what] += _verify(kept, *options) in FOUND
        _restore(kept)
        shutil.rmtree(kept.data / "backups")
        for _ in range(times):
            (kept.data / "openclaw_clients.journal").write_bytes(_cut(kept, choice, 2, kept.at_checkpoint))
            done["cut tails behind the checkpoint"] += 1
            found["cut tails behind the checkpoint"] += _verify(kept) in FOUND
    told = ", ".join(f"{what} {found[what]} of {done[what]}" for what in done)
    return Seen(
        f"`verify` finds {told}; of the store as it was it says {'nothing' if not any(untouched) else untouched}",
        found == done and not any(untouched),
    )


def _laid_out(data: Path) -> Kept:
    store = JsonStore(data, chain_key=KEY.encode())
    store._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
    store.open()
    store.run(opening("c1", 100), "open")
    at: list[int] = []
    for number in range(21):
        store.run(charging("c1", f"j{number}"), "charge")
        if number == 6:
            store.snapshot()
        if number in (6, 13):
            at.append(_lines(data))
        if number == 13 and _run(data, "backup"):
            raise AssertionError("the backup failed")
    details = store.health().details
    store._let_go()
    whole = (data / "openclaw_clients.journal").read_bytes()
    # The snapshot's mark is a line of its own, behind what the checkpoint stands for.
    return Kept(data, whole, at[0] - 1, at[1], f"{details['seq']}:{details['head']}")


def _lines(data: Path) -> int:
    return (data / "openclaw_clients.journal").read_bytes().count(b"\n")


def _restore(kept: Kept) -> None:
    (kept.data / "openclaw_clients.journal").write_bytes(kept.whole)


def _tampered(kept: Kept, choice: random.Random) -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
    """What was done, the journal after it, and the options that `verify` is given."""
    lines = kept.whole.splitlines(keepends=True)
    one, two = sorted(choice.sample(range(1, len(lines)), 2))
    edited = lines[one].replace(b'"op":"', b'"op":"x', 1)
    yield "edits", b"".join([*lines[:one], edited, *lines[one + 1 :]]), ()
    # The last line alone is a cut tail, below.
    gone = min(one, len(lines) - 2)
    yield "deletions", b"".join([*lines[:gone], *lines[gone + 1 :]]), ()
    swapped = [*lines[:one], lines[two], *lines[one + 1 : two], lines[one], *lines[two + 1 :]]
    yield "swaps", b"".join(swapped), ()
    yield "doubled lines", b"".join([*lines[: one + 1], *lines[one:]]), ()
    cut = _cut(kept, choice, kept.at_backup, len(lines))
    yield "cut tails by a head that was kept", cut, ("--head", kept.head)
    yield "cut tails behind a backup", _cut(kept, choice, kept.at_checkpoint, kept.at_backup), ()


def _cut(kept: Kept, choice: random.Random, least: int, most: int) -> bytes:
    return b"".join(kept.whole.splitlines(keepends=True)[: choice.randrange(least, most)])


def _verify(kept: Kept, *options: str) -> int:
    return _run(kept.data, "verify", *options)


def _run(data: Path, *arguments: str) -> int:
    """How the product's own command ends, run in this process."""
    settings = {"OPENCLAW_DATA_DIR": str(data), "OPENCLAW_CHAIN_KEY": KEY}
    with (
        mock.patch.dict(os.environ, settings),
        mock.patch.object(sys, "argv", ["openclaw_billing", *arguments]),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0
