"""What strangers get out of it: errors, memory, time, a way past the guard."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

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
from reliability.figure import Seen, Skipped
from reliability.shared import resident_kib
from tests.served import served
from tests.stores.charging import MOMENT, account, client
from tests.test_guard import HOSTS, METHODS, ROOTS, SECRET, SPELLINGS, ask

TOKEN = "0123456789abcdef" * 4
ROUNDS_MAX = 6


@contextmanager
def app_in_memory() -> Iterator[FastAPI]:
    with tempfile.TemporaryDirectory() as name:
        settings = load_settings(
            data_dir=Path(name) / "data", admin_token=TOKEN, docs=True, rate_limits=False
        )
        client_auth.runtime.reconfigure(settings)
        disabled = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield gateway.create_app(settings)
        finally:
            logging.disable(disabled)
            client_auth.runtime.reconfigure()


def generated_requests(wanted: int = 20_000) -> Seen:
    """What schemathesis makes of our OpenAPI, right and wrong, from a client and from an admin."""
    try:
        import schemathesis
        from hypothesis import HealthCheck, Phase, Verbosity, given, settings
        from hypothesis.errors import Unsatisfiable
        from schemathesis import GenerationMode
    except ImportError:
        raise Skipped("schemathesis is not installed (requirements-dev.txt)") from None
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    with app_in_memory() as app, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"X-Auth-Token": TOKEN})
        from starlette.testclient import TestClient

        http = TestClient(app, raise_server_exceptions=False)
        new = {"name": "A", "email": "a@example.com", "plan": "pro"}
        made = http.post("/api/admin/clients", headers={"X-Auth-Token": TOKEN}, json=new).json()
        operations = [found.ok() for found in schema.get_all_operations()]
        ways = list(itertools.product(operations, GenerationMode))
        for _ in range(ROUNDS_MAX):
            # Some operations have no more than a few requests in them: the others make up for it.
            left = wanted - statuses.total()
            if left <= 0:
                break
            for operation, mode in ways:
                admin = operation.path.startswith("/api/admin")
                who = {"X-Auth-Token": TOKEN} if admin else {"X-Client-Key": made["api_key"]}
                send = partial(_call, http, who, statuses, wrong)
                call = given(case=operation.as_strategy(generation_mode=mode))(_sending(send))
                # Where nothing can be wrong, nothing wrong can be made up.
                with suppress(Unsatisfiable):
                    settings(
                        max_examples=left // len(ways) + 1,
                        database=None,
                        deadline=None,
                        phases=[Phase.generate],
                        verbosity=Verbosity.quiet,
                        suppress_health_check=list(HealthCheck),
                    )(call)()
    sent = statuses.total()
    shown = ", ".join(f"{status // 100}xx {count}" for status, count in sorted(_by_class(statuses).items()))
    return Seen(
        f"{sent} generated requests over {len(operations)} operations: {shown}; {len(wrong)} wrong {wrong[:2] or ''}",
        not wrong and sent >= wanted,
    )


def _sending(send: Callable[[Any], None]) -> Callable[[Any], None]:
    def sending(case: Any) -> None:
        send(case)

    return sending


def _call(http: Any, who: dict[str, str], statuses: Counter[int], wrong: list[str], case: Any) -> None:
    request = case.as_transport_kwargs(base_url="http://testserver")
    request["headers"] = {**(request.get("headers") or {}), **who}
    request.pop("cookies", None)
    try:
        answer = http.request(**request)
    except (UnicodeError, ValueError, TypeError):
        # What no HTTP client can send.
        return
    statuses[answer.status_code] += 1
    told = f"{request['method']} {request['url']}: {answer.status_code}, {len(answer.content)} bytes"
    if answer.status_code >= 500 and answer.status_code not in (502, 503):
        wrong.append(told)
    if answer.status_code >= 400 and len(answer.content) > 2048:
        wrong.append(told)


def _by_class(statuses: Counter[int]) -> Counter[int]:
    classes: Counter[int] = Counter()
    for status, count in statuses.items():
        if status > 0:
            classes[status // 100 * 100] += count
    return classes


def huge_bodies(megabytes: int = 100) -> Seen:
    """A body of that size to a route of ours and to the public one, announced and in chunks."""
    with tempfile.TemporaryDirectory() as name, served(Path(name)) as running:
        key_text = running.create_client("big@example.com", "pro")["api_key"]
        before = resident_kib(running.process.pid)
        statuses = [
            _upload(running.port, path, key_text, megabytes, chunked=chunked)
            for path, chunked in itertools.product(("/api/intake", "/api/billing/webhook"), (False, True))
        ]
        grown = (resident_kib(running.process.pid) - before) / 1024
    return Seen(f"{len(statuses)} × {megabytes} MB: answered {statuses}, memory + {grown:.1f} MB", grown <= 5)


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
