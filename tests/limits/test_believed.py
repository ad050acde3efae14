"""What a database said of a client is believed for a few seconds, and for as long as the database is away."""

from __future__ import annotations

import pytest

from openclaw_billing.errors import StorageUnavailable
from openclaw_billing.limits.believed import BELIEVED_US, Believed


class Database:
    """Says one thing at a time, and counts how often it was asked."""

    def __init__(self) -> None:
        self.says, self.asked, self.away = "free", 0, False

    def __call__(self) -> str:
        self.asked += 1
        if self.away:
            raise StorageUnavailable
        return self.says


@pytest.fixture
def now() -> list[int]:
    return [1_000_000]


@pytest.fixture
def believed(now: list[int]) -> Believed:
    return Believed(lambda: now[0])


def test_it_is_asked_once_in_a_while_for_each_client_and_thing(believed: Believed, now: list[int]) -> None:
    database = Database()
    assert [believed.of("plan", "a", database) for _ in range(3)] == ["free"] * 3
    assert database.asked == 1
    believed.of("plan", "b", database)
    believed.of("state", "a", database)
    assert database.asked == 3
    database.says = "pro"
    now[0] += BELIEVED_US - 1
    assert believed.of("plan", "a", database) == "free"
    now[0] += 1
    assert believed.of("plan", "a", database) == "pro"


def test_while_it_is_away_what_it_said_last_counts(believed: Believed, now: list[int]) -> None:
    database = Database()
    believed.of("plan", "a", database)
    database.away = True
    now[0] += 10 * BELIEVED_US
    assert believed.of("plan", "a", database) == "free"
    with pytest.raises(StorageUnavailable):
        believed.of("plan", "b", database)
