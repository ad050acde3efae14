"""Logs: one line a fact, no line that a value forged, no secret, and nothing lost."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

import client_auth
from openclaw_billing import logs
from openclaw_billing.clock import ManualClock
from openclaw_billing.settings import load_settings
from tests.served import ROOT, clean_environment

TOKEN = "0123456789abcdef" * 4
KEY_TEXT = "oc_live_" + "ab" * 16


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logger(stream: io.StringIO) -> Iterator[logging.Logger]:
    made = logging.Logger("openclaw_billing")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.Line())
    made.addHandler(handler)
    yield made
    handler.close()


def test_a_line_has_the_promised_form(logger: logging.Logger, stream: io.StringIO) -> None:
    logger.info("Deducted credit for %s: job submission", "8d1")
    form = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d - openclaw_billing - INFO - Deducted credit for 8d1: job submission\n"
    assert re.fullmatch(form, stream.getvalue())


@pytest.mark.parametrize(
    "forged",
    [
        "Acme\n2026-01-01 00:00:00 - openclaw_billing - INFO - Created client",
        "a\rb",
        "a\x85b",
        "a\u2028b\u2029c",
        "a\x0bb\x0cc\x1cd",
        "\x1b[2J\x1b[1;31m",
        "\u202egnol",
        "\ud800",
        "a\x00b",
    ],
)
@pytest.mark.parametrize("form", [logs.Line, logs.JsonLine])
def test_no_value_forges_a_line(
    logger: logging.Logger, stream: io.StringIO, forged: str, form: type[logging.Formatter]
) -> None:
    logger.handlers[0].setFormatter(form())
    logger.info("Created client %s (%s) on %s plan", "8d1", forged, "pro")
    written = stream.getvalue()
    assert len(written.splitlines()) == 1
    assert written.removesuffix("\n").isprintable()
    assert written.encode()


def test_what_is_no_control_stays_as_it_is(logger: logging.Logger, stream: io.StringIO) -> None:
    logger.info("Created client %s", "Ünïcødé 会社 🎉")
    assert stream.getvalue().endswith("Ünïcødé 会社 🎉\n")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"key {KEY_TEXT}.", "key [masked]."),
        (f'{{"key":"{KEY_TEXT}"}}', '{"key":"[masked]"}'),
        ("oc_test_0123456789abc oc_admin_0123456789abc", "[masked] [masked]"),
        ("sk_live_51Habc rk_test_abc whsec_abcdef", "[masked] [masked] [masked]"),
        ("GET /x?token=abc&limit=5", "GET /x?token=[masked]&limit=5"),
        ("the key oc_live_abcd… of 8d1", "the key oc_live_abcd… of 8d1"),
        ("a token, a key, a sketch", "a token, a key, a sketch"),
    ],
)
def test_what_looks_like_a_secret_is_masked(said: str, shown: str) -> None:
    assert logs.masked(said) == shown


def test_a_traceback_is_one_line_without_secrets(logger: logging.Logger, stream: io.StringIO) -> None:
    try:
        raise ValueError(f"no such key {KEY_TEXT}")
    except ValueError:
        logger.exception("Request failed")
    assert stream.getvalue().count("\n") == 1
    assert "ValueError: no such key [masked]" in stream.getvalue()


def test_json_lines_are_objects_in_utc(logger: logging.Logger, stream: io.StringIO) -> None:
    logger.handlers[0].setFormatter(logs.JsonLine())
    logger.warning("A fact about %s", KEY_TEXT)
    fact = json.loads(stream.getvalue())
    assert fact.keys() == {"time", "logger", "level", "message"}
    assert (fact["level"], fact["message"]) == ("WARNING", "A fact about [masked]")
    assert datetime.fromisoformat(fact["time"]).tzinfo == UTC


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("/api/jobs?status=queued", "/api/jobs?[masked]"),
        ("/api/jobs?%74oken=abc", "/api/jobs?[masked]"),
        (f"/api/jobs/{KEY_TEXT}", "/api/jobs/[masked]"),
        ("/api/jobs", "/api/jobs"),
    ],
)
def test_the_servers_log_of_requests_is_masked(address: str, shown: str) -> None:
    args = ("127.0.0.1:5000", "GET", address, "1.1", 200)
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', args, None)
    assert logs.Redactor().filter(record)
    assert record.getMessage() == f'127.0.0.1:5000 - "GET {shown} HTTP/1.1" 200'


GATHERING = """
import logging, os, sys
from openclaw_billing import logs
from openclaw_billing.settings import load_settings
logs.configure(load_settings(), gateway=True)
log = logging.getLogger("openclaw_billing")
"""


def said_by(program: str, tmp_path: Path, **settings: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", GATHERING + program],
        env=clean_environment(PYTHONPATH=str(ROOT), **settings),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stderr


def test_no_line_is_lost_however_a_process_ends(tmp_path: Path) -> None:
    for last in ("", "sys.exit(3)", "raise RuntimeError", "log.warning('worse'); os._exit(1)"):
        said = said_by(f"for each in range(3000): log.info('line %d', each)\n{last}", tmp_path)
        numbers = [int(found) for found in re.findall(r"INFO - line (\d+)$", said, re.MULTILINE)]
        assert numbers == list(range(3000)), last


def test_what_the_server_says_last_is_written_before_a_signal_ends_it(tmp_path: Path) -> None:
    program = """
log.info("Closed the store")
logging.getLogger("uvicorn.error").info("Finished server process")
import signal; signal.raise_signal(signal.SIGTERM)
"""
    said = said_by(program, tmp_path)
    assert [line.rpartition(" - ")[2] for line in said.splitlines()] == [
        "Closed the store",
        "Finished server process",
    ]


def test_levels_and_forms_are_the_settings(tmp_path: Path) -> None:
    program = "log.info('quiet'); log.error('loud')"
    said = said_by(program, tmp_path, OPENCLAW_LOG_LEVEL="ERROR", OPENCLAW_LOG_FORMAT="json")
    assert [json.loads(line)["message"] for line in said.splitlines()] == ["loud"]


def test_a_forked_child_logs_too(tmp_path: Path) -> None:
    program = """
log.info("parent")
if os.fork() == 0:
    log.info("child")
    logging.shutdown()
    os._exit(0)
os.wait()
"""
    said = said_by(program, tmp_path)
    assert said.count("- child") == 1
    assert "- parent" in said


@pytest.mark.anyio
async def test_the_four_promised_sentences(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock(datetime(2026, 2, 19, 10, 30, tzinfo=UTC))
    settings = load_settings(data_dir=tmp_path / "data", admin_token=TOKEN)
    client_auth.runtime.reconfigure(settings, clock=clock)
    logging.getLogger("openclaw_billing").propagate = True
    caplog.set_level(logging.INFO, "openclaw_billing")
    app = __import__("gateway").create_app(settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
        body = {"name": "Acme Corp", "email": "a@example.com", "plan": "pro"}
        for _ in range(2):
            headers = {"X-Auth-Token": TOKEN, "Idempotency-Key": "once"}
            created = await http.post("/api/admin/clients", headers=headers, json=body)
        client_id = created.json()["client_id"]
    assert client_auth.deduct_job_credit(client_id, "job")
    assert client_auth.deduct_job_credit(client_id, "job")
    client_auth.log_client_cost(client_id, 1.5)
    clock.advance(days=30)
    assert client_auth.deduct_job_credit(client_id, "later")
    client_auth.runtime.reconfigure()
    said = [record.getMessage() for record in caplog.records if client_id in record.getMessage()]
    assert said == [
        f"Created client {client_id} (Acme Corp) on pro plan",
        f"Deducted credit for {client_id}: job submission",
        f"Logged $1.50 cost for client {client_id}",
        f"Reset monthly credits for {client_id}: 200 jobs",
        f"Deducted credit for {client_id}: job submission",
    ]


def test_gathering_does_not_wait_for_long(tmp_path: Path) -> None:
    read, write = os.pipe()
    with os.fdopen(read) as here, os.fdopen(write, "w") as there:
        handler = logs.Gathering(there)
        handler.setFormatter(logs.Line())
        record = logging.LogRecord("openclaw_billing", logging.INFO, "", 0, "soon", (), None)
        begun = time.monotonic()
        handler.emit(record)
        assert here.readline().endswith("soon\n")
        assert time.monotonic() - begun < 1
        handler.close()
