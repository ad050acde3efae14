"""What the files survive: power cuts, kills, changed bytes, and how quickly they are read again."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from openclaw_billing.contracts import HistoryQuery, Transaction
from openclaw_billing.errors import CorruptStore, StorageUnavailable
from openclaw_billing.records import EntryKind
from openclaw_billing.stores import backups
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.json_store import JsonStore
from reliability.figure import ROOT, Seen, Skipped
from tests.stores.charging import MOMENT, account, audit, charging, client, entry, opening


@contextlib.contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="openclaw-reliability-") as name:
        yield Path(name) / "data"


def simulated(seeds: int) -> tuple[int, Seen]:
    """Seeds of the simulation, on every core: how many power cuts were in them, and what was seen."""
    command = [sys.executable, "-m", "tests.simulation", "--seeds", str(seeds)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    *said, last = done.stdout.splitlines()
    wrong = [line for line in said if line.startswith("seed ")]
    for line in wrong:
        print(line, flush=True)
    counted = {name: int(count) for name, count in re.findall(r"'([^']+)': (\d+)", last)}
    rate = re.search(r"\((\d+) a minute\)", last)
    assert rate is not None
    cuts = counted["power cuts"]
    return cuts, Seen(
        f"{seeds} histories with {cuts} power cuts, {counted['killed']} kills and {counted['answered']} answers, "
        f"{len(wrong)} wrong, {rate[1]} histories a minute",
        done.returncode == 0 and not wrong,
    )


def killed(kills: int = 1_000, processes: int = 8) -> Seen:
    """Forked processes that charge; one after the other is killed at a random moment and replaced."""
    with place() as path:
        store = JsonStore(path)
        store.open()
        store.run(opening("c1", 10_000_000), "open")
        store.close()
        choice, told, started = random.Random(kills), Counter[str](), 0
        running: dict[int, tuple[int, bytes]] = {}
        selector = selectors.DefaultSelector()

        def start() -> None:
            nonlocal started
            started += 1
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(reading)
                _charge_for_ever(path, f"p{started}", writing)
            os.close(writing)
            running[pid] = (reading, b"")
            selector.register(reading, selectors.EVENT_READ, pid)

        def hear(pid: int) -> bool:
            reading, rest = running[pid]
            data = os.read(reading, 1 << 20)
            *lines, rest = (rest + data).split(b"\n")
            running[pid] = (reading, rest)
            told.update(line.decode() for line in lines)
            return bool(data)

        def end(pid: int) -> None:
            os.kill(pid, signal.SIGKILL)
            while hear(pid):
                pass
            os.waitpid(pid, 0)
            selector.unregister(running[pid][0])
            os.close(running.pop(pid)[0])

        for _ in range(processes):
            start()
        for _ in range(kills):
            wanted = told.total() + 100
            until = time.monotonic() + choice.uniform(0, 0.02)
            while told.total() < wanted or time.monotonic() < until:
                for key, _ in selector.select(0.005):
                    hear(key.data)
            end(choice.choice(list(running)))
            start()
        for pid in list(running):
            end(pid)
        return _killed_seen(path, kills, told)


def _charge_for_ever(path: Path, name: str, writing: int) -> None:
    store = JsonStore(path, lock_seconds_max=30)
    store.open()
    number = 0
    while True:
        jobs = [f"{name}-{number + each}" for each in range(8)]
        number += 8
        answers: list[tuple[str, object, BaseException | None]] = []

        def settle(job: str, answer: object, error: BaseException | None, answers: Any = answers) -> None:
            answers.append((job, answer, error))

        for job in jobs:
            store.submit(charging("c1", job), "charge", partial(settle, job))
        with contextlib.suppress(StorageUnavailable):
            store.run(lambda _tx: None, "flush")
        for job, answer, error in answers:
            os.write(writing, f"{'503' if error else 'ACK' if answer else 'NO'} {job}\n".encode())


def _killed_seen(path: Path, kills: int, told: Counter[str]) -> Seen:
    store = JsonStore(path)
    store.open()
    entries = store.ledger(HistoryQuery(client_id="c1", limit=10_000_000)).entries
    charged = Counter(each.job_id for each in entries if each.job_id is not None)
    acknowledged = {line[4:] for line in told if line.startswith("ACK")}
    refused = {line[4:] for line in told if line.startswith("503")}
    found = store.view.accounts.get("c1")
    assert found is not None
    problems = backups.verify(store.directory, Chain(None)).problems
    wrong = {
        "lost": len(acknowledged - charged.keys()),
        "doubled": sum(count != 1 for count in charged.values()),
        "ghosts": len(refused & charged.keys()),
        "misnumbered": int([e.number for e in entries] != list(range(len(entries), 0, -1))),
        "sums wrong": int(found.available != 10_000_000 - len(charged)) + len(problems),
    }
    store.close()
    seen = ", ".join(f"{count} {name}" for name, count in wrong.items())
    text = f"{kills} kills of 8 processes, {len(acknowledged)} operations answered: {seen}"
    return Seen(text, not any(wrong.values()) and len(acknowledged) >= 100 * kills)


CRASH_CALLS = (
    "write",
    "fdatasync",
    "fsync",
    "renameat",
    "linkat",
    "unlinkat",
    "flock",
    "openat",
    "ftruncate",
)
CRASHES_MAX = 400
"""More calls of one kind than the whole work makes: it does not go on for ever."""


def check_strace(call: str = "fsync") -> None:
    """Whether calls can be injected here.

    Raises:
        Skipped
    """
    if shutil.which("strace") is None:
        raise Skipped("strace is not installed")
    command = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        f"trace={call}",
        "-e",
        f"inject={call}:signal=SIGKILL",
    ]
    probe = [sys.executable, "-c", "import os; os.fsync(os.open('/tmp', os.O_RDONLY))"]
    done = subprocess.run([*command, *probe], stderr=subprocess.PIPE, check=False)
    if done.returncode != -signal.SIGKILL:
        raise Skipped(f"strace may not trace here ({done.stderr.decode().strip()[-100:] or done.returncode})")


def crash_points(jobs: int = 15) -> Seen:
    """SIGKILL at the entry of the k-th call of each kind, for every k there is; the store is loaded each time."""
    check_strace()
    with place() as path:
        store = JsonStore(path)
        store.open()
        store.run(opening("c1", 1_000), "open")
        store.close()
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            outcomes = [
                each for found in pool.map(partial(_crashes, path, jobs), CRASH_CALLS) for each in found
            ]
    bad = [outcome for outcome in outcomes if outcome]
    text = f"{len(outcomes)} crash points of {len(CRASH_CALLS)} calls: {len(bad)} bad {bad[:2] or ''}"
    return Seen(text.strip(), not bad and len(outcomes) >= 200)


def _crashes(saved: Path, jobs: int, call: str) -> list[str]:
    """What is wrong after a crash at each of its calls."""
    outcomes: list[str] = []
    while (outcome := _crash(saved, jobs, call, len(outcomes) + 1)) is not None:
        outcomes.append(outcome)
        if len(outcomes) == CRASHES_MAX:
            raise AssertionError(f"{call} is called more than {CRASHES_MAX} times")
    return outcomes


def _crash(saved: Path, jobs: int, call: str, when: int) -> str | None:
    """What is wrong after a crash there, "" when nothing; None when it never came to it."""
    with tempfile.TemporaryDirectory(prefix="openclaw-crash-") as name:
        path = Path(name) / "data"
        shutil.copytree(saved, path)
        path.chmod(0o700)
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", *_paths(path, call)]
        command += ["-e", f"inject={call}:signal=SIGKILL:when={when}"]
        command += [sys.executable, "-m", "tests.stores.charger", str(path), "steps", "p", str(jobs)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        told = done.stdout.decode().splitlines()
        if done.returncode == 0 and any(line.startswith("END") for line in told):
            return None
        if done.returncode != -signal.SIGKILL:
            return (
                f"{call} {when}: it was not killed, it ended with {done.returncode}: {done.stderr[-200:]!r}"
            )
        try:
            wrong = _left_by_a_crash(path, told)
        except Exception as error:
            wrong = str(error)
        return wrong and f"{call} {when}: {wrong}"


def _paths(path: Path, call: str) -> list[str]:
    """The files whose calls count: the interpreter makes hundreds of its own."""
    names = {
        "openat": ("journal", "journal.tmp", "lock", "checkpoint", "checkpoint.tmp", "json", "json.tmp"),
        **dict.fromkeys(
            ("write", "fdatasync", "fsync", "ftruncate"),
            ("journal", "journal.tmp", "checkpoint.tmp", "json.tmp"),
        ),
    }.get(call, ())
    files = [path / f"openclaw_clients.{each}" for each in names]
    if names and call != "openat":
        files.append(path)
    return [word for file in files for word in ("-P", str(file))]


def _left_by_a_crash(path: Path, told: list[str]) -> str:
    store = JsonStore(path)
    store.open()
    charged = Counter(
        each.job_id for each in store.ledger(HistoryQuery(limit=1_000)).entries if each.job_id is not None
    )
    problems = backups.verify(store.directory, Chain(None)).problems
    store.close()
    lost = [line for line in told if line.startswith("ACK") and line[4:] not in charged]
    twice = [job for job, count in charged.items() if count > 1]
    return f"{lost} {twice} {problems}" if lost or twice or problems else ""


MASKS = (0x01, 0x20, 0xFF)


def flipped_bytes(step: int = 1) -> Seen:
    """Every byte of every file of a store changed, and loaded; and its whole ledger and audit log read.

    Once without a checkpoint, so that a start reads the journal; once with one and closed segments behind it, which
    a start does not read: what was changed there must not be told as history.
    """
    counted = Counter[str]()
    with ProcessPoolExecutor(os.cpu_count() or 1) as pool:
        shares = pool.map(_flips, [(whole, step, share, 4) for whole in (False, True) for share in range(4)])
        for each in shares:
            counted += each
    wrong = [name for name in ("wrong", "wrong history", "empty", "unnamed", "unnoticed") if counted[name]]
    text = (
        f"{counted.total()} flips in journal, closed segments and checkpoint: by name and byte {counted['refused']} "
        f"refused at the start, {counted['history refused']} when the history was read, {counted['verified']} that "
        f"changed nothing told found by verify; {counted['wrong']} silently wrong, "
        f"{counted['wrong history']} with a history silently wrong, {counted['empty']} silently empty, "
        f"{counted['unnamed']} refused without a byte, {counted['unnoticed']} unnoticed"
    )
    return Seen(text, not wrong)


def _flips(asked: tuple[bool, int, int, int]) -> Counter[str]:
    """One share of the flips of one kind of store, in a directory of its own."""
    with_checkpoint, step, share, shares = asked
    logging.disable(logging.CRITICAL)
    counted = Counter[str]()
    with place() as path:
        true = _laid_out(path, with_checkpoint)
        names = [file for file in sorted(path.iterdir()) if _is_read(file.name)]
        kept = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
        flips = [
            (file, offset, mask)
            for file in names
            for offset in range(len(kept[file.name]))
            # The second kind of store is the larger one: one change of each byte there, of another kind each.
            for mask in (MASKS if not with_checkpoint else (MASKS[offset % len(MASKS)],))
        ]
        for file, offset, mask in flips[share :: shares * step]:
            whole = kept[file.name]
            file.write_bytes(whole[:offset] + bytes([whole[offset] ^ mask]) + whole[offset + 1 :])
            counted[_flip_outcome(path, true)] += 1
            for name, content in kept.items():
                if (path / name).read_bytes() != content:
                    (path / name).write_bytes(content)
    return counted


def _is_read(name: str) -> bool:
    return ".journal" in name or name.endswith(".checkpoint")


@dataclass(frozen=True, slots=True)
class Told:
    """What a store says of itself."""

    available: int
    ledger: list[Any]
    audit: list[Any]


def _laid_out(path: Path, with_checkpoint: bool) -> Told:
    store = JsonStore(path)
    store._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
    store.open()
    store.run(opening("c1", 100), "open")
    for number in range(3):
        store.run(charging("c1", f"j{number}"), "charge")
        store.run(lambda tx, number=number: tx.write_audit(audit(f"a{number}", "c1")), "note")
        if number == 1:
            store._replica.close_segment()
    if with_checkpoint:
        store.snapshot()
    told = _telling(store)
    store._let_go()
    return told


def _telling(store: JsonStore) -> Told:
    found = store.view.accounts.get("c1")
    ledger, noted = (read(HistoryQuery(limit=1_000)).entries for read in (store.ledger, store.audit))
    return Told(-1 if found is None else found.available, ledger, noted)


def _flip_outcome(path: Path, true: Told) -> str:
    store = JsonStore(path)
    store._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
    try:
        store.open()
    except CorruptStore as error:
        return "refused" if "at byte" in str(error) else "unnamed"
    try:
        told = _telling(store)
        problems = backups.verify(store.directory, Chain(None)).problems
    except CorruptStore as error:
        return "history refused" if "at byte" in str(error) else "unnamed"
    except Exception:
        return "unnamed"
    finally:
        store._let_go()
    if told.available < 0:
        return "empty"
    if told.available != true.available:
        return "wrong"
    if told != true:
        return "wrong history"
    return "verified" if problems and "at byte" in problems[0] else "unnoticed"


def loading(clients: int = 100_000, entries: int = 1_000_000) -> Seen:
    """A store of that size: how long a start takes, and whether its backup restores to an entry of the middle."""
    with place() as path:
        store = JsonStore(path)
        store.open()
        each = entries // clients
        for begin in range(0, clients, 500):
            store.run(_many(range(begin, begin + 500), each), "many")
        seq = int(store.health().details["seq"])
        store.close()
        begun = time.perf_counter()
        store.open()
        seconds = time.perf_counter() - begun
        assert len(store.view.clients) == clients  # type: ignore[arg-type]
        target = path.with_name("restored")
        backups.backup(store.directory, Chain(None), path.with_name("backup"))
        store.close()
        restored = backups.restore(path.with_name("backup"), target, Chain(None), to=seq // 2)
    drill = not restored.problems and restored.seq == seq // 2
    return Seen(
        f"{clients} clients and {entries} entries load in {seconds:.1f} s; its backup restores to entry {seq // 2}: "
        f"{'exact' if drill else restored.problems or restored.seq}",
        seconds <= 5 and drill,
    )


def restored_to_any_entry(jobs: int = 40) -> Seen:
    """A backup restored to each of its entries: what the store says then is what it said there."""
    said: dict[int, Told] = {}
    with place() as path:
        store = JsonStore(path)
        store._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
        store.open()
        store.run(opening("c1", 100), "open")
        for number in range(jobs):
            said[int(store.health().details["seq"])] = _telling(store)
            store.run(charging("c1", f"j{number}"), "charge")
            store.run(lambda tx, number=number: tx.write_audit(audit(f"a{number}", "c1")), "note")
            if number % 10 == 9:
                store._replica.close_segment()
        said[int(store.health().details["seq"])] = _telling(store)
        backups.backup(store.directory, Chain(None), path.with_name("backup"))
        store.close()
        exact = 0
        for seq, told in said.items():
            target = path.with_name(f"restored-{seq}")
            backups.restore(path.with_name("backup"), target, Chain(None), to=seq)
            again = JsonStore(target)
            again.open()
            exact += _telling(again) == told
            again.close()
    return Seen(f"restored to {len(said)} entries: {exact} exact", exact == len(said))


def _many(numbers: range, entries: int):  # type: ignore[no-untyped-def]
    def make(tx: Transaction) -> None:
        for number in numbers:
            client_id = f"c{number:06d}"
            tx.clients.put(client(client_id))
            tx.accounts.put(replace(account(client_id, entries), entries=entries))
            for index in range(1, entries + 1):
                tx.write_ledger(replace(entry(client_id, index, EntryKind.GRANT, 1), time=MOMENT))

    return make
