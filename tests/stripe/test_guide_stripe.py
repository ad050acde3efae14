"""The guide's Stripe chapter is true: its commands, its curl lines and its example are run on the fake."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import client_auth
from openclaw_billing import errors
from openclaw_billing.testing import FakeStripe
from tests.served import ROOT, served
from tests.test_guide import block_after, blocks, needs_curl

GUIDE = (ROOT / "CLIENT_AUTH_INTEGRATION.md").read_text()
CHAPTER = GUIDE[GUIDE.index("## Stripe\n") : GUIDE.index("## Security notes")]
MEANINGS = CHAPTER[CHAPTER.index("### What each error means") : CHAPTER.index("### Testing your own")]
HOUSE = ROOT / "openclaw_billing"
BACK = "https://app.example.com"


@needs_curl
def test_the_ten_steps_lead_from_no_account_to_a_paid_plan(tmp_path: Path) -> None:
    console = [
        command for kind, body in blocks(CHAPTER) if kind == "console" for command in body.splitlines()
    ]
    sync, check, buy_plan, buy_pack, usage, inbox, reconcile = console
    with FakeStripe() as stripe:
        settings = {
            "STRIPE_SECRET_KEY": stripe.key_text,
            "STRIPE_API_BASE": stripe.url,
            "OPENCLAW_REDIRECT_ORIGINS": BACK,
            "OPENCLAW_CHECKOUT_SUCCESS_URL": f"{BACK}/done",
            "OPENCLAW_CHECKOUT_CANCEL_URL": f"{BACK}/plans",
        }

        def run(command: str, port: int = 0, **known: str) -> str:
            command = command.replace("localhost:18789", f"127.0.0.1:{port}")
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command.replace("python -m", f"{sys.executable} -m")],
                env={
                    **{k: v for k, v in os.environ.items() if not k.startswith(("OPENCLAW_", "STRIPE_"))},
                    **settings,
                    **known,
                    "OPENCLAW_DATA_DIR": str(tmp_path / "data"),
                    "PYTHONPATH": str(ROOT),
                },
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        run(sync)
        written = len([each for each in stripe.requests if each.method == "POST"])
        run(sync)
        assert len([each for each in stripe.requests if each.method == "POST"]) == written
        secret = (tmp_path / "data" / "stripe_webhook_secret").read_text().strip()
        settings["STRIPE_WEBHOOK_SECRET"] = secret
        run(check)
        with served(tmp_path, settings=settings) as running:
            key_text = running.create_client("acme@example.com")["api_key"]
            known = {"KEY": key_text, "TOKEN": running.token}
            stripe.deliver_to(f"{running.base}/api/billing/webhook", secret.split(",")[0])
            for command in (buy_plan, buy_pack):
                stripe.complete_checkout(json.loads(run(command, running.port, **known))["session_id"])
            stripe.deliver(at=int(time.time()))
            deadline = time.monotonic() + 20
            stands: dict[str, Any] = {}
            while stands.get("credits_remaining") != 150 and time.monotonic() < deadline:
                stands = json.loads(run(usage, running.port, **known))
            assert (stands["plan"], stands["credits_remaining"]) == ("starter", 150)
            assert json.loads(run(inbox, running.port, **known))["events"]
            run(reconcile)


def test_the_example_for_a_gateways_own_tests_runs(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(block_after("### Testing your own gateway", "python"), names)
    try:
        asyncio.run(names["a_client_subscribes_and_leaves"](str(tmp_path / "data")))
    finally:
        client_auth.runtime.reconfigure()


def _codes_in(table: str) -> set[str]:
    """The codes in the first cells of a table's rows, or in the second where the first is the status alone."""
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")]
    return {code for row in rows for code in re.findall(r"`(\w+)`", row[1] if "`" in row[1] else row[2])}


def _codes_made_in(path: Path) -> set[str]:
    """The codes of the refusals that a file makes."""
    made = set()
    for node in ast.walk(ast.parse(path.read_text())):
        name = node.func if isinstance(node, ast.Call) else node.exc if isinstance(node, ast.Raise) else None
        kind = getattr(errors, name.id, None) if isinstance(name, ast.Name) else None
        if isinstance(kind, type) and issubclass(kind, errors.BillingError):
            said = [each.value for each in getattr(node, "keywords", ()) if each.arg == "code"]
            made |= {each.value for each in said if isinstance(each, ast.Constant)} or {kind.code}
    return made


def test_every_code_that_the_chapter_explains_exists() -> None:
    sources = "\n".join(path.read_text() for path in HOUSE.rglob("*.py"))
    named = _codes_in(MEANINGS)
    assert len(named) > 30
    for code in named:
        assert f'"{code}"' in sources, code


def test_every_code_of_the_part_that_deals_with_stripe_is_explained() -> None:
    deals = re.compile(r"openclaw_billing\.(stripe_facts|stripe_records|stripe_events|payments)\b")
    paths = [HOUSE / "web" / "redirects.py"]
    paths += [path for path in HOUSE.rglob("*.py") if deals.search(path.read_text())]
    made = {code: path for path in paths for code in _codes_made_in(path)}
    assert {"card_declined", "stripe_rejected", "other_customer", "redirect_missing"} <= made.keys()
    everywhere = GUIDE[GUIDE.index("### Errors") : GUIDE.index("## Database schema")]
    explained = _codes_in(MEANINGS) | (_codes_in(everywhere) - {"unknown_plan", "unknown_cursor"})
    assert made.keys() - explained == set()
