"""SQLite: key check and charge in one UPDATE, WAL and synchronous=FULL, from a writer thread.

`sqlite` commits every charge by itself; `sqlite-grouped` commits whatever waits in one transaction.
"""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

from benchmarks.subjects.subject import CREDITS_EACH, Site, Subject, key_texts

DATABASE_FILE = "clients.sqlite3"
BUSY_SECONDS_MAX = 30.0


class Sqlite(Subject):
    app = "benchmarks.subjects.sqlite_app:app"
    flushes_in_python = False

    def __init__(self, name: str, batch_max: int) -> None:
        self.name = name
        self.batch_max = batch_max

    def prepare(self, data_dir: Path, clients: int) -> list[str]:
        keys = key_texts(clients)
        database = connect(data_dir)
        database.execute(
            "CREATE TABLE clients (client_id TEXT PRIMARY KEY, digest BLOB NOT NULL UNIQUE,"
            " credits INTEGER NOT NULL CHECK (credits >= 0), active INTEGER NOT NULL DEFAULT 1)"
        )
        rows = ((f"client-{number}", digest(key), CREDITS_EACH) for number, key in enumerate(keys))
        database.execute("BEGIN")
        database.executemany("INSERT INTO clients (client_id, digest, credits) VALUES (?, ?, ?)", rows)
        database.execute("COMMIT")
        database.close()
        return keys

    def environment(self, site: Site) -> dict[str, str]:
        return super().environment(site) | {"BENCHMARK_BATCH_MAX": str(self.batch_max)}

    def credits_left(self, site: Site, keys: list[str]) -> int:
        database = connect(site.data_dir)
        wanted = {digest(key) for key in keys}
        rows = database.execute("SELECT digest, credits FROM clients").fetchall()
        database.close()
        return sum(credits for key_digest, credits in rows if key_digest in wanted)


def connect(data_dir: Path) -> sqlite3.Connection:
    """A connection that commits durably, and only where it is told to."""
    database = sqlite3.connect(
        data_dir / DATABASE_FILE, timeout=BUSY_SECONDS_MAX, isolation_level=None, check_same_thread=False
    )
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    return database


def digest(key_text: str) -> bytes:
    return hashlib.sha256(key_text.encode()).digest()
