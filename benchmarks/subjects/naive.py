"""Naive: one JSON file, read for every look-up and rewritten for every charge. The thing to beat.

It flushes nothing, and two workers overwrite each other's charges; the report shows how many were lost.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.subjects.subject import CREDITS_EACH, Site, Subject, key_texts

CLIENTS_FILE = "openclaw_clients.json"


class Naive(Subject):
    name = "naive"
    app = "benchmarks.subjects.naive_app:app"
    exact = False
    clients_max = 10_000

    def prepare(self, data_dir: Path, clients: int) -> list[str]:
        keys = key_texts(clients)
        records = {f"client-{number}": _record(number, key) for number, key in enumerate(keys)}
        (data_dir / CLIENTS_FILE).write_text(json.dumps(records))
        return keys

    def credits_left(self, site: Site, keys: list[str]) -> int:
        wanted = set(keys)
        clients = json.loads((site.data_dir / CLIENTS_FILE).read_text())
        return sum(each["credits_remaining"] for each in clients.values() if each["api_key"] in wanted)


def _record(number: int, key_text: str) -> dict[str, object]:
    moment = "2026-02-19T10:30:00+00:00"
    return {
        "client_id": f"client-{number}",
        "name": f"Client {number}",
        "email": f"client-{number}@example.com",
        "api_key": key_text,
        "plan": "pro",
        "credits_remaining": CREDITS_EACH,
        "total_spent": 0.0,
        "created_at": moment,
        "updated_at": moment,
        "active": True,
        "stripe_customer_id": None,
        "stripe_subscription_id": None,
        "billing_cycle_start": moment,
        "billing_cycle_end": "2026-03-21T10:30:00+00:00",
        "metadata": {"credit_adjustments": [], "cost_log": []},
    }
