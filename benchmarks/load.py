"""The load tool: a process that keeps some connections busy for some seconds and tells what it saw.

`python -m benchmarks.load` reads a `LoadPlan` as JSON from its input and writes a `LoadResult` to its output.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from array import array
from dataclasses import asdict, dataclass
from time import perf_counter_ns

from benchmarks import wire

DRAIN_SECONDS_MAX = 60.0
START_SECONDS_MAX = 60.0
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """`first` is the place in `keys` to begin at; from there they are used in turn."""

    port: int
    path: str
    body: str
    keys: list[str]
    first: int
    connections: int
    warmup_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """Rate and latencies are of the answers 2xx in the timed window; the counts are of the whole run, warm-up included.

    `in_doubt` requests were sent and never answered: the server may or may not have done them.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    failed: int
    sent: int
    accepted: int
    in_doubt: int
    busy: float
    """The share of one core that the load tool itself used in the window; near 1 it is the bottleneck."""


class LoadFailed(Exception):
    """The load tool could not do its work."""


class Load:
    """Counts and times the answers of all connections; the feed of a timed run."""

    def __init__(self, plan: LoadPlan) -> None:
        body = plan.body.encode()
        self._head = (
            f"POST {plan.path} HTTP/1.1\r\nHost: {HOST}:{plan.port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nX-Client-Key: "
        ).encode()
        self._tail = wire.BODY_START + body
        self._keys = [key.encode() for key in plan.keys]
        self._next = plan.first % len(self._keys)
        self.timing = False
        self.sending = True
        self.latencies_ns = array("Q")
        self.sent = self.accepted = self.failed = self.in_doubt = 0

    def next_request(self) -> bytes | None:
        if not self.sending:
            return None
        key = self._keys[self._next]
        self._next += 1
        if self._next == len(self._keys):
            self._next = 0
        self.sent += 1
        return self._head + key + self._tail

    def answered(self, answer: bytes, sent_ns: int) -> None:
        if answer[9:10] != b"2":
            self.failed += 1
            return
        self.accepted += 1
        if self.timing:
            self.latencies_ns.append(perf_counter_ns() - sent_ns)

    def dropped(self, in_flight: bool) -> None:
        self.in_doubt += in_flight


async def apply_load(plan: LoadPlan) -> LoadResult:
    load = Load(plan)
    connections = await wire.connect(load, HOST, plan.port, plan.connections)
    for connection in connections:
        connection.start()
    await asyncio.sleep(plan.warmup_seconds)
    began_ns, began_cpu = perf_counter_ns(), time.process_time()
    load.timing = True
    await asyncio.sleep(plan.seconds)
    load.timing = False
    seconds = (perf_counter_ns() - began_ns) / 1e9
    busy = (time.process_time() - began_cpu) / seconds
    load.sending = False
    await _drain(connections)
    unanswered = sum(connection.in_flight for connection in connections)
    latencies = sorted(load.latencies_ns)
    return LoadResult(
        rate=len(latencies) / seconds,
        p50_ms=_percentile_ms(latencies, 0.50),
        p99_ms=_percentile_ms(latencies, 0.99),
        max_ms=_percentile_ms(latencies, 1.0),
        failed=load.failed,
        sent=load.sent,
        accepted=load.accepted,
        in_doubt=load.in_doubt + unanswered,
        busy=busy,
    )


def run_load(plan: LoadPlan) -> LoadResult:
    """Run the plan in a process of its own.

    Raises:
        LoadFailed: it ended with an error or took too long.
    """
    seconds_max = START_SECONDS_MAX + plan.warmup_seconds + plan.seconds + DRAIN_SECONDS_MAX
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.load"],
            input=json.dumps(asdict(plan)),
            capture_output=True,
            text=True,
            timeout=seconds_max,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise LoadFailed(f"the load tool failed:\n{error.stderr[-2000:]}") from error
    except subprocess.TimeoutExpired as error:
        raise LoadFailed(f"the load tool did not end within {seconds_max:.0f} s") from error
    return LoadResult(**json.loads(done.stdout))


async def _drain(connections: list[wire.Connection]) -> None:
    """Wait for what is in flight: the server charges for it, so it must be counted."""
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    while any(connection.in_flight for connection in connections) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)


def _percentile_ms(latencies_ns: list[int], share: float) -> float:
    if not latencies_ns:
        return 0.0
    return latencies_ns[round(share * (len(latencies_ns) - 1))] / 1e6


def main() -> None:
    plan = LoadPlan(**json.load(sys.stdin))
    gc.disable()
    result = wire.run(lambda: apply_load(plan))
    json.dump(asdict(result), sys.stdout)


if __name__ == "__main__":
    main()
