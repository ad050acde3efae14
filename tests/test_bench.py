"""The bench can fail: what its judges are for, each of them sees."""

from __future__ import annotations

import mmap
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reliability import calls, fuzz, power_cut
from reliability.block_device import SECTOR, Disk, Event, Flush, Told, Write, forget_blocks, looped
from reliability.calls import CREDITS, Call, Written
from reliability.durable import check_strace
from reliability.figure import Skipped

# A history of one client: two jobs, one of them cancelled, and three readings of the balance, each right.
WRITTEN = [
    Written("grant", "", CREDITS),
    Written("capture", "job-a", CREDITS - 1),
    Written("capture", "job-b", CREDITS - 2),
    Written("refund", "job-a", CREDITS - 1),
]
NAMES = {"job-a": "a", "job-b": "b"}


def submitted(name: str, begun: int, ended: int, left: int) -> Call:
    return Call("submit", 0, name, begun, ended, 200, {"job_id": f"job-{name}", "credits_remaining": left})


def read(begun: int, ended: int, left: int) -> Call:
    return Call("usage", 0, "", begun, ended, 200, {"credits_remaining": left})


CALLS = [
    submitted("a", 10, 20, CREDITS - 1),
    read(21, 22, CREDITS - 1),
    submitted("b", 30, 40, CREDITS - 2),
    read(31, 39, CREDITS - 1),
    Call("cancel", 0, "job-a", 50, 60, 200, {}),
    read(61, 62, CREDITS - 1),
    # Nobody knows of this one, and it did not happen.
    Call("submit", 0, "c", 63),
]


def judged(written: list[Written], heard: list[Call]) -> dict[str, int]:
    found = dict.fromkeys(("lost", "doubled", "ghosts", "negative", "wrong", "out of order"), 0)
    calls._judge(written, NAMES, heard, found)
    return {name: count for name, count in found.items() if count}


def changed(place: int, **changes: object) -> list[Call]:
    return [replace(call, **changes) if index == place else call for index, call in enumerate(CALLS)]


def test_a_history_that_explains_every_answer_is_right() -> None:
    assert judged(WRITTEN, CALLS) == {}


@pytest.mark.parametrize(
    ("written", "heard", "found"),
    [
        ([each for each in WRITTEN if each.kind != "refund"], CALLS, {"lost": 1}),
        ([*WRITTEN, Written("capture", "job-b", CREDITS - 2)], CALLS, {"doubled": 1}),
        (WRITTEN, changed(2, status=503, answer={}), {"ghosts": 1}),
        (WRITTEN, [call for call in CALLS if call.job != "b"], {"ghosts": 1}),
        ([*WRITTEN, Written("expire", "", -1)], CALLS, {"negative": 1}),
        (WRITTEN, changed(0, answer={"credits_remaining": CREDITS}), {"wrong": 1}),
        # It ended before the other began, and stands behind it.
        (WRITTEN, changed(2, begun=1, ended=2), {"out of order": 1}),
        # What it read was over when it began, or had not begun when it ended.
        (WRITTEN, changed(5, answer={"credits_remaining": CREDITS}), {"wrong": 1}),
        (WRITTEN, changed(1, answer={"credits_remaining": CREDITS - 2}), {"wrong": 1}),
    ],
    ids=[
        *(
            "lost",
            "doubled",
            "refused and done",
            "never asked for",
            "negative",
            "wrong balance",
            "out of order",
        ),
        *("read too late", "read too early"),
    ],
)
def test_what_breaks_a_promise_is_seen(
    written: list[Written], heard: list[Call], found: dict[str, int]
) -> None:
    assert judged(written, heard).items() >= found.items()


def test_what_is_written_to_a_disk_can_be_taken_back() -> None:
    disk = Disk(mmap.mmap(-1, 8 * SECTOR))
    disk.write(0, b"a" * SECTOR)
    before = bytes(disk.content)
    disk.write(0, b"b" * 2 * SECTOR)
    disk.write(SECTOR, b"c" * SECTOR)
    done = disk.take_back(1)
    assert bytes(disk.content) == before
    assert len(done) == 2
    assert len(disk.events) == 1


def test_a_crash_state_holds_all_that_was_flushed_and_some_of_the_rest() -> None:
    events: list[Event] = []
    for number in range(6):
        data = bytes([number]) * 4 * SECTOR
        events += [Write(number * 4 * SECTOR, data, bytes(len(data))), Flush(), Told(f"j{number}")]
        events.append(Write(0, data, bytes(len(data))))
    states = power_cut.states_of(events, 60, random.Random(1))
    assert len(states) == 60
    assert [moment for moment, _ in states] == sorted(moment for moment, _ in states)
    kept = [data for _, writes in states for _, data in writes]
    assert {len(data) // SECTOR for data in kept} == {1, 2, 3, 4}, "whole and torn"
    for place, event in enumerate(events):
        if isinstance(event, Told):
            assert (place + 1, []) in states, "after each answer, with nothing but what was flushed"


def test_a_disk_that_dies_dies_after_so_many_flushes() -> None:
    disk = Disk(mmap.mmap(-1, SECTOR))
    assert not disk.dead
    disk.flushes_left = 0
    assert disk.dead


@pytest.mark.skipif(shutil.which("losetup") is None, reason="losetup is not installed")
def test_a_disk_led_to_another_state_is_read_anew_though_somebody_has_it_open(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"a" * 64 * SECTOR)
    try:
        with looped(image) as device, open(device, "rb", buffering=0) as monitor:
            assert monitor.read(1) == b"a"
            with image.open("r+b") as file:
                file.write(b"b" * 64 * SECTOR)
            forget_blocks(device)
            assert Path(device).read_bytes()[:1] == b"b"
    except Skipped as reason:
        pytest.skip(str(reason))


def test_strace_that_cannot_trace_is_a_reason_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Skipped, match="strace is not installed"):
        check_strace()


@pytest.mark.parametrize("reader", fuzz.READERS.values(), ids=fuzz.READERS)
def test_every_reader_of_the_fuzzing_takes_its_own_seed(reader: Callable[[bytes], None]) -> None:
    reader(fuzz.SEEDS[reader.__name__])
