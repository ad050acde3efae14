"""The served gateway under strace: no job is answered before a flush that began after its line was written."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.served import served

STRACE = shutil.which("strace")
CALLERS, JOBS = 16, 160
ATTACHING_SECONDS_MAX = 10.0
CALLS = "trace=write,writev,sendto,sendmsg,fdatasync"
JOB_ID = re.compile(r'job_id\\":\\"([0-9a-f-]{36})')


@contextlib.contextmanager
def traced(pid: int, trace: Path, called: str) -> Iterator[None]:
    """What that process and its threads write and flush, in `trace`; `called` names where strace tells of itself."""
    assert STRACE is not None
    said = trace.with_name(called)
    options = ["-f", "-y", "-s", "60000", "-e", CALLS, "-o", str(trace), "-p", str(pid)]
    with said.open("wb") as terminal:
        process = subprocess.Popen([STRACE, *options], stderr=terminal)
    try:
        deadline = time.monotonic() + ATTACHING_SECONDS_MAX
        while "attached" not in said.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"strace may not attach here: {said.read_text()[:200]}")
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(timeout=ATTACHING_SECONDS_MAX)


async def submit(base: str, key_text: str) -> set[str]:
    body = {"project_name": "Build", "description": "A feature", "task_type": "other"}
    headers = {"X-Client-Key": key_text}
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=30) as client:

        async def caller() -> set[str]:
            answers = [await client.post("/api/intake", json=body) for _ in range(JOBS // CALLERS)]
            return {answer.raise_for_status().json()["job_id"] for answer in answers}

        return set().union(*await asyncio.gather(*[caller() for _ in range(CALLERS)]))


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
def test_no_job_is_answered_before_its_flush(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with served(tmp_path / "gateway") as gateway:
        client = gateway.create_client("acme@example.com", credits=JOBS)
        with traced(gateway.process.pid, trace, "said"):
            accepted = asyncio.run(submit(gateway.base, client["api_key"]))
    assert len(accepted) == JOBS
    written: set[str] = set()
    durable: set[str] = set()
    answered: set[str] = set()
    begun: dict[str, set[str]] = {}
    flushes = 0
    for line in trace.read_text().splitlines():
        thread, _, call = line.partition(" ")
        if "fdatasync" in call:
            if "resumed" not in call:
                # What is written while a flush runs may not be on the disk when it ends.
                begun[thread] = set(written)
            if call.endswith("= 0"):
                durable |= begun.pop(thread)
                flushes += 1
        elif "openclaw_clients.journal" in call:
            written |= set(JOB_ID.findall(call))
        else:
            jobs = set(JOB_ID.findall(call))
            assert jobs <= durable
            answered |= jobs
    assert answered == accepted
    assert 0 < flushes < JOBS, "charges that wait at the same time share a flush"
