"""Processes that call at once, and whether what was let in is exactly what the rule allows."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openclaw_billing.gcra import SECOND_US
from tests.served import ROOT


@contextlib.contextmanager
def calling(place: Path | str, key: str, calls: int | str, rate: int = 1, burst: int = 1) -> Iterator[Any]:
    command = [
        sys.executable,
        "-m",
        "tests.limits.caller",
        str(place),
        key,
        str(calls),
        str(rate),
        str(burst),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def admitted_by_all(place: Path | str, calls: int, rate: int, burst: int, processes: int = 4) -> list[int]:
    """When the calls of several processes were let in, in order."""
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(calling(place, "acme", calls, rate, burst)) for _ in range(processes)]
        for each in callers:
            assert each.stdout.readline() == "ready\n"
        for each in callers:
            each.stdin.write("go\n")
            each.stdin.flush()
        told = [json.loads(each.stdout.readline()) for each in callers]
    assert sum(each["calls"] for each in told) == processes * calls
    return sorted(moment for each in told for moment in each["came"])


def assert_exact(came: list[int], rate: int, burst: int) -> None:
    """Everything the rule allows was let in between the first and the last, and nothing more."""
    interval = -(-SECOND_US // rate)
    assert len(came) > burst
    time = 0
    for moment in came:
        time = max(time, moment) + interval
        assert time <= moment + burst * interval
    # Callers who never pause leave nothing: one more call would have been refused just before each.
    assert abs(len(came) - burst - (came[-1] - came[0]) // interval) <= 1
