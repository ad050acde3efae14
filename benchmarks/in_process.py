"""Single functions, timed in this process without HTTP: the yardsticks, and ours beside them.

A measure is one function of an empty directory that gives its samples, listed in MEASURES. To add one: write
the function, time the operation with `timed`, list it. `ratio_to` names the measure it is compared with,
which must stand above it in the list.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks import ours_in_process as ours
from benchmarks.results import Spread, spread

WARMUP_SHARE = 10
"""One in so many calls is made beforehand and not timed."""
FLUSHES = 1_000
LINE_BYTES = 1_024
ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Measure:
    name: str
    unit: str
    samples: Callable[[Path], list[float]]
    ratio_to: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured measure. `ratio` is its median over that of `ratio_to`."""

    name: str
    unit: str
    spread: Spread
    ratio: float | None
    ratio_to: str


def timed(operation: Callable[[int], object], times: int, *, calls_each: int = 1) -> list[float]:
    """Microseconds of each call. `calls_each` calls share one reading of the clock, for what takes less than 10 µs.

    The operation is given the number of the call, so that it can vary its subject.
    """
    for number in range(times // WARMUP_SHARE):
        operation(number)
    samples = []
    for first in range(0, times, calls_each):
        began = perf_counter()
        for number in range(first, first + calls_each):
            operation(number)
        samples.append((perf_counter() - began) / calls_each * 1e6)
    return samples


def raw_flush(folder: Path) -> list[float]:
    """Append 1 KiB and flush it: the least that any durable charge can cost."""
    line = b"x" * (LINE_BYTES - 1) + b"\n"
    fd = os.open(folder / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    flush = getattr(os, "fdatasync", os.fsync)

    def append(_: int) -> None:
        os.write(fd, line)
        flush(fd)

    try:
        return timed(append, FLUSHES)
    finally:
        os.close(fd)


def sqlite_update(folder: Path) -> list[float]:
    """One single-row UPDATE per transaction, WAL and synchronous=FULL."""
    database = sqlite3.connect(folder / "clients.sqlite3", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE clients (client_id TEXT PRIMARY KEY, credits INTEGER NOT NULL)")
    rows = [(f"client-{number}", 1_000_000) for number in range(ROWS)]
    database.execute("BEGIN")
    database.executemany("INSERT INTO clients VALUES (?, ?)", rows)
    database.execute("COMMIT")
    charge = "UPDATE clients SET credits = credits - 1 WHERE client_id = ? AND credits > 0"
    try:
        return timed(lambda number: database.execute(charge, (rows[number % ROWS][0],)), FLUSHES)
    finally:
        database.close()


FLUSH = "append 1 KiB and fdatasync"
SQLITE = "sqlite update, one transaction"

MEASURES: tuple[Measure, ...] = (
    Measure(FLUSH, "us", raw_flush),
    Measure(SQLITE, "us", sqlite_update, ratio_to=FLUSH),
    Measure("ours: lone synchronous charge", "us", ours.lone_charge, ratio_to=SQLITE),
    Measure("ours: batch of 32 charges", "us", ours.batch_of_charges, ratio_to=FLUSH),
    Measure("ours: good key, 10 clients", "us", ours.authenticate(10)),
    Measure("ours: good key, 100,000 clients", "us", ours.authenticate(100_000)),
    Measure("ours: bad key, 100,000 clients", "us", ours.bad_key(100_000)),
    Measure("ours: rate check, 1,000 clients", "us", ours.rate_check(1_000)),
    Measure("ours: guard, public path", "us", ours.guard(admitted=False)),
    Measure("ours: guard, admin's token", "us", ours.guard(admitted=True)),
    Measure("ours: kept after a charge", "bytes", ours.allocated),
    Measure("ours: open 100,000 clients", "ms", ours.load_time),
    Measure("ours: memory, 100,000 clients", "bytes a client", ours.memory),
)


def measure_all(parent_dir: Path, say: Callable[[str], None]) -> list[Figure]:
    """Every measure once, each in a directory of its own."""
    figures: dict[str, Figure] = {}
    for measure in MEASURES:
        say(f"  {measure.name}")
        with tempfile.TemporaryDirectory(dir=parent_dir, prefix="in-process-") as folder:
            seen = spread(measure.samples(Path(folder)))
        ratio = seen.median / figures[measure.ratio_to].spread.median if measure.ratio_to else None
        figures[measure.name] = Figure(measure.name, measure.unit, seen, ratio, measure.ratio_to)
    return list(figures.values())
