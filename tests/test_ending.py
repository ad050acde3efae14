"""The end of a process: answers given after the signal close their connection, and the signal goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

import client_auth
import gateway
from openclaw_billing.settings import load_settings
from openclaw_billing.web.ending import Ending
from openclaw_billing.web.guard import Guard

pytestmark = pytest.mark.anyio


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """What the handler that was there before was called with."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


async def test_answers_after_the_signal_close_their_connection(heard: list[int], tmp_path: Path) -> None:
    interrupted = signal.getsignal(signal.SIGINT)
    ending = Ending()
    app = FastAPI()
    app.include_router(client_auth.router)
    app.add_middleware(Guard, runtime=client_auth.runtime, app_of_routes=app, ending=ending)
    client_auth.runtime.reconfigure(load_settings(data_dir=tmp_path / "data"))
    try:
        ending.watch()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
            assert "connection" not in (await http.get("/api/billing/plans")).headers
            os.kill(os.getpid(), signal.SIGTERM)
            for path in ("/api/billing/plans", "/secret"):
                assert (await http.get(path)).headers["connection"] == "close"
    finally:
        client_auth.runtime.reconfigure()
        signal.signal(signal.SIGINT, interrupted)
    assert heard == [signal.SIGTERM]


async def test_a_gateway_notices_once_it_serves(heard: list[int], tmp_path: Path) -> None:
    interrupted = signal.getsignal(signal.SIGINT)
    client_auth.runtime.reconfigure(load_settings(data_dir=tmp_path / "data"))
    app = gateway.create_app()
    try:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http,
        ):
            assert "connection" not in (await http.get("/health")).headers
            os.kill(os.getpid(), signal.SIGTERM)
            assert (await http.get("/health")).headers["connection"] == "close"
    finally:
        client_auth.runtime.reconfigure()
        signal.signal(signal.SIGINT, interrupted)
    assert heard == [signal.SIGTERM]
