from datetime import UTC, datetime, timedelta

from openclaw_billing.cycles import CYCLE_LENGTH, cycle_at, cycle_number

ANCHOR = datetime(2026, 2, 19, 10, 30, tzinfo=UTC)


def test_the_end_of_a_cycle_belongs_to_the_next_one() -> None:
    last_moment = ANCHOR + CYCLE_LENGTH - timedelta(microseconds=1)
    assert cycle_at(ANCHOR, last_moment).number == 0
    assert cycle_at(ANCHOR, ANCHOR + CYCLE_LENGTH).number == 1


def test_missed_cycles_do_not_move_the_edges() -> None:
    cycle = cycle_at(ANCHOR, ANCHOR + timedelta(days=101))
    assert cycle == cycle_number(ANCHOR, 3)
    assert cycle.end == ANCHOR + 4 * CYCLE_LENGTH


def test_a_clock_before_the_anchor_stays_in_the_first_cycle() -> None:
    assert cycle_at(ANCHOR, ANCHOR - timedelta(days=400)).number == 0
