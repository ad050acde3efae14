"""The store on a machine that fails as a seed says: every promise holds, and every planted bug is found."""

from __future__ import annotations

import errno
import random
from datetime import date, timedelta
from itertools import pairwise

import pytest

from tests.simulation.__main__ import NIGHT_SEEDS, night_of
from tests.simulation.disk import SECTOR, Change, Disk, Naming
from tests.simulation.judge import Violation
from tests.simulation.mutants import FILES, MONEY, Plant
from tests.simulation.system import System
from tests.simulation.turns import Task
from tests.simulation.world import World, installed

SEEDS = 150
SEEDS_LONG = 3_000
SEEDS_OF_A_MUTANT_MAX = 12_000


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_no_history_breaks_a_promise(first: int) -> None:
    for seed in range(first, first + 50):
        World(seed).run()


@pytest.mark.slow
def test_no_history_of_very_many_breaks_a_promise() -> None:
    for seed in range(SEEDS, SEEDS_LONG):
        World(seed).run()


def test_a_seed_tells_the_same_history_again() -> None:
    first, second = World(7), World(7)
    first.run()
    second.run()
    assert first.seen == second.seen
    assert first.judge.lines == second.judge.lines
    assert first.system.calls == second.system.calls


def test_no_two_nights_share_a_seed() -> None:
    days = [date(2026, 12, 31) + timedelta(days=each) for each in range(3)]
    firsts = [night_of(day) for day in days]
    assert all(two - one >= NIGHT_SEEDS for one, two in pairwise(firsts))


def seeds_until_found(plant: Plant) -> int:
    for seed in range(SEEDS_OF_A_MUTANT_MAX):
        with pytest.MonkeyPatch.context() as patch:
            plant(patch)
            try:
                World(seed).run()
            except Violation:
                return seed + 1
    raise AssertionError(f"{plant.__name__} was not found in {SEEDS_OF_A_MUTANT_MAX} seeds")


@pytest.mark.slow
@pytest.mark.parametrize("plant", [*FILES, *MONEY], ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Plant) -> None:
    assert seeds_until_found(plant) > 0


def test_what_a_failed_flush_left_in_memory_is_not_believed_by_the_next_process() -> None:
    ghosts = 0
    for seed in range(40):
        world = World(seed)
        system = world.system
        with installed(system):
            world._recover()

            def fail_and_die(task: Task, world: World = world, system: System = system) -> None:
                store = world._store()
                store.open()
                system.faults.calls = dict.fromkeys(("fdatasync", "ftruncate", "fsync"), (errno.EIO, 1.0))
                world._ask(store)
                system.kill(task)

            system.turns.run([fail_and_die])
            journal = system.disk.names["openclaw_clients.journal"]
            ghosts += bool(journal.lost)
            system.faults.calls = {}
            world._recover()
            assert bytes(journal.content) == journal.held
    assert ghosts > 5


# What the disk does is itself a claim: these are the losses without which the simulation proves nothing.


def outcomes(disk_of: type[Disk], times: int = 300) -> set[tuple[tuple[str, bytes], ...]]:
    seen = set()
    for seed in range(times):
        disk = disk_of()
        disk.cut_power(random.Random(seed))
        seen.add(tuple(sorted(disk.copy().items())))
    return seen


class Unflushed(Disk):
    def __init__(self) -> None:
        super().__init__()
        file = self.create("a")
        file.change(Change(0, b"x" * 600))
        self.flush_names()


class Renamed(Disk):
    def __init__(self) -> None:
        super().__init__()
        for name in ("a", "b"):
            file = self.create(name)
            file.change(Change(0, name.encode()))
            file.flush()
        self.flush_names()
        self.name(Naming("a", self.names["b"], "b"))


def test_unflushed_bytes_may_be_there_gone_or_torn() -> None:
    seen = {dict(each)["a"] for each in outcomes(Unflushed)}
    assert {b"", b"x" * 600, b"\0" * 600, b"x" * SECTOR + b"\0" * 88, b"\0" * SECTOR + b"x" * 88} <= seen


def test_a_rename_without_a_flush_of_the_directory_may_not_have_been() -> None:
    assert outcomes(Renamed) == {(("a", b"b"),), (("a", b"a"), ("b", b"b"))}


def test_pages_that_a_failed_flush_lost_are_not_found_by_the_next_one() -> None:
    lost = 0
    for seed in range(100):
        disk = Disk()
        file = disk.create("a")
        disk.flush_names()
        file.change(Change(0, b"x" * 600))
        file.fail_flush(random.Random(seed))
        assert bytes(file.content) == b"x" * 600
        file.flush()
        disk.cut_power(random.Random(seed))
        lost += bytes(disk.names["a"].content) != b"x" * 600
    assert lost > 30
