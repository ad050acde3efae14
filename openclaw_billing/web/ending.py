"""The end of a process: once it is told to end, every answer closes its connection.

A connection that is accepted while the server lets go of the others would be kept alive by a busy caller
until the server's patience is over.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from starlette.types import Message, Send

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ending:
    """Whether this process was told to end. `watch` is called where the server has set its own handlers."""

    def __init__(self) -> None:
        self.told = False

    def watch(self) -> None:
        """Notice the signals, and hand them on to whoever handles them; only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if callable(before := signal.getsignal(number)):
                    signal.signal(number, self._noticing(before))

    def closing(self, send: Send) -> Send:
        """A `send` whose answer closes the connection."""

        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        return send_last

    def _noticing(self, before: Callable[[int, FrameType | None], Any]) -> Callable[..., None]:
        def handler(number: int, frame: FrameType | None) -> None:
            self.told = True
            before(number, frame)

        return handler
