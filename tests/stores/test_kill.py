"""Processes that charge one store and are killed at any moment: nothing acknowledged is lost, nothing done twice."""

from __future__ import annotations

import random
import selectors
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from openclaw_billing.contracts import HistoryQuery
from tests.stores.charging import opening
from tests.stores.conftest import Shop

ROOT = Path(__file__).parents[2]
CREDITS = 1_000_000
STRACE = shutil.which("strace")


@dataclass
class Crowd:
    """Chargers on one directory, and what they were told."""

    shop: Shop
    how: str
    processes: dict[subprocess.Popen[bytes], bytes] = field(default_factory=dict)
    told: Counter[str] = field(default_factory=Counter)
    started: int = 0

    def start(self, count: int = 100_000) -> None:
        self.started += 1
        command = [
            sys.executable,
            "-m",
            "tests.stores.charger",
            str(self.shop.path),
            self.how,
            f"p{self.started}",
        ]
        process = subprocess.Popen([*command, str(count)], stdout=subprocess.PIPE, cwd=ROOT)
        self.processes[process] = b""

    def listen(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            for process in self.processes:
                assert process.stdout is not None
                selector.register(process.stdout, selectors.EVENT_READ, process)
            while (left := deadline - time.monotonic()) > 0 and selector.get_map():
                for key, _ in selector.select(left):
                    if not self._hear(key.data):
                        selector.unregister(key.fileobj)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        while self._hear(process):
            pass
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        del self.processes[process]

    def answered(self, word: str) -> list[str]:
        return [line.partition(" ")[2] for line in self.told if line.startswith(f"{word} ")]

    def _hear(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.stdout is not None
        data = process.stdout.read1(65536)  # type: ignore[attr-defined]
        *lines, rest = (self.processes[process] + data).split(b"\n")
        self.processes[process] = rest
        self.told.update(line.decode() for line in lines)
        return bool(data)


@pytest.fixture
def killed(shop: Shop) -> Callable[[str, int, int], Crowd]:
    """A crowd that was killed so often, one at a time, while the others went on."""

    def kill(how: str, processes: int, kills: int) -> Crowd:
        store = shop.open()
        store.run(opening("c1", CREDITS), "open")
        store.close()
        crowd, choice = Crowd(shop, how), random.Random(kills)
        for _ in range(processes):
            crowd.start()
        try:
            for _ in range(kills):
                before = crowd.told.total()
                while crowd.told.total() < before + 20:
                    crowd.listen(0.02)
                crowd.listen(choice.random() * 0.1)
                crowd.kill(choice.choice(list(crowd.processes)))
                crowd.start()
        finally:
            for process in list(crowd.processes):
                crowd.kill(process)
        return crowd

    return kill


def check(shop: Shop, crowd: Crowd) -> None:
    store = shop.open()
    page = store.ledger(HistoryQuery(client_id="c1", limit=1_000_000))
    charged = Counter(each.job_id for each in page.entries if each.job_id is not None)
    assert set(charged.values()) <= {1}, "a job was charged twice"
    lost = [job for job in crowd.answered("ACK") if job not in charged]
    assert lost == []
    assert [job for job in crowd.answered("503") if job in charged] == []
    account = store.view.accounts.get("c1")
    assert account is not None
    assert account.available == sum(each.available for each in page.entries) == CREDITS - len(charged)
    assert [each.number for each in page.entries] == list(range(len(page.entries), 0, -1))
    assert all(store.view.spent.get(job) for job in charged)
    assert len(charged) - len(crowd.answered("ACK")) <= crowd.started * 8


def test_no_answer_is_lost_and_none_given_twice_over_random_kills(
    shop: Shop, killed: Callable[[str, int, int], Crowd]
) -> None:
    check(shop, killed("snapshot", 4, 6))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["run", "submit", "snapshot"])
def test_no_answer_is_lost_over_many_random_kills(
    shop: Shop, killed: Callable[[str, int, int], Crowd], how: str
) -> None:
    check(shop, killed(how, 4, 60))


@pytest.mark.parametrize("how", ["run", "submit"])
def test_three_processes_share_five_credits_and_accept_five_jobs(shop: Shop, how: str) -> None:
    store = shop.open()
    store.run(opening("c1", 5), "open")
    crowd = Crowd(shop, how)
    for _ in range(3):
        crowd.start(64)
    crowd.listen(30)
    assert len(crowd.answered("END")) == 3
    assert (len(crowd.answered("ACK")), len(crowd.answered("NO"))) == (5, 187)
    for process in list(crowd.processes):
        crowd.kill(process)
    account = store.view.accounts.get("c1")
    assert account is not None
    assert account.available == 0
    assert store.ledger(HistoryQuery()).total == 6


def crash_at(shop: Shop, call: str, when: int) -> tuple[bool, Crowd]:
    """Charge with a snapshot and a new segment every few charges; killed at that call. Whether it came to it."""
    crowd = Crowd(shop, "steps")
    assert STRACE is not None
    command = [STRACE, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    command += ["-e", f"inject={call}:signal=SIGKILL:when={when}"]
    command += [sys.executable, "-m", "tests.stores.charger", str(shop.path), "steps", "p", "7"]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=False, timeout=60)
    crowd.told.update(done.stdout.decode().splitlines())
    crowd.started = 1
    return not crowd.answered("END"), crowd


def check_crash_points(shop: Shop, call: str) -> int:
    store = shop.open()
    store.run(opening("c1", CREDITS), "open")
    store.close()
    saved = shop.path.with_name("saved")
    shop.path.rename(saved)
    points = 0
    for when in range(1, 200):
        shutil.copytree(saved, shop.path)
        shop.path.chmod(0o700)
        crashed, crowd = crash_at(shop, call, when)
        if not crashed:
            return points
        points += 1
        check(shop, crowd)
        shop.stores.pop().close()
        assert not [name for name in shop.names() if name.endswith(".tmp")]
        shutil.rmtree(shop.path)
    return points


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
@pytest.mark.parametrize(
    ("call", "points"), [("linkat", 3), pytest.param("renameat", 9, marks=pytest.mark.slow)]
)
def test_a_crash_at_each_step_of_a_rotation_leaves_every_answer(shop: Shop, call: str, points: int) -> None:
    assert check_crash_points(shop, call) >= points


@pytest.mark.slow
@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
@pytest.mark.parametrize("call", ["fdatasync", "fsync", "write", "unlinkat", "flock"])
def test_a_crash_at_each_storage_call_leaves_every_answer(shop: Shop, call: str) -> None:
    assert check_crash_points(shop, call) > 0
