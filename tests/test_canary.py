"""Canaries: secrets that are easy to find again are driven through everything, and found where they belong only.

A key's text is in the one answer that made it; the pepper and the admin token are in their own files.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from openclaw_billing import logs, seed_file
from openclaw_billing.settings import load_settings
from tests.served import ROOT, Served, clean_environment, served

PEPPER = "canary-pepper-" + "e1" * 16
STRIPE_KEY = "sk_test_" + "canaryStripe51" * 3
STRIPE_SIGNING = "whsec_" + "canarySigning" * 3
CHAIN = "canary-chain-" + "c4" * 16
STRANGERS_KEY = "oc_live_" + "d0e1f2a3" * 4
STRANGERS_TOKEN = "ca9a97" + "77" * 29
SEED_KEY = "oc_live_" + "5eed" * 8
JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = {
        "OPENCLAW_KEY_PEPPER": PEPPER,
        "OPENCLAW_CHAIN_KEY": CHAIN,
        "STRIPE_SECRET_KEY": STRIPE_KEY,
        "STRIPE_WEBHOOK_SECRET": STRIPE_SIGNING,
        "OPENCLAW_LOG_LEVEL": "DEBUG",
        "OPENCLAW_DOCS": "1",
    }
    with served(tmp_path_factory.mktemp("canary"), settings=settings) as running:
        yield running


class Walk:
    """Everything that was answered, and every key text that was shown once."""

    def __init__(self, gateway: Served) -> None:
        self.answers: list[str] = []
        self.shown: list[str] = []
        self.gateway = gateway
        self.http = httpx.Client(base_url=gateway.base, headers={"X-Auth-Token": gateway.token})

    def ask(self, method: str, path: str, *, shows: bool = False, **options: object) -> httpx.Response:
        answer = self.http.request(method, path, **options)  # type: ignore[arg-type]
        text = "\n".join([answer.text, *(f"{name}: {value}" for name, value in answer.headers.items())])
        if shows:
            key_text = answer.json()["api_key"]
            assert text.count(key_text) == 1
            assert answer.headers["Cache-Control"] == "no-store"
            self.shown.append(key_text)
            text = text.replace(key_text, "")
        self.answers.append(text)
        return answer


@pytest.fixture(scope="module")
def walked(gateway: Served) -> Iterator[Walk]:
    """A gateway after all its operations were asked for, well and badly."""
    walk = Walk(gateway)
    with walk.http:
        _well(walk)
        yield walk


def _well(walk: Walk) -> None:
    new = {"name": "Acme", "email": "a@example.com", "plan": "pro"}
    once = {"Idempotency-Key": "create"}
    made = walk.ask("POST", "/api/admin/clients", shows=True, json=new, headers=once).json()
    assert walk.ask("POST", "/api/admin/clients", json=new, headers=once).json()["api_key"] is None
    client, key_id = f"/api/admin/clients/{made['client_id']}", made["key_id"]
    walk.ask("POST", f"{client}/keys", shows=True, json={"name": "ci"})
    walk.ask("POST", f"{client}/keys/{key_id}/rotate", shows=True, json={})
    own = {"X-Client-Key": walk.shown[0]}
    self_made = walk.ask("POST", "/api/billing/keys", shows=True, json={}, headers=own).json()
    walk.ask("POST", f"/api/billing/keys/{self_made['key_id']}/rotate", shows=True, json={}, headers=own)
    walk.ask("DELETE", f"/api/billing/keys/{self_made['key_id']}", headers=own)
    job = walk.ask("POST", "/api/intake", json=JOB, headers={**own, **once}).json()["job_id"]
    walk.ask("POST", "/api/intake", json=JOB, headers={**own, **once})
    walk.ask("PATCH", f"/api/admin/jobs/{job}", json={"status": "failed", "cost": 1})
    walk.ask("PUT", f"{client}/credits", json={"credits": 5, "reason": "promo"})
    walk.ask("PUT", f"{client}/plan", json={"plan": "starter"})
    walk.ask("PATCH", client, json={"name": "Acme & Sons", "metadata": {"a": "b"}})
    for path in ("/api/billing/usage", "/api/billing/keys", "/api/billing/ledger", "/api/jobs"):
        walk.ask("GET", path, headers=own)
    for path in ("/api/admin/clients", f"{client}/ledger", "/api/admin/audit", "/api/admin/jobs"):
        walk.ask("GET", path)
        walk.ask("GET", path, params={"format": "csv"})
        walk.ask("GET", path, params={"limit": walk.shown[0], "cursor": walk.gateway.token})
    for path in (client, f"{client}/keys", "/metrics", "/ready", "/openapi.json", "/docs"):
        walk.ask("GET", path)
    _badly(walk, client)
    walk.ask("DELETE", client)
    walk.ask("GET", "/metrics")


def _badly(walk: Walk, client: str) -> None:
    """A secret in every place where one does not belong."""
    for secret in (STRANGERS_KEY, walk.shown[0], STRANGERS_TOKEN, walk.gateway.token):
        walk.ask("GET", "/api/billing/usage", headers={"X-Client-Key": secret + "x"})
        walk.ask("GET", "/api/admin/clients", headers={"X-Auth-Token": secret + "x"})
        walk.ask("GET", "/api/admin/clients", params={"token": secret})
        walk.ask("GET", "/api/billing/usage", params={"key": secret if secret[:3] == "oc_" else ""})
        walk.ask("POST", "/api/admin/clients", json={"name": 7, "email": secret, "plan": secret})
        walk.ask(
            "POST", "/api/admin/clients", json={"name": "A", "email": "b@example.com", "plan": secret[:40]}
        )
        walk.ask("POST", "/api/intake", json={**JOB, secret: secret, "priority": secret})
        walk.ask("POST", "/api/intake", content=f'{{"{secret}'.encode())
        walk.ask("PATCH", client, json={"name": "A"}, headers={"If-Match": secret})
        for marked in ({"X-Request-Id": secret}, {"Idempotency-Key": secret}):
            own = {"X-Client-Key": walk.shown[1], **marked}
            walk.ask("POST", "/api/billing/keys", shows=True, json={}, headers=own)
            walk.ask("PUT", f"{client}/credits", json={"credits": 1, "reason": "gift"}, headers=marked)
            walk.ask("POST", "/api/intake", json=JOB, headers=own)
    for path in (f"{client}/ledger", "/api/admin/audit"):
        walk.ask("GET", path, params={"limit": "1000"})
    walk.ask("GET", "/api/billing/ledger", headers={"X-Client-Key": walk.shown[1]})


def spellings(secret: str) -> list[str]:
    """As it is, and as it may hide: in part, in base64, percent-encoded, reversed."""
    inner = secret[14:-2]
    return [
        secret,
        inner,
        inner[::-1],
        base64.b64encode(secret.encode()).decode().rstrip("="),
        quote(secret, safe="").replace("_", "%5F"),
    ]


def own_secrets(walked: Walk) -> dict[str, str]:
    named = {f"key {number}": text for number, text in enumerate(walked.shown)}
    return {
        **named,
        "admin token": walked.gateway.token,
        "pepper": PEPPER,
        "chain key": CHAIN,
        "Stripe key": STRIPE_KEY,
        "Stripe signing secret": STRIPE_SIGNING,
    }


def found_in(text: str, secrets: dict[str, str]) -> list[str]:
    return [name for name, secret in secrets.items() if any(each in text for each in spellings(secret))]


def test_no_answer_but_the_creating_one_shows_a_secret(walked: Walk) -> None:
    assert len(walked.shown) == len(set(walked.shown)) == 13
    strangers = {"a stranger's key": STRANGERS_KEY, "a stranger's token": STRANGERS_TOKEN}
    for answer in walked.answers:
        # A field that is not known is told by its name, to whoever made it up.
        if "extra_forbidden" not in answer:
            assert found_in(answer, {**own_secrets(walked), **strangers}) == []


def test_no_line_of_the_log_shows_a_secret(walked: Walk) -> None:
    walked.gateway.stop()
    said = walked.gateway.said
    walked.gateway.start_again()
    assert said.count(walked.gateway.token) == 1
    first_line = next(line for line in said.splitlines() if walked.gateway.token in line)
    assert first_line.strip().startswith("Admin token")
    said = said.replace(walked.gateway.token, "", 1)
    secrets = {
        **own_secrets(walked),
        "a stranger's key": STRANGERS_KEY,
        "a stranger's token": STRANGERS_TOKEN,
    }
    assert found_in(said, secrets) == []


def test_no_file_but_their_own_holds_a_secret(walked: Walk, tmp_path: Path) -> None:
    run = [sys.executable, "-m", "openclaw_billing"]
    for arguments in (
        ["backup"],
        ["backup", str(tmp_path / "backup")],
        ["doctor"],
        ["export"],
        ["audit", "--json"],
    ):
        done = subprocess.run(
            [*run, *arguments],
            env={**walked.gateway.environment, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert found_in(done.stdout + done.stderr, own_secrets(walked)) == []
        assert done.returncode == 0 or arguments == ["doctor"]
    held: dict[str, list[str]] = {}
    for place in (walked.gateway.data, tmp_path):
        for path in place.rglob("*"):
            if path.is_file():
                found = found_in(path.read_bytes().decode("latin-1"), own_secrets(walked))
                if found:
                    held[path.name] = found
    assert held == {"admin_token": ["admin token"]}


def test_a_pepper_of_our_own_making_is_in_its_file_and_its_backup_only(tmp_path: Path) -> None:
    environment = clean_environment(OPENCLAW_DATA_DIR=str(tmp_path / "data"), PYTHONPATH=str(ROOT))
    create = ["clients", "create", "--name", "A", "--email", "a@example.com", "--json"]
    said = ""
    for arguments in (create, ["backup"], ["verify"]):
        command = [sys.executable, "-m", "openclaw_billing", *arguments]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        said += done.stdout + done.stderr
    secrets = {"pepper": (tmp_path / "data" / "pepper").read_text().strip()}
    held = {
        (path.name, name)
        for path in tmp_path.rglob("*")
        if path.is_file()
        for name in found_in(path.read_bytes().decode("latin-1"), secrets)
    }
    assert held == {("pepper", "pepper")}
    assert found_in(said, secrets) == []


def test_what_takes_over_a_seed_file_never_shows_its_keys() -> None:
    client = {
        "client_id": "old",
        "name": "Old",
        "email": "old@example.com",
        "api_key": SEED_KEY,
        "plan": "pro",
    }
    (read,) = seed_file.read(json.dumps({"old": client}).encode())
    assert read.key_text == SEED_KEY
    assert SEED_KEY not in repr(read)
    for wrong in (
        {"api_key": SEED_KEY + "0"},
        {"plan": 7},
        {"created_at": SEED_KEY},
        {"total_spent": SEED_KEY},
    ):
        with pytest.raises(Exception, match="old") as raised:
            seed_file.read(json.dumps({"old": {**client, **wrong}}).encode())
        assert SEED_KEY not in str(raised.value)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_secret_in_an_exception_is_masked_in_the_log(log_format: str) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLine() if log_format == "json" else logs.Line())
    logger = logging.Logger("openclaw_billing")
    logger.addHandler(handler)
    try:
        raise RuntimeError(f"no such key: {STRANGERS_KEY} with {STRIPE_KEY} and {STRIPE_SIGNING}")
    except RuntimeError:
        logger.exception("Request failed for %s", STRANGERS_KEY)
    secrets = {"key": STRANGERS_KEY, "stripe": STRIPE_KEY, "signing": STRIPE_SIGNING}
    assert found_in(stream.getvalue(), secrets) == []
    assert stream.getvalue().count("\n") == 1


def test_settings_never_show_what_is_secret_in_them(tmp_path: Path) -> None:
    settings = load_settings(
        data_dir=tmp_path,
        admin_token=STRANGERS_TOKEN,
        key_pepper=PEPPER,
        stripe_secret_key=STRIPE_KEY,
        stripe_webhook_secret=STRIPE_SIGNING,
    )
    secrets = {"token": STRANGERS_TOKEN, "pepper": PEPPER, "stripe": STRIPE_KEY, "signing": STRIPE_SIGNING}
    assert found_in(repr(settings) + str(settings) + settings.model_dump_json(), secrets) == []
