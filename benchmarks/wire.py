"""HTTP/1.1 as the load tool speaks it: kept-alive connections, one request in flight on each.

Just enough of the protocol, so that its own cost is small beside the server's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import perf_counter_ns
from typing import Any, Protocol, TypeVar

R = TypeVar("R")

CONNECT_SPACING_SECONDS = 0.005
CONNECT_SECONDS_MAX = 10.0
READ_CONNECTIONS = 16
READ_SECONDS_MAX = 300.0
BODY_START = b"\r\n\r\n"
LENGTH_NAME = b"content-length:"


class Feed(Protocol):
    """Where connections get their requests from and bring their answers to."""

    def next_request(self) -> bytes | None: ...

    def answered(self, answer: bytes, sent_ns: int) -> None: ...

    def dropped(self, in_flight: bool) -> None: ...


class Connection(asyncio.Protocol):
    """Sends the feed's next request as soon as the last one is answered, until there is none."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._received = b""
        self._sent_ns = 0
        self.in_flight = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]

    def start(self) -> None:
        request = self._feed.next_request()
        self.in_flight = request is not None
        if request is not None and self.transport is not None:
            self._sent_ns = perf_counter_ns()
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._received:
            data = self._received + data
        if not is_whole(data):
            self._received = data
            return
        self._received = b""
        self._feed.answered(data, self._sent_ns)
        self.start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._feed.dropped(self.in_flight)
        self.in_flight = False
        self.transport = None


def is_whole(answer: bytes) -> bool:
    """Whether all of an answer has arrived, by its Content-Length."""
    head_end = answer.find(BODY_START)
    if head_end < 0:
        return False
    at = answer.find(LENGTH_NAME, 0, head_end)
    if at < 0:
        at = answer[:head_end].lower().find(LENGTH_NAME)
    assert at >= 0, "the load tool reads only answers that carry a Content-Length"
    end = answer.find(b"\r\n", at)
    return len(answer) >= head_end + 4 + int(answer[at + len(LENGTH_NAME) : end])


async def connect(feed: Feed, host: str, port: int, connections: int) -> list[Connection]:
    """Open connections one at a time: opened all at once, one worker of several would accept most."""
    loop = asyncio.get_running_loop()
    opened = []
    for _ in range(connections):
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            _, connection = await loop.create_connection(lambda: Connection(feed), host, port)
        opened.append(connection)
        await asyncio.sleep(CONNECT_SPACING_SECONDS)
    return opened


def run(main: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Run on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def read_each(host: str, port: int, path: str, keys: list[str]) -> list[bytes]:
    """The body of `GET path` for each key.

    Raises:
        RuntimeError: an answer was not 200, or a connection was lost.
    """

    async def read() -> list[bytes]:
        reader = _Reader(f"{host}:{port}", path, keys)
        connections = await connect(reader, host, port, min(READ_CONNECTIONS, len(keys)))
        for connection in connections:
            connection.start()
        async with asyncio.timeout(READ_SECONDS_MAX):
            await reader.done
        return reader.bodies

    return run(read)


class _Reader:
    def __init__(self, host: str, path: str, keys: list[str]) -> None:
        self._head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Client-Key: ".encode()
        self._keys = iter(keys)
        self._expected = len(keys)
        self.bodies: list[bytes] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def next_request(self) -> bytes | None:
        key = next(self._keys, None)
        return None if key is None else self._head + key.encode() + BODY_START

    def answered(self, answer: bytes, sent_ns: int) -> None:
        head, _, body = answer.partition(BODY_START)
        if head[9:12] != b"200":
            self._fail(f"expected 200: {answer[:300]!r}")
        self.bodies.append(body)
        if len(self.bodies) == self._expected and not self.done.done():
            self.done.set_result(None)

    def dropped(self, in_flight: bool) -> None:
        self._fail("a connection was lost while reading")

    def _fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(reason))
