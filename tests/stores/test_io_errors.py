"""Disks that fail, fill or lie: the batch is refused, reads go on, and nothing unacknowledged stays."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from openclaw_billing.contracts import HistoryQuery
from tests.stores.charging import charging, opening
from tests.stores.conftest import Shop

ROOT = Path(__file__).parents[2]
STRACE = shutil.which("strace")
needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not installed")
CODE = """
    import os, resource, sys
    from pathlib import Path
    from openclaw_billing.errors import StorageUnavailable
    from openclaw_billing.stores.json_store import JsonStore
    from tests.stores.charging import charging

    store = JsonStore(Path(sys.argv[1]), lock_seconds_max=0.3)
    store._snapshots.consider = lambda **_: None
    store.open()

    def charge(job, healthy=lambda: store.health().writable):
        try:
            word = "ACK" if store.run(charging("c1", job), "charge") else "NO"
        except StorageUnavailable:
            word = "503"
        left = store.view.accounts.get("c1").available
        os.write(1, f"{word} {job} {left} {healthy()}\\n".encode())
"""


@pytest.fixture
def charged(shop: Shop) -> Callable[..., list[str]]:
    """What a process was told whose calls on the journal go wrong as `inject` says."""
    store = shop.open()
    store.run(opening("c1", 100), "open")
    store.close()

    def charge(*options: str, code: str = "for n in range(5): charge(f'j{n}')") -> list[str]:
        command = [sys.executable, "-c", textwrap.dedent(CODE) + textwrap.dedent(code), str(shop.path)]
        if options:
            assert STRACE is not None
            command = [STRACE, "-f", "-qq", "-P", str(shop.journal), *options, *command]
        done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=True, timeout=60)
        return done.stdout.decode().splitlines()

    return charge


def check(shop: Shop, told: list[str]) -> None:
    """The store holds what was acknowledged, and nothing else."""
    answered = [line.split()[1] for line in told if line.startswith("ACK")]
    store = shop.open()
    found = store.ledger(HistoryQuery(limit=1000))
    assert [each.job_id for each in reversed(found.entries)] == [None, *answered]
    account = store.view.accounts.get("c1")
    assert account is not None
    assert account.available == 100 - len(answered)


@needs_strace
def test_one_failed_flush_refuses_its_batch_and_the_next_goes_on(
    shop: Shop, charged: Callable[..., list[str]]
) -> None:
    told = charged("-o", "/dev/null", "-e", "inject=fdatasync:error=EIO:when=3")
    # To be asked for its health makes the disk prove itself, as the next change would.
    assert told == ["ACK j0 99 True", "ACK j1 98 True", "503 j2 98 True", "ACK j3 97 True", "ACK j4 96 True"]
    check(shop, told)


@needs_strace
def test_a_disk_that_never_flushes_again_refuses_every_change_and_reads_go_on(
    shop: Shop, charged: Callable[..., list[str]]
) -> None:
    told = charged(
        "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO:when=3+", "-e", "inject=fsync:error=EIO:when=2+"
    )
    assert told[:2] == ["ACK j0 99 True", "ACK j1 98 True"]
    assert told[2:] == ["503 j2 98 False", "503 j3 98 False", "503 j4 98 False"]
    check(shop, told)


@needs_strace
def test_a_failed_write_poisons_and_recovers(shop: Shop, charged: Callable[..., list[str]]) -> None:
    told = charged("-o", "/dev/null", "-e", "inject=write:error=EIO:when=2")
    assert told[:3] == ["ACK j0 99 True", "503 j1 99 True", "ACK j2 98 True"]
    check(shop, told)


@needs_strace
@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EROFS", "EFBIG"])
def test_a_full_disk_refuses_one_batch_without_poison(
    shop: Shop, charged: Callable[..., list[str]], error: str
) -> None:
    told = charged("-o", "/dev/null", "-e", f"inject=write:error={error}:when=2")
    assert told[:3] == ["ACK j0 99 True", "503 j1 99 True", "ACK j2 98 True"]
    check(shop, told)


@needs_strace
def test_a_short_write_is_cut_back_durably_and_refused(
    shop: Shop, charged: Callable[..., list[str]], tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    calls = "trace=write,ftruncate,fsync,fdatasync"
    told = charged("-o", str(trace), "-e", calls, "-e", "inject=write:retval=20:when=2")
    assert told[:3] == ["ACK j0 99 True", "503 j1 99 True", "ACK j2 98 True"]
    check(shop, told)
    asked = re.findall(r"\b(write|ftruncate|fsync|fdatasync)\(", trace.read_text())
    second = [place for place, call in enumerate(asked) if call == "write"][1]
    # Half of one line and half of the next shall never be on the disk together.
    assert asked[second : second + 4] == ["write", "ftruncate", "fsync", "write"]


@needs_strace
def test_a_cut_that_fails_keeps_the_unacknowledged_line_from_everybody(
    shop: Shop, charged: Callable[..., list[str]]
) -> None:
    """While the bytes cannot be taken back the lock is kept, so that another process is refused as well."""
    code = """
        charge("j0")
        charge("j1")
        other = JsonStore(Path(sys.argv[1]), lock_seconds_max=0.3)
        try:
            other._lock._directory.open()
            other._lock.acquire()
            print("both", flush=True)
        except StorageUnavailable:
            print("refused", flush=True)
        charge("j2")
        charge("j3")
    """
    told = charged(
        "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO:when=2", "-e", "inject=ftruncate:error=EIO:when=1..4",
        code=code,
    )  # fmt: skip
    assert told == ["ACK j0 99 True", "503 j1 99 False", "refused", "503 j2 99 False", "ACK j3 98 True"]
    check(shop, told)


@needs_strace
def test_a_failed_flush_never_cuts_what_another_process_wrote_since(
    shop: Shop, charged: Callable[..., list[str]]
) -> None:
    """The cut was made at once; by the time of the recovery others may have gone on behind it."""
    code = """
        other = JsonStore(Path(sys.argv[1]))
        other._snapshots.consider = lambda **_: None
        other.open()
        charge("j0")
        charge("j1", healthy=lambda: "unasked")
        other.run(charging("c1", "theirs"), "charge")
        os.write(1, b"ACK theirs\\n")
        charge("j2")
    """
    told = charged("-o", "/dev/null", "-e", "inject=fdatasync:error=EIO:when=2", code=code)
    assert told == ["ACK j0 99 True", "503 j1 99 unasked", "ACK theirs", "ACK j2 97 True"]
    check(shop, told)


def test_a_file_size_limit_refuses_until_it_is_lifted(shop: Shop, charged: Callable[..., list[str]]) -> None:
    told = charged(
        code="""
        charge("j0")
        size = os.stat(f"{sys.argv[1]}/openclaw_clients.journal").st_size
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        for room in (0, 100):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
            charge(f"refused{room}")
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        charge("j1")
        """
    )
    assert told == ["ACK j0 99 True", "503 refused0 99 False", "503 refused100 99 False", "ACK j1 98 True"]
    check(shop, told)


@needs_strace
def test_no_charge_is_acknowledged_before_its_flush(
    shop: Shop, charged: Callable[..., list[str]], tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    told = charged("-P", "/dev/stdout", "-y", "-s", "4000", "-o", str(trace), "-e", "trace=write,fdatasync")
    check(shop, told)
    written: set[str] = set()
    durable: set[str] = set()
    for line in trace.read_text().splitlines():
        if "fdatasync" in line and line.endswith("= 0"):
            durable |= written
        elif '"ACK ' in line:
            job = line.split('"ACK ')[1].split()[0]
            assert job in durable
        elif "write(" in line:
            written |= set(re.findall(r'job_id\\":\\"(\w+)', line))
    assert durable == {f"j{n}" for n in range(5)}


@needs_strace
def test_waiting_charges_share_one_flush(
    shop: Shop, charged: Callable[..., list[str]], tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    code = """
        import threading
        left = threading.Semaphore(0)
        for n in range(32):
            store.submit(charging("c1", f"j{n}"), "charge", lambda *_: left.release())
        store.flush_soon()
        for n in range(32):
            left.acquire()
    """
    charged("-o", str(trace), "-e", "trace=fdatasync", code=code)
    assert trace.read_text().count("fdatasync(") == 1


def test_a_repeated_job_is_not_confirmed_on_bytes_that_were_never_flushed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer may die between its write and its flush; whoever builds an answer on that flushes first."""
    store = shop.open()
    store.run(opening("c1", 5), "open")
    dead = shop.open()
    flushed: list[int] = []
    flush = os.fdatasync

    def flush_of_the_living(fd: int) -> None:
        if fd != dead._replica.end.fd:
            flushed.append(fd)
            flush(fd)

    monkeypatch.setattr(os, "fdatasync", flush_of_the_living)
    dead.run(charging("c1", "j1"), "charge")
    assert store.run(charging("c1", "j1"), "charge") is True
    assert flushed


@needs_strace
def test_a_segment_begun_by_a_process_that_died_has_its_name_flushed_before_it_is_built_on(
    shop: Shop, charged: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert STRACE is not None
    command = [STRACE, "-f", "-qq", "-o", "/dev/null", "-e", "inject=renameat:signal=SIGKILL:when=3"]
    command += [sys.executable, "-m", "tests.stores.charger", str(shop.path), "steps", "p", "7"]
    subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=False, timeout=60)
    trace = tmp_path / "trace"
    charged_more = charged(
        "-P", str(shop.path), "-y", "-o", str(trace), "-e", "trace=fsync,write", code="charge('j')"
    )
    assert charged_more[0].startswith("ACK")
    calls = trace.read_text()
    assert f"fsync(3<{shop.path}>)" in calls
    assert calls.index(f"<{shop.path}>)") < calls.rindex("write(")


@needs_strace
@pytest.mark.parametrize("error", ["ENOLCK", "EIO"])
def test_a_start_that_cannot_lock_or_open_is_refused_in_a_sentence(
    shop: Shop, charged: Callable[..., list[str]], error: str
) -> None:
    call = {"ENOLCK": "flock", "EIO": "read"}[error]
    assert STRACE is not None
    code = """
        import sys
        from pathlib import Path
        from openclaw_billing.errors import StartupError
        from openclaw_billing.stores.json_store import JsonStore
        try:
            JsonStore(Path(sys.argv[1])).open()
        except StartupError as error:
            print(error)
    """
    place = shop.lock if error == "ENOLCK" else shop.journal
    command = [STRACE, "-f", "-qq", "-o", "/dev/null", "-P", str(place), "-e", f"inject={call}:error={error}"]
    command += [sys.executable, "-c", textwrap.dedent(code), str(shop.path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=True, timeout=60)
    assert b"cannot be opened" in done.stdout


@needs_strace
def test_a_snapshot_that_finds_no_room_leaves_nothing_behind_and_costs_no_charge(
    shop: Shop, charged: Callable[..., list[str]]
) -> None:
    code = """
        charge("j0")
        try:
            store.snapshot()
        except OSError as error:
            print(error.strerror, sorted(n for n in os.listdir(sys.argv[1]) if n.endswith(".tmp")), flush=True)
        charge("j1")
    """
    told = charged(
        "-o", "/dev/null", "-P", f"{shop.checkpoint}.tmp", "-e", "inject=write:error=ENOSPC:when=2", code=code
    )
    assert told == ["ACK j0 99 True", "No space left on device []", "ACK j1 98 True"]
    check(shop, told)
