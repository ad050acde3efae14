"""Disks with errors under a running gateway: what its callers see, and how soon it is back."""

from __future__ import annotations

import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.stores import backups
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.json_store import JsonStore
from reliability.durable import check_strace
from reliability.figure import Seen, Skipped
from tests.served import Served, served

JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}
CREDITS = 100_000
FAULT_SECONDS = 1.0
ANSWER_SECONDS_MAX = BACK_SECONDS_MAX = 1.0
TRACED_SECONDS_MAX = 10.0


@dataclass
class Felt:
    """What a caller felt of one fault."""

    refused: int = 0
    accepted: int = 0
    slowest: float = 0.0
    unread: int = 0
    strange: list[int] = field(default_factory=list)
    back: float = 0.0


def errors_of_the_disk() -> Seen:
    """Each error on the calls of a gateway at work, for a second: jobs are refused in time, and read all the same."""
    check_strace()
    felt: dict[str, Felt] = {}
    with tempfile.TemporaryDirectory() as name, served(Path(name)) as running:
        client = running.create_client("disk@example.com", "pro", CREDITS)
        with httpx.Client(
            base_url=running.base, headers={"X-Client-Key": client["api_key"]}, timeout=30
        ) as http:
            _job(http)
            for what, fault in _faults(running).items():
                felt[what] = _feel(http, fault)
        running.stop()
        wrong = _unaccounted(running, client["client_id"], sum(each.accepted for each in felt.values()) + 1)
    told = ", ".join(
        f"{what} {each.refused} × 503 in ≤ {each.slowest * 1000:.0f} ms, back after {each.back * 1000:.0f} ms"
        for what, each in felt.items()
    )
    unread, strange = (
        sum(each.unread for each in felt.values()),
        [n for each in felt.values() for n in each.strange],
    )
    met = not (unread or strange or wrong)
    for each in felt.values():
        met = (
            met and each.refused > 0 and each.slowest <= ANSWER_SECONDS_MAX and each.back <= BACK_SECONDS_MAX
        )
    return Seen(
        f"{told}; {unread} readings failed, other answers {strange}, {wrong or 'nothing'} amiss after", met
    )


def _faults(running: Served) -> dict[str, Callable[[], Any]]:
    journal = running.data / "openclaw_clients.journal"
    lock = running.data / "openclaw_clients.lock"
    pid = running.process.pid
    return {
        "EIO at a flush": lambda: injected(pid, journal, "fdatasync", "EIO"),
        "EIO at a write": lambda: injected(pid, journal, "write", "EIO"),
        **{
            error: lambda error=error: injected(pid, journal, "write", error)
            for error in ("ENOSPC", "EROFS", "EDQUOT")
        },
        "ENOLCK": lambda: injected(pid, lock, "flock", "ENOLCK"),
        "EMFILE": lambda: without_descriptors(pid, lock),
    }


@contextmanager
def injected(pid: int, path: Path, call: str, error: str) -> Iterator[None]:
    """That call on that file fails in the running process, meanwhile."""
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(path), "-e", f"trace={call}"]
    command += ["-e", f"inject={call}:error={error}", "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
        deadline = time.monotonic() + TRACED_SECONDS_MAX
        while any("TracerPid:\t0" in status for status in _statuses(pid)):
            if time.monotonic() > deadline or tracer.poll() is not None:
                tracer.terminate()
                raise Skipped("strace may not attach to a running process")
            time.sleep(0.02)
        try:
            yield
        finally:
            tracer.terminate()
            tracer.wait()


def _statuses(pid: int) -> Iterator[str]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            yield (task / "status").read_text()


@contextmanager
def without_descriptors(pid: int, lock: Path) -> Iterator[None]:
    """The process may open no more files than it has, and has to: somebody removed the lock's file."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    lock.unlink()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def _feel(http: httpx.Client, fault: Callable[[], Any]) -> Felt:
    felt = Felt()
    with fault():
        until = time.monotonic() + FAULT_SECONDS
        while time.monotonic() < until:
            status, seconds = _job(http)
            felt.slowest = max(felt.slowest, seconds)
            if status == 200:
                felt.accepted += 1
            elif status == 503:
                felt.refused += 1
            else:
                felt.strange.append(status)
            felt.unread += http.get("/api/billing/usage").status_code != 200
            time.sleep(0.005)
    ended = time.monotonic()
    while (status := _job(http)[0]) != 200 and time.monotonic() < ended + 10 * BACK_SECONDS_MAX:
        felt.strange += [] if status == 503 else [status]
    felt.back = time.monotonic() - ended
    felt.accepted += status == 200
    return felt


def _job(http: httpx.Client) -> tuple[int, float]:
    begun = time.monotonic()
    return http.post("/api/intake", json=JOB).status_code, time.monotonic() - begun


def _unaccounted(running: Served, client_id: str, accepted: int) -> str:
    """What the store holds that was not answered, or lacks; "" when it is exact."""
    store = JsonStore(running.data)
    store.open()
    try:
        entries = store.ledger(HistoryQuery(client_id=client_id, limit=1_000_000)).entries
        problems = backups.verify(store.directory, Chain(None)).problems
    finally:
        store.close()
    captured = sum(each.kind == "capture" for each in entries)
    if problems:
        return problems[0]
    return "" if captured == accepted else f"{captured} charged, {accepted} accepted"
