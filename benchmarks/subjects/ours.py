"""Ours: the gateway with its JSON store. All that the benchmarks know of the product stands in this file."""

from __future__ import annotations

import json
import secrets
import sys
from datetime import datetime
from pathlib import Path

from benchmarks.subjects.subject import CREDITS_EACH, Site, Subject
from benchmarks.wire import read_each
from openclaw_billing import accounts, grants
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import Transaction
from openclaw_billing.records import Key, LotSource
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import load_settings

PROJECT_DIR = Path(__file__).resolve().parent.parent.parent
GATEWAY = "gateway.py"
CLIENTS_PER_OPERATION = 500
ACTOR = Actor("benchmark")
USAGE_PATH = "/api/billing/usage"


class Ours(Subject):
    name = "ours"

    def __init__(self) -> None:
        self._admin_token = secrets.token_hex(32)

    def unavailable(self) -> str:
        if not (PROJECT_DIR / GATEWAY).exists():
            return f"there is no {GATEWAY} yet"
        return ""

    def prepare(self, data_dir: Path, clients: int) -> list[str]:
        return make_clients(data_dir, clients)

    def command(self, site: Site) -> list[str]:
        served = [
            "--host",
            "127.0.0.1",
            "--port",
            str(site.port),
            "--workers",
            str(site.workers),
            "--no-access-log",
        ]
        return [sys.executable, GATEWAY, *served]

    def environment(self, site: Site) -> dict[str, str]:
        return {
            "OPENCLAW_DATA_DIR": str(site.data_dir),
            "OPENCLAW_ADMIN_TOKEN": self._admin_token,
            # A few clients that never pause would be refused, and what is measured is the work.
            "OPENCLAW_RATE_LIMITS": "false",
        }

    def credits_left(self, site: Site, keys: list[str]) -> int:
        bodies = read_each("127.0.0.1", site.port, USAGE_PATH, keys)
        return sum(int(json.loads(body)["credits_remaining"]) for body in bodies)


def make_clients(data_dir: Path, clients: int, given: Runtime | None = None) -> list[str]:
    """The key texts of new clients, each of whom `USAGE_PATH` shows with CREDITS_EACH credits remaining.

    They are made in a JSON store of the directory, unless a runtime is given, which is left open.
    """
    runtime = given or Runtime(load_settings(data_dir=data_dir, admin_token=secrets.token_hex(32)))
    keys: list[str] = []
    for first in range(0, clients, CLIENTS_PER_OPERATION):
        some = range(first, min(first + CLIENTS_PER_OPERATION, clients))
        made = [(f"client-{number}", *runtime.new_key(f"client-{number}")) for number in some]
        runtime.write_and_wait(_create, made)
        keys += [key_text for _, key_text, _ in made]
    if given is None:
        runtime.close()
    return keys


def _create(tx: Transaction, made: list[tuple[str, str, Key]], *, now: datetime) -> None:
    for client_id, _, key in made:
        accounts.create_client(
            tx,
            client_id=client_id,
            name=client_id,
            email=f"{client_id}@example.com",
            plan_id="pro",
            key=key,
            actor=ACTOR,
            now=now,
        )
        more = CREDITS_EACH - 200
        grants.grant(
            tx, client_id, more, source=LotSource.PROMO, reason="", operation_id=f"bench:{client_id}", now=now
        )
