"""Power cuts on real file systems: `unshare --mount python -m reliability.power_cut <file system> <fault> <states>`.

The file system stands on a loop device over a disk of ours that notes every block write and every flush
(`block_device`). A store is taken over from the seed's form, charged, snapshotted, goes from segment to segment, is
backed up and restored; it says what it has answered. A crash state is everything up to the last flush before some
moment, and any selection of the writes since, each of them whole or torn between sectors. It is mounted for real,
and whatever was answered by that moment must be there.

The controls must be seen to lose: a store that never flushes, one whose directory is not flushed, and a file system
that is told to leave the barriers out. It trusts the disk's flushes: one that lies about them loses whatever it lies about.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.errors import StorageUnavailable
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import load_settings
from openclaw_billing.stores import backups, json_store, snapshots
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.json_store import JsonStore
from reliability.block_device import SECTOR, Device, Disk, Event, Flush, Told, Write, forget_blocks, looped
from reliability.figure import ROOT, Seen, Skipped
from tests.stores.charging import charging, opening
from tests.test_seed_file import seed_client

JOBS = 45
REFUSED_ENOUGH = 50
OLD_CLIENTS = range(1, 4)


@dataclass(frozen=True, slots=True)
class FileSystem:
    """`size`: the least that its mkfs makes."""

    make: tuple[str, ...]
    size: int
    options: str = "noatime"


EXT4 = ("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0")
FILE_SYSTEMS = {
    "ext4": FileSystem(EXT4, 16 << 20),
    "ext4-writeback": FileSystem(EXT4, 16 << 20, "noatime,data=writeback"),
    "ext4-nobarrier": FileSystem(EXT4, 16 << 20, "noatime,nobarrier"),
    "xfs": FileSystem(("mkfs.xfs", "-q", "-f", "-K"), 304 << 20),
    "btrfs": FileSystem(("mkfs.btrfs", "-q", "-f", "-K"), 128 << 20),
}


# What the store does, in a process of its own, until the power is cut


def write(mounted: Path, jobs: int) -> None:
    """Everything that files are written for; what has been answered stands in `told`."""
    json_store.SEGMENT_BYTES_MAX, snapshots.BYTES_BEHIND_MIN = 6_000, 3_000
    told = os.open(mounted.parent / "device" / "told", os.O_WRONLY)

    def tell(line: str) -> None:
        os.write(told, f"{line}\n".encode())

    runtime = runtime_on(mounted / "data")
    store = runtime.open()
    assert isinstance(store, JsonStore)
    store._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
    tell("migrated")
    store.run(opening("c1", 1_000), "open")
    for number in range(jobs):
        store.run(charging("c1", f"j{number}"), "charge")
        tell(f"j{number}")
        if number % 7 == 6:
            store.snapshot()
    backups.backup(store.directory, Chain(None), mounted / "backup")
    tell("backed up")
    backups.restore(mounted / "backup", mounted / "restored", Chain(None))
    tell("restored")


def outlive(mounted: Path) -> dict[str, int]:
    """Charge while the disk dies: what was accepted, refused, and read all the same."""
    told = os.open(mounted.parent / "device" / "told", os.O_WRONLY)
    store = runtime_on(mounted / "data").open()
    store.run(opening("c1", 1_000), "open")
    counted = dict.fromkeys(("accepted", "refused", "read", "slowest_ms"), 0)
    while counted["refused"] < REFUSED_ENOUGH and counted["accepted"] < 1_000:
        number, begun = counted["accepted"] + counted["refused"], time.monotonic()
        try:
            store.run(charging("c1", f"j{number}"), "charge")
        except StorageUnavailable:
            counted["refused"] += 1
        else:
            os.write(told, f"j{number}\n".encode())
            counted["accepted"] += 1
        counted["slowest_ms"] = max(counted["slowest_ms"], int((time.monotonic() - begun) * 1000))
        found = store.view.accounts.get("c1")
        counted["read"] += found is not None and found.available == 1_000 - counted["accepted"]
    return counted


def never_flushing() -> None:
    os.fsync = os.fdatasync = lambda fd: None  # type: ignore[assignment]


def directory_not_flushed() -> None:
    Directory.sync = lambda self: None  # type: ignore[method-assign]


def as_it_is() -> None:
    """No fault."""


def runtime_on(data: Path) -> Runtime:
    # A pepper of its own would be a file whose flush takes the names before it to the disk as well.
    return Runtime(load_settings(data_dir=data, admin_token="a" * 64, key_pepper="b" * 64))


# What is left after it


def missing(mounted: Path, told: list[str]) -> str:
    """What was told and is not there, "" when nothing."""
    jobs = {line for line in told if line.startswith("j")}
    if "restored" in told:
        lost = jobs - charged_in(JsonStore(mounted / "restored"))
        if lost:
            return f"{len(lost)} jobs are not in what was restored"
    if "backed up" in told:
        directory = Directory(mounted / "backup")
        directory.open()
        problems = backups.verify(directory, Chain(None)).problems
        there = directory.exists("backup.json")
        directory.close()
        if problems or not there:
            return f"the backup: {problems or 'no manifest'}"
    runtime = runtime_on(mounted / "data")
    store = runtime.open()
    assert isinstance(store, JsonStore)
    store._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
    accounts = [store.view.accounts.get(f"old-{number}") for number in OLD_CLIENTS]
    problems = backups.verify(store.directory, Chain(None)).problems
    runtime.close()
    # Told or not: the seed's file was there before, so its clients are, taken over before or now.
    if [each and each.available for each in accounts] != [150 + number for number in OLD_CLIENTS]:
        return "clients of the seed's file are gone"
    lost = jobs - charged_in(JsonStore(mounted / "data"))
    return f"{len(lost)} jobs are lost" if lost else "; ".join(problems[:1])


def charged_in(store: JsonStore) -> set[str | None]:
    store._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
    store.open()
    try:
        return {each.job_id for each in store.ledger(HistoryQuery(limit=1_000_000)).entries}
    finally:
        store.close()


# Two processes: this one is the disk, its child uses it


class User:
    """The child: it mounts what stands on the device, has it written to, and looks at what is left."""

    def __init__(self, device: str, mounted: Path, options: str) -> None:
        self._device, self._mounted, self._options = device, mounted, options

    def mount(self) -> str:
        """With the seed's file in it, on the disk for certain."""
        run("mount", "-o", self._options, self._device, str(self._mounted))
        (self._mounted / "data").mkdir(mode=0o700)
        clients = [seed_client(number) for number in OLD_CLIENTS]
        text = json.dumps({each["client_id"]: each for each in clients})
        (self._mounted / "data" / "openclaw_clients.json").write_text(text)
        run("sync", "-f", str(self._mounted))
        return ""

    def write(self, fault: str) -> str:
        """Do everything, until the power is cut."""

        def do() -> str:
            FAULTS[fault]()
            write(self._mounted, JOBS)
            return ""

        return apart(do)

    def outlive(self) -> str:
        """Charge until the disk has died, and some more: how often which answer was given."""
        return apart(lambda: json.dumps(outlive(self._mounted)))

    def unmount(self) -> str:
        run("umount", str(self._mounted))
        return ""

    def look(self, *told: str) -> str:
        forget_blocks(self._device)
        try:
            run("mount", "-o", self._options, self._device, str(self._mounted))
        except subprocess.CalledProcessError:
            return "it cannot be mounted"
        try:
            return apart(lambda: missing(self._mounted, list(told)))
        finally:
            run("umount", str(self._mounted))


def apart(do: Callable[[], str]) -> str:
    """What it says, done in a process of its own: whatever it leaves open ends with it."""
    saying, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = do()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
        os.write(said, text.encode())
        os._exit(0)
    os.close(said)
    with os.fdopen(saying) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


class Machine:
    """The disk's side: it serves while the child does as it is asked."""

    def __init__(self, place: Path, kind: FileSystem) -> None:
        image, mounted = place / "image", place / "mounted"
        mounted.mkdir()
        (place / "device").mkdir()
        run("truncate", "-s", str(kind.size), str(image))
        run(*kind.make, str(image))
        with image.open("r+b") as file:
            self.disk = Disk(mmap.mmap(file.fileno(), 0))
        self.device = Device(self.disk, place / "device")
        asked, self._asking = os.pipe()
        self._answers, answering = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            for fd in (self._asking, self._answers):
                os.close(fd)
            _be_asked(self.device.file, mounted, kind.options, asked, answering)
        os.close(asked)
        os.close(answering)

    def ask(self, what: str, *arguments: str) -> str:
        os.write(self._asking, json.dumps([what, *arguments]).encode() + b"\n")
        self.device.serve(self._answers)
        answer = b""
        while not answer.endswith(b"\n"):
            data = os.read(self._answers, 1 << 16)
            if not data:
                raise Skipped(f"the process that uses the disk ended at {what}")
            answer += data
        told: str = json.loads(answer)
        return told

    def close(self) -> None:
        os.close(self._asking)
        # Until the child has let go of the loop device.
        self.device.serve(self._answers)
        os.waitpid(self._child, 0)
        self.device.close()


def _be_asked(file: Path, mounted: Path, options: str, asked: int, answering: int) -> None:
    try:
        with looped(file) as device, os.fdopen(asked) as questions:
            user = User(device, mounted, options)
            for question in questions:
                what, *arguments = json.loads(question)
                answer: str = getattr(user, what)(*arguments)
                os.write(answering, json.dumps(answer).encode() + b"\n")
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


# Crash states


State = tuple[int, list[tuple[int, bytes]]]
"""Before which event the power goes, and what had reached the disk since its last flush."""


def states_of(events: list[Event], count: int, choice: random.Random) -> list[State]:
    """So many different ones, in the order of time, so that a disk can be led from one to the next.

    The strictest first: just after each answer, with nothing on the disk but what was flushed.
    """
    answers = [(place + 1, 0.0) for place, event in enumerate(events) if isinstance(event, Told)]
    # The last is the restore, after which nothing else flushes what it forgot.
    moments = [
        *reversed(answers),
        *((choice.randint(1, len(events)), choice.random()) for _ in range(20 * count)),
    ]
    found: dict[tuple[int, int, tuple[int, ...]], State] = {}
    for moment, fate in moments:
        if len(found) == count:
            break
        begun = _last_flush(events, moment)
        writes = [event for event in events[begun:moment] if isinstance(event, Write)]
        if fate < 0.2:
            kept = []
        elif fate < 0.3:
            kept = [(each.offset, each.data) for each in writes]
        else:
            kept = [_torn(each, choice) for each in writes if choice.random() < 0.5]
        told = sum(isinstance(event, Told) for event in events[:moment])
        # The same writes after the same answers are the same state, whenever the power went.
        found.setdefault((told, begun, tuple(map(hash, kept))), (moment, kept))
    return sorted(found.values(), key=lambda state: state[0])


def _last_flush(events: list[Event], moment: int) -> int:
    return max((place for place in range(moment) if isinstance(events[place], Flush)), default=0)


def _torn(write: Write, choice: random.Random) -> tuple[int, bytes]:
    """Whole, or some of its sectors from one end."""
    sectors = len(write.data) // SECTOR
    if sectors < 2 or choice.random() < 0.5:
        return write.offset, write.data
    cut = choice.randrange(1, sectors) * SECTOR
    if choice.random() < 0.5:
        return write.offset, write.data[:cut]
    return write.offset + cut, write.data[cut:]


def cut(name: str, fault: str, count: int, seed: int = 1) -> list[str]:
    """What is wrong in each of so many crash states."""
    choice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="openclaw-power-", dir="/dev/shm") as folder:
        machine = Machine(Path(folder), FILE_SYSTEMS[name])
        try:
            machine.ask("mount")
            begun = len(machine.disk.events)
            if said := machine.ask("write", fault):
                raise RuntimeError(said)
            written = len(machine.disk.events)
            machine.ask("unmount")
            machine.disk.take_back(written)
            events = machine.disk.take_back(begun)
            return list(_outcomes(machine, events, states_of(events, count, choice)))
        finally:
            machine.close()


def outlived(name: str, flushes: int) -> dict[str, Any]:
    """A disk that dies after so many flushes of a store at work: what its callers saw, and what is left of it."""
    with tempfile.TemporaryDirectory(prefix="openclaw-power-", dir="/dev/shm") as folder:
        machine = Machine(Path(folder), FILE_SYSTEMS[name])
        disk = machine.disk
        try:
            machine.ask("mount")
            disk.flushes_left = flushes
            said = machine.ask("outlive")
            events = list(disk.events)
            disk.flushes_left = -1
            machine.ask("unmount")
            disk.take_back(_last_flush(events, len(events)))
            told = [event.line for event in events if isinstance(event, Told)]
            return {**json.loads(said), "wrong": machine.ask("look", *told)}
        finally:
            machine.close()


def _outcomes(machine: Machine, events: list[Event], states: list[State]) -> Iterator[str]:
    disk, durable = machine.disk, 0
    for moment, kept in states:
        flushed = _last_flush(events, moment)
        for event in events[durable:flushed]:
            if isinstance(event, Write):
                disk.write(event.offset, event.data)
        durable = flushed
        before = len(disk.events)
        for offset, data in kept:
            disk.write(offset, data)
        told = [event.line for event in events[:moment] if isinstance(event, Told)]
        yield machine.ask("look", *told)
        disk.take_back(before)


# What the bench calls


def at_once(*asked: tuple[str, str, int]) -> list[dict[str, Any]]:
    """What came of each `<file system> <fault> <states>`, two at a time, each in mounts of its own."""

    def apart_from_us(each: tuple[str, str, int]) -> dict[str, Any]:
        name, fault, count = each
        command = ["unshare", "--mount", sys.executable, "-m", __name__, name, fault, str(count)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.stderr.startswith("unshare"):
            raise Skipped(f"no mounts of our own: {done.stderr.strip()}")
        if done.returncode:
            raise AssertionError(f"{' '.join(map(str, each))}: {done.stderr[-500:]}")
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(apart_from_us, asked))


@dataclass(frozen=True, slots=True)
class Cut(Seen):
    """`states`: in how many the power was cut, the controls' not counted."""

    states: int = 0


def power_cuts(states: int = 350, of_controls: int = 20) -> Cut:
    """So many states of each file system, and its controls: none may lose anything, and each control must."""
    wanted = {"ext4": states, "ext4-writeback": states // 4, "xfs": states, "btrfs": states}
    controls = [
        *((name, fault, of_controls) for name in ("ext4", "xfs", "btrfs") for fault in CONTROLS),
        ("ext4-nobarrier", "as_it_is", of_controls),
    ]
    asked = [*((name, "as_it_is", count) for name, count in wanted.items()), *controls]
    told = dict(zip(asked, at_once(*asked), strict=True))
    skipped = tuple(sorted({each["skipped"] for each in told.values() if "skipped" in each}))
    texts, met, counted = list[str](), True, 0
    for (name, fault, _), each in told.items():
        if "skipped" in each:
            continue
        wrong = each["wrong"]
        control = fault != "as_it_is" or name == "ext4-nobarrier"
        counted += 0 if control else each["states"]
        met = met and bool(wrong) == control and each["states"] > 0
        what = f"{name} {fault.replace('_', ' ')}".removesuffix(" as it is")
        texts.append(
            f"{what} {len(wrong)} of {each['states']}{'' if control or not wrong else f' {wrong[:2]}'}"
        )
    if not texts:
        raise Skipped("; ".join(skipped))
    text = f"on real file systems states that lost an answer, the controls last: {', '.join(texts)}"
    return Cut(text, met, skipped, counted)


def dying_disk(flushes: int = 60) -> Seen:
    """A disk that dies under a store at work, and then the power goes."""
    asked = [(name, "dying", flushes) for name in ("ext4", "xfs", "btrfs")]
    texts, met, skipped = list[str](), True, list[str]()
    for (name, *_), told in zip(asked, at_once(*asked), strict=True):
        if "skipped" in told:
            skipped.append(told["skipped"])
            continue
        answers = told["accepted"] + told["refused"]
        met = met and not told["wrong"] and told["read"] == answers and told["slowest_ms"] <= 1000
        met = met and told["accepted"] > 0 and told["refused"] > 0
        texts.append(
            f"{name} {told['accepted']} accepted, {told['wrong'] or '0 lost'}, then {told['refused']} × 503 "
            f"in ≤ {told['slowest_ms']} ms"
        )
    if not texts:
        raise Skipped("; ".join(skipped))
    return Seen(f"a disk that dies under load: {', '.join(texts)}", met, tuple(skipped))


CONTROLS = ("never_flushing", "directory_not_flushed")
FAULTS: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (as_it_is, never_flushing, directory_not_flushed)
}


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> int:
    name, fault, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    logging.disable(logging.CRITICAL)
    try:
        if shutil.which(FILE_SYSTEMS[name].make[0]) is None:
            raise Skipped(f"{FILE_SYSTEMS[name].make[0]} is not installed")
        if fault == "dying":
            print(json.dumps(outlived(name, count)))
        else:
            wrong = cut(name, fault, count)
            print(json.dumps({"states": len(wrong), "wrong": [each for each in wrong if each]}))
    except Skipped as reason:
        print(json.dumps({"skipped": str(reason)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
