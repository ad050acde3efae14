"""A gateway whose store was moved away under it: whoever watches it hears so at once, asked for a change or not."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from openclaw_billing.stores import moving
from openclaw_billing.stores.postgres import PostgresStore
from tests.served import ROOT, Served, served
from tests.stores.test_postgres_gateway import doctor, refusing

PASSWORD = "Tr0ub4dor"


def moved_away(gateway: Served, url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "openclaw_billing", "move", "--switch"],
        env={**gateway.environment, "OPENCLAW_MOVE_TO": url, "PYTHONPATH": str(ROOT)},
        cwd=gateway.data.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_an_idle_gateway_tells_at_once_that_its_store_was_moved_and_where_to(
    postgres_url: str, tmp_path: Path
) -> None:
    with served(tmp_path / "gateway") as gateway:
        gateway.create_client("a@example.com")
        admin = {"X-Auth-Token": gateway.token}
        assert refusing(gateway) == "0.0"
        moved_away(gateway, f"{postgres_url}&password={PASSWORD}")
        answer = httpx.get(f"{gateway.base}/ready")
        assert (answer.status_code, answer.json()) == (503, {"status": "read-only"})
        told = httpx.get(f"{gateway.base}/ready", headers=admin)
        assert (told.status_code, told.json()["status"]) == (503, "read-only")
        assert told.json()["reason"].startswith("the store was moved to postgresql://")
        code, said = doctor(gateway)
        assert (code, "the store was moved to postgresql://" in said) == (1, True), said
        deadline = time.monotonic() + 5
        while refusing(gateway) != "1.0":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # Reading goes on, and nothing was asked to change meanwhile.
        assert httpx.get(f"{gateway.base}/api/admin/clients", headers=admin).status_code == 200
        assert "A batch of" not in gateway.said
        assert PASSWORD not in told.text + said + gateway.said


def test_a_gateway_on_a_database_that_was_moved_to_a_directory_says_so_too(
    gateways: Callable[[], PostgresStore],
    postgres_url: str,
    tmp_path: Path,
    until: Callable[[Callable[[], object]], None],
) -> None:
    store = gateways()
    until(lambda: store.health().writable)
    moving.to_json(postgres_url, tmp_path / "back", tmp_path, None, lambda *_: lambda _: None, switch=True)
    until(lambda: not store.health().writable)
    assert store.health().reason == f"the store was moved to {tmp_path / 'back'}"
    assert list(store.view.clients) == []
