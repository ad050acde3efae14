"""The wire: a loopback HTTP server that can also hang, drip, reset and refuse."""

from __future__ import annotations

import os
import socket
import struct
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from openclaw_billing.testing.faults import HTML, Fault, Faults
from openclaw_billing.testing.front import Front, RecordedRequest, Reply

BODY_BYTES_MAX = 4 * 1024 * 1024
DRIP_SECONDS = 0.02
POLL_SECONDS = 0.01
HOST = "127.0.0.1"


class Wire:
    """Listens on a free port of its own from `start` to `close`."""

    def __init__(self, front: Front, faults: Faults) -> None:
        self.front = front
        self.faults = faults
        self.released = Event()
        self.connections: set[socket.socket] = set()
        self._listener: socket.socket | None = _bound(0)
        self.port: int = self._listener.getsockname()[1]
        self._server: _Server | None = None
        self._thread: Thread | None = None

    def start(self) -> None:
        """Begin to accept connections."""
        assert self._listener is not None
        assert self._server is None
        self._server = _Server(self, self._listener)
        self._listener = None
        loop = self._server.serve_forever
        self._thread = Thread(target=loop, args=(POLL_SECONDS,), name="fake-stripe", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections and cut the open ones; the port stays ours."""
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server = None
        for connection in list(self.connections):
            _quietly_shut(connection)
        self._listener = _bound(self.port)

    def close(self) -> None:
        """Let go of everything that waits, and of the port."""
        self.released.set()
        if self._server is not None:
            self.stop()
        if self._listener is not None:
            self._listener.close()
            self._listener = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, wire: Wire, listener: socket.socket) -> None:
        super().__init__((HOST, wire.port), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.wire = wire
        self.server_name, self.server_port = HOST, wire.port
        self.server_activate()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.wire.connections.add(self.connection)

    def finish(self) -> None:
        self.server.wire.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the requests are recorded, and a test's output is not the place."""

    def _serve(self) -> None:
        wire = self.server.wire
        length = int(self.headers.get("Content-Length") or 0)
        if length > BODY_BYTES_MAX:
            self._send(Reply(413, b"{}"))
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = wire.front.record(self.command, self.path, headers, self.rfile.read(length))
        fault = wire.faults.take(request.method, request.path)
        if fault is None:
            self._send(wire.front.answer(request))
        else:
            request.fault = fault.kind
            self._go_wrong(wire, request, fault)

    def _go_wrong(self, wire: Wire, request: RecordedRequest, fault: Fault) -> None:
        if fault.kind == "hang":
            wire.released.wait(30.0 if fault.seconds is None else fault.seconds)
            self.close_connection = True
        elif fault.kind == "reset":
            self._reset()
        elif fault.kind == "reply_lost":
            wire.front.answer(request)
            self._reset()
        elif fault.kind == "drip":
            self._drip(wire.front.answer(request), DRIP_SECONDS if fault.seconds is None else fault.seconds)
        elif fault.kind in ("html", "garbled"):
            # A page of a proxy's own stands in the way; a garbled answer even calls itself a success.
            request.status = 503 if fault.kind == "html" else 200
            self._send(Reply(request.status, HTML, {"Content-Type": "text/html"}))
        else:
            self._send(wire.front.fail(request, fault))

    def _send(self, reply: Reply) -> None:
        try:
            self.wfile.write(_head(reply) + reply.body)
        except OSError:
            self.close_connection = True

    def _drip(self, reply: Reply, seconds: float) -> None:
        self.close_connection = True
        try:
            self.wfile.write(_head(reply))
            for position in range(len(reply.body)):
                self.wfile.write(reply.body[position : position + 1])
                if self.server.wire.released.wait(seconds):
                    return
        except OSError:
            return

    def _reset(self) -> None:
        # Lingering for no time makes the kernel send RST instead of an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.wire.connections.discard(self.connection)
        os.close(self.connection.detach())
        self.close_connection = True


def _head(reply: Reply) -> bytes:
    headers = {"Content-Type": "application/json", "Content-Length": str(len(reply.body)), **reply.headers}
    lines = [f"HTTP/1.1 {reply.status} Fake", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    return listener


def _quietly_shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
