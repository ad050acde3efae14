"""What several processes, a full disk and a slow one do to those who call."""

from __future__ import annotations

import asyncio
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from pathlib import Path

import httpx

from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.errors import StorageUnavailable
from openclaw_billing.stores.json_store import JsonStore
from reliability.durable import check_strace, place
from reliability.figure import ROOT, Seen
from tests.served import Served, served
from tests.stores.charging import charging, opening
from tests.stores.test_real_faults import CLOCKS, HOLDER

JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}
CREDITS = 100_000
QUICK_DISK = "/dev/shm"


def stuck_lock() -> Seen:
    """Another process holds the lock: stopped, then killed."""
    with place() as path:
        store = JsonStore(path)
        store.open()
        store.run(opening("c1", 100), "open")
        command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            os.kill(holder.pid, signal.SIGSTOP)
            begun = time.perf_counter()
            refused = False
            try:
                store.run(charging("c1", "j1"), "charge")
            except StorageUnavailable:
                refused = True
            stopped = time.perf_counter() - begun
            holder.kill()
            holder.wait()
            begun = time.perf_counter()
            store.run(charging("c1", "j2"), "charge")
            killed_ms = (time.perf_counter() - begun) * 1000
        store.close()
    return Seen(
        f"stopped holder: 503 after {stopped:.2f} s; killed holder: the next change took {killed_ms:.1f} ms",
        refused and abs(stopped - 2) <= 0.2 and killed_ms <= 10,
    )


def accepted_is_deducted(requests: int = 2_500, workers: tuple[int, ...] = (1, 2, 4, 8)) -> Seen:
    """Jobs sent at once to 1, 2, 4 and 8 workers; half as many credits as jobs."""
    told, met, total = [], True, 0
    for count in workers:
        with tempfile.TemporaryDirectory() as name, served(Path(name), workers=count) as running:
            client = running.create_client("load@example.com", "starter")
            credits = 50 + requests // 2
            admin = {"X-Auth-Token": running.token}
            path = f"{running.base}/api/admin/clients/{client['client_id']}/credits"
            httpx.put(path, headers=admin, json={"credits": requests // 2, "reason": "r"}).raise_for_status()
            statuses = asyncio.run(_submit(running, client["api_key"], requests))
            left = httpx.get(
                f"{running.base}/api/billing/usage", headers={"X-Client-Key": client["api_key"]}
            ).json()["credits_remaining"]
        failed = sum(n for status, n in statuses.items() if status >= 500)
        total += requests
        told.append(f"{count}: {statuses[200]} accepted, {credits - left} deducted, {failed} × 5xx")
        met = met and statuses[200] == credits - left == credits and not failed
    return Seen(f"{total} requests by workers {'; '.join(told)}", met)


async def _submit(running: Served, key_text: str, requests: int) -> Counter[int]:
    statuses: Counter[int] = Counter()
    limits = httpx.Limits(max_connections=32)
    async with httpx.AsyncClient(base_url=running.base, limits=limits, timeout=30) as http:

        async def call(number: int) -> None:
            for _ in range(number):
                answer = await http.post("/api/intake", headers={"X-Client-Key": key_text}, json=JOB)
                statuses[answer.status_code] += 1

        await asyncio.gather(*(call(requests // 32 + (each < requests % 32)) for each in range(32)))
    return statuses


def jumping_clocks(processes: int = 16, times: int = 200) -> Seen:
    """Processes that turn one client's cycle, each with a clock that jumps by up to 400 days."""
    from openclaw_billing import ledger
    from tests.money.machine import START

    with place() as path:
        store = JsonStore(path)
        store.open()
        store.run(lambda tx: ledger.open_account(tx, "acme", "free", START), "open")
        command = [sys.executable, "-c", textwrap.dedent(CLOCKS), str(path)]
        running = [subprocess.Popen([*command, str(each), str(times)], cwd=ROOT) for each in range(processes)]
        ended = [process.wait(300) for process in running]
        entries = store.ledger(HistoryQuery(client_id="acme", limit=1_000_000)).entries
        store.close()
    grants = Counter(each.operation_id for each in entries if each.operation_id.startswith("grant:"))
    return Seen(
        f"{processes} processes × {times} jumps: {len(grants)} cycles granted, {max(grants.values())} grant each",
        set(grants.values()) == {1} and not any(ended),
    )


def health_during_a_slow_flush(seconds: float = 2.0, jobs: int = 3) -> Seen:
    """Every flush of a disk that was quick takes two seconds all at once; /health is asked every ten milliseconds.

    A call's time is counted from when it was due, so that one that stands still hides none that would have followed.
    """
    check_strace()
    p99s: list[float] = []
    with tempfile.TemporaryDirectory(dir=QUICK_DISK) as name, served(Path(name)) as running:
        key_text = running.create_client("slow@example.com", "pro")["api_key"]
        for _ in range(20):
            httpx.post(
                f"{running.base}/api/intake", headers={"X-Client-Key": key_text}, json=JOB
            ).raise_for_status()
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]
        command += [
            "-e",
            f"inject=fdatasync:delay_enter={int(seconds * 1e6)}",
            "-p",
            str(running.process.pid),
        ]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
            while "TracerPid:\t0" in Path(f"/proc/{running.process.pid}/status").read_text():
                assert tracer.poll() is None, "strace ended"
                time.sleep(0.05)
            for _ in range(jobs):
                took, job = asyncio.run(_health_beside_a_job(running, key_text))
                assert job >= seconds, "the flush was not slow"
                p99s.append(sorted(took)[math.ceil(len(took) * 0.99) - 1] * 1000)
            tracer.terminate()
    later = max(p99s[1:])
    return Seen(
        f"/health p99 {p99s[0]:.1f} ms beside the first job whose flush takes {seconds:.0f} s, {later:.1f} ms beside "
        f"those after it",
        max(p99s) < 50,
    )


async def _health_beside_a_job(running: Served, key_text: str) -> tuple[list[float], float]:
    limits = httpx.Limits(max_connections=400, max_keepalive_connections=400)
    async with httpx.AsyncClient(base_url=running.base, timeout=60, limits=limits) as http:
        (await http.get("/health")).raise_for_status()
        begun = due = time.perf_counter()
        job = asyncio.create_task(http.post("/api/intake", headers={"X-Client-Key": key_text}, json=JOB))
        calls: list[asyncio.Task[float]] = []
        while not job.done():
            due += 0.01
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            calls.append(asyncio.create_task(_health(http, due)))
        (await job).raise_for_status()
        seconds = time.perf_counter() - begun
        return await asyncio.gather(*calls), seconds


async def _health(http: httpx.AsyncClient, due: float) -> float:
    (await http.get("/health")).raise_for_status()
    return time.perf_counter() - due


def ended_under_load(rounds: int = 3) -> Seen:
    """SIGTERM while jobs are sent: what was answered is charged, and nothing is charged that is no job."""
    lost = unpaid = answered = 0
    codes = set()
    with tempfile.TemporaryDirectory() as name, served(Path(name), workers=2) as running:
        client = running.create_client("end@example.com", "pro", credits=CREDITS)
        jobs: set[str] = set()
        for _ in range(rounds):
            jobs |= asyncio.run(_until_ended(running, client["api_key"]))
            codes.add(running.process.wait(60))
            running.start_again()
        running.stop()
        store = JsonStore(running.data)
        store.open()
        entries = store.ledger(HistoryQuery(client_id=client["client_id"], limit=1_000_000)).entries
        captured = {each.job_id for each in entries if each.kind == "capture"}
        known = {job.job_id for job in store.view.jobs}
        store.close()
        answered, lost, unpaid = len(jobs), len(jobs - captured), len(captured - known)
    return Seen(
        f"{rounds} × SIGTERM under load, exit codes {sorted(codes)}: {answered} answered, {lost} lost, "
        f"{unpaid} charged without a job",
        lost == unpaid == 0 and codes == {0} and answered > 0,
    )


async def _until_ended(running: Served, key_text: str) -> set[str]:
    jobs: set[str] = set()

    async def call(http: httpx.AsyncClient) -> None:
        while True:
            try:
                answer = await http.post("/api/intake", headers={"X-Client-Key": key_text}, json=JOB)
            except httpx.TransportError:
                return
            if answer.status_code == 200:
                jobs.add(answer.json()["job_id"])

    async with httpx.AsyncClient(base_url=running.base, timeout=30) as http:
        tasks = [asyncio.create_task(call(http)) for _ in range(16)]
        await asyncio.sleep(1)
        running.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)
    return jobs


def jobs_while_stripe_hangs(rounds: int = 12, seconds: float = 2.0) -> Seen:
    """Two gateways loaded in turn: one has events to ask Stripe about, which hangs; the other has no Stripe."""
    from benchmarks import stripe_away

    found = stripe_away.compare(rounds, seconds, connections=16, say=lambda _: None)
    ratios = found.ratios(1)
    middle = statistics.median(ratios)
    absent, hangs = (statistics.median(p99 for _, p99 in each) for each in (found.absent, found.hangs))
    return Seen(
        f"job p99 {absent:.1f} ms without Stripe, {hangs:.1f} ms while it hangs; the ratio of {rounds} rounds in "
        f"turn is {middle:.2f} in the middle ({min(ratios):.2f}–{max(ratios):.2f})",
        abs(middle - 1) < 0.1 or middle < 1,
    )


def resident_kib(pid: int) -> int:
    """The most memory that the process ever had, in KiB."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])
