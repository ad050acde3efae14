"""The machine's limiter: exact between processes, whatever becomes of them, and never in anybody's way."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from openclaw_billing.gcra import SECOND_US, Limit
from openclaw_billing.limits import shared as shared_module
from openclaw_billing.limits.shared import FILE, SLOTS, SharedLimiter
from tests.limits.calling import admitted_by_all, assert_exact, calling
from tests.limits.conftest import Ticks

SLOW = (Limit("minute", 1, 3600 * SECOND_US, 5),)


@pytest.mark.parametrize(
    "calls", [10_000, pytest.param(500_000, marks=pytest.mark.slow)], ids=["some", "two million"]
)
def test_processes_that_call_at_once_are_let_in_as_if_they_were_one(tmp_path: Path, calls: int) -> None:
    assert_exact(admitted_by_all(tmp_path / "data", calls, 50, 50), 50, 50)


def test_a_worker_killed_while_it_holds_a_bucket_holds_up_nobody(tmp_path: Path, ticks: Ticks) -> None:
    limiter = SharedLimiter(tmp_path / "data", ticks)
    with calling(tmp_path / "data", "acme", "hold") as holder:
        assert holder.stdout.readline() == "holding\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert not limiter.take_now("acme", SLOW).degraded
    limiter.close()


def test_a_worker_that_stands_still_holds_up_one_call_and_then_nobody(
    tmp_path: Path, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_module, "LOCK_SECONDS_MAX", 0.01)
    limiter = SharedLimiter(tmp_path / "data", ticks)
    with calling(tmp_path / "data", "acme", "hold") as holder:
        assert holder.stdout.readline() == "holding\n"
        verdicts = [limiter.take_now("acme", SLOW) for _ in range(6)]
        assert [verdict.allowed for verdict in verdicts] == [True] * 5 + [False]
        assert all(verdict.degraded for verdict in verdicts)
        if shared_module._OFD is not None:
            assert not limiter.take_now("another bucket's", SLOW).degraded
    ticks.now += 10 * SECOND_US
    assert not limiter.take_now("acme", SLOW).degraded
    limiter.close()


def test_a_bucket_that_cannot_be_given_back_keeps_no_other_worker_out(
    tmp_path: Path, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = fcntl.fcntl

    def without_locks(fd: int, command: int, argument: Any = 0) -> Any:
        if command == shared_module._OFD and shared_module._RANGE.unpack(argument)[0] == fcntl.F_UNLCK:
            raise OSError(errno.ENOLCK, "No locks available")
        return really(fd, command, argument)

    one, two = (SharedLimiter(tmp_path / "data", ticks) for _ in range(2))
    one.take_now("acme", SLOW)
    monkeypatch.setattr(fcntl, "fcntl", without_locks)
    verdicts = [each.take_now("acme", SLOW) for each in (one, two, one, two)]
    assert [verdict.remaining for verdict in verdicts] == [3, 2, 1, 0]
    assert not any(verdict.degraded for verdict in verdicts)
    one.close()
    two.close()


def test_a_forked_child_counts_with_its_parent_and_excludes_it(shared: SharedLimiter) -> None:
    shared.take_now("acme", SLOW)
    child = os.fork()
    if child == 0:
        verdict = shared.take_now("acme", SLOW)
        os._exit(0 if verdict.remaining == 3 and not verdict.degraded else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert shared.take_now("acme", SLOW).remaining == 2


def test_the_file_is_its_owners_and_no_larger_than_it_was_made(tmp_path: Path, shared: SharedLimiter) -> None:
    shared.take_now("acme", SLOW)
    path = tmp_path / "data" / FILE
    size = path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for key in range(5_000):
        shared.take_now(f"client-{key}", SLOW)
    assert path.stat().st_size == size < 4 << 20
    assert path.stat().st_blocks * 512 >= size


def test_counts_outlive_the_process(tmp_path: Path, ticks: Ticks, shared: SharedLimiter) -> None:
    for _ in range(4):
        shared.take_now("acme", SLOW)
    shared.close()
    assert [SharedLimiter(tmp_path / "data", ticks).take_now("acme", SLOW).remaining for _ in range(2)] == [
        0,
        0,
    ]


def neighbours(key: str, number: int) -> list[str]:
    """So many keys of the same bucket."""
    bucket = shared_module._place_of(key)[1]
    keys = (f"client-{each}" for each in itertools.count())
    return list(
        itertools.islice((each for each in keys if shared_module._place_of(each)[1] == bucket), number)
    )


def test_a_machine_started_anew_counts_afresh(shared: SharedLimiter, ticks: Ticks) -> None:
    """Whatever the times of a whole bucket, they are of another count."""
    for key in neighbours("new", SLOTS):
        shared.take_now(key, SLOW)
    ticks.now = 5 * SECOND_US
    assert [shared.take_now("new", SLOW).remaining for _ in range(2)] == [4, 3]


def test_a_full_bucket_forgets_whoever_has_called_least(shared: SharedLimiter) -> None:
    """More keys than there is room for, all of them busy: nobody waits, and the busiest is still known."""
    for _ in range(5):
        assert shared.take_now("busiest", SLOW).allowed
    crowd = neighbours("busiest", 3 * SLOTS)
    for key in crowd:
        assert shared.take_now(key, SLOW).allowed
    assert not shared.take_now("busiest", SLOW).allowed
    assert [shared.take_now(crowd[-1], SLOW).remaining for _ in range(2)] == [3, 2]


def test_slots_of_the_quiet_are_used_again(shared: SharedLimiter, ticks: Ticks) -> None:
    old, new = neighbours("one", 2 * SLOTS)[:SLOTS], neighbours("one", 2 * SLOTS)[SLOTS:]
    for key in old:
        shared.take_now(key, SLOW)
    ticks.now += 3600 * SECOND_US
    for remaining in (4, 3, 2):
        assert [shared.take_now(key, SLOW).remaining for key in new] == [remaining] * SLOTS


@pytest.mark.parametrize("found", [b"", b"x" * 100, b"\xff" * (4 << 20)])
def test_a_file_of_another_size_is_made_anew(tmp_path: Path, ticks: Ticks, found: bytes) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / FILE).write_bytes(found)
    limiter = SharedLimiter(tmp_path / "data", ticks)
    verdicts = [limiter.take_now("acme", SLOW) for _ in range(6)]
    assert [verdict.allowed for verdict in verdicts] == [True] * 5 + [False]
    assert not verdicts[0].degraded
    limiter.close()


def test_a_file_full_of_nonsense_refuses_nobody_for_long(tmp_path: Path, ticks: Ticks) -> None:
    SharedLimiter(tmp_path / "data", ticks).take_now("acme", SLOW)
    path = tmp_path / "data" / FILE
    path.write_bytes(os.urandom(path.stat().st_size))
    limiter = SharedLimiter(tmp_path / "data", ticks)
    for key in range(1_000):
        assert limiter.take_now(f"client-{key}", SLOW).allowed
    limiter.close()


def test_a_planted_link_is_not_followed(tmp_path: Path, ticks: Ticks) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"precious")
    (tmp_path / "data" / FILE).symlink_to(theirs)
    limiter = SharedLimiter(tmp_path / "data", ticks)
    verdicts = [limiter.take_now("acme", SLOW) for _ in range(6)]
    assert [verdict.allowed for verdict in verdicts] == [True] * 5 + [False]
    assert verdicts[0].degraded
    assert theirs.read_bytes() == b"precious"


def test_a_machine_keeps_one_name_and_the_number_of_gateways(tmp_path: Path, ticks: Ticks) -> None:
    one, two = (SharedLimiter(tmp_path / "data", ticks) for _ in range(2))
    assert one.gateway_id == two.gateway_id
    assert (one.gateways, len(one.gateway_id)) == (1, 32)
    one.gateways = 7
    assert two.gateways == 7
    one.close()
    two.close()
    assert SharedLimiter(tmp_path / "other", ticks).gateway_id != two.gateway_id


def test_where_no_range_can_be_locked_the_whole_file_is(
    tmp_path: Path, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_module, "_OFD", None)
    one, two = (SharedLimiter(tmp_path / "data", ticks) for _ in range(2))
    assert [each.take_now("acme", SLOW).remaining for each in (one, two, one, two)] == [4, 3, 2, 1]
    assert not one.take_now("acme", SLOW).degraded
    one.close()
    two.close()


def test_a_full_disk_is_told_and_each_worker_counts_alone(
    tmp_path: Path, ticks: Ticks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    limiter = SharedLimiter(tmp_path / "data", ticks)
    verdicts = [limiter.take_now("acme", SLOW) for _ in range(6)]
    assert [verdict.allowed for verdict in verdicts] == [True] * 5 + [False]
    assert all(verdict.degraded for verdict in verdicts)
    assert len([each for each in caplog.records if "No space left" in each.getMessage()]) == 1
    limiter.close()
