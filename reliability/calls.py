"""Callers over HTTP whose gateway is killed under them, and the one order of events that must explain their answers.

`python -m reliability.calls PORT SEED` is one caller: it reads key texts from its input, submits jobs, cancels some
and asks for its balance until its input ends, and writes what it asked and was answered as JSON lines. Times are the
machine's, so that those of all callers compare. `check` holds them against the journal, in the order of its lines.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from openclaw_billing.stores import backups
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.json_store import JsonStore
from reliability.figure import ROOT, Seen
from tests.served import Served, served

CLIENTS = 2
CREDITS = 1_000_000
CANCELLED, READ = 0.1, 0.3
CALLS_BETWEEN = 80
"""How many calls are made between two kills."""
NEVER = 1 << 62


@dataclass(slots=True)
class Call:
    """`status` is 0 where the connection was refused, and None where no answer came."""

    what: Literal["submit", "cancel", "usage"]
    client: int
    job: str
    """The project's name that a submitted job was given; the id of one that is cancelled."""
    begun: int
    ended: int = NEVER
    status: int | None = None
    answer: dict[str, Any] = field(default_factory=dict)


# The caller


def call_until(over: threading.Event, port: int, seed: int, keys: list[str]) -> None:
    choice, number, mine = random.Random(seed), 0, list[tuple[int, str]]()
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    while not over.is_set():
        number += 1
        client, fate = choice.randrange(len(keys)), choice.random()
        call = Call("submit", client, f"{seed}-{number}", time.monotonic_ns())
        if fate < CANCELLED and mine:
            client, job_id = mine.pop(choice.randrange(len(mine)))
            call = Call("cancel", client, job_id, time.monotonic_ns())
        elif fate < READ:
            call = Call("usage", client, "", time.monotonic_ns())
        ask(line, call, keys[client])
        if call.what == "submit" and call.status == 200:
            mine.append((client, call.answer["job_id"]))
        print(json.dumps([getattr(call, name) for name in Call.__slots__]), flush=True)
        if call.status in (0, None):
            line.close()
            time.sleep(0.01)


def ask(line: http.client.HTTPConnection, call: Call, key: str) -> None:
    headers, body = {"X-Client-Key": key}, None
    method, path = {
        "submit": ("POST", "/api/intake"),
        "cancel": ("DELETE", f"/api/jobs/{call.job}"),
        "usage": ("GET", "/api/billing/usage"),
    }[call.what]
    if call.what == "submit":
        headers["Content-Type"] = "application/json"
        body = json.dumps({"project_name": call.job, "description": "A feature", "task_type": "other"})
    try:
        line.request(method, path, body, headers)
        answer = line.getresponse()
        call.answer, call.status = json.loads(answer.read() or b"{}"), answer.status
    except ConnectionRefusedError:
        call.status = 0
    except (OSError, http.client.HTTPException, ValueError):
        return
    call.ended = time.monotonic_ns()


def main() -> None:
    keys = json.loads(sys.stdin.readline())
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    call_until(over, int(sys.argv[1]), int(sys.argv[2]), keys)


# The killing


@contextmanager
def calling(running: Served, keys: list[str], callers: int, heard: list[Call]) -> Iterator[list[str]]:
    """So many callers; the lines that they say meanwhile, and what they have heard once they are done."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "reliability.calls", str(running.port), str(seed)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(callers)
    ]
    said: list[str] = []

    def hear(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)

    listeners = [threading.Thread(target=hear, args=(process,)) for process in processes]
    for process, listener in zip(processes, listeners, strict=True):
        assert process.stdin is not None
        process.stdin.write(json.dumps(keys) + "\n")
        process.stdin.flush()
        listener.start()
    try:
        yield said
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        for process, listener in zip(processes, listeners, strict=True):
            listener.join(30)
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    heard.extend(Call(*json.loads(line)) for line in said)


def killed_over_http(kills: int = 60, workers: int = 4, callers: int = 8, seed: int = 1) -> Seen:
    """Workers killed at random, and now and then all of them at once, while callers call."""
    choice, heard = random.Random(seed), list[Call]()
    with tempfile.TemporaryDirectory() as name, served(Path(name), workers=workers) as running:
        made = [running.create_client(f"c{number}@example.com", "pro", CREDITS) for number in range(CLIENTS)]
        with calling(running, [each["api_key"] for each in made], callers, heard) as said:
            for number in range(kills):
                _wait_for_more(said, CALLS_BETWEEN)
                time.sleep(choice.uniform(0, 0.02))
                if number % 15 == 14:
                    running.kill_all()
                    running.start_again()
                elif running.workers:
                    with suppress(ProcessLookupError):
                        os.kill(choice.choice(running.workers), signal.SIGKILL)
        running.kill_all()
        # The next start settles what the killed ones left half written.
        store = JsonStore(running.data)
        store.open()
        store.close()
        found = check(running.data, [each["client_id"] for each in made], heard)
    answered = sum(call.status == 200 for call in heard)
    unanswered = sum(call.status is None for call in heard)
    told = ", ".join(f"{count} {what}" for what, count in found.items())
    return Seen(
        f"over HTTP, {kills} kills of {workers} workers under {callers} callers: {answered} answered, "
        f"{unanswered} not: {told}",
        not any(found.values()) and answered > CALLS_BETWEEN * kills // 2,
    )


def _wait_for_more(said: list[str], count: int) -> None:
    wanted, deadline = len(said) + count, time.monotonic() + 60
    while len(said) < wanted:
        assert time.monotonic() < deadline, "nothing is answered any more"
        time.sleep(0.001)


# The judgement


@dataclass(frozen=True, slots=True)
class Written:
    """One change of a client's balance, in the order of the journal."""

    kind: str
    job_id: str
    left: int


def check(data: Path, clients: list[str], calls: list[Call]) -> dict[str, int]:
    """How many answers are lost, doubled, made up, negative, wrong or out of order."""
    written, names, problems = _read(data, clients)
    found = dict.fromkeys(("lost", "doubled", "ghosts", "negative", "wrong", "out of order"), 0)
    found["wrong"] += problems
    for number, client_id in enumerate(clients):
        mine = [call for call in calls if call.client == number]
        _judge(written[client_id], names, mine, found)
    return found


def _read(data: Path, clients: list[str]) -> tuple[dict[str, list[Written]], dict[str, str], int]:
    """Each client's changes in order, the name of each job, and how many problems `verify` has."""
    written: dict[str, list[Written]] = {client_id: [] for client_id in clients}
    left, names = Counter[str](), dict[str, str]()
    directory = Directory(data)
    directory.open()
    try:
        problems = len(backups.verify(directory, Chain(None)).problems)
        for line in backups.walk(directory, Chain(None)):
            for job in line.data.get("put", {}).get("jobs", ()):
                names[job["job_id"]] = job["project_name"]
            for entry in line.data.get("ledger", ()):
                left[entry["client_id"]] += entry.get("available", 0)
                balance = left[entry["client_id"]]
                written[entry["client_id"]].append(Written(entry["kind"], entry.get("job_id") or "", balance))
    finally:
        directory.close()
    return written, names, problems


def _judge(written: list[Written], names: dict[str, str], calls: list[Call], found: dict[str, int]) -> None:
    places: dict[tuple[str, str], list[int]] = {}
    for place, each in enumerate(written):
        name = names.get(each.job_id, "") if each.kind == "capture" else each.job_id
        places.setdefault((each.kind, name), []).append(place)
        found["negative"] += each.left < 0
    changing = {"submit": "capture", "cancel": "refund"}
    by_change = {(changing[call.what], call.job): call for call in calls if call.what in changing}
    ordered: list[tuple[int, Call]] = []
    for change, stand in places.items():
        if change[0] not in ("capture", "refund"):
            continue
        found["doubled"] += len(stand) - 1
        call = by_change.get(change)
        # Whoever was refused, or never asked, changed nothing.
        if call is None or call.status not in (200, None):
            found["ghosts"] += 1
            continue
        ordered.append((stand[0], call))
        if call.what == "submit" and call.status == 200:
            found["wrong"] += call.answer["credits_remaining"] != written[stand[0]].left
    found["lost"] += sum(call.status == 200 and change not in places for change, call in by_change.items())
    found["out of order"] += _out_of_order(sorted(ordered, key=lambda pair: pair[0]))
    found["wrong"] += _wrong_readings(written, ordered, calls)


def _out_of_order(ordered: list[tuple[int, Call]]) -> int:
    """How many ended before one began that stands before them."""
    newest, wrong = 0, 0
    for _, call in ordered:
        wrong += call.ended < newest
        newest = max(newest, call.begun)
    return wrong


def _wrong_readings(written: list[Written], ordered: list[tuple[int, Call]], calls: list[Call]) -> int:
    """How many balances were told that nobody could have seen between the beginning and the end of the call."""
    readings = sorted(
        (call for call in calls if call.what == "usage" and call.status == 200), key=lambda call: call.begun
    )
    first = next(place for place, each in enumerate(written) if each.left >= CREDITS)
    by_end = sorted(ordered, key=lambda pair: pair[1].ended)
    # The earliest place that a call holds which began later than some moment, from the last one backwards.
    by_begin = sorted(ordered, key=lambda pair: pair[1].begun)
    begins = [call.begun for _, call in by_begin]
    earliest = [len(written)]
    for place, _ in reversed(by_begin):
        earliest.append(min(earliest[-1], place))
    earliest.reverse()
    wrong, done, low = 0, 0, first
    for call in readings:
        while done < len(by_end) and by_end[done][1].ended < call.begun:
            low = max(low, by_end[done][0])
            done += 1
        high = earliest[bisect_right(begins, call.ended)]
        told = call.answer["credits_remaining"]
        wrong += all(each.left != told for each in written[low:high])
    return wrong


if __name__ == "__main__":
    main()
