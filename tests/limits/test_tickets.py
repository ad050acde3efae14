"""Failures against their rule said plainly: the moments of the last five minutes, counted one by one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from openclaw_billing.gcra import SECOND_US
from openclaw_billing.limits.failures import WINDOW_US, Failures
from openclaw_billing.limits.shared import SharedLimiter
from openclaw_billing.limits.tickets import Tickets
from tests.limits.conftest import Ticks

WORKERS = 3


class Asked(SharedLimiter):
    asked = 0

    def take_now(self, *arguments, **named):  # type: ignore[no-untyped-def]
        self.asked += 1
        return super().take_now(*arguments, **named)


@pytest.fixture
def workers(tmp_path: Path, ticks: Ticks) -> Iterator[list[Failures]]:
    """The same machine's workers, each with its own view of the same file."""
    limiters = [SharedLimiter(tmp_path / "data", ticks) for _ in range(WORKERS)]
    yield [Failures(each, ticks, per_address=10, overall=40) for each in limiters]
    for each in limiters:
        each.close()


@pytest.mark.parametrize("seed", range(20))
def test_what_is_let_in_is_what_the_rule_says_over_every_span_and_worker(
    workers: list[Failures], ticks: Ticks, seed: int
) -> None:
    rng = random.Random(seed)
    pace = rng.choice([0, 1, 5, 20]) * SECOND_US
    addresses = [f"192.0.2.{number}" for number in range(rng.choice([1, 3, 8]))]
    taken: dict[str, list[int]] = {address: [] for address in addresses}
    overall: list[int] = []
    refused = 0
    for number in range(600):
        ticks.now += rng.choice([0, pace // 2, pace, pace, rng.choice([0, WINDOW_US // 2])])
        address, worker = rng.choice(addresses), rng.choice(workers)
        within = ticks.now - WINDOW_US
        mine, all_of_them = ([at for at in found if at > within] for found in (taken[address], overall))
        expected = "address" if len(mine) >= 10 else "overall" if len(all_of_them) >= 40 else None
        seen = worker.refusal(address, f"guess {number}")
        assert (seen and seen.limits[0].name) == expected
        if seen is not None:
            refused += 1
            oldest = (mine if expected == "address" else all_of_them)[0]
            assert seen.retry_after_us == oldest + WINDOW_US - ticks.now
        elif rng.random() < 0.9:
            assert worker.failed(address, f"guess {number}") is None
            taken[address].append(ticks.now)
            overall.append(ticks.now)
    assert refused or pace > SECOND_US


def test_a_thousand_are_a_thousand_in_any_five_minutes(tmp_path: Path, ticks: Ticks) -> None:
    limiter = SharedLimiter(tmp_path / "data", ticks)
    failures = Failures(limiter, ticks, per_address=10, overall=1_000)
    answered: list[int] = []
    for number in range(9_000):
        ticks.now += SECOND_US // 10
        if failures.refusal(f"host {number}", "x") is None and failures.failed(f"host {number}", "x") is None:
            answered.append(ticks.now)
    limiter.close()
    assert all(later - first >= WINDOW_US for first, later in zip(answered, answered[1_000:], strict=False))
    assert len(answered) == 3_000


def test_a_secret_that_comes_out_right_after_ten_wrong_ones_that_came_with_it_is_not_let_in(
    workers: list[Failures],
) -> None:
    one, other, _ = workers
    # All of them were looked up at the same time, and nobody knew yet how they would come out.
    assert [one.refusal("192.0.2.1", f"guess {number}") for number in range(12)] == [None] * 12
    assert [other.failed("192.0.2.1", f"guess {number}") for number in range(10)] == [None] * 10
    verdict = one.passed("192.0.2.1", "guess 11")
    assert verdict is not None
    assert [limit.name for limit in verdict.refused_by] == ["address"]
    assert one.refusal("192.0.2.1", "guess 11") is not None


def test_whoever_is_refused_is_refused_without_asking_again(tmp_path: Path, ticks: Ticks) -> None:
    mine, theirs = (Asked(tmp_path / "data", ticks) for _ in range(2))
    for number in range(500):
        ticks.now += SECOND_US // 10
        assert Tickets(theirs, "failure", "overall", 500, WINDOW_US).take(ticks.now) is None, number
    tickets = Tickets(mine, "failure", "overall", 500, WINDOW_US)
    assert tickets.take(ticks.now) is not None
    learned = mine.asked
    for _ in range(1_000):
        assert tickets.take(ticks.now) is not None
    assert mine.asked == learned == 500
    mine.close()
    theirs.close()


def test_while_nobody_fails_right_secrets_are_let_in_without_asking_again(
    tmp_path: Path, ticks: Ticks
) -> None:
    mine, theirs = (Asked(tmp_path / "data", ticks) for _ in range(2))
    ours, others = (Failures(each, ticks, per_address=10, overall=40) for each in (mine, theirs))

    def let_in(secrets: range) -> bool:
        return all(
            ours.refusal("192.0.2.1", f"key {each}") is None
            and ours.passed("192.0.2.1", f"key {each}") is None
            for each in secrets
        )

    assert let_in(range(1))
    learned = mine.asked
    assert let_in(range(1, 1_000))
    assert mine.asked == learned
    for number in range(9):
        others.failed("192.0.2.1", f"guess {number}")
    assert let_in(range(1_000, 2_000))
    others.failed("192.0.2.1", "guess 9")
    assert not let_in(range(2_000, 2_001))
    assert mine.asked < learned + 50
    mine.close()
    theirs.close()


def test_a_clock_that_was_set_back_far_keeps_nobody_out(tmp_path: Path, ticks: Ticks) -> None:
    limiter = SharedLimiter(tmp_path / "data", ticks)
    failures = Failures(limiter, ticks, per_address=10, overall=1_000)
    for _ in range(11):
        failures.failed("192.0.2.1", "x")
    assert failures.refusal("192.0.2.1", "x") is not None
    ticks.now -= 3_600 * SECOND_US
    assert failures.refusal("192.0.2.1", "x") is None
    limiter.close()
