"""A store that moves: everything is at its new place, to the last byte, whatever breaks off in between."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from openclaw_billing import ledger
from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import StartupError, StorageUnavailable
from openclaw_billing.records import Fact
from openclaw_billing.stores.digests import Digests, digest
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.json_end import BEGUN, JsonEnd
from openclaw_billing.stores.json_store import JsonStore
from openclaw_billing.testing import FakeStripe
from tests.stores.charging import charging, opening
from tests.stores.conftest import Shop

ROOT = Path(__file__).parents[2]
JOBS = map(str, itertools.count())

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'psycopg[binary,pool]'")

from openclaw_billing.stores import moving  # noqa: E402
from openclaw_billing.stores.postgres import PostgresStore  # noqa: E402
from openclaw_billing.stores.postgres_end import PostgresEnd  # noqa: E402
from openclaw_billing.stores.postgres_verify import verify  # noqa: E402


def quiet(_name: str, _total: int) -> Callable[[int], None]:
    return lambda _done: None


def read(data: Path) -> Digests:
    """What the journal in that directory holds."""
    directory = Directory(data)
    directory.open()
    end = JsonEnd(directory, Chain())
    for _ in end.new_lines():
        pass
    directory.close()
    return digest(end)


def held(url: str) -> Digests:
    end = PostgresEnd(url)
    try:
        return digest(end)
    finally:
        end.close()


def same(one: Digests, other: Digests) -> None:
    assert one.differences(other) == []
    assert one.problems == other.problems == []


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a gateway that has seen much: keys, jobs, Stripe, money taken back."""
    pytest.importorskip("stripe", reason="stripe is not installed")
    from tests.stripe.conftest import put_on_sale
    from tests.stripe.house import house_of

    data: Path = tmp_path_factory.mktemp("life") / "data"

    async def live() -> None:
        with FakeStripe() as fake:
            put_on_sale(fake)
            async with house_of(fake, data) as house:
                acme, other = await house.create(), await house.create("other", "pro")
                sub = await acme.subscribe("starter")
                session = await acme.buy_pack()
                await house.deliver()
                await acme.submit(7)
                await other.submit(3)
                await other.check_out("starter")
                fake.advance(days=29)
                fake.renew(sub, paid=False)
                fake.refund(fake.get(session)["payment_intent"], 500)
                await house.deliver()
                await acme.submit(2)
                await acme.post("cancel", feedback="unused")
                await house.worker.drain()

    asyncio.run(live())
    return data


@pytest.fixture
def data(life: Path, tmp_path: Path) -> Path:
    """A copy of it, for a test to spoil."""
    return Path(shutil.copytree(life, tmp_path / "data"))


def test_to_postgresql_and_back_everything_is_the_same(data: Path, postgres_url: str, tmp_path: Path) -> None:
    before = read(data)
    assert sum(each.records > 0 for each in before.sums.values()) > 11
    moved = moving.to_postgres(data, None, postgres_url, quiet, switch=True)
    assert moved.problems == []
    same(before, held(postgres_url))
    assert verify(postgres_url).problems == []
    back = moving.to_json(postgres_url, tmp_path / "back", data, None, quiet, switch=True)
    assert back.problems == []
    same(before, read(tmp_path / "back"))
    store = JsonStore(tmp_path / "back")
    store.open()
    other = next(client.client_id for client in store.view.clients if client.email.startswith("other"))
    assert store.run(lambda tx: ledger.charge(tx, other, job_id="new", now=datetime.now(UTC)), "charge")
    store.close()


def test_what_was_moved_takes_no_change_any_more(data: Path, postgres_url: str, tmp_path: Path) -> None:
    running = JsonStore(data)
    running.open()
    moving.to_postgres(data, None, postgres_url, quiet, switch=True)
    with pytest.raises(StorageUnavailable):
        running.run(lambda tx: tx.facts.put(Fact(name="late", value="x")), "late")
    assert "moved to postgresql://" in running.health().reason
    assert "secret" not in running.health().reason
    running.close()
    with pytest.raises(StartupError, match="moved to postgresql://"):
        JsonStore(data).open()

    database = PostgresStore(postgres_url)
    database.open()
    moving.to_json(postgres_url, tmp_path / "back", data, None, quiet, switch=True)
    with pytest.raises(StorageUnavailable):
        database.run(lambda tx: tx.facts.put(Fact(name="late", value="x")), "late")
    database.close()
    with pytest.raises(StartupError, match="was moved to"):
        PostgresStore(postgres_url).open()


def test_every_step_is_told_how_many_there_are_and_each_of_them_once(
    data: Path, postgres_url: str, tmp_path: Path
) -> None:
    told: list[tuple[str, int, list[int]]] = []

    def step(name: str, total: int) -> Callable[[int], None]:
        told.append((name, total, []))
        return told[-1][2].append

    moving.to_postgres(data, None, postgres_url, step, switch=False)
    moving.to_postgres(data, None, postgres_url, step, switch=True)
    moving.to_json(postgres_url, tmp_path / "back", data, None, step, switch=True)
    assert [(name, total) for name, total, _ in told] == [(name, sum(done)) for name, _, done in told]
    totals: dict[str, list[int]] = {}
    for name, total, _ in told:
        totals.setdefault(name, []).append(total)
    records = sum(each.records for each in read(data).sums.values())
    assert totals["Copying"][0] > 20
    # The notes that a store makes of itself are among them.
    assert all(records <= total <= records + 2 for total in totals["Reading the database"])
    assert totals["Copying"][-1] == totals["Reading the database"][-1]


def test_on_a_terminal_the_command_shows_how_far_it_is_of_how_many(data: Path, postgres_url: str) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "openclaw_billing", "move", "--to", postgres_url],
        cwd=ROOT,
        env={**os.environ, "OPENCLAW_DATA_DIR": str(data), "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)
    out, _ = process.communicate()
    assert (process.returncode, b"sha256" in out) == (0, True), shown
    lines = lines_in(data)
    assert f"{lines}/{lines}".encode() in shown


def lines_in(data: Path) -> int:
    directory = Directory(data)
    directory.open()
    try:
        return JsonEnd(directory, Chain()).ahead()
    finally:
        directory.close()


def passed_on(round: int, tx: Transaction) -> None:
    """One fact gives way to the next."""
    tx.facts.delete(f"round {round - 1}")
    tx.facts.put(Fact(name=f"round {round}", value="x"))


def test_gateways_work_while_it_is_copied_and_lose_nothing(shop: Shop, postgres_url: str) -> None:
    store = shop.make()
    store.open()
    store.run(opening("acme", 1_000), "open")
    for round in range(3):
        for _ in range(10):
            store.run(charging("acme", next(JOBS)), "charge")
        # A line that deletes is read in another way.
        store.run(partial(passed_on, round), "pass on")
        moved = moving.to_postgres(shop.path, None, postgres_url, quiet, switch=False)
        assert moved.problems == []
    with pytest.raises(StartupError, match="not finished"):
        PostgresStore(postgres_url).open()
    store.run(charging("acme", next(JOBS)), "charge")
    moving.to_postgres(shop.path, None, postgres_url, quiet, switch=True)
    with pytest.raises(StorageUnavailable):
        store.run(charging("acme", next(JOBS)), "charge")
    database = PostgresStore(postgres_url)
    database.open()
    assert [fact.name for fact in database.view.facts] == ["round 2"]
    account = database.view.accounts.get("acme")
    assert account is not None
    assert account.available == 1_000 - 31
    database.close()


COPY = """
import sys
from pathlib import Path
from openclaw_billing.stores import moving, postgres_end
moving.LINES_AT_ONCE = 3
pieces = 0
take = postgres_end.PostgresEnd.take
def counted(self, *rest):
    global pieces
    take(self, *rest)
    pieces += 1
    if pieces == int(sys.argv[3]):
        print("now", flush=True)
        sys.stdin.read()
postgres_end.PostgresEnd.take = counted
moving.to_postgres(Path(sys.argv[1]), None, sys.argv[2], lambda *_: lambda _: None, switch=True)
"""


def test_a_move_that_is_killed_goes_on_where_it_was(data: Path, postgres_url: str) -> None:
    before = read(data)
    for pieces in (1, 4, 7):
        process = subprocess.Popen(
            [sys.executable, "-c", COPY, str(data), postgres_url, str(pieces)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    moving.to_postgres(data, None, postgres_url, quiet, switch=True)
    same(before, held(postgres_url))


def test_a_move_that_broke_off_after_its_last_step_is_finished_by_the_next(
    data: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: PostgresEnd) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PostgresEnd, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            moving.to_postgres(data, None, postgres_url, quiet, switch=True)
    with pytest.raises(StartupError):
        JsonStore(data).open()
    with pytest.raises(StartupError):
        PostgresStore(postgres_url).open()
    moving.to_postgres(data, None, postgres_url, quiet, switch=True)
    PostgresStore(postgres_url).open()


def test_a_directory_half_written_is_written_anew(data: Path, postgres_url: str, tmp_path: Path) -> None:
    moving.to_postgres(data, None, postgres_url, quiet, switch=True)
    back = tmp_path / "back"
    back.mkdir(mode=0o700)
    (back / BEGUN).touch(mode=0o600)
    (back / "openclaw_clients.journal.tmp").write_bytes(b"half")
    with pytest.raises(StartupError):
        JsonStore(back).open()
    moving.to_json(postgres_url, back, data, None, quiet, switch=False)
    same(read(back), held(postgres_url))
    assert sorted(path.name for path in back.iterdir() if path.name.endswith((".tmp", ".moving"))) == []
    # It was a rehearsal: the database is the store still.
    database = PostgresStore(postgres_url)
    database.open()
    database.close()


def test_only_an_empty_place_or_the_same_move_is_gone_on_with(
    data: Path, life: Path, postgres_url: str, tmp_path: Path
) -> None:
    other = Shop(tmp_path / "other")
    store = other.make()
    store.open()
    store.run(opening("acme", 10), "open")
    store.close()
    moving.to_postgres(other.path, None, postgres_url, quiet, switch=False)
    with pytest.raises(StartupError, match="another store"):
        moving.to_postgres(data, None, postgres_url, quiet, switch=True)
    moving.to_postgres(other.path, None, postgres_url, quiet, switch=True)
    with pytest.raises(StartupError, match="not empty"):
        moving.to_postgres(data, None, postgres_url, quiet, switch=True)
    with pytest.raises(StartupError, match="not empty"):
        moving.to_json(postgres_url, data, data, None, quiet, switch=True)
    same(read(data), read(life))


def test_a_difference_leaves_the_store_where_it_was(data: Path, postgres_url: str) -> None:
    moving.to_postgres(data, None, postgres_url, quiet, switch=False)
    end = PostgresEnd(postgres_url)
    end.connection.execute("UPDATE accounts SET used = used + 1")
    end.close()
    with pytest.raises(moving.NotTheSame, match="accounts differs"):
        moving.to_postgres(data, None, postgres_url, quiet, switch=True)
    store = JsonStore(data)
    store.open()
    store.close()


def test_the_command_tells_what_it_did_and_what_comes_next(
    data: Path, postgres_url: str, tmp_path: Path
) -> None:
    def command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OPENCLAW_DATA_DIR": str(data), **settings}
        return subprocess.run(
            [sys.executable, "-m", "openclaw_billing", "move", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    assert "--switch" in command("--help").stdout
    copied = command("--to", postgres_url)
    assert (copied.returncode, "Nothing was switched" in copied.stderr) == (0, True), copied.stderr
    switched = command("--switch", OPENCLAW_MOVE_TO=postgres_url)
    assert (switched.returncode, "OPENCLAW_DATABASE_URL" in switched.stderr) == (0, True), switched.stderr
    assert "ledger" in switched.stdout
    refused = command("--to", str(tmp_path / "x"))
    assert (refused.returncode, "postgresql://" in refused.stderr) == (2, True)
    back = command("--to", str(tmp_path / "back"), "--switch", OPENCLAW_DATABASE_URL=postgres_url)
    assert back.returncode == 0, back.stderr
    nobody = command(
        "--to", "postgresql://nobody:secret@127.0.0.1:1/x", OPENCLAW_DATA_DIR=str(tmp_path / "back")
    )
    assert nobody.returncode == 78
    assert "secret" not in nobody.stderr
    assert nobody.stderr.count("\n") == 1
