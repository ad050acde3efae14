"""The gateway: an application with intake, billing and admin, guarded on every path.

python gateway.py --help
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import inspect
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, multiprocess
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import client_auth
import intake_routes
from openclaw_billing import inbox, logs, replies, turning
from openclaw_billing.errors import StartupError, StorageUnavailable
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import Settings, load_settings, problems
from openclaw_billing.web.ending import Ending
from openclaw_billing.web.guard import Guard
from openclaw_billing.web.ready import readiness
from openclaw_billing.web.route import turned_away
from openclaw_billing.web.serving import show_new_token
from openclaw_billing.web.watch import look

# Paths of the host that anybody may reach; everything else guards itself or takes the admin token.
PUBLIC_PATHS = frozenset({"/health", "/ready", "/metrics"})
HOUSE_SECONDS = 600.0
GC_THRESHOLDS = (10_000, 10, 50)
SWITCH_SECONDS = 0.0001
"""How long the thread that has made a batch durable may wait for the interpreter to tell of it."""
WORKER_SECONDS_MAX = 10
"""How long a worker may owe a sign of life. One killed while it was asked keeps the others unwatched for so long."""
STOP_SECONDS_MAX = 30
"""How long requests that run may go on once the process is told to end; deploy/ waits longer."""
READING = ["GET", "HEAD"]
DOCS_PATHS = frozenset({"/docs", "/openapi.json", "/docs/oauth2-redirect"})


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application. Settings are read from the environment unless given."""
    settings = settings or load_settings()
    app, guard = _create(settings)
    app.add_middleware(guard)
    return app


def create_served_app() -> ASGIApp:
    """The application of one process that `main` began: a worker of several has no log of its own yet."""
    # Requests leave few cycles behind: walking every job made since the start, again and again, finds none.
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_SECONDS)
    settings = load_settings()
    if not client_auth.runtime.log.handlers:
        logs.configure(settings, gateway=True)
    if "opentelemetry.sdk" in sys.modules:
        # FastAPI tells of the requests that it sees: all of them must pass through it.
        return create_app(settings)
    app, guard = _create(settings)
    return guard(app)


def _create(settings: Settings) -> tuple[FastAPI, partial[Guard]]:
    """The application without its guard, and the guard, which takes whatever application it stands before."""
    ending = Ending()
    app = FastAPI(
        title="OpenClaw gateway",
        version="1.0.0",
        docs_url="/docs" if settings.docs else None,
        openapi_url="/openapi.json" if settings.docs else None,
        redoc_url=None,
        lifespan=partial(_keeping_house, ending=ending),
    )
    app.include_router(intake_routes.router)
    app.include_router(client_auth.router)
    _add_own_routes(app)
    public = PUBLIC_PATHS | (DOCS_PATHS if settings.docs else frozenset())
    guard = partial(Guard, runtime=client_auth.runtime, app_of_routes=app, public=public, ending=ending)
    return app, guard


@contextlib.asynccontextmanager
async def _keeping_house(_: FastAPI, ending: Ending) -> AsyncIterator[None]:
    ending.watch()
    task = asyncio.create_task(_keep_house())
    try:
        yield
    finally:
        task.cancel()


async def _keep_house() -> None:
    """Cycles turn within minutes. Answers under an Idempotency-Key are kept for a day, settled Stripe events for forty."""
    while True:
        # Not at the same moment as every other gateway that was begun with this one.
        await asyncio.sleep(HOUSE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        with contextlib.suppress(StorageUnavailable):
            await keep_house(client_auth.runtime)


async def keep_house(runtime: Runtime) -> None:
    """Look for what is due by reading, some at a time, and then do it."""
    for due, do in ((turning.due, turning.turn), (replies.old, replies.forget), (inbox.old, inbox.forget)):
        while ids := await runtime.read(partial(due, runtime.view, now=runtime.now())):
            if not await runtime.write(do, ids):
                break


def _add_own_routes(app: FastAPI) -> None:
    @app.api_route("/health", methods=READING, include_in_schema=False)
    async def health() -> dict[str, str]:
        """The process answers; nothing else is asked."""
        return {"status": "ok"}

    @app.api_route("/ready", methods=READING, include_in_schema=False)
    async def ready(request: Request) -> JSONResponse:
        """Whether changes can be made now; why not, what is to be watched and how billing goes are for admins."""
        state = await readiness(client_auth.runtime, request)
        return JSONResponse(state.body, status_code=200 if state.ready else 503)

    @app.api_route("/metrics", methods=READING, include_in_schema=False)
    async def metrics() -> Response:
        """Prometheus text; the sum over all workers when PROMETHEUS_MULTIPROC_DIR is set."""
        # What is told of the store and the limits is how they are now.
        await look(client_auth.runtime)
        return Response(_metrics(), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(HTTPException)
    async def problem(request: Request, error: HTTPException) -> Response:
        """A path that is not there, or not by that method, in the shape of every other refusal."""
        return turned_away(error, request.scope)


def _metrics() -> bytes:
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        _forget_dead_workers(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest()


def _forget_dead_workers(directory: Path) -> None:
    """What a worker that died said of itself last would be told for ever."""
    for path in directory.glob("gauge_live*.db"):
        pid = path.stem.rpartition("_")[2]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(int(pid), str(directory))  # type: ignore[no-untyped-call]
        except PermissionError:
            continue  # It lives, and is somebody else's.


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        logs.configure(settings, gateway=True)
        for problem in problems(settings):
            client_auth.runtime.log.warning("%s", problem)
        # A Stripe key without the package to use it through, or a store that cannot be opened, is better told
        # here, in one sentence, than by every worker.
        _ = client_auth.runtime.stripe
        client_auth.runtime.open()
        show_new_token(client_auth.runtime)
        client_auth.runtime.close()
    except StartupError as error:
        print(f"The gateway did not start. {error}", file=sys.stderr)
        return error.exit_code
    host, port = options.host or settings.host, options.port or settings.port
    workers = options.workers or settings.workers
    # The server raises again the signal that it ended for: by then all is done, and the end was a good one.
    signal.signal(signal.SIGTERM, _end)
    # A worker that begins on a busy machine is slow, and not dead: in five seconds it would be replaced for ever.
    patience: dict[str, Any] = {"timeout_worker_healthcheck": WORKER_SECONDS_MAX} if _knows_patience() else {}
    uvicorn.run(
        "gateway:create_served_app",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_config=None,
        access_log=options.access_log,
        server_header=False,
        # Whom to believe about where a request came from is OPENCLAW_TRUSTED_PROXIES, for all that asks.
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_SECONDS_MAX,
        **patience,
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gateway.py",
        description="Serve the gateway. Settings come from the environment and .env (see .env.example).",
    )
    parser.add_argument("--host", help="address to listen on (default OPENCLAW_HOST, 127.0.0.1)")
    parser.add_argument(
        "--port", type=_from_1_to(65535), help="port to listen on (default OPENCLAW_PORT, 18789)"
    )
    parser.add_argument(
        "--workers", type=_from_1_to(256), help="processes sharing the port (default OPENCLAW_WORKERS, 1)"
    )
    parser.add_argument(
        "--access-log",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a line for each request (on unless a proxy writes one already)",
    )
    return parser


def _from_1_to(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isdecimal() and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {most}")
        return int(text)

    return number


def _knows_patience() -> bool:
    """Whether this version of the server can be told how long a worker may take to answer it."""
    return "timeout_worker_healthcheck" in inspect.signature(uvicorn.run).parameters


def _end(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
