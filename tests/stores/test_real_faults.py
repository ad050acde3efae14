"""Real disks that are small, full or read-only, and processes that stop while they hold the lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from openclaw_billing import ledger
from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.errors import StorageUnavailable
from openclaw_billing.stores.json_store import JsonStore
from tests.money.machine import START
from tests.stores.charging import charging, opening
from tests.stores.conftest import Shop

ROOT = Path(__file__).parents[2]
HOLDER = """
    import sys, time
    from pathlib import Path
    from openclaw_billing.stores.files import Directory, FileLock
    directory = Directory(Path(sys.argv[1]))
    directory.open()
    lock = FileLock(directory, "openclaw_clients.lock", 2.0)
    lock.acquire()
    print("held", flush=True)
    sys.stdin.readline()
    lock.release()
    print("released", flush=True)
    sys.stdin.readline()
"""


def may_mount() -> bool:
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_mounts = pytest.mark.skipif(
    not may_mount(), reason="no right to mount a private tmpfs (unshare --mount)"
)


@pytest.fixture
def private_disk(tmp_path: Path) -> Callable[[str], list[str]]:
    def run(what: str) -> list[str]:
        command = [
            "unshare",
            "--mount",
            sys.executable,
            "-m",
            "tests.stores.private_disk",
            str(tmp_path),
            what,
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=True, timeout=60)
        return done.stdout.decode().splitlines()

    return run


@needs_mounts
def test_a_disk_that_is_full_refuses_and_accepts_again_once_there_is_room(
    private_disk: Callable[[str], list[str]],
) -> None:
    told = private_disk("filled_up_and_emptied")
    accepted = [line for line in told if line.startswith("ACK j")]
    assert len(accepted) > 20
    refused = [line for line in told if line.startswith("503")]
    # Refused, read all the same, and told by the store's health.
    assert [line.split()[2:] for line in refused] == [[str(1000 - len(accepted)), "False"]] * 2
    assert told[-3:] == [
        "left []",
        f"ACK after {999 - len(accepted)} True",
        f"found {len(accepted) + 1} of {len(accepted) + 1}",
    ]


@needs_mounts
def test_a_disk_without_inodes_costs_a_snapshot_and_no_charge(
    private_disk: Callable[[str], list[str]],
) -> None:
    assert private_disk("without_inodes") == [
        "ACK j0 999 True",
        "ACK j1 998 True",
        "No space left on device",
        "left []",
        "snapshot True",
    ]


@needs_mounts
def test_a_disk_that_is_read_only_from_the_start_is_read_until_it_is_writable(
    private_disk: Callable[[str], list[str]],
) -> None:
    assert private_disk("made_read_only_and_writable_again") == [
        "ACK j0 999 True",
        "read 1",
        "the disk takes no change (Read-only file system)",
        "503 j1 999 False",
        "the disk takes no change (Read-only file system)",
        "ACK j2 998 True",
        "found 2",
    ]


@needs_mounts
def test_a_directory_that_is_read_only_from_the_start_is_told_before_anybody_asks_for_a_change(
    private_disk: Callable[[str], list[str]],
) -> None:
    assert private_disk("read_only_from_the_start") == [
        "ready False read-only",
        "doctor 1",
        "Changes are refused: the disk takes no change (Read-only file system)",
    ]


@pytest.fixture
def holder(shop: Shop) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the store's lock until it is written to."""
    store = shop.open()
    store.run(opening("c1", 100), "open")
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(shop.path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_frozen_holder_of_the_lock_costs_changes_and_no_reading(
    shop: Shop, holder: subprocess.Popen[bytes]
) -> None:
    os.kill(holder.pid, signal.SIGSTOP)
    store = shop.stores[0]
    store._lock._seconds_max = 0.2
    with pytest.raises(StorageUnavailable):
        store.run(charging("c1", "j1"), "charge")
    account = store.view.accounts.get("c1")
    assert account is not None
    assert account.available == 100
    health = store.health()
    assert (health.writable, health.reason) == (False, "the lock is held by another process")
    os.kill(holder.pid, signal.SIGCONT)
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write(b"\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == b"released\n"
    assert store.run(charging("c1", "j1"), "charge") is True
    assert store.health().writable


def waits_behind(
    store: JsonStore, ask: Callable[[str], Callable[[], object]], callers: int, apart: float
) -> list[float]:
    """How long each of the callers, who come one after the other, waited for a refusal."""
    waited: dict[int, float] = {}

    def call(number: int) -> None:
        time.sleep(number * apart)
        answered, begun = ask(f"late{number}"), time.monotonic()
        with pytest.raises(StorageUnavailable):
            answered()
        waited[number] = time.monotonic() - begun

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [waited[number] for number in range(callers)]


@pytest.mark.parametrize("kind", ["waiting in a thread", "told by the writer"])
def test_nobody_waits_for_a_frozen_holder_much_longer_than_another(
    shop: Shop, holder: subprocess.Popen[bytes], kind: str
) -> None:
    """Whoever comes while others wait already waits as long as they do, and not for them as well."""
    os.kill(holder.pid, signal.SIGSTOP)
    store = shop.stores[0]
    store._lock._seconds_max = 0.8

    def ask(job: str) -> Callable[[], object]:
        if kind == "waiting in a thread":
            return lambda: store.run(charging("c1", job), "charge")
        told: SimpleQueue[BaseException | None] = SimpleQueue()
        store.submit(charging("c1", job), "charge", lambda _answer, error: told.put(error))
        store.flush_soon()

        def wait() -> None:
            error = told.get(timeout=10)
            assert error is not None
            raise error

        return wait

    waited = waits_behind(store, ask, callers=20, apart=0.04)
    assert max(waited) < 1.1
    assert min(waited) > 0.6
    os.kill(holder.pid, signal.SIGCONT)


def test_a_killed_holder_leaves_the_lock_to_the_next(shop: Shop, holder: subprocess.Popen[bytes]) -> None:
    holder.kill()
    holder.wait()
    assert shop.stores[0].run(charging("c1", "j1"), "charge") is True


def test_a_lock_file_removed_under_its_holder_makes_no_second_holder(
    shop: Shop, holder: subprocess.Popen[bytes]
) -> None:
    shop.lock.unlink()
    store = shop.stores[0]
    store._lock._seconds_max = 0.2
    with pytest.raises(StorageUnavailable):
        store.run(charging("c1", "j1"), "charge")


CLOCKS = """
    import random, sys
    from datetime import datetime, timedelta, UTC
    from pathlib import Path
    from openclaw_billing import ledger
    from openclaw_billing.stores.json_store import JsonStore
    store = JsonStore(Path(sys.argv[1]), lock_seconds_max=20)
    store.open()
    choice = random.Random(int(sys.argv[2]))
    start = datetime(2026, 2, 19, 10, 30, tzinfo=UTC)
    for _ in range(int(sys.argv[3])):
        now = start + timedelta(days=choice.uniform(-400, 400))
        store.run(lambda tx: ledger.touch(tx, "acme", now), "touch")
    store.close()
"""


def grants_of_jumping_clocks(shop: Shop, processes: int, times: int) -> Counter[str]:
    """How often each cycle was granted when many processes turn it, each with a clock that jumps."""
    store = shop.open()
    store.run(lambda tx: ledger.open_account(tx, "acme", "free", START), "open")
    command = [sys.executable, "-c", textwrap.dedent(CLOCKS), str(shop.path)]
    running = [subprocess.Popen([*command, str(each), str(times)], cwd=ROOT) for each in range(processes)]
    assert [process.wait(120) for process in running] == [0] * processes
    entries = store.ledger(HistoryQuery(client_id="acme", limit=100_000)).entries
    return Counter(each.operation_id for each in entries if each.operation_id.startswith("grant:"))


@pytest.mark.parametrize(("processes", "times"), [(3, 40), pytest.param(16, 200, marks=pytest.mark.slow)])
def test_clocks_that_jump_grant_each_cycle_once(shop: Shop, processes: int, times: int) -> None:
    grants = grants_of_jumping_clocks(shop, processes, times)
    assert set(grants.values()) == {1}
    # How many depends on who comes first: after the farthest moment there is nothing left to grant.
    assert len(grants) >= 2
