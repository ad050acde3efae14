"""What strangers get out of it: errors, memory, time, a way past the guard."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import logging
import os
import re
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import client_auth
import gateway
import intake_routes
from openclaw_billing import keyring
from openclaw_billing.keys import Peppers, is_key_shape, key_of, new_key_text
from openclaw_billing.settings import load_settings
from openclaw_billing.stores.memory import MemoryStore
from openclaw_billing.web.guard import Guard
from reliability import hostile
from reliability.figure import ROOT, Seen, Skipped
from reliability.shared import resident_kib
from tests.served import served
from tests.stores.charging import MOMENT, account, client
from tests.test_guard import HOSTS, METHODS, ROOTS, SECRET, SPELLINGS, ask

TOKEN = "0123456789abcdef" * 4
SECRET_OF_STRIPE = "whsec_0123456789abcdef"


@contextmanager
def app_in_memory() -> Iterator[FastAPI]:
    with tempfile.TemporaryDirectory() as name:
        settings = load_settings(
            data_dir=Path(name) / "data",
            admin_token=TOKEN,
            docs=True,
            rate_limits=False,
            stripe_webhook_secret=SECRET_OF_STRIPE,
        )
        client_auth.runtime.reconfigure(settings)
        disabled = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield gateway.create_app(settings)
        finally:
            logging.disable(disabled)
            client_auth.runtime.reconfigure()


class Asker:
    """Asks an app in this process, one request after the other."""

    def __init__(self, app: FastAPI) -> None:
        self._runner = asyncio.Runner()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://testserver")

    def request(self, method: str, url: str, **what: Any) -> httpx.Response:
        return self._runner.run(self._http.request(method, url, **what))

    def new_key(self) -> str:
        """The key text of a new client."""
        new = {"name": "A", "email": "a@example.com", "plan": "pro"}
        made = self.request("POST", "/api/admin/clients", headers={"X-Auth-Token": TOKEN}, json=new)
        key: str = made.raise_for_status().json()["api_key"]
        return key


def generated_requests(wanted: int = 20_000) -> Seen:
    """What schemathesis makes of our OpenAPI, right and wrong, from a client and from an admin; on every core."""
    if importlib.util.find_spec("schemathesis") is None:
        raise Skipped("schemathesis is not installed (requirements-dev.txt)")
    shares = os.cpu_count() or 1
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "reliability.generated", str(-(-wanted // shares)), str(share)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for share in range(shares)
    ]
    classes: Counter[str] = Counter()
    wrong: list[str] = []
    operations = 0
    for process in running:
        said, _ = process.communicate()
        if process.returncode:
            raise AssertionError(f"the generating process ended with {process.returncode}")
        told = json.loads(said.splitlines()[-1])
        classes.update(told["classes"])
        wrong += told["wrong"]
        operations = told["operations"]
    shown = ", ".join(f"{name} {count}" for name, count in sorted(classes.items()))
    return Seen(
        f"{classes.total()} generated requests over {operations} operations: {shown}; "
        f"{len(wrong)} wrong {wrong[:2] or ''}".strip(),
        not wrong and classes.total() >= wanted,
    )


def hostile_bodies() -> Seen:
    """Every body of `hostile.BODIES` at each route that takes one, plain and under one of `hostile.HEADERS`."""
    statuses: Counter[str] = Counter()
    wrong: list[str] = []
    with app_in_memory() as app:
        asker = Asker(app)
        who = {"X-Auth-Token": TOKEN, "X-Client-Key": asker.new_key()}
        others = itertools.cycle(hostile.HEADERS)
        for (method, path), body, plain in itertools.product(
            _routes_with_a_body(app), hostile.BODIES, (True, False)
        ):
            more = {} if plain else next(others)
            # Both at once are refused where one alone is asked for.
            one = "X-Auth-Token" if path.startswith("/api/admin") else "X-Client-Key"
            headers = {one: who[one], "Content-Type": "application/json", **more}
            answer = asker.request(method, path, content=body, headers=headers)
            statuses[f"{answer.status_code // 100}xx"] += 1
            if answer.status_code >= 500 or (answer.status_code >= 400 and len(answer.content) > 2048):
                wrong.append(f"{method} {path} {body[:40]!r} {more}: {answer.status_code}")
    shown = ", ".join(f"{name} {count}" for name, count in sorted(statuses.items()))
    return Seen(
        f"{statuses.total()} requests with {len(hostile.BODIES)} hostile bodies: {shown}; "
        f"{len(wrong)} wrong {wrong[:2] or ''}".strip(),
        not wrong and statuses.total() > len(hostile.BODIES),
    )


def _routes_with_a_body(app: FastAPI) -> list[tuple[str, str]]:
    found = [("POST", "/api/billing/webhook")]
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            if "requestBody" in operation:
                found.append((method.upper(), re.sub(r"\{\w+\}", "x", path)))
    return found


BODY_MAX, EVENT_MAX = 64 << 10, 1 << 20
"""What a body may have, and what one of Stripe's may."""


def huge_bodies(megabytes: int = 100) -> Seen:
    """A body of that size to a route of ours and to the public one, announced and in chunks; and just at the limits."""
    settings = {"STRIPE_WEBHOOK_SECRET": SECRET_OF_STRIPE}
    with tempfile.TemporaryDirectory() as name, served(Path(name), settings=settings) as running:
        key_text = running.create_client("big@example.com", "pro")["api_key"]
        edges = [
            _posted(running.base, path, key_text, length + more)
            for path, length in (("/api/intake", BODY_MAX), ("/api/billing/webhook", EVENT_MAX))
            for more in (0, 1)
        ]
        before = resident_kib(running.process.pid)
        statuses = [
            _upload(running.port, path, key_text, megabytes, chunked=chunked)
            for path, chunked in itertools.product(("/api/intake", "/api/billing/webhook"), (False, True))
        ]
        grown = (resident_kib(running.process.pid) - before) / 1024
    # What is read and not understood is 400 or 422; what is too long is not read.
    at_the_limits = edges[0] in (400, 422) and edges[2] == 400 and edges[1] == edges[3] == 413
    return Seen(
        f"{len(statuses)} × {megabytes} MB: answered {statuses}, memory + {grown:.1f} MB; 64 KiB and one byte more: "
        f"{edges[:2]}, a Stripe event of 1 MiB and one byte more: {edges[2:]}",
        grown <= 5 and set(statuses) == {413} and at_the_limits,
    )


def _posted(base: str, path: str, key_text: str, length: int) -> int:
    """The status of a body of so many bytes that is JSON, and nothing that is asked for."""
    body = b'{"x":"' + b"x" * (length - 8) + b'"}'
    headers = {"X-Client-Key": key_text, "Content-Type": "application/json"}
    return httpx.post(f"{base}{path}", headers=headers, content=body, timeout=30).status_code


def _upload(port: int, path: str, key_text: str, megabytes: int, *, chunked: bool) -> int:
    """The status of the answer; 0 when the connection was closed without one."""
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {megabytes << 20}"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Client-Key: {key_text}\r\n"
        f"Content-Type: application/json\r\n{length}\r\n\r\n"
    )
    piece = bytes(64 << 10)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as wire:
        wire.sendall(head.encode())
        try:
            for _ in range(megabytes * 16):
                # The answer may come long before the end, and the line be closed behind it.
                if select.select([wire], [], [], 0)[0]:
                    break
                wire.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" if chunked else piece)
        except OSError:
            pass
        try:
            answer = wire.recv(4096)
        except OSError:
            return 0
    return int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0


PEPPERS = Peppers([("p1", b"one pepper, long enough to be good")])


def bad_keys(small: int = 10, large: int = 100_000, rounds: int = 2_000) -> Seen:
    """What a wrong key costs beside a right one, and beside very many others; whether time tells which it was."""
    medians: dict[tuple[int, str], float] = {}
    for size in (small, large):
        store = MemoryStore()
        store.open()
        texts = [new_key_text() for _ in range(size)]

        def fill(tx, texts=texts) -> None:  # type: ignore[no-untyped-def]
            for number, text in enumerate(texts):
                tx.clients.put(client(f"c{number}"))
                tx.accounts.put(account(f"c{number}", 5))
                tx.keys.put(key_of(text, PEPPERS, key_id=f"k{number}", client_id=f"c{number}", now=MOMENT))

        store.run(fill, "fill")
        unknown = [new_key_text() for _ in range(50)]
        for what, tried in (("right", texts[:50]), ("unknown", unknown), ("malformed", ["oc_live_x"] * 50)):
            took = []
            for _ in range(rounds // 50):
                for text in tried:
                    begun = time.perf_counter_ns()
                    if is_key_shape(text):
                        keyring.authenticate(store.view, PEPPERS.digests(text), MOMENT)
                    took.append(time.perf_counter_ns() - begun)
            medians[size, what] = statistics.median(took) / 1000
        store.close()
    worst = max(medians[large, "unknown"], medians[large, "malformed"])
    flat = medians[large, "unknown"] / medians[small, "unknown"]
    return Seen(
        f"unknown key {medians[small, 'unknown']:.1f} µs at {small} clients, "
        f"{medians[large, 'unknown']:.1f} µs at {large} (× {flat:.2f}); a right one {medians[large, 'right']:.1f} µs",
        worst <= 50 and flat <= 1.5,
    )


def past_the_guard() -> Seen:
    """Every spelling of a path with every root path, method and Host, without a token."""
    asked, passed = 0, []

    def secret(request: Request) -> PlainTextResponse:
        return PlainTextResponse(SECRET)

    async def walk() -> None:
        nonlocal asked
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.get("/health")(lambda: "public")
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
        for path in ("/", "/secret", "/healthx", "/health/x", "/dashboard-evil", "/api/jobs/secret", "/a//b"):
            app.router.routes.append(Route(path, secret, methods=methods))
        app.mount("/files", Mount("/", routes=[Route("/{rest:path}", secret, methods=methods)]))
        app.include_router(client_auth.router, prefix="/v1")
        app.include_router(intake_routes.router)
        app.add_middleware(Guard, runtime=client_auth.runtime, app_of_routes=app, public={"/health"})
        for path, root, method, name in itertools.product(SPELLINGS, ROOTS, METHODS, (None, *HOSTS)):
            headers = {} if name is None else {"Host": name}
            _, status, body = await ask(app, path, method=method, root_path=root, headers=headers)
            asked += 1
            if SECRET.encode() in body:
                passed.append((path, root, method, name, status))

    with app_in_memory():
        asyncio.run(walk())
    return Seen(
        f"{asked} requests, {len(passed)} passed {passed[:2] or ''}".strip(), asked >= 5_000 and not passed
    )
