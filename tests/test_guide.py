"""The guide and the README are true: every command and every block of code in them is run here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Optional

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Header, HTTPException
from pydantic import BaseModel

import client_auth
from openclaw_billing.settings import load_settings
from tests.served import ROOT, Served, served

GUIDE = (ROOT / "CLIENT_AUTH_INTEGRATION.md").read_text()
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None or shutil.which("bash") is None,
    reason="needs curl and bash: apt install curl",
)


def blocks(text: str) -> list[tuple[str, str]]:
    """Every fenced block with its language, in order."""
    return [(found[1], found[2]) for found in BLOCK.finditer(text)]


def block_after(heading: str, language: str, text: str = GUIDE) -> str:
    rest = text[text.index(heading) :]
    return next(body for kind, body in blocks(rest) if kind == language)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("guide"), settings={"OPENCLAW_RATE_LIMITS": "true"}) as running:
        yield running


def shell(command: str, gateway: Served, **variables: str) -> str:
    command = command.replace("localhost:18789", f"127.0.0.1:{gateway.port}")
    command = command.replace("python -m", f"{sys.executable} -m").replace(
        "python3 -c", f"{sys.executable} -c"
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OPENCLAW_")},
        **variables,
        "OPENCLAW_DATA_DIR": str(gateway.data),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        env=environment,
        cwd=gateway.data.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_documented(answer: Any, documented: Any, at: str = "") -> None:
    """Every documented field is there, and of the documented kind."""
    if isinstance(documented, dict):
        for name, value in documented.items():
            assert name in answer, f"{at}.{name}"
            assert_documented(answer[name], value, f"{at}.{name}")
    elif isinstance(documented, list):
        assert isinstance(answer, list), at
    elif documented is not None:
        assert type(answer) is type(documented), f"{at}: {answer!r} and {documented!r}"


@needs_curl
def test_the_guides_curl_lines_answer_as_documented(gateway: Served) -> None:
    known = {"TOKEN": gateway.token, "KEY": "", "CLIENT_ID": ""}
    found = blocks(GUIDE)
    ran = 0
    for (language, body), (after, documented) in zip(found, [*found[1:], ("", "")], strict=True):
        if language != "bash" or not body.startswith("curl"):
            continue
        for command in re.split(r"\n(?=curl)", body.strip()):
            answer = shell(command, gateway, **known)
            ran += 1
        if after == "json" and command == body.strip():
            answered = json.loads(answer)
            assert_documented(answered, json.loads(documented))
            if "api_key" in answered:
                known |= {"KEY": answered["api_key"], "CLIENT_ID": answered["client_id"]}
        elif command == body.strip():
            assert "urn:openclaw" not in answer
    assert ran >= 17


@needs_curl
def test_the_six_examples_show_the_documented_figures(gateway: Served) -> None:
    """The guide's own numbers: 200 credits, one job, 50 more."""
    create = block_after("### 1. Admin", "bash").replace("acmecorp.com", "figures.example.com")
    client = json.loads(shell(create, gateway, TOKEN=gateway.token))
    known = {"TOKEN": gateway.token, "KEY": client["api_key"], "CLIENT_ID": client["client_id"]}
    for heading in ("### 2. Client", "### 3. Client", "### 5. Admin", "### 6. Client"):
        answered = json.loads(shell(block_after(heading, "bash"), gateway, **known))
        documented = json.loads(block_after(heading, "json"))
        for name, value in documented.items():
            if isinstance(value, int | float | bool) and name != "total":
                assert answered[name] == value, (heading, name)
    assert answered["free"] == documented["free"]


@needs_curl
def test_the_readmes_ten_lines_run(gateway: Served) -> None:
    tour = block_after("## Ten lines", "bash", README).replace("acmecorp", "readme")
    assert '"credits_remaining":199' in shell(tour, gateway)


@needs_curl
def test_the_guides_commands_run_beside_the_gateway(gateway: Served, tmp_path: Path) -> None:
    seed = tmp_path / "openclaw_clients.json"
    old = {
        "client_id": "old-1",
        "name": "Old",
        "email": "old@example.com",
        "api_key": "oc_live_" + "ab" * 16,
        "plan": "pro",
        "credits_remaining": 7,
        "total_spent": 5.5,
        "created_at": datetime.now(UTC).replace(tzinfo=None).isoformat(),
    }
    seed.write_text(json.dumps({"old-1": old}))
    for language, body in blocks(GUIDE):
        if language == "bash" and "python -m openclaw_billing" in body:
            for command in body.strip().splitlines():
                shell(command.replace("/tmp/openclaw_clients.json", str(seed)), gateway)
    usage = httpx.get(f"{gateway.base}/api/billing/usage", headers={"X-Client-Key": "oc_live_" + "ab" * 16})
    assert (usage.json()["credits_remaining"], usage.json()["total_spent"]) == (7, 5.5)


def test_the_schema_in_the_guide_is_the_one_on_disk(gateway: Served) -> None:
    documented = json.loads(block_after("## Database schema", "json"))["client-uuid-123"]
    created = httpx.post(
        f"{gateway.base}/api/admin/clients",
        headers={"X-Auth-Token": gateway.token},
        json={"name": "Disk", "email": "disk@example.com", "plan": "pro"},
    ).json()
    gateway_file = gateway.data / "openclaw_clients.json"
    deadline = datetime.now(UTC).timestamp() + 10
    while created["client_id"] not in gateway_file.read_text():
        assert datetime.now(UTC).timestamp() < deadline, "no snapshot within ten seconds of quiet"
    on_disk = json.loads(gateway_file.read_text())[created["client_id"]]
    assert set(on_disk) == set(documented)
    assert_documented(on_disk, documented)
    assert created["api_key"] not in gateway_file.read_text()


class IntakeRequest(BaseModel):
    project_name: str = "x"


class IntakeResponse(BaseModel):
    job_id: str = "made"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[tuple[FastAPI, str]]:
    """Somebody else's application, and the key of a client on the free plan."""
    client_auth.runtime.reconfigure(load_settings(data_dir=tmp_path / "data", admin_token="f" * 64))
    app = FastAPI()
    yield app, "f" * 64
    client_auth.runtime.reconfigure()


async def use(app: FastAPI, token: str) -> list[int]:
    """Create a client and ask the host's intake six times."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
        body = {"name": "Acme", "email": "a@example.com", "plan": "free"}
        created = await http.post("/api/admin/clients", headers={"X-Auth-Token": token}, json=body)
        headers = {"X-Client-Key": created.json()["api_key"]}
        statuses = [(await http.post("/api/intake", headers=headers, json={})).status_code for _ in range(6)]
        wrong = await http.post("/api/intake", headers={"X-Client-Key": "junk"}, json={})
        return [*statuses, wrong.status_code]


@pytest.mark.anyio
@pytest.mark.parametrize("step_3", ["guide", "seed"])
async def test_the_steps_run_in_a_host_of_somebody_elses(host: tuple[FastAPI, str], step_3: str) -> None:
    app, token = host
    names: dict[str, Any] = {
        "app": app,
        "router": APIRouter(),
        "IntakeRequest": IntakeRequest,
        "IntakeResponse": IntakeResponse,
        "Optional": Optional,
        "Header": Header,
        "HTTPException": HTTPException,
        "start_job": lambda request: "made",
    }
    exec(block_after("## Step 1", "python"), names)
    exec(block_after("## Step 2", "python"), names)
    exec(block_after("## Step 3", "python") if step_3 == "guide" else SEED_STEP_3, names)
    app.include_router(names["router"])
    assert await use(app, token) == [200] * 5 + [403, 401]


SEED_STEP_3 = """
@router.post("/api/intake", response_model=IntakeResponse)
async def submit_intake(
    req: IntakeRequest,
    x_client_key: Optional[str] = Header(None, alias="X-Client-Key"),
) -> IntakeResponse:
    # Check client auth (optional for backward compatibility, required for new clients)
    if x_client_key:
        client = get_client_by_api_key(x_client_key)
        if not client:
            raise HTTPException(status_code=401, detail="Invalid API key")

        # Check job limit
        allowed, reason = can_submit_job(client)
        if not allowed:
            raise HTTPException(status_code=403, detail=reason)

    # Existing intake logic...
    job = { ... }

    # Deduct credit after job creation (only if client provided key)
    if x_client_key:
        deduct_job_credit(client["client_id"])

    return IntakeResponse()
"""
"""As the first guide printed it, but for the answer's arguments, which it leaves open."""


def test_every_setting_of_the_guide_exists() -> None:
    from openclaw_billing.settings import setting_names

    named = set(re.findall(r"\b(?:OPENCLAW|STRIPE)_[A-Z_]+\b", GUIDE))
    assert named <= set(setting_names().values()) | set(setting_names())
