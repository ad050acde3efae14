"""One server process: started on a free port, waited for until every worker is idle, ended by its id."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parent.parent
SLOW_FLUSH_DIR = Path(__file__).resolve().parent / "slow_flush"
START_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 30.0
IDLE_WINDOW_SECONDS = 0.3
IDLE_SHARE_MAX = 0.05
SETTLE_SECONDS = 3.0
FOREIGN_SETTINGS = ("OPENCLAW_", "STRIPE_", "UVICORN_", "WEB_CONCURRENCY", "PYTHONPATH")


class ServerFailed(Exception):
    """A server did not start, or ended by itself."""


@dataclass(frozen=True, slots=True)
class Server:
    process: subprocess.Popen[bytes]
    log: Path

    def cpu_seconds(self) -> float | None:
        """What the server and its workers have used so far; None where there is no /proc."""
        ticks = 0
        if not Path("/proc/self/stat").exists():
            return None
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # It ended while we were looking.
            if int(fields[2]) == self.process.pid:
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-1500:]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(
    command: list[str], environment: dict[str, str], port: int, log: Path, flush_ms: float
) -> Iterator[Server]:
    """A server that answers and has come to rest; it is ended on the way out.

    Raises:
        ServerFailed: it did not answer in time, or was gone when it should have been running.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=PROJECT_DIR,
            env=_environment(environment, flush_ms),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, log)
    try:
        _wait_until_ready(server, port)
        yield server
        if process.poll() is not None:
            raise ServerFailed(f"the server ended with {process.returncode}:\n{server.log_tail()}")
    finally:
        _end(process)


def _environment(own: dict[str, str], flush_ms: float) -> dict[str, str]:
    """The caller's environment without settings that would change what is measured."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_SETTINGS)}
    slow = {"PYTHONPATH": str(SLOW_FLUSH_DIR), "BENCHMARK_FLUSH_MS": str(flush_ms)} if flush_ms else {}
    return inherited | slow | own


def _wait_until_ready(server: Server, port: int) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise ServerFailed(f"the server did not start:\n{server.log_tail()}")
        if _answers(port):
            return _wait_until_idle(server, deadline)
        time.sleep(0.05)
    raise ServerFailed(f"no answer within {START_SECONDS_MAX:.0f} s:\n{server.log_tail()}")


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status > 0
    except OSError:
        return False
    finally:
        connection.close()


def _wait_until_idle(server: Server, deadline: float) -> None:
    """One worker answers before its siblings have loaded their data: wait for those too."""
    used = server.cpu_seconds()
    if used is None:
        time.sleep(SETTLE_SECONDS)
        return
    while time.monotonic() < deadline:
        time.sleep(IDLE_WINDOW_SECONDS)
        now_used = server.cpu_seconds() or 0.0
        if now_used - used < IDLE_WINDOW_SECONDS * IDLE_SHARE_MAX:
            return
        used = now_used
    raise ServerFailed(f"still busy after {START_SECONDS_MAX:.0f} s:\n{server.log_tail()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # Its own session: nobody else is in this group.
        process.wait()
