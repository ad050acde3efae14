"""Results: what each round saw, and the medians and ratios made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from benchmarks.load import LoadResult

YARDSTICK = "bare"


@dataclass(frozen=True, slots=True)
class Setting:
    """What all subjects of one group have in common."""

    workers: int
    clients: int
    connections: int
    flush_ms: float

    def __str__(self) -> str:
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        flush = f", flush + {self.flush_ms:g} ms" if self.flush_ms else ""
        return f"{workers}, {self.clients:,} clients, {self.connections} connections{flush}"


@dataclass(frozen=True, slots=True)
class Round:
    number: int
    load: LoadResult
    server_us: float | None
    """Processor time that the server used per request, in microseconds."""


@dataclass(slots=True)
class Outcome:
    """One subject in one group. `charged` is None where nothing is charged or it could not be counted."""

    subject: str
    rounds: list[Round] = field(default_factory=list)
    charged: int | None = None
    fault: str = ""
    """Why this outcome must not be believed; a run with a fault ends with status 1."""
    remark: str = ""

    @property
    def accepted(self) -> int:
        return sum(each.load.accepted for each in self.rounds)

    @property
    def in_doubt(self) -> int:
        return sum(each.load.in_doubt for each in self.rounds)

    @property
    def failed(self) -> int:
        return sum(each.load.failed for each in self.rounds)

    def judge(self, charged: int, exact: bool) -> None:
        """Compare what was charged with what was accepted."""
        self.charged = charged
        if self.accepted <= charged <= self.accepted + self.in_doubt:
            return
        self.doubt(f"accepted {self.accepted:,} but charged {charged:,}", exact)

    def doubt(self, reason: str, exact: bool) -> None:
        """Note what is wrong with the charges: a fault where the design promises that they are exact."""
        if exact:
            self.fault = reason
        else:
            self.remark = reason


@dataclass(slots=True)
class Group:
    setting: Setting
    outcomes: list[Outcome]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, between the least and the most."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    return Spread(median(values), min(values), max(values)) if values else Spread(0.0, 0.0, 0.0)


def ratios(group: Group, outcome: Outcome) -> list[float]:
    """The outcome's rate in each round over the yardstick's in the same round; empty without a yardstick."""
    bare = next((each for each in group.outcomes if each.subject == YARDSTICK), None)
    if bare is None:
        return []
    rates = {each.number: each.load.rate for each in bare.rounds}
    return [each.load.rate / rates[each.number] for each in outcome.rounds if rates.get(each.number)]
