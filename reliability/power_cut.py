"""Power cuts on a real ext4: `unshare --mount python -m reliability.power_cut <states>`.

The file behind a loop device holds what the file system has written out, and nothing of what waits in its
memory. A copy of it, taken while the writer is stopped, is what a power cut at that moment leaves: it is
mounted, its journal replayed, and the store loaded. What a disk may still reorder within its own cache is
the simulation's part. The control is a store whose flush does nothing: it must be seen to lose answers.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.stores import journal_end, json_store, snapshots
from openclaw_billing.stores.json_store import JsonStore
from tests.stores.charging import charging, opening

SIZE = "12M"


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def write(path: Path, writing: int, flushing: bool) -> None:
    """Charge for ever, with snapshots and new segments in between; say each answer."""
    json_store.SEGMENT_BYTES_MAX, snapshots.BYTES_BEHIND_MIN = 6_000, 3_000
    if not flushing:
        journal_end.JournalEnd._flush = lambda self: None  # type: ignore[method-assign]
    store = JsonStore(path)
    store._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
    store.open()
    for number in range(1_000_000):
        store.run(charging("c1", f"j{number}"), "charge")
        os.write(writing, f"j{number}\n".encode())
        if flushing and number % 7 == 6:
            store.snapshot()


def lost_in(image: Path, mounted: Path, told: list[str]) -> str:
    """What the image lacks of what was told, "" when nothing."""
    run("mount", "-o", "loop", str(image), str(mounted))
    try:
        store = JsonStore(mounted / "data")
        store.open()
        charged = {each.job_id for each in store.ledger(HistoryQuery(limit=1_000_000)).entries}
        store.close()
        lost = [job for job in told if job not in charged]
        return f"{len(lost)} lost" if lost else ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        run("umount", str(mounted))


def cut(states: int, *, flushing: bool) -> list[str]:
    choice, wrong = random.Random(states), []
    with tempfile.TemporaryDirectory(prefix="openclaw-power-", dir="/dev/shm") as name:
        place = Path(name)
        image, copy, mounted, tried = (place / each for each in ("disk", "copy", "mounted", "tried"))
        mounted.mkdir()
        tried.mkdir()
        for begin in range(0, states, 20):
            run("truncate", "-s", "0", str(image))
            run("truncate", "-s", SIZE, str(image))
            run("mkfs.ext4", "-q", "-F", str(image))
            run("mount", "-o", "loop", str(image), str(mounted))
            store = JsonStore(mounted / "data")
            store.open()
            store.run(opening("c1", 1_000_000), "open")
            store.close()
            run("sync")
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                write(mounted / "data", writing, flushing)
                os._exit(0)
            os.close(writing)
            os.set_blocking(reading, False)
            told, rest = [], b""
            for _ in range(min(20, states - begin)):
                time.sleep(choice.uniform(0.002, 0.05))
                os.kill(pid, signal.SIGSTOP)
                os.waitpid(pid, os.WUNTRACED)
                while True:
                    try:
                        data = os.read(reading, 1 << 16)
                    except BlockingIOError:
                        break
                    *lines, rest = (rest + data).split(b"\n")
                    told += [line.decode() for line in lines]
                shutil.copyfile(image, copy)
                wrong.append(lost_in(copy, tried, told))
                os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(reading)
            run("umount", str(mounted))
    return wrong


def main() -> int:
    states = int(sys.argv[1])
    lost, control = cut(states, flushing=True), cut(20, flushing=False)
    print(
        json.dumps(
            {
                "states": len(lost),
                "lost": sum(map(bool, lost)),
                "what": [each for each in lost if each][:3],
                "control_states": len(control),
                "control_lost": sum(map(bool, control)),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
