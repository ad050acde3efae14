"""The schema in PostgreSQL: a column for each field, upgraded by one command, refused when it is not ours."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from openclaw_billing.errors import BadSettings, StartupError
from openclaw_billing.records import AuditEntry, LedgerEntry
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import Settings
from openclaw_billing.stores import postgres_schema
from openclaw_billing.stores.postgres import PostgresStore
from openclaw_billing.stores.postgres_line import connect
from openclaw_billing.stores.schema import TABLES
from tests.stores import postgres_server

ROOT = Path(__file__).parent.parent.parent
PEPPER = "a pepper that is long enough to be one"


def columns(url: str, table: str) -> set[str]:
    with connect(url) as connection:
        rows = connection.execute(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_schema = current_schema() AND table_name = %s",
            [table],
        )
        return {name for (name,) in rows}


def test_every_record_has_its_table_and_every_field_its_column(postgres_url: str) -> None:
    for spec in TABLES.values():
        fields = {field.name for field in dataclasses.fields(spec.record)}
        assert columns(postgres_url, spec.name) == fields | {f"by_{index}" for index in spec.indexes}
    for table, record in (("ledger", LedgerEntry), ("audit", AuditEntry)):
        fields = {field.name for field in dataclasses.fields(record)}
        assert columns(postgres_url, table) == fields | {"position"}


def test_a_database_without_the_schema_is_refused_with_the_command_that_makes_it(
    postgres_address: str,
) -> None:
    with postgres_server.schema(postgres_address, migrated=False) as url:
        with pytest.raises(StartupError, match="python -m openclaw_billing db upgrade"):
            PostgresStore(url).open()
        assert postgres_schema.upgrade(url) == (None, postgres_schema.newest_version())
        store = PostgresStore(url)
        store.open()
        store.close()


@pytest.mark.parametrize(("found", "said"), [("9999", "upgrade the program"), ("0000", "db upgrade")])
def test_another_version_of_the_schema_is_refused(postgres_url: str, found: str, said: str) -> None:
    with connect(postgres_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", [found])
    with pytest.raises(StartupError, match=said):
        PostgresStore(postgres_url).open()


def test_a_newer_schema_is_not_upgraded(postgres_url: str) -> None:
    with connect(postgres_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StartupError, match="newer"):
        postgres_schema.upgrade(postgres_url)


def test_machines_that_upgrade_at_once_wait_for_each_other(postgres_address: str) -> None:
    with postgres_server.schema(postgres_address, migrated=False) as url, ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: postgres_schema.upgrade(url), range(4)))
        newest = postgres_schema.newest_version()
        assert sorted(done, key=str) == [*[(newest, newest)] * 3, (None, newest)]


def test_the_upgrade_by_hand_makes_the_same_schema(postgres_address: str, postgres_url: str) -> None:
    with postgres_server.schema(postgres_address, migrated=False) as url:
        with connect(url) as connection:
            connection.execute(postgres_schema.upgrade_text())
        for table in (*TABLES, "ledger", "audit"):
            assert columns(url, table) == columns(postgres_url, table)
        assert postgres_schema.version_at(url) == postgres_schema.newest_version()


def test_history_cannot_be_changed_even_by_hand(postgres_url: str) -> None:
    import psycopg

    with connect(postgres_url) as connection:
        for table in ("ledger", "audit"):
            for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET reason = ''", f"TRUNCATE {table}"):
                with pytest.raises(psycopg.errors.RestrictViolation):
                    connection.execute(statement)


def test_the_command_upgrades_and_tells(postgres_address: str, tmp_path: Path) -> None:
    with postgres_server.schema(postgres_address, migrated=False) as url:

        def db(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "openclaw_billing", "db", *arguments],
                env={**os.environ, "OPENCLAW_DATABASE_URL": url, "PYTHONPATH": str(ROOT)},
                cwd=tmp_path,
                capture_output=True,
                text=True,
            )

        before = db("version")
        assert (before.returncode, before.stdout.strip()) == (1, "none")
        assert db("upgrade").returncode == 0
        after = db("version")
        assert (after.returncode, after.stdout.strip()) == (0, postgres_schema.newest_version())
        assert "already" not in db("upgrade").stderr
        assert "CREATE TABLE ledger" in db("upgrade", "--sql").stdout


def test_beside_a_database_a_pepper_is_given_or_carried_and_never_made(
    postgres_url: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    settings = Settings(data_dir=data, database_url=postgres_url)
    for there in (False, True):
        with pytest.raises(BadSettings, match=r"set OPENCLAW_KEY_PEPPER, or carry the file `pepper`"):
            Runtime(settings).open()
        assert data.exists() is there
        assert not (data / "pepper").exists()
        data.mkdir(mode=0o700, exist_ok=True)
    (data / "pepper").write_text(f"{PEPPER}\n")
    (data / "pepper").chmod(0o600)
    carried = Runtime(settings)
    carried.open()
    in_settings = Runtime(Settings(data_dir=tmp_path / "other", database_url=postgres_url, key_pepper=PEPPER))
    in_settings.open()
    assert carried.peppers.digests("oc_live_x") == in_settings.peppers.digests("oc_live_x")
    carried.close()
    in_settings.close()


def test_a_runtime_with_a_database_url_keeps_its_records_there(postgres_url: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", database_url=postgres_url, key_pepper=PEPPER)
    runtime = Runtime(settings)
    assert isinstance(runtime.open(), PostgresStore)
    assert [fact.name[:7] for fact in runtime.view.facts] == ["pepper:"]
    runtime.close()


def test_a_database_that_is_away_at_the_start_is_told_of_in_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="without psycopg no database is asked")
    with pytest.raises(StartupError, match="The database cannot be used") as refused:
        PostgresStore(f"postgresql://someone:secret-word@/x?host={tmp_path}").open()
    assert "secret-word" not in str(refused.value)


def test_without_psycopg_the_line_that_installs_it_is_told(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from openclaw_billing.errors import BadSettings\n"
        "from openclaw_billing.stores.postgres import PostgresStore\n"
        "try: PostgresStore('postgresql://x/y')\n"
        "except BadSettings as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip install" in done.stdout
    assert done.stdout.count("\n") == 1
