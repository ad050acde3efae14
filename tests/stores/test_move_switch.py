"""The last step of a move to PostgreSQL: short, and yet nothing is lost, changed or added between."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import StartupError, StorageUnavailable
from openclaw_billing.records import Fact
from openclaw_billing.stores import json_store
from openclaw_billing.stores.digests import Sum
from openclaw_billing.stores.json_store import JsonStore
from tests.stores.charging import audit, charging, opening
from tests.stores.conftest import Shop

ROOT = Path(__file__).parents[2]
CREDITS = 10_000
JOBS = map(str, itertools.count())

psycopg = pytest.importorskip(
    "psycopg", reason="psycopg is not installed: pip install 'psycopg[binary,pool]'"
)

from openclaw_billing.stores import moving  # noqa: E402
from openclaw_billing.stores.postgres import PostgresStore  # noqa: E402
from tests.stores.test_move import held, quiet, read, same  # noqa: E402


@pytest.fixture
def busy(shop: Shop) -> JsonStore:
    """The store of a gateway that runs, with two clients."""
    store = shop.open()
    for client_id in ("acme", "other"):
        store.run(opening(client_id, CREDITS), "open")
        store.run(charging(client_id, f"first of {client_id}"), "charge")
    return store


def at(steps: dict[str, Callable[[], object]]) -> moving.Step:
    """Do something when a step begins."""

    def told(name: str, _total: int) -> Callable[[int], None]:
        steps.get(name, lambda: None)()
        return lambda _done: None

    return told


def work(store: JsonStore) -> None:
    """Rows that are new, changed, deleted, put back as they were, and there for a moment only; both histories."""
    name = next(JOBS)
    put_back = store.view.accounts.get("other")
    assert put_back is not None

    def change(tx: Transaction) -> None:
        for fact in ("fleeting", name):
            tx.facts.put(Fact(name=fact, value="x"))
        tx.facts.put(Fact(name="newest", value=name))
        tx.accounts.put(put_back)
        tx.write_audit(audit("work"))

    def clear(tx: Transaction) -> None:
        tx.facts.delete("fleeting")
        tx.facts.delete(str(int(name) - 1))

    store.run(change, "change")
    store.run(clear, "clear")
    for _ in range(3):
        store.run(charging("acme", next(JOBS)), "charge")


@pytest.mark.parametrize("lines_at_once", [3, 1_000])
def test_what_changes_after_the_comparison_is_in_the_digests_at_the_end(
    busy: JsonStore, shop: Shop, postgres_url: str, lines_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "LINES_AT_ONCE", lines_at_once)
    work(busy)
    during = ["Reading the database", "Comparing", "Catching up", "Switching"]
    steps: dict[str, Callable[[], object]] = dict.fromkeys(during, lambda: work(busy))
    moved = moving.to_postgres(shop.path, None, postgres_url, at(steps), switch=True)
    same(moved.source, read(shop.path))
    same(moved.target, held(postgres_url))
    same(moved.source, moved.target)


def test_everything_is_read_once_however_much_changes(busy: JsonStore, shop: Shop, postgres_url: str) -> None:
    told: list[str] = []

    def step(name: str, _total: int) -> Callable[[int], None]:
        told.append(name)
        work(busy)
        return lambda _done: None

    moving.to_postgres(shop.path, None, postgres_url, step, switch=True)
    assert told == ["Copying", "Reading the database", "Comparing", "Catching up", "Switching"]


def test_nobody_changes_the_database_between_the_comparison_and_the_switch(
    busy: JsonStore, shop: Shop, postgres_url: str
) -> None:
    refused = []

    def change() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("SET lock_timeout = '100ms'")
            for statement in (
                "UPDATE accounts SET used = used + 1 WHERE client_id = 'other'",
                "DELETE FROM spent",
                "INSERT INTO facts VALUES ('extra', 'x')",
            ):
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    connection.execute(statement)
                refused.append(statement)
            # Whoever only reads is not held up.
            assert connection.execute("SELECT count(*) FROM accounts").fetchone() == (2,)

    moved = moving.to_postgres(
        shop.path, None, postgres_url, at({"Comparing": change, "Switching": change}), switch=True
    )
    assert len(refused) == 6
    same(moved.target, held(postgres_url))
    busy.close()


TRIGGERS = {
    "a row of the piece is altered": (
        "BEFORE INSERT OR UPDATE ON accounts",
        "NEW.used := NEW.used + 1; RETURN NEW",
    ),
    "an entry is altered": ("BEFORE INSERT ON ledger", "NEW.reason := 'altered'; RETURN NEW"),
    "a row is left out": ("BEFORE INSERT ON spent", "RETURN NULL"),
    "an entry is left out": ("BEFORE INSERT ON ledger", "RETURN NULL"),
    "another row is altered": (
        "AFTER INSERT ON ledger",
        "UPDATE accounts SET used = used + 1 WHERE client_id = 'other'; RETURN NEW",
    ),
    "another row is deleted": (
        "AFTER INSERT ON ledger",
        "DELETE FROM spent WHERE spent_id = 'first of other'; RETURN NEW",
    ),
    "a row is added": (
        "AFTER INSERT ON ledger",
        "INSERT INTO facts VALUES ('extra', 'x') ON CONFLICT DO NOTHING; RETURN NEW",
    ),
    "a row is deleted and one is added": (
        "AFTER INSERT ON ledger",
        "UPDATE spent SET spent_id = 'renamed' WHERE spent_id = 'first of other'; RETURN NEW",
    ),
}


def test_the_last_step_follows_through_segments_that_are_closed_meanwhile(
    busy: JsonStore, shop: Shop, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_store, "SEGMENT_BYTES_MAX", 1)

    def close_segment() -> None:
        work(busy)
        busy.snapshot()
        work(busy)

    during = ["Reading the database", "Comparing", "Catching up", "Switching"]
    steps: dict[str, Callable[[], object]] = dict.fromkeys(during, close_segment)
    moved = moving.to_postgres(shop.path, None, postgres_url, at(steps), switch=True)
    assert f"{shop.journal.name}.00000{len(during)}" in str(sorted(shop.names()))
    same(moved.source, read(shop.path))
    same(moved.target, held(postgres_url))


def test_a_database_that_is_gone_in_the_last_step_leaves_the_store_where_it_was(
    busy: JsonStore, shop: Shop, postgres_url: str
) -> None:
    def end() -> None:
        busy.run(charging("acme", next(JOBS)), "charge")
        tell(
            postgres_url,
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE mode = 'ShareRowExclusiveLock'"
            " AND relation = 'accounts'::regclass",
        )

    with pytest.raises(StartupError, match="The database cannot be used"):
        moving.to_postgres(shop.path, None, postgres_url, at({"Switching": end}), switch=True)
    assert busy.run(charging("acme", next(JOBS)), "charge")
    moved = moving.to_postgres(shop.path, None, postgres_url, quiet, switch=True)
    same(moved.source, held(postgres_url))


@pytest.mark.parametrize("when", ["Copying", "Switching"])
def test_half_a_line_that_a_dead_gateway_left_is_cut(
    busy: JsonStore, shop: Shop, postgres_url: str, when: str
) -> None:
    busy.close()

    def die() -> None:
        with shop.journal.open("ab") as journal:
            journal.write(b'{"v":1,"seq":')

    moved = moving.to_postgres(shop.path, None, postgres_url, at({when: die}), switch=True)
    same(moved.source, read(shop.path))
    with pytest.raises(StartupError, match="moved to postgresql://"):
        shop.open()


def test_a_clients_file_that_somebody_edited_is_not_left_behind(
    busy: JsonStore, shop: Shop, postgres_url: str
) -> None:
    busy.close()
    shop.clients.write_text(shop.clients.read_text().replace("Acme", "Somebody"))
    with pytest.raises(StartupError, match="changed by somebody else"):
        moving.to_postgres(shop.path, None, postgres_url, quiet, switch=True)
    shop.clients.unlink()
    store = shop.open()
    assert store.run(charging("acme", next(JOBS)), "charge")
    store.close()
    moving.to_postgres(shop.path, None, postgres_url, quiet, switch=True)


@pytest.mark.parametrize("what", TRIGGERS)
@pytest.mark.parametrize("step", ["Catching up", "Switching"])
def test_what_the_database_takes_in_another_way_is_found(
    busy: JsonStore, shop: Shop, postgres_url: str, what: str, step: str
) -> None:
    moving.to_postgres(shop.path, None, postgres_url, quiet, switch=False)
    event, body = TRIGGERS[what]
    tell(
        postgres_url,
        f"CREATE FUNCTION alter_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; END $$",
        f"CREATE TRIGGER alters {event} FOR EACH ROW EXECUTE FUNCTION alter_it()",
    )
    charge = {step: lambda: busy.run(charging("acme", next(JOBS)), "charge")}
    with pytest.raises(moving.NotTheSame):
        moving.to_postgres(shop.path, None, postgres_url, at(charge), switch=True)
    # The store stays where it was, and what was taken wrongly does not stay.
    assert busy.run(charging("acme", next(JOBS)), "charge")
    tell(postgres_url, "DROP FUNCTION alter_it CASCADE")
    moved = moving.to_postgres(shop.path, None, postgres_url, quiet, switch=True)
    same(moved.source, held(postgres_url))


def test_what_a_trigger_puts_off_is_found_as_well(busy: JsonStore, shop: Shop, postgres_url: str) -> None:
    moving.to_postgres(shop.path, None, postgres_url, quiet, switch=False)
    tell(
        postgres_url,
        "CREATE FUNCTION alter_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " UPDATE accounts SET used = used + 1 WHERE client_id = 'acme'; RETURN NEW; END $$",
        "CREATE CONSTRAINT TRIGGER alters AFTER INSERT ON ledger DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION alter_it()",
    )
    charge = {"Switching": lambda: busy.run(charging("acme", next(JOBS)), "charge")}
    with pytest.raises(moving.NotTheSame, match="accounts"):
        moving.to_postgres(shop.path, None, postgres_url, at(charge), switch=True)


def test_a_balance_that_its_ledger_does_not_say_is_found_in_the_last_step(
    busy: JsonStore, shop: Shop, postgres_url: str
) -> None:
    def unwritten(tx: Transaction) -> None:
        charging("acme", next(JOBS))(tx)
        tx.layer.ledger.clear()  # type: ignore[attr-defined]

    unsaid = {"Switching": lambda: busy.run(unwritten, "charge")}
    with pytest.raises(moving.NotTheSame, match="Client acme: the ledger says"):
        moving.to_postgres(shop.path, None, postgres_url, at(unsaid), switch=True)
    assert busy.run(charging("other", next(JOBS)), "charge")


def test_a_change_that_is_being_made_when_the_switch_asks_for_the_lock_is_brought_over(
    busy: JsonStore, shop: Shop, postgres_url: str
) -> None:
    begun = threading.Event()

    def slow(tx: Transaction) -> bool:
        begun.set()
        time.sleep(0.5)
        return charging("acme", "slow")(tx)

    charge = threading.Thread(target=lambda: busy.run(slow, "charge"))

    def begin() -> None:
        charge.start()
        assert begun.wait(5)

    moved = moving.to_postgres(shop.path, None, postgres_url, at({"Switching": begin}), switch=True)
    charge.join()
    same(moved.target, read(shop.path))
    database = PostgresStore(postgres_url)
    database.open()
    assert database.view.spent.get("slow") is not None
    database.close()


def test_every_charge_that_was_answered_is_there_whoever_charges_during_the_switch(
    busy: JsonStore, shop: Shop, postgres_url: str
) -> None:
    answered: list[str] = []

    def charge(store: JsonStore) -> None:
        for number in itertools.count():
            job_id = f"{threading.get_ident()} {number}"
            try:
                store.run(charging("acme", job_id), "charge")
            except StorageUnavailable:
                return
            answered.append(job_id)

    gateways = [threading.Thread(target=charge, args=(shop.open(),)) for _ in range(3)]

    def begin() -> None:
        for each in gateways:
            each.start()

    moving.to_postgres(shop.path, None, postgres_url, at({"Reading the database": begin}), switch=True)
    for each in gateways:
        each.join()
    assert len(answered) > 3
    same(read(shop.path), held(postgres_url))
    database = PostgresStore(postgres_url)
    database.open()
    account = database.view.accounts.get("acme")
    assert account is not None
    assert account.available == CREDITS - 1 - len(answered)
    database.close()
    busy.close()


KILLED = """
import itertools
import sys
from pathlib import Path
from openclaw_billing.stores import moving, postgres_end
from openclaw_billing.stores.json_store import JsonStore
from tests.stores.charging import charging

moving.LINES_AT_ONCE = 3
data, url, last, run = sys.argv[1:]
gateway = JsonStore(Path(data))
gateway.open()
jobs = itertools.count()

def reached(place):
    if place == last:
        print("now", flush=True)
        sys.stdin.read()

def stopping(name):
    method = getattr(postgres_end.PostgresEnd, name)
    def stopped(self, *rest):
        reached(f"before {name}")
        answer = method(self, *rest)
        reached(name)
        return answer
    setattr(postgres_end.PostgresEnd, name, stopped)

def step(name, _total):
    reached(name)
    if name in ("Catching up", "Switching"):
        for _ in range(4):
            gateway.run(charging("acme", f"{run} {next(jobs)}"), "charge")
    return lambda lines: reached(f"piece of {name}")

for name in ("commit", "finish"):
    stopping(name)
moving.to_postgres(Path(data), None, url, step, switch=True)
"""


@pytest.mark.parametrize(
    "places",
    [
        ["Catching up", "piece of Catching up", "Switching", "piece of Switching", "before commit", "commit"],
        ["commit", "before finish"],
        ["finish"],
    ],
)
def test_a_switch_that_is_killed_is_made_by_the_next(
    busy: JsonStore, shop: Shop, postgres_url: str, places: list[str]
) -> None:
    busy.close()
    for run, place in enumerate(places):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(shop.path), postgres_url, place, str(run)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    if places != ["finish"]:
        moving.to_postgres(shop.path, None, postgres_url, quiet, switch=True)
    same(read(shop.path), held(postgres_url))
    database = PostgresStore(postgres_url)
    database.open()
    database.close()


def test_a_sum_is_of_the_records_that_are_in_whatever_their_order() -> None:
    one, other, gone = (Fact(name=name, value="x") for name in ("one", "other", "gone"))
    forth, back = Sum(), Sum()
    for record in (gone, one, other):
        forth.add(record)
    forth.take_out(gone)
    for record in (other, one):
        back.add(record)
    assert (forth.records, forth.hex) == (back.records, back.hex)
    assert forth.records == 2
    back.add(gone)
    assert forth.hex != back.hex


def tell(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
