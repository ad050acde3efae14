"""The gate: an event loop goes on whatever its disk does, and hears of every batch."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable

import pytest

from openclaw_billing.gate import Gate
from openclaw_billing.stores.json_store import JsonStore
from tests.stores.charging import charging, opening
from tests.stores.conftest import Shop

pytestmark = pytest.mark.anyio

PATIENCE = 10
CREDITS = 500


@pytest.fixture
def store(shop: Shop) -> JsonStore:
    store = shop.open()
    store.run(opening("c1", CREDITS), "open")
    return store


class Disk:
    """Flushes come back when `lets` says so."""

    def __init__(self, flush: Callable[[int], None]) -> None:
        self._flush = flush
        self.lets = threading.Event()
        self.lets.set()
        self.asked = threading.Event()

    def fdatasync(self, fd: int) -> None:
        self.asked.set()
        assert self.lets.wait(PATIENCE), "nobody let the flush come back: the loop stood still"
        self._flush(fd)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(os.fdatasync)
    monkeypatch.setattr(os, "fdatasync", disk.fdatasync)
    return disk


async def test_a_flush_that_does_not_come_back_holds_up_no_event_loop(store: JsonStore, disk: Disk) -> None:
    gate = Gate(asyncio.get_running_loop(), store)
    # All of them were quick so far: nothing told of this one.
    assert await gate.write(charging("c1", "quick"), "charge")
    disk.lets.clear()
    disk.asked.clear()
    slow = gate.write(charging("c1", "slow"), "charge")
    while not disk.asked.is_set():
        await asyncio.sleep(0)
    behind = [gate.write(charging("c1", f"behind {number}"), "charge") for number in range(3)]
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not slow.done()
    assert not any(each.done() for each in behind)
    account = store.view.accounts.get("c1")
    assert account is not None
    assert account.available == CREDITS - 1, "what is not durable was seen"
    disk.lets.set()
    assert await asyncio.wait_for(asyncio.gather(slow, *behind), PATIENCE) == [True] * 4


async def test_after_a_slow_flush_the_loop_waits_for_quick_ones_again(store: JsonStore, disk: Disk) -> None:
    gate = Gate(asyncio.get_running_loop(), store)
    disk.lets.clear()
    slow = gate.write(charging("c1", "slow"), "charge")
    await asyncio.sleep(0.02)
    disk.lets.set()
    assert await slow
    for number in range(20):
        assert await gate.write(charging("c1", f"quick {number}"), "charge")
    async with asyncio.timeout(PATIENCE):
        while store._awaited is not None:
            await asyncio.sleep(0.01)


async def test_no_answer_is_left_behind_however_loop_and_writer_meet(
    store: JsonStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, beat = os.fdatasync, iter(range(1_000_000))

    def uneven(fd: int) -> None:
        # About as long as the loop is ready to wait: now it gives up first, now it does not.
        if next(beat) % 3:
            threading.Event().wait(0.0048 + next(beat) % 5 * 0.0001)
        flush(fd)

    monkeypatch.setattr(os, "fdatasync", uneven)
    monkeypatch.setattr("openclaw_billing.stores.journal_end.QUICK_SECONDS_MAX", 1.0)
    gate = Gate(asyncio.get_running_loop(), store)

    async def charge(caller: int) -> int:
        return sum([await gate.write(charging("c1", f"{caller} {n}"), "charge") for n in range(20)])

    charged = await asyncio.wait_for(asyncio.gather(*map(charge, range(8))), 30)
    assert charged == [20] * 8
    account = store.view.accounts.get("c1")
    assert account is not None
    assert account.available == CREDITS - 160
