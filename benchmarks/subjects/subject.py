"""A subject: one design under measurement, how to start it and how to count what it charged."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from pathlib import Path

CREDITS_EACH = 1_000_000
"""More than any run spends of one client: a refusal is a fault."""

UVICORN_OPTIONS = ("--no-access-log", "--log-level", "warning")
"""The same for every server measured; see `ours.py` for the gateway's."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where one server of one subject runs."""

    data_dir: Path
    port: int
    workers: int


class Subject:
    """The defaults are those of an app in this package, served by uvicorn."""

    name = ""
    app = ""
    charges = True
    """Whether an accepted request costs a credit that can be counted afterwards."""
    exact = True
    """Whether the design promises that accepted equals charged: if it does not hold, the run fails."""
    flushes_in_python = True
    """Whether `--flush-ms` reaches its flushes; if not, it is left out of a run with a slow flush."""
    clients_max: int | None = None
    """Beyond this the design is too slow to be measured in rounds of seconds."""

    def unavailable(self) -> str:
        """Why this subject cannot run here, or an empty string."""
        return ""

    def prepare(self, data_dir: Path, clients: int) -> list[str]:
        """Create clients with CREDITS_EACH credits each and give their key texts."""
        return key_texts(clients)

    def command(self, site: Site) -> list[str]:
        served = ["--host", "127.0.0.1", "--port", str(site.port), "--workers", str(site.workers)]
        return [sys.executable, "-m", "uvicorn", self.app, *served, *UVICORN_OPTIONS]

    def environment(self, site: Site) -> dict[str, str]:
        return {"BENCHMARK_DATA_DIR": str(site.data_dir)}

    def credits_left(self, site: Site, keys: list[str]) -> int:
        """The credits of these clients, summed, while the server still runs."""
        return CREDITS_EACH * len(keys)


def key_texts(clients: int) -> list[str]:
    """Keys in the shape of real ones, the same in every run."""
    source = random.Random(20260219)
    return [f"oc_live_{source.getrandbits(128):032x}" for _ in range(clients)]
