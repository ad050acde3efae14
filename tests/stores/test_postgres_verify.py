"""`verify` on a database: whatever does not add up is told by client, and nothing is told of what does."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openclaw_billing import accounts, ledger
from openclaw_billing.audit import Actor
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import load_settings
from openclaw_billing.stores.postgres_end import PostgresEnd
from openclaw_billing.stores.postgres_verify import verify
from tests.served import ROOT, clean_environment

ACTOR = Actor(name="test")
PEPPER = "0123456789abcdef" * 4


def create(runtime: Runtime, client_id: str) -> None:
    _, key = runtime.new_key(client_id)
    runtime.write_and_wait(
        accounts.create_client,
        client_id=client_id,
        name="Acme",
        email=f"{client_id}@example.com",
        plan_id="pro",
        key=key,
        actor=ACTOR,
    )


@pytest.fixture
def url(postgres_url: str, tmp_path: Path) -> str:
    """A database with two clients: one has charged, one has reserved."""
    runtime = Runtime(load_settings(data_dir=tmp_path / "data", database_url=postgres_url, key_pepper=PEPPER))
    for client_id in ("acme", "other"):
        create(runtime, client_id)
        for job in range(3):
            runtime.write_and_wait(ledger.charge, client_id, job_id=f"{client_id} {job}")
    runtime.write_and_wait(ledger.reserve, "other", job_id="long", credits=2)
    runtime.close()
    return postgres_url


@pytest.fixture
def spoil(url: str) -> Callable[[str], None]:
    def change(sql: str) -> None:
        end = PostgresEnd(url)
        end.connection.execute("ALTER TABLE ledger DISABLE TRIGGER ledger_is_history")
        end.connection.execute("ALTER TABLE accounts DROP CONSTRAINT accounts_client")
        end.connection.execute(sql)
        end.close()

    return change


@pytest.fixture
def command(url: str, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python -m openclaw_billing …` beside the database, in a data directory that holds no store."""
    environment = clean_environment(
        OPENCLAW_DATA_DIR=str(tmp_path / "data"),
        OPENCLAW_DATABASE_URL=f"{url}&password=Tr0ub4dor",
        OPENCLAW_KEY_PEPPER=PEPPER,
        PYTHONPATH=str(ROOT),
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "openclaw_billing", *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_what_adds_up_is_counted_and_nothing_is_found(url: str) -> None:
    found = verify(url)
    assert (found.clients, found.entries, found.problems) == (2, 9, [])


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        (
            """UPDATE accounts SET lots = jsonb_set(lots, '{0,2}', '1') WHERE client_id = 'acme'""",
            ["Client acme: the ledger says 197 + 0 reserved, the account 1 + 0"],
        ),
        (
            "UPDATE accounts SET reserved = 3 WHERE client_id = 'other'",
            [
                "Client other: the ledger says 195 + 2 reserved, the account 195 + 3",
                "Client other: 2 credits are in pending reservations, the account has 3 reserved",
            ],
        ),
        (
            "UPDATE reservations SET credits = 7 WHERE job_id = 'long'",
            ["Client other: 7 credits are in pending reservations, the account has 2 reserved"],
        ),
        (
            "UPDATE ledger SET available = available + 1, reserved = reserved - 1 WHERE client_id = 'acme' AND number = 2",
            ["Client acme: the ledger says 198 + -1 reserved, the account 197 + 0"],
        ),
        (
            "UPDATE ledger SET balance = 9 WHERE client_id = 'acme' AND number = 3",
            ["Client acme: entry 3 of the ledger has a balance that is not the sum of those before it"],
        ),
        (
            "UPDATE ledger SET number = 40 WHERE client_id = 'acme' AND number = 4",
            ["Client acme: the account counts 4 entries, the ledger has 4, the last of them number 40"],
        ),
        (
            "UPDATE accounts SET entries = 9 WHERE client_id = 'acme'",
            ["Client acme: the account counts 9 entries, the ledger has 4, the last of them number 4"],
        ),
        (
            "DELETE FROM accounts WHERE client_id = 'acme'",
            ["Client acme: there is no account, and 4 entries of the ledger."],
        ),
    ],
)
def test_a_row_that_was_changed_by_hand_is_told(
    url: str, spoil: Callable[[str], None], sql: str, told: list[str]
) -> None:
    spoil(sql)
    assert verify(url).problems == told


def test_an_empty_database_is_sound(postgres_url: str) -> None:
    found = verify(postgres_url)
    assert (found.clients, found.entries, found.problems) == (0, 0, [])


def test_the_command_has_the_shape_it_has_for_a_journal_and_ends_with_1_for_findings(
    command: Callable[..., subprocess.CompletedProcess[str]], spoil: Callable[[str], None]
) -> None:
    done = command("verify", "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told.pop("database").startswith("postgresql://")
    assert told == {"clients": 2, "entries": 9, "problems": 0}
    spoil("UPDATE accounts SET reserved = 3 WHERE client_id = 'other'")
    done = command("verify", "--json")
    assert (done.returncode, json.loads(done.stdout)["problems"]) == (1, 2)
    assert done.stderr.splitlines()[0].startswith("Client other: the ledger says")
    assert "Tr0ub4dor" not in done.stdout + done.stderr
    assert command("verify", "--head", f"1:{'0' * 64}").returncode == 2


def test_it_finds_nothing_in_what_gateways_do_meanwhile(url: str, tmp_path: Path) -> None:
    runtime = Runtime(load_settings(data_dir=tmp_path / "data", database_url=url, key_pepper=PEPPER))
    runtime.open()
    ended = threading.Event()

    def work() -> None:
        for number in itertools.count():
            if ended.is_set():
                return
            job = f"busy {number}"
            runtime.write_and_wait(ledger.reserve, "acme", job_id=job)
            runtime.write_and_wait(ledger.release, "acme", job_id=job)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        seen = [verify(url) for _ in range(20)]
    finally:
        ended.set()
        worker.join()
        runtime.close()
    assert [found.problems for found in seen] == [[]] * 20
    assert seen[-1].entries > seen[0].entries


@pytest.mark.parametrize("name", ["backup", "repair", "adopt", "discard"])
def test_what_is_for_files_says_what_to_do_instead(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, name: str
) -> None:
    before = sorted((tmp_path / "data").iterdir())
    done = command(name)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)
    assert f"`{name}`" in done.stderr
    assert "pg_dump" in done.stderr
    assert "point-in-time" in done.stderr
    assert sorted((tmp_path / "data").iterdir()) == before
