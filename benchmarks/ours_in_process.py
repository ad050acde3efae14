"""Our own functions, timed in this process: what a charge and a key check cost without HTTP around them."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

from fastapi import FastAPI

from benchmarks.subjects.ours import make_clients
from openclaw_billing import ledger
from openclaw_billing.gcra import limits_of
from openclaw_billing.limits.shared import SharedLimiter
from openclaw_billing.records import Rate
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import load_settings
from openclaw_billing.web.auth import key_of
from openclaw_billing.web.guard import Guard

TOKEN = "0" * 64
MANY = 100_000
CHARGES = 1_000
BATCH = 32
LOOKUPS = 20_000


def authenticate(clients: int) -> Callable[[Path], list[float]]:
    """Microseconds to find the client of a good key, keys taken in turn."""
    return lambda folder: _look_up(folder, clients, good=True)


def bad_key(clients: int) -> Callable[[Path], list[float]]:
    """Microseconds to refuse a well-formed key that is nobody's."""
    return lambda folder: _look_up(folder, clients, good=False)


def rate_check(clients: int) -> Callable[[Path], list[float]]:
    """Microseconds to count a call in the file that the workers of a machine share, clients taken in turn."""

    def measured(folder: Path) -> list[float]:
        limiter = SharedLimiter(folder, lambda: time.monotonic_ns() // 1000)
        limits = limits_of(Rate(10_000, 100_000, 600_000))
        keys = [f"client-{number}" for number in range(clients)]
        samples = []
        for first in range(0, LOOKUPS, 100):
            began = perf_counter()
            for number in range(first, first + 100):
                limiter.take_now(keys[number % clients], limits)
            samples.append((perf_counter() - began) / 100 * 1e6)
        limiter.close()
        return samples

    return measured


def lone_charge(folder: Path) -> list[float]:
    """Microseconds of one `deduct_job_credit` that waits for its own flush."""
    make_clients(folder / "data", 1_000)
    runtime = _runtime(folder)
    samples = []
    for number in range(CHARGES):
        began = perf_counter()
        runtime.write_and_wait(ledger.charge, f"client-{number % 1_000}", job_id=f"lone-{number}")
        samples.append((perf_counter() - began) * 1e6)
    runtime.close()
    return samples


def batch_of_charges(folder: Path) -> list[float]:
    """Microseconds of a batch of 32 charges, one flush and all."""
    make_clients(folder / "data", 1_000)
    runtime = _runtime(folder)
    store = runtime.store
    samples = []
    for number in range(CHARGES // BATCH):
        done: list[object] = []
        for place in range(BATCH):
            job_id, now = f"batch-{number}-{place}", runtime.now()
            store.submit(
                lambda tx, job_id=job_id, place=place, now=now: ledger.charge(  # type: ignore[misc]
                    tx, f"client-{place}", job_id=job_id, now=now
                ),
                "charge",
                lambda answer, error, done=done: done.append(error or answer),  # type: ignore[misc]
            )
        began = perf_counter()
        # A waiting caller runs what waits with it: its own operation is the batch's last.
        store.run(lambda tx: None, "nothing")
        samples.append((perf_counter() - began) * 1e6)
        assert len(done) == BATCH
    runtime.close()
    return samples


def guard(*, admitted: bool) -> Callable[[Path], list[float]]:
    """Microseconds that the guard adds to a host's own path, with the admin's token or as a public one."""

    def measured(folder: Path) -> list[float]:
        runtime = _runtime(folder)
        host = FastAPI()
        host.get("/metrics")(lambda: None)
        host.get("/reports")(lambda: None)

        async def nothing(*_: object) -> Any:
            return None

        guarded = Guard(nothing, runtime=runtime, app_of_routes=host, public={"/metrics"})
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/reports" if admitted else "/metrics",
            "headers": [(b"host", b"gateway"), (b"x-auth-token", TOKEN.encode())],
            "client": ("127.0.0.1", 1),
        }

        async def ask() -> list[float]:
            samples = []
            for _ in range(LOOKUPS // 100):
                began = perf_counter()
                for _ in range(100):
                    await guarded(scope, nothing, nothing)
                samples.append((perf_counter() - began) / 100 * 1e6)
            return samples

        samples = asyncio.run(ask())
        runtime.close()
        return samples

    return measured


def allocated(folder: Path) -> list[float]:
    """Bytes that a charge leaves in memory, before a snapshot has packed them."""
    make_clients(folder / "data", 1_000)
    runtime = _runtime(folder)
    for number in range(2_000):
        runtime.write_and_wait(ledger.charge, f"client-{number % 1_000}", job_id=f"first-{number}")
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(CHARGES):
        runtime.write_and_wait(ledger.charge, f"client-{number}", job_id=f"then-{number}")
    gc.collect()
    left = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    runtime.close()
    return [left / CHARGES]


def load_time(folder: Path) -> list[float]:
    """Milliseconds to open a store of 100,000 clients."""
    make_clients(folder / "data", MANY)
    samples = []
    for _ in range(3):
        runtime = _runtime(folder, opened=False)
        began = perf_counter()
        runtime.open()
        samples.append((perf_counter() - began) * 1e3)
        runtime.close()
    return samples


def memory(folder: Path) -> list[float]:
    """Bytes of memory a client, at 100,000 clients, each looked up once so that its rows are unpacked."""
    keys = make_clients(folder / "data", MANY)
    # In a process of its own: this one has had all of them in its hands already.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return [pool.submit(_grown, folder, keys).result()]


def _grown(folder: Path, keys: list[str]) -> float:
    gc.collect()
    before = _resident_bytes()
    runtime = _runtime(folder)
    for key_text in keys:
        key_of(runtime, key_text)
    used = _resident_bytes()
    runtime.close()
    return (used - before) / MANY


def _look_up(folder: Path, clients: int, *, good: bool) -> list[float]:
    keys = make_clients(folder / "data", clients)
    runtime = _runtime(folder)
    wrong = [f"oc_live_{number:032x}" for number in range(1_000)]
    asked = (keys if good else wrong) * (1 + LOOKUPS // len(keys if good else wrong))
    for key_text in asked[:LOOKUPS]:
        key_of(runtime, key_text)
    gc.collect()
    gc.freeze()
    time.sleep(1.0)
    samples = []
    for first in range(0, LOOKUPS, 100):
        began = perf_counter()
        for key_text in asked[first : first + 100]:
            key_of(runtime, key_text)
        samples.append((perf_counter() - began) / 100 * 1e6)
    runtime.close()
    gc.unfreeze()
    return samples


def _runtime(folder: Path, *, opened: bool = True) -> Runtime:
    runtime = Runtime(load_settings(data_dir=folder / "data", admin_token=TOKEN))
    if opened:
        runtime.open()
    return runtime


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
