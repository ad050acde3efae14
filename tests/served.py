"""A gateway as its user starts it: `python gateway.py` in a process of its own, ended by its id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
START_SECONDS_MAX = 20.0


@dataclass
class Served:
    """A running gateway. `said` is what it wrote to its terminal so far."""

    process: subprocess.Popen[bytes]
    port: int
    data: Path
    output: Path

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return (self.data / "admin_token").read_text().strip()

    @property
    def said(self) -> str:
        return self.output.read_text()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=START_SECONDS_MAX)


@contextlib.contextmanager
def served(
    place: Path, *, settings: Mapping[str, str] | None = None, workers: int = 1, port: int = 0
) -> Iterator[Served]:
    """A gateway on a free port of the loopback, its data under `place`, once it answers."""
    place.mkdir(exist_ok=True)
    port = port or free_port()
    data, output = place / "data", place / "output.txt"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OPENCLAW_", "STRIPE_"))}
    environment = {**clean, "OPENCLAW_DATA_DIR": str(data), **(settings or {})}
    command = [sys.executable, str(ROOT / "gateway.py"), "--port", str(port), "--workers", str(workers)]
    with output.open("wb") as terminal:
        process = subprocess.Popen(
            command, cwd=place, env=environment, stdout=terminal, stderr=subprocess.STDOUT
        )
    running = Served(process, port, data, output)
    try:
        wait_for(running)
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout=START_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(running: Served) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        if running.process.poll() is not None:
            raise AssertionError(f"the gateway ended: {running.said}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{running.base}/ready", timeout=2).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"the gateway did not answer: {running.said}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
