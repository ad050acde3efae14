"""Locks that the system refuses to give or to take back: told in time, and over as soon as the cause is."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import client_auth
import gateway
from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.errors import StorageUnavailable
from openclaw_billing.settings import load_settings
from tests.stores.charging import charging, opening
from tests.stores.conftest import Shop
from tests.stores.test_io_errors import ROOT, STRACE, needs_strace

TOKEN = "0123456789abcdef" * 4
ADMIN = {"X-Auth-Token": TOKEN}
JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}

Refuse = Callable[[int], None]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """From now on the system has no lock to give (LOCK_EX), takes none back (LOCK_UN), or neither; 0 ends it."""
    really, refused = fcntl.flock, [0]

    def flock(fd: int, how: int) -> None:
        if how & refused[0]:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        really(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)

    def from_now_on(how: int) -> None:
        refused[0] = how

    return from_now_on


def available(shop: Shop) -> int:
    account = shop.stores[0].view.accounts.get("c1")
    assert account is not None
    return account.available


def test_a_change_whose_lock_cannot_be_given_back_is_made_and_so_are_those_after_it(
    shop: Shop, refuse: Refuse
) -> None:
    store, other = shop.open(), shop.open(lock_seconds_max=0.3)
    store.run(opening("c1", 10), "open")
    refuse(fcntl.LOCK_UN)
    for number in range(3):
        assert store.run(charging("c1", f"mine{number}"), "charge") is True
        assert store.health().writable
        # What could not be given back keeps nobody out.
        assert other.run(charging("c1", f"theirs{number}"), "charge") is True
    refuse(0)
    assert store.run(charging("c1", "last"), "charge") is True
    assert available(shop) == 3


def test_without_locks_changes_are_refused_at_once_and_made_as_soon_as_there_are_some(
    shop: Shop, refuse: Refuse
) -> None:
    store = shop.open()
    store.run(opening("c1", 10), "open")
    refuse(fcntl.LOCK_EX | fcntl.LOCK_UN)
    for number in range(3):
        begun = time.monotonic()
        with pytest.raises(StorageUnavailable):
            store.run(charging("c1", f"j{number}"), "charge")
        assert time.monotonic() - begun < 1
        health = store.health()
        assert (health.writable, "No locks available" in health.reason) == (False, True)
        assert available(shop) == 10
    refuse(0)
    assert store.health().writable
    assert store.run(charging("c1", "after"), "charge") is True


def test_a_snapshot_that_gets_no_lock_leaks_no_descriptor(shop: Shop, refuse: Refuse) -> None:
    store = shop.open()
    store.run(opening("c1", 10), "open")
    store._snapshots.stop()
    refuse(fcntl.LOCK_EX)
    open_before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(OSError, match="No locks available"):
            store.snapshot()
    # The store's own lock is let go of, and taken again with the next change.
    assert len(os.listdir("/proc/self/fd")) <= open_before
    refuse(0)
    store.run(charging("c1", "j1"), "charge")
    assert store.snapshot()


@needs_strace
@pytest.mark.parametrize(
    ("when", "told"),
    [
        # The lock is taken and given back at opening, for each charge, and for each look at the health.
        ("4", ["ACK j0 99 True", "ACK j1 98 True", "ACK j2 97 True"]),
        ("4..7", ["ACK j0 99 False", "503 j1 99 False", "ACK j2 98 True"]),
        ("3", ["503 j0 100 True", "ACK j1 99 True", "ACK j2 98 True"]),
    ],
    ids=["one unlock", "for a while", "one lock"],
)
def test_the_kernel_has_no_locks_for_a_while(shop: Shop, when: str, told: list[str]) -> None:
    store = shop.open()
    store.run(opening("c1", 100), "open")
    store.close()
    code = """
        import os, sys
        from pathlib import Path
        from openclaw_billing.errors import StorageUnavailable
        from openclaw_billing.stores.json_store import JsonStore
        from tests.stores.charging import charging
        store = JsonStore(Path(sys.argv[1]), lock_seconds_max=0.3)
        store._snapshots.consider = lambda **_: None
        store.open()
        for job in ("j0", "j1", "j2"):
            try:
                word = "ACK" if store.run(charging("c1", job), "charge") else "NO"
            except StorageUnavailable:
                word = "503"
            left = store.view.accounts.get("c1").available
            os.write(1, f"{word} {job} {left} {store.health().writable}\\n".encode())
    """
    assert STRACE is not None
    command = [STRACE, "-f", "-qq", "-o", "/dev/null", "-P", str(shop.lock)]
    command += ["-e", f"inject=flock:error=ENOLCK:when={when}"]
    command += [sys.executable, "-c", textwrap.dedent(code), str(shop.path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=True, timeout=60)
    assert done.stdout.decode().splitlines() == told


def test_a_process_out_of_descriptors_goes_on_and_reads_its_history_once_it_has_some(shop: Shop) -> None:
    store = shop.open()
    store.run(opening("c1", 10), "open")
    store._snapshots.stop()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = max(int(each) for each in os.listdir("/proc/self/fd"))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with contextlib.suppress(OSError):
            taken.extend(os.dup(0) for _ in range(soft))
        assert store.run(charging("c1", "j1"), "charge") is True
        with pytest.raises(StorageUnavailable):
            store.ledger(HistoryQuery())
        assert available(shop) == 9
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for each in taken:
            os.close(each)
    assert len(store.ledger(HistoryQuery()).entries) == 2


@pytest.fixture
async def http(tmp_path: Path, anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    settings = load_settings(data_dir=tmp_path / "data", admin_token=TOKEN)
    client_auth.runtime.reconfigure(settings)
    transport = httpx.ASGITransport(gateway.create_app(settings), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
    client_auth.runtime.reconfigure()


@pytest.mark.anyio
async def test_a_gateway_without_locks_answers_503_reads_on_and_is_back_with_them(
    http: httpx.AsyncClient, refuse: Refuse
) -> None:
    body = {"name": "Acme", "email": "acme@example.com", "plan": "pro"}
    made: dict[str, Any] = (await http.post("/api/admin/clients", headers=ADMIN, json=body)).json()
    key = {"X-Client-Key": made["api_key"]}

    async def statuses() -> tuple[int, int, int]:
        asked = time.monotonic()
        job = await http.post("/api/intake", headers=key, json=JOB)
        usage = await http.get("/api/billing/usage", headers=key)
        ready = await http.get("/ready")
        assert time.monotonic() - asked < 1
        return job.status_code, usage.status_code, ready.status_code

    assert await statuses() == (200, 200, 200)
    refuse(fcntl.LOCK_UN)
    assert await statuses() == (200, 200, 200)
    refuse(fcntl.LOCK_EX | fcntl.LOCK_UN)
    assert [await statuses() for _ in range(2)] == [(503, 200, 503)] * 2
    refuse(0)
    assert await statuses() == (200, 200, 200)
