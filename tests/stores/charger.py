"""A process that charges and says so: `python -m tests.stores.charger <directory> <how> <name> <count>`.

It writes `ACK <job>` or `NO <job>` or `503 <job>` only after the store has answered. `how` is `run`, `submit`
(several at once), `snapshot` (a snapshot and a new segment after every few charges), or `steps`: the same in
one thread only, so that its system calls can be counted.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from pathlib import Path

from openclaw_billing.errors import StorageUnavailable
from openclaw_billing.stores import json_store, snapshots
from openclaw_billing.stores.json_store import JsonStore
from tests.stores.charging import charging

SUBMITTED_AT_ONCE = 8


def tell(word: str, job: str) -> None:
    os.write(1, f"{word} {job}\n".encode())


def told(job: str, answer: object, error: BaseException | None) -> None:
    if isinstance(error, StorageUnavailable):
        tell("503", job)
        return
    assert error is None, error
    tell("ACK" if answer else "NO", job)


def run_all(store: JsonStore, jobs: list[str], snapshot_every: int) -> None:
    for index, job in enumerate(jobs):
        try:
            told(job, store.run(charging("c1", job), "charge"), None)
        except StorageUnavailable as error:
            told(job, None, error)
        if snapshot_every and index % snapshot_every == snapshot_every - 1:
            store.snapshot()


def settle(left: threading.Semaphore, job: str, answer: object, error: BaseException | None) -> None:
    told(job, answer, error)
    left.release()


def submit_all(store: JsonStore, jobs: list[str]) -> None:
    for begin in range(0, len(jobs), SUBMITTED_AT_ONCE):
        left = threading.Semaphore(0)
        some = jobs[begin : begin + SUBMITTED_AT_ONCE]
        for job in some:
            store.submit(charging("c1", job), "charge", partial(settle, left, job))
        store.flush_soon()
        for _ in some:
            left.acquire()


def main() -> None:
    path, how, name, count = sys.argv[1:]
    jobs = [f"{name}-{n}" for n in range(int(count))]
    store = JsonStore(Path(path), lock_seconds_max=10)
    if how in ("snapshot", "steps"):
        json_store.SEGMENT_BYTES_MAX = 1_500
        snapshots.BYTES_BEHIND_MIN = 1_000
    if how == "steps":
        store._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
    store.open()
    if how == "submit":
        submit_all(store, jobs)
    else:
        run_all(store, jobs, 3 if how in ("snapshot", "steps") else 0)
    store.close()
    tell("END", name)


if __name__ == "__main__":
    main()
