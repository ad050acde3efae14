"""A process on a small disk of its own: `unshare --mount python -m tests.stores.private_disk <directory> <what>`.

It mounts a tmpfs over the directory, where nobody else sees it, does what it is told, and says what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from fastapi import Request

from openclaw_billing.errors import StorageUnavailable
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import load_settings
from openclaw_billing.stores.json_store import JsonStore
from openclaw_billing.web.ready import readiness
from tests.stores.charging import charging, opening


class PrivateDisk:
    """The mounted directory with a store in it that has 1000 credits to give."""

    def __init__(self, place: Path, options: str) -> None:
        self.place = place
        self.mount("-t", "tmpfs", "-o", options, "none")
        place.chmod(0o700)
        self.store = self.open()
        self.store.run(opening("c1", 1000), "open")

    def mount(self, *options: str) -> None:
        subprocess.run(["mount", *options, str(self.place)], check=True)

    def open(self) -> JsonStore:
        store = JsonStore(self.place, lock_seconds_max=0.3)
        store._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
        store.open()
        return store

    def charge(self, job: str) -> str:
        try:
            word = "ACK" if self.store.run(charging("c1", job), "charge") else "NO"
        except StorageUnavailable:
            word = "503"
        account = self.store.view.accounts.get("c1")
        assert account is not None
        say(f"{word} {job} {account.available} {self.store.health().writable}")
        return word


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def filled_up_and_emptied(place: Path) -> None:
    disk = PrivateDisk(place, "size=96k,mode=0700")
    accepted = 0
    while disk.charge(f"j{accepted}") == "ACK":
        accepted += 1
    disk.charge("again")
    (place / "openclaw_clients.json").unlink(missing_ok=True)
    say(f"left {sorted(n.name for n in place.iterdir() if n.name.endswith('.tmp'))}")
    disk.mount("-o", "remount,size=1m")
    disk.charge("after")
    disk.store.close()
    found = disk.open().view.accounts.get("c1")
    assert found is not None
    say(f"found {1000 - found.available} of {accepted + 1}")


def without_inodes(place: Path) -> None:
    disk = PrivateDisk(place, "size=1m,nr_inodes=6,mode=0700")
    disk.charge("j0")
    for number in range(10):
        try:
            (place / f"filler{number}").touch()
        except OSError:
            break
    disk.charge("j1")
    try:
        disk.store.snapshot()
    except OSError as error:
        say(error.strerror or "")
    say(f"left {sorted(n.name for n in place.iterdir() if n.name.endswith('.tmp'))}")
    for number in range(10):
        (place / f"filler{number}").unlink(missing_ok=True)
    say(f"snapshot {disk.store.snapshot()}")


def made_read_only_and_writable_again(place: Path) -> None:
    disk = PrivateDisk(place, "size=1m,mode=0700")
    disk.charge("j0")
    # A descriptor open for writing keeps the whole from being remounted; a bind mount does not ask.
    disk.store.close()
    disk.mount("-o", "remount,ro")
    disk.store = disk.open()
    say(f"read {len(list(disk.store.view.clients))}")
    # Before anybody asks for a change.
    say(disk.store.health().reason)
    disk.charge("j1")
    say(disk.store.health().reason)
    disk.mount("-o", "remount,rw")
    disk.charge("j2")
    disk.store.close()
    found = disk.open().view.accounts.get("c1")
    assert found is not None
    say(f"found {1000 - found.available}")


def read_only_from_the_start(place: Path) -> None:
    settings = load_settings(data_dir=place)
    disk = PrivateDisk(place, "size=8m,mode=0700")
    disk.store.close()
    with contextlib.closing(Runtime(settings)) as runtime:
        runtime.open()
    disk.mount("-o", "remount,ro")
    with contextlib.closing(Runtime(settings)) as runtime:
        state = asyncio.run(readiness(runtime, Request({"type": "http", "headers": [], "query_string": b""})))
        say(f"ready {state.ready} {state.body['status']}")
    environment = {**os.environ, "OPENCLAW_DATA_DIR": str(place), "PYTHONPATH": str(Path.cwd())}
    doctor = [sys.executable, "-m", "openclaw_billing", "doctor"]
    done = subprocess.run(doctor, env=environment, stderr=subprocess.PIPE, text=True, cwd=place, check=False)
    say(f"doctor {done.returncode}")
    say(done.stderr.splitlines()[-1])


def first_start_on_a_full_disk(place: Path) -> None:
    # As small as it gets: each start finds some more room, until one finds enough.
    for size in range(1, 13, 2):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={4 * size}k,mode=0700", "none", str(place)], check=True
        )
        if not refused_start(place):
            assert size > 1
            return


def first_start_read_only(place: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,mode=0700", "none", str(place)], check=True)
    assert refused_start(place)


def refused_start(place: Path) -> bool:
    """Whether a gateway did not start there; what it said is told in one line."""
    environment = {**os.environ, "OPENCLAW_DATA_DIR": str(place), "PYTHONPATH": str(Path.cwd())}
    start = "import client_auth, gateway, uvicorn; uvicorn.run = lambda *_, **__: None; raise SystemExit(gateway.main([]))"
    done = subprocess.run(
        [sys.executable, "-c", start],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        say(f"{done.returncode} {' '.join(done.stderr.splitlines())}")
    return done.returncode != 0


SCENARIOS: tuple[Callable[[Path], None], ...] = (
    filled_up_and_emptied,
    without_inodes,
    made_read_only_and_writable_again,
    read_only_from_the_start,
    first_start_on_a_full_disk,
    first_start_read_only,
)

if __name__ == "__main__":
    {each.__name__: each for each in SCENARIOS}[sys.argv[2]](Path(sys.argv[1]))
