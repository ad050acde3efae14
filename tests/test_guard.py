"""The guard: no spelling of a path, Host, method or root path reaches what is not public without the token."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterator, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from fastapi import FastAPI, Request, WebSocket
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route
from starlette.types import ASGIApp

import client_auth
import gateway
import intake_routes
from openclaw_billing.settings import load_settings
from openclaw_billing.web.guard import Guard
from openclaw_billing.web.paths import path_of, routes_of
from openclaw_billing.web.route import BillingRoute

TOKEN = "0123456789abcdef" * 4
SECRET = "the-hosts-secret"
PUBLIC = "anybody may read this"

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def door(tmp_path: Path) -> Iterator[None]:
    client_auth.runtime.reconfigure(load_settings(data_dir=tmp_path / "data", admin_token=TOKEN))
    yield
    client_auth.runtime.reconfigure()


@pytest.fixture
def host() -> FastAPI:
    """Somebody's application with secret routes beside public ones whose names begin alike."""

    def secret(request: Request) -> PlainTextResponse:
        return PlainTextResponse(SECRET)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    @app.get("/dashboard")
    async def public() -> str:
        return PUBLIC

    methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
    for path in ("/", "/secret", "/healthx", "/health/x", "/dashboard-evil", "/api/jobs/secret", "/a//b"):
        app.router.routes.append(Route(path, secret, methods=methods))
    app.mount("/files", Mount("/", routes=[Route("/{rest:path}", secret, methods=methods)]))

    @app.websocket("/ws")
    @app.websocket("/health")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(SECRET)
        await socket.close()

    app.include_router(client_auth.router, prefix="/v1")
    app.include_router(intake_routes.router)
    app.add_middleware(
        Guard, runtime=client_auth.runtime, app_of_routes=app, public={"/health", "/dashboard"}
    )
    return app


async def ask(
    app: ASGIApp,
    path: str,
    *,
    method: str = "GET",
    root_path: str = "",
    query: bytes = b"",
    headers: dict[str, str] | None = None,
    kind: str = "http",
) -> tuple[list[MutableMapping[str, Any]], int, bytes]:
    """What the application sends for a request as a server would hand it over; its status and body."""
    scope = {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": root_path,
        "query_string": query,
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in (headers or {}).items()],
        "client": ("192.0.2.1", 5000),
        "server": ("127.0.0.1", 80),
        "subprotocols": [],
        "state": {},
    }
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request", "body": b""}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    status = next((each["status"] for each in sent if each["type"] == "http.response.start"), 0)
    return sent, status, b"".join(each.get("body", b"") for each in sent)


SPELLINGS = [
    *("/", "/secret", "/healthx", "/health/x", "/dashboard-evil", "/api/jobs/secret", "/a//b", "/files/x"),
    *("/health/", "/health//", "//health", "/./health", "/health/.", "/health/..", "/health/../secret"),
    *("/health.", "/health%20", "/health%00", "/health%0a", "/health;x", "/Health", "/HEALTH", "/health%2f"),
    *("/health%2f..%2fsecret", "/dashboard/../secret", "/dashboard%2f..%2fsecret", "/dashboard-evil%2f"),
    *(
        "/secret/",
        "/secret%2f",
        "/%73ecret",
        "/%2573ecret",
        "//secret",
        "/secret%0a",
        "/./secret",
        "/secret.",
    ),
    *(
        "/health\\..\\secret",
        "/health%5c..%5csecret",
        "/secret?/health",
        "/secret%3f/health",
        "/secret#/health",
    ),
    *("/api/jobs/secret", "/api/jobs%2fsecret", "/api/jobs/%73ecret", "/files", "/files/", "/files/health"),
    *("/files/../health", "/health/../files/x", "health", "", "*", "http://x/health", "/é", "/healt%68x"),
    *("/v1", "/v1/", "/v1/secret", "/api/intake/", "/v1/api/admin", "/openapi.json", "/docs", "/redoc"),
]
ROOTS = ["", "/health", "/dashboard", "/secret", "/files", "/v1", "/"]
HOSTS = ["gateway", "", "gateway/health?", "gateway/health#", "a/../health", "user@gateway", "[::1]/health"]
METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "get", "PROPFIND"]


async def test_no_spelling_opens_what_is_not_public(host: FastAPI) -> None:
    asked = 0
    for path, root, method in itertools.product(SPELLINGS, ROOTS, METHODS):
        for given in (path, root + path) if root else (path,):
            _, status, body = await ask(host, given, method=method, root_path=root)
            asked += 1
            assert SECRET.encode() not in body, (given, root, method)
            if 200 <= status < 300:
                seen = path_of({"path": unquote(given), "root_path": root})
                assert seen in ("/health", "/dashboard"), (given, root, method)
                assert PUBLIC.encode() in body, (given, root, method)
    for path, name in itertools.product(SPELLINGS, HOSTS):
        spoofed = {"Host": name, "X-Forwarded-Host": "x/health?", "X-Original-URL": "/health"}
        _, status, body = await ask(host, path, headers={**spoofed, "X-Rewrite-URL": "/health"})
        asked += 1
        assert SECRET.encode() not in body, (path, name)
        assert status in (200, 307, 401, 404) if path_of({"path": path}) == "/health" else status == 401
    assert asked >= 5000


async def test_public_paths_are_whole_paths(host: FastAPI) -> None:
    for path, expected in (("/health", 200), ("/dashboard", 200), ("/healthx", 401), ("/health/x", 401)):
        assert (await ask(host, path))[1] == expected


async def test_the_token_opens_the_hosts_own_paths(host: FastAPI) -> None:
    for path in ("/secret", "/files/a/b", "/api/jobs/secret", "/dashboard-evil"):
        _, status, body = await ask(host, path, headers={"X-Auth-Token": TOKEN})
        assert (status, body) == (200, SECRET.encode())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Auth-Token": ""},
        {"X-Auth-Token": TOKEN[:-1]},
        {"X-Auth-Token": TOKEN.upper()},
        {"X-Auth-Token": f" {TOKEN}"},
        {"X-Auth-Token": "\xff" * 64},
        {"X-Auth-Token": "x" * 100_000},
        {"Authorization": f"Bearer {TOKEN}"},
        {"Cookie": f"X-Auth-Token={TOKEN}"},
        {"X-Client-Key": TOKEN},
    ],
)
async def test_a_token_that_is_none_opens_nothing(host: FastAPI, headers: dict[str, str]) -> None:
    _, status, body = await ask(host, "/secret", headers=headers)
    assert status == 401
    assert json.loads(body)["detail"] == "Unauthorized"
    assert len(body) < 1000


async def test_a_token_given_twice_or_in_the_address_opens_nothing(host: FastAPI) -> None:
    assert (await ask(host, "/secret", query=f"token={TOKEN}".encode()))[1] == 401

    async def twice(scope: Any, receive: Any, send: Any) -> None:
        scope["headers"] = [(b"x-auth-token", TOKEN.encode())] * 2
        await host(scope, receive, send)

    assert (await ask(twice, "/secret"))[1] == 401


@pytest.mark.parametrize("path", ["/ws", "/health", "/secret", "/api/intake", "/v1/api/billing/plans"])
async def test_a_websocket_is_closed_before_it_is_accepted(host: FastAPI, path: str) -> None:
    sent, _, _ = await ask(host, path, kind="websocket")
    assert [each["type"] for each in sent] == ["websocket.close"]
    assert sent[0]["code"] == 1008


async def test_a_websocket_with_the_token_is_the_hosts(host: FastAPI) -> None:
    sent, _, _ = await ask(host, "/ws", kind="websocket", headers={"X-Auth-Token": TOKEN})
    assert [each["type"] for each in sent][:2] == ["websocket.accept", "websocket.send"]


async def test_routes_that_guard_themselves_work_under_a_prefix(host: FastAPI) -> None:
    assert (await ask(host, "/v1/api/billing/plans"))[1] == 200
    for path in ("/v1/api/billing/usage", "/api/jobs", "/api/jobs/some-job", "/v1/api/admin/clients"):
        _, status, body = await ask(host, path)
        assert (status, json.loads(body)["code"]) in ((401, "invalid_key"), (401, "invalid_token"))
    # Behind a proxy that puts its own prefix before everything.
    assert (await ask(host, "/front/v1/api/billing/plans", root_path="/front"))[1] == 200
    assert (await ask(host, "/front/secret", root_path="/front"))[1] == 401


async def test_a_route_of_the_host_over_one_of_ours_takes_the_token() -> None:
    def secret(request: Request) -> PlainTextResponse:
        return PlainTextResponse(SECRET)

    for shadow in (
        Route("/api/billing/{rest:path}", secret),
        Mount("/api", routes=[Route("/{rest:path}", secret)]),
        Host("{any}", Mount("/", routes=[Route("/{rest:path}", secret)])),
    ):
        app = FastAPI()
        app.router.routes.append(shadow)
        app.include_router(client_auth.router)
        app.add_middleware(Guard, runtime=client_auth.runtime, app_of_routes=app)
        _, status, body = await ask(app, "/api/billing/plans", headers={"Host": "gateway"})
        assert (status, SECRET.encode() in body) == (401, False)


async def test_a_route_that_the_host_adds_while_serving_takes_the_token() -> None:
    app = FastAPI()
    app.include_router(client_auth.router)
    app.add_middleware(Guard, runtime=client_auth.runtime, app_of_routes=app)
    assert (await ask(app, "/api/billing/plans"))[1] == 200
    app.router.routes.insert(0, Route("/api/billing/plans", lambda request: PlainTextResponse(SECRET)))
    _, status, body = await ask(app, "/api/billing/plans")
    assert (status, SECRET.encode() in body) == (401, False)


async def test_a_disabled_admin_api_opens_nothing(host: FastAPI, tmp_path: Path) -> None:
    for token in ("admin-token-secret", "short"):
        client_auth.runtime.reconfigure(load_settings(data_dir=tmp_path / "data", admin_token=token))
        _, status, body = await ask(host, "/secret", headers={"X-Auth-Token": token})
        assert (status, json.loads(body)["code"]) == (503, "admin_disabled")
        assert (await ask(host, "/health"))[1] == 200


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = gateway.create_app(load_settings(data_dir=tmp_path / "data", admin_token=TOKEN, docs=True))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


# Stripe has no key of ours: its events are let in by their signature.
OPEN = {"/health", "/ready", "/metrics", "/api/billing/plans", "/api/billing/packs", "/api/billing/webhook"}
JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}


async def test_every_route_guards_itself_or_is_on_the_public_list(http: httpx.AsyncClient) -> None:
    app = gateway.create_app(load_settings(admin_token=TOKEN))
    reached = list(routes_of(app))
    assert len(reached) > 25
    for each in reached:
        if each.path in OPEN:
            continue
        assert isinstance(each.route, BillingRoute), each.path
        path = each.path.replace("{", "").replace("}", "")
        for method in each.methods - {"HEAD"}:
            answer = await http.request(method, path, json=JOB if path == "/api/intake" else {})
            assert answer.status_code == 401, (method, path, answer.status_code)
            assert answer.json()["code"] in ("invalid_key", "invalid_token")


async def test_every_operation_of_openapi_needs_credentials_and_says_which(http: httpx.AsyncClient) -> None:
    schema = (await http.get("/openapi.json")).json()
    schemes = schema["components"]["securitySchemes"]
    assert {name: (each["in"], each["name"]) for name, each in schemes.items()} == {
        "ClientKey": ("header", "X-Client-Key"),
        "AdminToken": ("header", "X-Auth-Token"),
    }
    walked = 0
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if path in OPEN:
                assert "security" not in operation
                continue
            walked += 1
            named = {name for each in operation["security"] for name in each}
            assert len(operation["security"]) == len(named), path
            wanted = {"AdminToken"} if path.startswith("/api/admin") else {"ClientKey"}
            assert named == ({"AdminToken", "ClientKey"} if path == "/api/intake" else wanted), path
            body = JOB if path == "/api/intake" else {}
            answer = await http.request(method, path.replace("{", "").replace("}", ""), json=body)
            assert answer.status_code == 401, (method, path)
    assert walked > 20


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE"])
async def test_odd_methods_learn_nothing(http: httpx.AsyncClient, method: str) -> None:
    for path in ("/api/admin/clients", "/api/intake", "/api/billing/usage"):
        answer = await http.request(method, path)
        assert answer.status_code in (401, 405)
        assert "access-control-allow-origin" not in answer.headers


async def test_docs_are_off_until_they_are_switched_on() -> None:
    app = gateway.create_app(load_settings(admin_token=TOKEN))
    for path in ("/docs", "/openapi.json", "/redoc"):
        assert (await ask(app, path))[1] == 401
        assert (await ask(app, path, headers={"X-Auth-Token": TOKEN}))[1] == 404


@pytest.mark.parametrize("headers", [{}, {"X-Auth-Token": TOKEN}])
@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/json; charset=utf-8", "multipart/form-data", "\xff"]
)
async def test_no_content_type_is_an_error_of_ours(
    http: httpx.AsyncClient, content_type: str | None, headers: dict[str, str]
) -> None:
    """The way past the application must not be taken by what only the application can answer."""
    given = dict(headers) if content_type is None else {**headers, "Content-Type": content_type}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
    answer = await http.post("/api/intake", headers=raw, content=json.dumps(JOB))
    accepted = bool(headers) and (content_type or "").startswith("application/json")
    assert (answer.status_code == 200) if accepted else (answer.status_code in (400, 401, 415, 422))


async def test_overridden_dependencies_of_a_host_are_used(tmp_path: Path) -> None:
    app = gateway.create_app(load_settings(data_dir=tmp_path / "data", admin_token=TOKEN))
    app.dependency_overrides[ask] = lambda: None
    _, status, body = await ask(
        app, "/api/intake", method="POST", headers={"Content-Type": "application/json"}
    )
    # Which of the two faults is told first is the version's of FastAPI to choose.
    assert status in (400, 401), body
