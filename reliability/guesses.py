"""Guesses at the admin token: how many are looked at, from one address and from very many; and no start is open."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

import client_auth
import gateway
from openclaw_billing.clock import ManualClock
from openclaw_billing.settings import load_settings
from reliability.figure import Seen

ADMIN_PATH = "/api/admin/clients"
WINDOW_SECONDS = 300
PER_ADDRESS, OVERALL = 10, 1_000
TOKEN = "0123456789abcdef" * 4
# What the guide published, what is short, and what anybody would try.
WEAK = ("change-me-in-production", "admin", "password", "x" * 31, "")


def throttled() -> Seen:
    """A guess a second from one address for fifteen minutes; ten a second from ever new ones for seven."""
    with _gateway(admin_token=TOKEN) as (app, clock):
        one = asyncio.run(_looked_at(app, clock, seconds=3 * WINDOW_SECONDS, addresses=1))
    with _gateway(admin_token=TOKEN) as (app, clock):
        many = asyncio.run(_looked_at(app, clock, seconds=420, addresses=10))
    most_one, most_many = _most_in_a_window(one), _most_in_a_window(many)
    open_ = [token for token in (None, *WEAK) if _starts_open(token)]
    return Seen(
        f"guesses at the admin token that were looked at in any 5 minutes: {most_one} from one address, "
        f"{most_many} from {len(many)} others; starts with no, a published or a short token that were open: "
        f"{len(open_)} of {1 + len(WEAK)}",
        most_one == PER_ADDRESS and most_many == OVERALL and not open_,
    )


@contextmanager
def _gateway(**settings: Any) -> Iterator[tuple[FastAPI, ManualClock]]:
    clock = ManualClock(datetime(2026, 2, 19, 10, 30, tzinfo=UTC))
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name:
        chosen = load_settings(data_dir=Path(name) / "data", **settings)
        client_auth.runtime.reconfigure(chosen, clock=clock)
        try:
            yield gateway.create_app(chosen), clock
        finally:
            client_auth.runtime.reconfigure()
            logging.disable(disabled)


async def _looked_at(app: FastAPI, clock: ManualClock, *, seconds: int, addresses: int) -> list[int]:
    """The second of each guess that was judged, and not turned away unseen."""
    looked: list[int] = []
    for second in range(seconds):
        for number in range(addresses):
            peer = "192.0.2.1"
            if addresses > 1:
                count = second * addresses + number
                peer = f"198.{18 + count // 65_536}.{count // 256 % 256}.{count % 256}"
            transport = httpx.ASGITransport(app, client=(peer, 1234))
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
                guess = {"X-Auth-Token": f"{second:032x}{number:032x}"}
                status = (await http.get(ADMIN_PATH, headers=guess)).status_code
            assert status in (401, 429), status
            if status == 401:
                looked.append(second)
        clock.advance(seconds=1)
    return looked


def _most_in_a_window(moments: list[int]) -> int:
    most, window = 0, deque[int]()
    for moment in moments:
        window.append(moment)
        while window[0] <= moment - WINDOW_SECONDS:
            window.popleft()
        most = max(most, len(window))
    return most


def _starts_open(token: str | None) -> bool:
    """Whether a gateway started with that token lets anybody in without one, or with it."""
    settings = {} if token is None else {"admin_token": token}
    with _gateway(**settings) as (app, _):
        return asyncio.run(_lets_in(app, token or ""))


async def _lets_in(app: FastAPI, token: str) -> bool:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
        tried = [await http.get(ADMIN_PATH), await http.get(ADMIN_PATH, headers={"X-Auth-Token": token})]
    return any(answer.is_success for answer in tried)
