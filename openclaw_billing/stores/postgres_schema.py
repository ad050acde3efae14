"""The schema's version in PostgreSQL: what the store refuses, and what `db upgrade` brings it to.

Alembic is imported by the command only; the store reads the version with one SELECT.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from openclaw_billing.errors import StartupError
from openclaw_billing.stores.postgres_line import connect, driver, first_line

MIGRATIONS = Path(__file__).parent / "migrations"
UPGRADE_LOCK = 7_061_215_094
UPGRADE_SECONDS_MAX = 600
COMMAND = "run `python -m openclaw_billing db upgrade`"


def newest_version() -> str:
    """The version that this program works with."""
    return max(path.name.split("_")[0] for path in MIGRATIONS.glob("*.sql"))


def version_in(connection: Any) -> str | None:
    """The version of the schema that the connection sees; None where there is no schema."""
    try:
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except driver().errors.UndefinedTable:
        return None
    return None if found is None else str(found[0])


def version_at(url: str) -> str | None:
    """The version of the schema at that address.

    Raises:
        StartupError: the database cannot be asked.
    """
    try:
        with connect(url) as connection:
            return version_in(connection)
    except driver().Error as error:
        raise StartupError(f"The database cannot be asked: {first_line(error)}") from error


def check_version(connection: Any) -> str:
    """The schema's version, where it is this program's.

    Raises:
        StartupError
    """
    found, ours = version_in(connection), newest_version()
    if found is None:
        raise StartupError(f"The database holds no schema of ours: {COMMAND}")
    if found == ours:
        return found
    if found < ours:
        raise StartupError(f"The database's schema is at {found}, this program needs {ours}: {COMMAND}")
    raise StartupError(
        f"The database's schema is at {found}, newer than {ours}, which this program knows: upgrade the program"
    )


def upgrade(url: str) -> tuple[str | None, str]:
    """Bring the schema to this program's version; what it was and what it is. One machine at a time.

    Raises:
        StartupError: the database is away or refuses, or its schema is newer than this program.
    """
    psycopg = driver()
    try:
        with connect(url, statement_seconds=UPGRADE_SECONDS_MAX) as lock:
            # Whoever comes second waits here, and finds nothing left to do.
            lock.execute("SELECT pg_advisory_lock(%s)", [UPGRADE_LOCK])
            before, ours = version_in(lock), newest_version()
            if before is not None and before > ours:
                check_version(lock)
            if before != ours:
                _run_alembic(url)
            return before, ours
    except psycopg.Error as error:
        raise StartupError(f"The database cannot be upgraded: {first_line(error)}") from error


def upgrade_text() -> str:
    """The whole upgrade as SQL, for whoever runs it by hand."""
    from alembic.runtime.environment import EnvironmentContext

    text = io.StringIO()
    config, script = _alembic()
    with EnvironmentContext(
        config, script, fn=lambda rev, _: script._upgrade_revs("head", rev), as_sql=True
    ) as run:
        run.configure(dialect_name="postgresql", output_buffer=text)
        with run.begin_transaction():
            run.run_migrations()
    return text.getvalue()


def run_file(name: str) -> None:
    """In a migration: run the statements of that file."""
    from alembic import op

    for statement in statements_of((MIGRATIONS / name).read_text(encoding="utf-8")):
        # Alembic would take a colon for a parameter.
        op.execute(statement.replace(":", "\\:"))


def statements_of(text: str) -> list[str]:
    """The statements of a file; an empty line ends each."""
    return [part for part in re.split(r";\n(?:\n|\Z)", text) if part.strip()]


def _run_alembic(url: str) -> None:
    from alembic.runtime.environment import EnvironmentContext
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(url, statement_seconds=UPGRADE_SECONDS_MAX, autocommit=False),
        poolclass=NullPool,
    )
    config, script = _alembic()
    with (
        engine.connect() as connection,
        EnvironmentContext(config, script, fn=lambda rev, _: script._upgrade_revs("head", rev)) as run,
    ):
        run.configure(connection=connection)
        with run.begin_transaction():
            run.run_migrations()


def _alembic() -> tuple[Any, Any]:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config, ScriptDirectory.from_config(config)
