"""The load through `wrk`, where it is installed: keys in turn by a Lua script, figures as JSON by its `done`.

`wrk` drops what is in flight when its time is up, so that many charges stay in doubt.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.load import HOST, LoadFailed, LoadPlan, LoadResult

EXTRA_SECONDS_MAX = 60.0
MARK = "BENCHMARK "
SCRIPT = """
local keys = {}
for line in io.lines(os.getenv("BENCHMARK_KEYS")) do keys[#keys + 1] = line end
local at = tonumber(os.getenv("BENCHMARK_FIRST"))
wrk.method = "POST"
wrk.body = os.getenv("BENCHMARK_BODY")
wrk.headers["Content-Type"] = "application/json"

request = function()
  at = at % #keys + 1
  wrk.headers["X-Client-Key"] = keys[at]
  return wrk.format()
end

done = function(summary, latency, requests)
  local lost = summary.errors.connect + summary.errors.read + summary.errors.write
  io.write(string.format(
    'BENCHMARK {"requests": %d, "microseconds": %d, "failed": %d, "lost": %d, "p50": %d, "p99": %d, "max": %d}\\n',
    summary.requests, summary.duration, summary.errors.status, lost,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


def installed() -> bool:
    return shutil.which("wrk") is not None


def run_wrk(plan: LoadPlan) -> LoadResult:
    """Run the plan's warm-up and then its timed window.

    Raises:
        LoadFailed: `wrk` ended with an error or said nothing that can be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        script, keys = Path(folder, "load.lua"), Path(folder, "keys.txt")
        script.write_text(SCRIPT)
        keys.write_text("\n".join(plan.keys) + "\n")
        warmup = _run(plan, script, keys, plan.first, max(1, round(plan.warmup_seconds)))
        first = plan.first + warmup["requests"]
        timed = _run(plan, script, keys, first, max(1, round(plan.seconds)))
    both = [warmup, timed]
    answered = sum(each["requests"] for each in both)
    failed = sum(each["failed"] for each in both)
    in_doubt = sum(plan.connections + each["lost"] for each in both)
    return LoadResult(
        rate=(timed["requests"] - timed["failed"]) / (timed["microseconds"] / 1e6),
        p50_ms=timed["p50"] / 1e3,
        p99_ms=timed["p99"] / 1e3,
        max_ms=timed["max"] / 1e3,
        failed=failed,
        sent=answered + in_doubt,
        accepted=answered - failed,
        in_doubt=in_doubt,
        busy=0.0,
    )


def _run(plan: LoadPlan, script: Path, keys: Path, first: int, seconds: int) -> dict[str, Any]:
    command = ["wrk", "-t1", f"-c{plan.connections}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script)]
    settings = {
        "BENCHMARK_KEYS": str(keys),
        "BENCHMARK_FIRST": str(first % len(plan.keys)),
        "BENCHMARK_BODY": plan.body,
    }
    try:
        done = subprocess.run(
            [*command, f"http://{HOST}:{plan.port}{plan.path}"],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=seconds + EXTRA_SECONDS_MAX,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise LoadFailed(f"wrk failed: {error}") from error
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        raise LoadFailed(f"wrk said nothing that can be read:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    figures: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    return figures
