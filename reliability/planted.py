"""Bugs planted one at a time: how soon the model's machine and the simulated machine find each."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import pytest

from reliability.figure import Seen
from tests.money.test_mutants import MUTANTS, search
from tests.simulation.__main__ import NIGHT_SEEDS
from tests.simulation.judge import Violation
from tests.simulation.mutants import FILES, MONEY, Plant
from tests.simulation.test_simulation import SEEDS_OF_A_MUTANT_MAX
from tests.simulation.world import World

MONEY_SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Found:
    """`seeds` is how many histories it took; 0 where it was not found."""

    name: str
    seconds: float
    seeds: int


def planted_bugs(files: tuple[Plant, ...] = FILES, replayed: int = 20) -> Seen:
    """Every bug of money and of the files; and histories told twice."""
    begun = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count() or 1) as pool:
        # By their places: a planted function cannot be sent to another process where it replaces one there.
        by_machine = list(pool.map(_by_the_machine, range(len(MUTANTS))))
        of_money = list(pool.map(_by_seeds, [("money", place) for place in range(len(MONEY))]))
        of_files = list(pool.map(_by_seeds, [("files", FILES.index(plant)) for plant in files]))
        same = sum(pool.map(_told_twice, range(replayed)))
    found = [*by_machine, *of_money, *of_files]
    missed = [each.name for each in found if not each.seeds]
    slowest = max(by_machine, key=lambda each: each.seconds)
    longest = max([*of_money, *of_files], key=lambda each: each.seconds)
    text = (
        f"{len(by_machine)} money bugs found by the model, the slowest in {slowest.seconds:.1f} s ({slowest.name}); "
        f"{len(of_money)} of money and {len(of_files)} of the files by the simulation, the slowest in "
        f"{longest.seconds:.1f} s and {longest.seeds} seeds ({longest.name}); not found: {missed or 'none'}; "
        f"{same} of {replayed} histories told twice were the same; all in {time.perf_counter() - begun:.0f} s"
    )
    return Seen(text, not missed and slowest.seconds <= MONEY_SECONDS_MAX and same == replayed)


def night(seeds: int = 600) -> Seen:
    """How long a night's seeds take here."""
    begun = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count() or 1) as pool:
        wrong = [each for each in pool.map(_told, range(seeds), chunksize=20) if each]
    minutes = (time.perf_counter() - begun) * NIGHT_SEEDS / seeds / 60
    return Seen(
        f"a night's {NIGHT_SEEDS} seeds take {minutes:.0f} minutes ({seeds} were told: {len(wrong)} wrong)",
        not wrong and minutes < 8 * 60,
    )


def _by_the_machine(place: int) -> Found:
    plant, begun, found = MUTANTS[place], time.perf_counter(), 0
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        try:
            search()
        except AssertionError:
            found = 1
    return Found(plant.__name__, time.perf_counter() - begun, found)


def _by_seeds(which: tuple[str, int]) -> Found:
    kind, place = which
    plant, begun = {"money": MONEY, "files": FILES}[kind][place], time.perf_counter()
    for seed in range(SEEDS_OF_A_MUTANT_MAX):
        with pytest.MonkeyPatch.context() as patch:
            plant(patch)
            try:
                World(seed).run()
            except Violation:
                return Found(plant.__name__, time.perf_counter() - begun, seed + 1)
    return Found(plant.__name__, time.perf_counter() - begun, 0)


def _told_twice(seed: int) -> bool:
    first, second = World(seed), World(seed)
    first.run()
    second.run()
    return first.judge.lines == second.judge.lines and first.system.calls == second.system.calls


def _told(seed: int) -> str:
    try:
        World(seed).run()
    except Violation as violation:
        return str(violation)
    return ""
