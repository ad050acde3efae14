"""A wire to PostgreSQL that can be cut at a commit, or stand still: the far end's faults, one by one."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit


class Proxy:
    """Passes everything on, until told otherwise."""

    def __init__(self, path: Path, far: str) -> None:
        self.cut_after_commit = threading.Event()
        """The server gets the next COMMIT; its answer gets lost."""
        self.cut_before_commit = threading.Event()
        """The next COMMIT gets lost, and with it what was sent in one piece with it."""
        self.still = threading.Event()
        """Nothing is passed on, nothing is closed."""
        self.cuts = 0
        self._far = far
        self._path = path
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(path))
        self._door.listen(64)
        threading.Thread(target=self._welcome, daemon=True).start()

    def close(self) -> None:
        # Accepting sleeps on; a shut door wakes it.
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        for pair in self._pairs:
            _close(*pair)

    def _welcome(self) -> None:
        while True:
            try:
                near, _ = self._door.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._far)
            except OSError:
                return
            self._pairs.append((near, far))
            threading.Thread(target=self._pass, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, False), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, outward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                while self.still.is_set():
                    threading.Event().wait(0.01)
                if outward and b"COMMIT" in data:
                    if self.cut_before_commit.is_set():
                        self.cut_before_commit.clear()
                        self.cuts += 1
                        break
                    if self.cut_after_commit.is_set():
                        self.cut_after_commit.clear()
                        self.cuts += 1
                        # Both ways end here before the answer can; the server carries out what it got.
                        source.shutdown(socket.SHUT_RDWR)
                        sink.sendall(data)
                        sink.shutdown(socket.SHUT_WR)
                        return
                sink.sendall(data)
        _close(source, sink)


@contextlib.contextmanager
def between(url: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy before that server, and the address that leads through it."""
    parts = urlsplit(url)
    values = dict(parse_qsl(parts.query))
    host, port = values["host"], values.get("port", "5432")
    with tempfile.TemporaryDirectory(prefix="wire") as home:
        proxy = Proxy(Path(home) / f".s.PGSQL.{port}", os.path.join(host, f".s.PGSQL.{port}"))
        values["host"] = home
        try:
            yield proxy, urlunsplit(parts._replace(query=urlencode(values)))
        finally:
            proxy.close()


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
