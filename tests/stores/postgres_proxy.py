"""A wire to PostgreSQL that can be cut at a commit: the far end's faults, one by one and when they are wanted."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tempfile
import threading
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode

# A statement is sent as text, with a name once it is sent often, and then by that name alone.
_AS_TEXT = re.compile(rb"(?:P.{4}([^\0]*)\0|Q.{4})COMMIT\0", re.DOTALL)


class Cut(Enum):
    """Where the wire is cut at the next COMMIT."""

    BEFORE = "before"
    """Everything up to it arrives, and it does not."""
    AFTER = "after"
    """It arrives and is carried out; the answer gets lost."""


class Proxy:
    """Passes everything on, until told otherwise."""

    def __init__(self, path: Path, far: str) -> None:
        self.cut: Cut | None = None
        """What to do at the next COMMIT, once."""
        self.cuts = 0
        self.away_after_cut = False
        """Nobody is let through once the wire was cut."""
        self._away = False
        self._far = far
        self._names: set[bytes] = set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(path))
        self._door.listen(64)
        threading.Thread(target=self._welcome, daemon=True).start()

    def come_back(self) -> None:
        """Let everybody through again."""
        self._away = self.away_after_cut = False

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
                if self._away:
                    _close(near)
                    continue
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._far)
            except OSError:
                return
            self._pairs.append((near, far))
            threading.Thread(target=self._send, args=(near, far), daemon=True).start()
            threading.Thread(target=self._answer, args=(far, near), daemon=True).start()

    def _answer(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(1 << 16):
                near.sendall(data)
        _close(far, near)

    def _send(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 16):
                at = self._commit_in(data)
                if at is None or self.cut is None:
                    far.sendall(data)
                    continue
                cut, self.cut = self.cut, None
                self.cuts += 1
                if self.away_after_cut:
                    self._away = True
                    for pair in self._pairs:
                        if near not in pair:
                            _close(*pair)
                # Its own end first, before any answer can get there.
                near.shutdown(socket.SHUT_RDWR)
                far.sendall(data if cut is Cut.AFTER else data[:at])
                far.shutdown(socket.SHUT_WR)
                return
        _close(near, far)

    def _commit_in(self, data: bytes) -> int | None:
        """Where the message that says COMMIT begins."""
        for found in _AS_TEXT.finditer(data):
            if found[1]:
                self._names.add(found[1])
            return found.start()
        for name in self._names:
            if found := re.search(rb"B.{4}[^\0]*\0" + re.escape(name) + rb"\0", data, re.DOTALL):
                return found.start()
        return None


@contextlib.contextmanager
def between(url: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy before that server, and the address that leads through it."""
    address, _, query = url.partition("?")
    values = dict(parse_qsl(query))
    host, port = values["host"], values.get("port", "5432")
    with tempfile.TemporaryDirectory(prefix="wire") as home:
        proxy = Proxy(Path(home) / f".s.PGSQL.{port}", os.path.join(host, f".s.PGSQL.{port}"))
        values["host"] = home
        try:
            # What the driver reads takes no plus for a blank.
            yield proxy, f"{address}?{urlencode(values, quote_via=quote)}"
        finally:
            proxy.close()


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
