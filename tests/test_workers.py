"""Several processes on one store: under load, killed at random, every answer they gave stays true."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from openclaw_billing.stores import backups
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.json_store import JsonStore
from tests.served import Served, served

CREDITS = 100_000
CALLERS = 6
JOB = {"description": "A feature", "task_type": "other"}


@dataclass
class Told:
    """What the callers were told of each job, by the name that they gave it."""

    accepted: dict[str, tuple[str, int]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    unanswered: set[str] = field(default_factory=set)

    @property
    def calls(self) -> int:
        return len(self.accepted) + len(self.refused) + len(self.unanswered)


@dataclass
class Load:
    """Callers that submit jobs of one client, one after the other, whatever happens to the gateway."""

    running: Served
    key_text: str
    told: Told = field(default_factory=Told)
    over: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        self.threads = [threading.Thread(target=self._call, args=(each,)) for each in range(CALLERS)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _call(self, caller: int) -> None:
        number = 0
        limits = httpx.Limits(max_keepalive_connections=1)
        with httpx.Client(base_url=self.running.base, limits=limits, timeout=15) as http:
            while not self.over.is_set():
                number += 1
                name = f"job {caller}-{number}"
                self._submit(http, name)

    def _submit(self, http: httpx.Client, name: str) -> None:
        try:
            answer = http.post(
                "/api/intake", headers={"X-Client-Key": self.key_text}, json={**JOB, "project_name": name}
            )
        except httpx.ConnectError:
            self.told.refused.add(name)
            time.sleep(0.02)
        except httpx.TransportError:
            self.told.unanswered.add(name)
        else:
            if answer.status_code == 200:
                body = answer.json()
                self.told.accepted[name] = body["job_id"], body["credits_remaining"]
            else:
                assert answer.status_code == 503, answer.text
                self.told.refused.add(name)


def kill_at_random(load: Load, chance: random.Random, *, kills: int, restarts: int) -> None:
    """Kill workers, and now and then the whole gateway, each time after more jobs were accepted."""
    running = load.running
    at_once = set(chance.sample(range(kills), restarts))
    for number in range(kills):
        wanted = len(load.told.accepted) + 20
        deadline = time.monotonic() + 30
        while len(load.told.accepted) < wanted:
            assert time.monotonic() < deadline, f"nothing is accepted any more: {running.said[-2000:]}"
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.01))
        if number in at_once:
            running.kill_all()
            running.start_again()
        elif workers := running.workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(workers), signal.SIGKILL)


def check(data: Path, client_id: str, told: Told) -> None:
    """Replay the journal: what was answered is there once, and what was refused is not."""
    directory = Directory(data)
    directory.open()
    try:
        assert backups.verify(directory, Chain(None)).problems == []
        lines = [line.data for line in backups.walk(directory, Chain(None))]
    finally:
        directory.close()
    jobs = {
        job["job_id"]: job["project_name"] for line in lines for job in line.get("put", {}).get("jobs", ())
    }
    entries = [entry for line in lines for entry in line.get("ledger", ()) if entry["client_id"] == client_id]
    captures = Counter(entry["job_id"] for entry in entries if entry["kind"] == "capture")
    names = Counter(jobs.values())
    lost = [name for name, (job_id, _) in told.accepted.items() if jobs.get(job_id) != name]
    assert lost == []
    assert [job_id for job_id, count in captures.items() if count != 1] == []
    assert captures.keys() == jobs.keys()
    assert [name for name, count in names.items() if count != 1] == []
    assert names.keys() <= told.accepted.keys() | told.unanswered
    # No two answers named the same balance, and each named the one that its own entry left.
    balances = {name: left for name, (_, left) in told.accepted.items()}
    assert len(set(balances.values())) == len(balances)
    left, seen = 0, {}
    for entry in entries:
        left += entry.get("available", 0)
        assert left >= 0
        if entry["kind"] == "capture":
            seen[jobs[entry["job_id"]]] = left
    assert {name: seen[name] for name in balances} == balances
    assert left == CREDITS + 200 - len(jobs)


@pytest.mark.parametrize(
    ("kills", "restarts", "seed"),
    [
        (5, 0, 1),
        pytest.param(60, 6, 2, marks=pytest.mark.slow),
        pytest.param(60, 0, 3, marks=pytest.mark.slow),
    ],
)
def test_killed_under_load_nothing_acknowledged_is_lost_doubled_or_made_up(
    tmp_path: Path, kills: int, restarts: int, seed: int
) -> None:
    with served(tmp_path, workers=4) as running:
        client = running.create_client("load@example.com", "pro", credits=CREDITS)
        with Load(running, client["api_key"]) as load:
            kill_at_random(load, random.Random(seed), kills=kills, restarts=restarts)
            running.kill_all()
        assert "Traceback" not in running.said
    # The next start settles what the killed ones left half written.
    store = JsonStore(running.data)
    store.open()
    account = store.view.accounts.get(client["client_id"])
    assert account is not None
    assert account.reserved == 0
    store.close()
    check(running.data, client["client_id"], load.told)
    print(
        f"{kills + 1} kills, {load.told.calls} calls: {len(load.told.accepted)} accepted, "
        f"{len(load.told.unanswered)} unanswered, 0 lost, 0 doubled, 0 ghosts"
    )


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("several"), workers=3) as running:
        yield running


def test_of_192_jobs_on_5_credits_exactly_5_are_accepted(several: Served) -> None:
    """Three processes, 64 tasks each."""
    client = several.create_client("five@example.com")
    headers = {"X-Client-Key": client["api_key"]}

    async def submit_all() -> list[int]:
        limits = httpx.Limits(max_connections=48)
        async with httpx.AsyncClient(
            base_url=several.base, headers=headers, limits=limits, timeout=30
        ) as http:
            job = {**JOB, "project_name": "race"}
            answers = await asyncio.gather(*(http.post("/api/intake", json=job) for _ in range(3 * 64)))
            return [answer.status_code for answer in answers]

    assert Counter(asyncio.run(submit_all())) == {200: 5, 403: 187}
    admin = {"X-Auth-Token": several.token}
    path = f"{several.base}/api/admin/clients/{client['client_id']}/ledger"
    entries = httpx.get(path, headers=admin, params={"limit": 1000}).json()["entries"]
    assert sum(entry["amount"] for entry in entries) == 0
    assert [entry["kind"] for entry in entries].count("capture") == 5


def worker_of(http: httpx.Client, several: Served) -> int | None:
    """The worker at the other end of this connection, by the socket that it holds."""
    stream = http.get("/health").extensions["network_stream"]
    _, port = stream.get_extra_info("client_addr")
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        found = line.split()
        if (found[1][-4:], found[2][-4:]) == (f"{several.port:04X}", f"{port:04X}"):
            socket = f"socket:[{found[9]}]"
            for pid in several.workers:
                if socket in [
                    os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()
                ]:
                    return pid
    return None


@pytest.fixture
def connections(several: Served) -> Iterator[list[httpx.Client]]:
    """One open connection to each worker."""
    found: dict[int, httpx.Client] = {}
    with contextlib.ExitStack() as opened:
        deadline = time.monotonic() + 20
        while len(found) < 3 and time.monotonic() < deadline:
            # Held open, so that the next one is likelier to be another worker's.
            http = opened.enter_context(httpx.Client(base_url=several.base))
            worker = worker_of(http, several)
            if worker is not None:
                found.setdefault(worker, http)
        assert len(found) == 3, "not every worker was reached"
        yield list(found.values())


def test_a_key_revoked_through_one_worker_is_refused_by_all(
    several: Served, connections: list[httpx.Client]
) -> None:
    admin = {"X-Auth-Token": several.token}
    for number, through in enumerate(connections):
        client = several.create_client(f"revoked{number}@example.com")
        key = {"X-Client-Key": client["api_key"]}
        assert [each.get("/api/billing/usage", headers=key).status_code for each in connections] == [200] * 3
        path = f"/api/admin/clients/{client['client_id']}/keys/{client['key_id']}"
        assert through.delete(path, headers=admin).status_code == 200
        assert [each.get("/api/billing/usage", headers=key).status_code for each in connections] == [401] * 3


def test_what_one_worker_changed_every_worker_sees(several: Served, connections: list[httpx.Client]) -> None:
    client = several.create_client("seen@example.com")
    key = {"X-Client-Key": client["api_key"]}
    for left, through in zip((4, 3, 2), connections, strict=True):
        job = {**JOB, "project_name": "seen"}
        assert through.post("/api/intake", headers=key, json=job).json()["credits_remaining"] == left
        for each in connections:
            assert each.get("/api/billing/usage", headers=key).json()["credits_remaining"] == left


def test_every_worker_writes_its_log(several: Served, connections: list[httpx.Client]) -> None:
    client = several.create_client("log@example.com")
    for each in connections:
        job = {**JOB, "project_name": "logged"}
        each.post("/api/intake", headers={"X-Client-Key": client["api_key"]}, json=job)
    line = f"Deducted credit for {client['client_id']}: job submission"
    deadline = time.monotonic() + 5
    while several.said.count(line) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert several.said.count(line) == 3
