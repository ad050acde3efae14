"""How long a move takes: a JSON store of many clients and entries to PostgreSQL, while a gateway works on it.

    python -m benchmarks.moving --help

Between the comparison and the switch further charges are made. A gateway of its own charges all the time, and tells
for how long it could not. The database is one that is started here, or the one given: it must be empty, with the
schema of `db upgrade`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from time import perf_counter

from benchmarks.engines import new_schema
from benchmarks.ours_in_process import _runtime
from benchmarks.subjects.ours import make_clients
from openclaw_billing import ledger
from openclaw_billing.contracts import Operation
from openclaw_billing.errors import StorageUnavailable

AT_ONCE = 500
GATEWAY_PAUSE_SECONDS = 0.01
GATEWAY = "import sys; from benchmarks.moving import work; work(sys.argv[1], int(sys.argv[2]))"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.moving", description=__doc__)
    parser.add_argument(
        "--to", help="the postgresql:// address of an empty database, instead of one started here"
    )
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--between", type=int, default=5_000, help="charges between comparison and switch")
    parser.add_argument("--dir", type=Path, default=Path("data"), help="where the store is made: a real disk")
    options = parser.parse_args(arguments)
    url = options.to or new_schema()
    options.dir.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="moving-", dir=options.dir) as name:
        folder = Path(name)
        print(f"making {options.clients:,} clients and {options.entries:,} entries", flush=True)
        make_clients(folder / "data", options.clients)
        charges = options.entries - options.clients
        _charge(folder, options.clients, range(charges))
        _move(folder, url, options.clients, range(charges, charges + options.between))
    return 0


def _move(folder: Path, url: str, clients: int, between: range) -> None:
    from openclaw_billing.stores import moving

    gateway = subprocess.Popen(
        [sys.executable, "-c", GATEWAY, str(folder), str(clients)], stdout=subprocess.PIPE, text=True
    )
    assert gateway.stdout is not None
    gateway.stdout.readline()
    begun: dict[str, float] = {}

    def step(told: str, total: int) -> Callable[[int], None]:
        begun[told] = perf_counter()
        print(f"  {told} ({total:,})", flush=True)
        if told == "Catching up":
            _charge(folder, clients, between)
            begun["charged"] = perf_counter()
        return lambda _done: None

    try:
        moved = moving.to_postgres(folder / "data", None, url, step, switch=True)
        begun["moved"] = perf_counter()
        last, longest = map(float, gateway.communicate()[0].split())
    finally:
        gateway.kill()
    for what, first, then in (
        ("copy", "Copying", "Reading the database"),
        ("comparison", "Reading the database", "Catching up"),
        (f"{len(between):,} more charges brought over", "charged", "Switching"),
        ("switch", "Switching", "moved"),
    ):
        print(f"{begun[then] - begun[first]:8.2f} s  {what}")
    print(
        f"{begun['moved'] - last:8.2f} s  without a change: from the gateway's last charge to the end of the move"
    )
    print(f"{longest:8.2f} s  the longest that the gateway waited before")
    back = perf_counter()
    moving.to_json(url, folder / "back", folder / "data", None, lambda *_: lambda _: None, switch=True)
    print(f"{perf_counter() - back:8.2f} s  the way back, the database held still for all of it")
    for table, found in moved.target.sums.items():
        if found.records:
            print(f"{table:14} {found.records:>10,}  {found.hex[:16]}")


def work(folder: str, clients: int) -> None:
    """A gateway that charges one client after the other until its store has moved."""
    runtime = _runtime(Path(folder))
    store, number = runtime.store, 0
    print("charging", flush=True)
    last, longest = perf_counter(), 0.0
    while "moved" not in store.health().reason:
        number += 1
        try:
            store.run(_charging(f"client-{number % clients}", f"gateway-{number}", runtime.now()), "charge")
        except StorageUnavailable:
            continue
        longest, last = max(longest, perf_counter() - last), perf_counter()
        time.sleep(GATEWAY_PAUSE_SECONDS)
    print(last, longest)
    runtime.close()


def _charging(client_id: str, job_id: str, now: datetime) -> Operation[object]:
    return lambda tx: ledger.charge(tx, client_id, job_id=job_id, now=now)


def _charge(folder: Path, clients: int, numbers: range) -> None:
    runtime = _runtime(folder)
    store, now = runtime.store, runtime.now()
    for first in range(0, len(numbers), AT_ONCE):
        for number in numbers[first : first + AT_ONCE]:
            charge = _charging(f"client-{number % clients}", f"job-{number}", now)
            store.submit(charge, "charge", lambda _answer, _error: None)
        store.run(lambda tx: None, "nothing")
    runtime.close()


if __name__ == "__main__":
    raise SystemExit(main())
