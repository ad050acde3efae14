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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
START_SECONDS_MAX = 30.0
# Longer than the server's patience with connections that stay open.
STOP_SECONDS_MAX = 45.0


@dataclass
class Served:
    """A running gateway. `said` is what it wrote to its terminal so far."""

    process: subprocess.Popen[bytes]
    port: int
    data: Path
    output: Path
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return (self.data / "admin_token").read_text().strip()

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def workers(self) -> list[int]:
        """The ids of the processes that serve, where there are several."""
        mine = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [pid for pid in map(int, mine) if b"spawn_main" in _command_of(pid)]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=STOP_SECONDS_MAX)

    def kill_all(self) -> None:
        """As a power cut ends it: every process of it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=START_SECONDS_MAX)

    def start_again(self, **settings: str) -> None:
        """On the same data, once it answers; what it says is appended."""
        self.process = _begin(self.command, {**self.environment, **settings}, self.output)
        wait_for(self)

    def create_client(self, email: str, plan: str = "free", credits: int = 0) -> dict[str, Any]:
        """A client on that plan with so many credits more."""
        admin = {"X-Auth-Token": self.token}
        body = {"name": "Acme", "email": email, "plan": plan}
        created: dict[str, Any] = (
            httpx.post(f"{self.base}/api/admin/clients", headers=admin, json=body).raise_for_status().json()
        )
        if credits:
            path = f"{self.base}/api/admin/clients/{created['client_id']}/credits"
            httpx.put(path, headers=admin, json={"credits": credits, "reason": "test"}).raise_for_status()
        return created


@contextlib.contextmanager
def served(
    place: Path,
    *,
    settings: Mapping[str, str] | None = None,
    workers: int = 1,
    port: int = 0,
    options: tuple[str, ...] = (),
) -> Iterator[Served]:
    """A gateway on a free port of the loopback, its data under `place`, once it answers.

    Clients may call as often as they like unless the settings say otherwise: callers here never pause.
    """
    place.mkdir(exist_ok=True)
    port = port or free_port()
    data, output = place / "data", place / "output.txt"
    environment = clean_environment(
        **{"OPENCLAW_DATA_DIR": str(data), "OPENCLAW_RATE_LIMITS": "false", **(settings or {})}
    )
    chosen = ["--port", str(port), "--workers", str(workers), *options]
    command = [sys.executable, str(ROOT / "gateway.py"), *chosen]
    running = Served(_begin(command, environment, output), port, data, output, command, environment)
    try:
        wait_for(running)
        yield running
    finally:
        if running.process.poll() is None:
            running.process.terminate()
        try:
            running.process.wait(timeout=STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            pass
        finally:
            running.kill_all()


def clean_environment(**settings: str) -> dict[str, str]:
    """The environment with these settings of ours and no others."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OPENCLAW_", "STRIPE_", "PROMETHEUS_"))}
    return {**clean, **settings}


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


def _begin(command: list[str], environment: Mapping[str, str], output: Path) -> subprocess.Popen[bytes]:
    with output.open("ab") as terminal:
        return subprocess.Popen(
            command,
            cwd=output.parent,
            env=environment,
            stdout=terminal,
            stderr=subprocess.STDOUT,
            # A group of its own, so that all of its processes can be ended at once.
            start_new_session=True,
        )


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
