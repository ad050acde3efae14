"""Limiters for every test here: `counted` is each kind in turn, with a clock of its own that a test moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from openclaw_billing.contracts import Limiter
from openclaw_billing.limits.memory import MemoryLimiter
from openclaw_billing.limits.shared import SharedLimiter


@dataclass
class Ticks:
    """Microseconds that pass only when told."""

    now: int = 10**12

    def __call__(self) -> int:
        return self.now


@dataclass
class Counted:
    """A limiter, and a second one that counts in the same place where there can be one."""

    limiter: Limiter
    other: Limiter | None = None
    ticks: Ticks = field(default_factory=Ticks)

    def advance(self, microseconds: int) -> None:
        self.ticks.now += microseconds


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def shared(tmp_path: Path, ticks: Ticks) -> Iterator[SharedLimiter]:
    limiter = SharedLimiter(tmp_path / "data", ticks)
    yield limiter
    limiter.close()


@pytest.fixture(params=["memory", "shared"])
def counted(request: pytest.FixtureRequest, ticks: Ticks, tmp_path: Path) -> Iterator[Counted]:
    if request.param == "memory":
        yield Counted(MemoryLimiter(ticks), ticks=ticks)
        return
    other = SharedLimiter(tmp_path / "data", ticks)
    yield Counted(request.getfixturevalue("shared"), other, ticks)
    other.close()
