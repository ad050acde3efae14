"""What concerns security stands in the log: who was let in, who was not, from where, and no secret."""

from __future__ import annotations

import time
from pathlib import Path

import httpx

from tests.served import served

WRONG = "oc_live_" + "0" * 32


def test_who_was_let_in_and_who_was_not_stands_in_the_log(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        key_text = running.create_client("a@example.com")["api_key"]
        with httpx.Client(base_url=running.base) as http:
            for key in (key_text, WRONG):
                http.get("/api/billing/usage", headers={"X-Client-Key": key})
            for token in (running.token, "f" * 64):
                http.get("/api/admin/clients", headers={"X-Auth-Token": token})
        wanted = [
            f'"GET {path} HTTP/1.1" {status}'
            for path in ("/api/billing/usage", "/api/admin/clients")
            for status in (200, 401)
        ]
        deadline = time.monotonic() + 5
        while not all(each in running.said for each in wanted) and time.monotonic() < deadline:
            time.sleep(0.02)
        said = running.said
    lines = [line for line in said.splitlines() if any(each in line for each in wanted)]
    assert len(lines) == len(wanted)
    assert all("127.0.0.1" in line for line in lines)
    # The token is shown once, at the first start, and is no line of the log.
    assert not [secret for secret in (key_text, WRONG, "f" * 64) if secret in said]
