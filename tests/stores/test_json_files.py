"""The JSON store's files: who may read them, who may lock them, and what a crash leaves of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from fastapi import Request

from openclaw_billing import ledger
from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.errors import BadSettings, CorruptStore, StorageUnavailable
from openclaw_billing.records import Recent
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import load_settings
from openclaw_billing.stores import json_store
from openclaw_billing.stores.codec import row_text
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.json_create import seal_batch
from openclaw_billing.stores.json_load import ForeignEdit
from openclaw_billing.stores.json_store import JsonStore
from openclaw_billing.stores.layers import Layer
from openclaw_billing.web.ready import readiness
from tests.stores.charging import MOMENT, audit, charging, client, key, opening
from tests.stores.conftest import Shop

ROOT = Path(__file__).parents[2]
Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def script(shop: Shop) -> Callable[[str], list[str]]:
    """A command that runs this code in another process, with an open `store` on the shop's directory."""

    def command(code: str) -> list[str]:
        head = f"""
            import os, signal, sys, time
            from pathlib import Path
            from tests.stores.charging import charging, opening
            from openclaw_billing.stores import json_store
            from openclaw_billing.stores.json_store import JsonStore
            store = JsonStore(Path({str(shop.path)!r}))
        """
        return [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)]

    return command


HOLD = 'store.open(); store._lock.acquire(); print("held", flush=True); time.sleep(60)'


# Modes, links and owners


@pytest.mark.parametrize("umask", [0, 0o077, 0o177])
def test_the_directory_is_0700_and_every_file_0600_whatever_the_umask(shop: Shop, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = shop.open()
        store.run(opening("c1", 1), "open")
        store.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(shop.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in shop.path.iterdir()} == {0o600}


@pytest.mark.parametrize(
    "name", ["openclaw_clients.journal", "openclaw_clients.lock", "openclaw_clients.checkpoint"]
)
def test_a_planted_link_is_refused_and_what_it_names_untouched(shop: Shop, tmp_path: Path, name: str) -> None:
    shop.open().close()
    target = tmp_path / "target"
    shutil.copy(shop.path / name, target)
    (shop.path / name).unlink()
    (shop.path / name).symlink_to(target)
    before = target.read_bytes()
    with pytest.raises(CorruptStore, match=name):
        shop.open()
    assert target.read_bytes() == before


def test_a_hard_linked_lock_file_is_refused(shop: Shop, tmp_path: Path) -> None:
    shop.open().close()
    os.link(shop.lock, tmp_path / "other")
    with pytest.raises(CorruptStore, match="plain file"):
        shop.open()


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_directory_that_others_may_write_to_is_refused_every_time(shop: Shop, mode: int) -> None:
    shop.path.mkdir()
    shop.path.chmod(mode)
    store = shop.make()
    for _ in range(2):
        with pytest.raises(BadSettings, match="chmod 700"):
            store.open()
    assert shop.names() == set()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(shop: Shop) -> None:
    shop.path.mkdir(mode=0o700)
    os.chown(shop.path, 12345, -1)
    with pytest.raises(BadSettings, match="another user"):
        shop.open()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_journal_of_another_user_is_refused(shop: Shop) -> None:
    shop.open().close()
    os.chown(shop.journal, 12345, -1)
    with pytest.raises(CorruptStore, match="this user"):
        shop.open()


# Locks


def test_a_lock_file_removed_while_held_never_gives_two_holders(shop: Shop) -> None:
    holding, other = shop.open(), shop.open(lock_seconds_max=0.1)
    holding.run(opening("c1", 5), "open")
    inside, leave = threading.Event(), threading.Event()

    def slow(tx: object) -> None:
        inside.set()
        assert leave.wait(10)

    running = threading.Thread(target=holding.run, args=(slow, "slow"))
    running.start()
    assert inside.wait(10)
    shop.lock.unlink()
    with pytest.raises(StorageUnavailable):
        other.run(charging("c1", "j1"), "charge")
    leave.set()
    running.join()
    assert other.run(charging("c1", "j1"), "charge") is True
    assert holding.run(charging("c1", "j2"), "charge") is True
    assert shop.lock.exists()


def test_a_stopped_holder_refuses_writes_at_the_deadline_while_reads_go_on(
    shop: Shop, script: Callable[[str], list[str]]
) -> None:
    store = shop.open(lock_seconds_max=0.3)
    store.run(opening("c1", 5), "open")
    with subprocess.Popen(script(HOLD), stdout=subprocess.PIPE, cwd=ROOT) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            holder.send_signal(signal.SIGSTOP)
            begun = time.monotonic()
            with pytest.raises(StorageUnavailable):
                store.run(charging("c1", "j1"), "charge")
            assert 0.3 <= time.monotonic() - begun < 2.0
            assert store.view.accounts.get("c1") is not None
            assert store.ledger(HistoryQuery()).total == 1
        finally:
            # What is stopped would be waited for without end.
            holder.kill()
        holder.wait()
        begun = time.monotonic()
        assert store.run(charging("c1", "j1"), "charge") is True
        assert time.monotonic() - begun < 1.0


def test_a_forked_child_charges_beside_its_parent_and_keeps_no_lock_of_it(shop: Shop) -> None:
    store = shop.open()
    store.run(opening("c1", 40), "open")
    child = os.fork()
    if child == 0:
        try:
            accepted = [store.run(charging("c1", f"c{n}"), "charge") for n in range(30)]
            os._exit(accepted.count(True))
        finally:
            os._exit(99)
    accepted = [store.run(charging("c1", f"p{n}"), "charge") for n in range(30)]
    _, status = os.waitpid(child, 0)
    assert accepted.count(True) + os.waitstatus_to_exitcode(status) == 40
    store.close()
    assert shop.open().ledger(HistoryQuery()).total == 41


def test_a_fork_amid_writing_threads_leaves_parent_and_child_whole(shop: Shop) -> None:
    store = shop.open()
    store.run(opening("c1", 10_000), "open")
    stop = threading.Event()
    charged: list[int] = []

    def charge(thread: int) -> None:
        count = 0
        while not stop.is_set():
            store.run(charging("c1", f"t{thread}-{count}"), "charge")
            count += 1
        charged.append(count)

    threads = [threading.Thread(target=charge, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    codes = []
    for each in range(5):
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            try:
                os._exit(0 if store.run(charging("c1", f"child{each}"), "charge") is True else 1)
            finally:
                os._exit(99)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stop.set()
    for thread in threads:
        thread.join()
    assert codes == [0] * 5
    store.close()
    account = shop.open().view.accounts.get("c1")
    assert account is not None
    assert 10_000 - account.available == sum(charged) + 5


def test_a_child_forked_during_a_snapshot_does_not_keep_others_from_writing_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shop.open()
    store.run(opening("c1", 1), "open")
    frozen, children = store.frozen, []

    def fork_amid() -> object:
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        children.append(child)
        return frozen()

    monkeypatch.setattr(store, "frozen", fork_amid)
    store.snapshot()
    other = shop.open()
    other.run(charging("c1", "j1"), "charge")
    try:
        assert other.snapshot()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


# Starting


def test_an_empty_directory_is_a_fine_place_to_start(shop: Shop) -> None:
    shop.path.mkdir(mode=0o700)
    store = shop.open()
    assert list(store.view.clients) == []
    assert store.health().writable


def test_making_a_store_touches_nothing_before_it_is_opened(shop: Shop) -> None:
    shop.make()
    assert not shop.path.exists()


@pytest.mark.parametrize("how", ["emptied", "missing"])
@pytest.mark.parametrize("beside", ["checkpoint", "clients", "segment"])
def test_an_empty_or_missing_journal_beside_other_files_is_damage(shop: Shop, how: str, beside: str) -> None:
    store = shop.open()
    store.run(opening("c1", 5), "open")
    store.close()
    if beside == "segment":
        shutil.copy(shop.journal, shop.path / "openclaw_clients.journal.000001")
    for each in (shop.checkpoint, shop.clients):
        if each.name.rpartition(".")[2] != {"checkpoint": "checkpoint", "clients": "json"}.get(beside):
            each.unlink()
    shop.journal.write_bytes(b"") if how == "emptied" else shop.journal.unlink()
    before = {name: (shop.path / name).read_bytes() for name in shop.names()}
    with pytest.raises(CorruptStore, match="journal"):
        shop.open()
    assert {name: (shop.path / name).read_bytes() for name in shop.names()} == before


def test_a_refused_start_is_refused_again_and_leaves_nothing_open(shop: Shop) -> None:
    shop.open().close()
    shop.clients.write_text('{"x": {}}')
    store = shop.make()
    for _ in range(2):
        with pytest.raises(ForeignEdit):
            store.open()
    shop.clients.unlink()
    store.open()
    assert store.health().writable


def test_eight_processes_starting_at_once_make_one_store(
    shop: Shop, script: Callable[[str], list[str]]
) -> None:
    code = "store.open(); store.run(opening(f'c{os.getpid()}', 3), 'open'); store.close()"
    running = [subprocess.Popen(script(code), cwd=ROOT) for _ in range(8)]
    assert [each.wait(timeout=30) for each in running] == [0] * 8
    store = shop.open()
    assert len(list(store.view.clients)) == 8
    assert store.ledger(HistoryQuery()).total == 8
    assert not [name for name in shop.names() if name.endswith(".tmp")]


def test_leftover_temporary_files_are_removed_at_start(shop: Shop) -> None:
    shop.open().close()
    for name in ("journal", "json", "checkpoint"):
        (shop.path / f"openclaw_clients.{name}.tmp").write_bytes(b"half")
    shop.open()
    assert not [name for name in shop.names() if name.endswith(".tmp")]


def test_a_start_leaves_the_snapshot_alone_that_another_process_is_writing(shop: Shop) -> None:
    store = shop.open()
    # The one that the opening itself began is finished first.
    store._snapshots.stop()
    fd = store.directory.claim("openclaw_clients.checkpoint.turn")
    assert fd is not None
    (shop.path / "openclaw_clients.json.tmp").write_bytes(b"half")
    shop.open()
    assert "openclaw_clients.json.tmp" in shop.names()
    os.close(fd)


def test_a_newer_versions_journal_is_refused_by_name(shop: Shop) -> None:
    shop.open().close()
    seq_and_head = shop.journal.read_bytes().splitlines()[-1]
    last = json.loads(seq_and_head)
    newer = f'{{"v":2,"seq":{last["seq"] + 1},"prev":"{last["sum"]}","shape":"unknown"'
    raw, _ = Chain().seal(newer.encode())
    with shop.journal.open("ab") as file:
        file.write(raw)
    with pytest.raises(CorruptStore, match="newer version"):
        shop.open()


def test_a_newer_versions_checkpoint_is_refused_by_name(shop: Shop) -> None:
    shop.open().close()
    shop.checkpoint.write_bytes(shop.checkpoint.read_bytes().replace(b'{"v":1', b'{"v":2', 1))
    with pytest.raises(CorruptStore, match="newer version"):
        shop.open()


def test_two_clients_with_one_email_are_refused_and_both_named(shop: Shop) -> None:
    store = shop.open()
    store.run(opening("c1", 1), "open")
    store.close()
    last = json.loads(shop.journal.read_bytes().splitlines()[-1])
    parts = f',"put":{{"clients":[{row_text(client("c2", "C1@example.com"))}]}}'
    sealed, _, _ = seal_batch(
        Chain(), [("forged", parts)], seq=last["seq"], head=last["sum"], batch=last["batch"][0] + 1
    )
    with shop.journal.open("ab") as file:
        file.write(sealed)
    with pytest.raises(CorruptStore, match="c1 and c2 share one email"):
        shop.open()


def test_everything_is_there_after_closing_and_opening_again(shop: Shop) -> None:
    odd = client('ü\t\n"\\ ☃', "snow☃@example.com")
    store = shop.open()
    store.run(opening("c1", 3), "open")
    store.run(lambda tx: (tx.clients.put(odd), tx.recents.put(Recent(client_id=odd.client_id))), "odd")
    store.run(lambda tx: tx.keys.put(key("d\t1", "c1")), "key")
    store.run(lambda tx: tx.write_audit(audit("create", odd.client_id)), "audit")
    store.run(charging("c1", "j\t1"), "charge")
    before = {
        table: list(getattr(store.view, table))
        for table in ("clients", "accounts", "keys", "spent", "recents")
    }
    store.close()
    again = shop.open()
    assert {table: list(getattr(again.view, table)) for table in before} == before
    assert [each.digest for each in again.view.keys.by("client", "c1")] == ["d\t1"]
    assert again.view.clients.by("email", odd.email) == [odd]
    assert again.ledger(HistoryQuery()).total == 2
    assert again.audit(HistoryQuery(client_id=odd.client_id)).total == 1


def test_what_cannot_be_written_fails_its_own_operation_only(shop: Shop) -> None:
    store = shop.open()
    store.run(opening("c1", 3), "open")
    given: list[BaseException | None] = []
    done = threading.Semaphore(0)

    def settle(_answer: object, error: BaseException | None) -> None:
        given.append(error)
        done.release()

    def spoil(tx: object) -> None:
        tx.accounts.put(replace(store.view.accounts.get("c1"), used=float("nan")))  # type: ignore[attr-defined]

    store.submit(spoil, "spoil", settle)
    store.submit(charging("c1", "j1"), "charge", settle)
    store.flush_soon()
    assert done.acquire(timeout=10)
    assert done.acquire(timeout=10)
    assert isinstance(given[0], TypeError)
    assert given[1] is None


# Snapshots and the clients file


def test_the_clients_file_is_true_a_moment_after_the_last_change(shop: Shop, until: Until) -> None:
    store = shop.open()
    store.run(opening("c1", 5), "open")
    store.run(charging("c1", "j1"), "charge")
    until(lambda: shop.clients.exists() and '"credits_remaining": 4' in shop.clients.read_text())
    store.run(charging("c1", "j2"), "charge")
    begun = time.monotonic()
    until(lambda: json.loads(shop.clients.read_text())["c1"]["credits_remaining"] == 3)
    assert time.monotonic() - begun < 2.5


def test_the_clients_file_is_true_after_closing(shop: Shop) -> None:
    store = shop.open()
    store.run(opening("c1", 5), "open")
    store.run(charging("c1", "j1"), "charge")
    store.close()
    assert json.loads(shop.clients.read_text())["c1"]["credits_remaining"] == 4


def test_the_clients_file_has_the_promised_fields_and_no_key_text(shop: Shop) -> None:
    store = shop.open()
    store.run(opening("c1", 5), "open")
    store.run(lambda tx: tx.keys.put(replace(key("d1", "c1"), start="oc_live_abcd", last4="wxyz")), "key")
    store.close()
    text = shop.clients.read_text()
    shown = json.loads(text)["c1"]
    promised = {
        "client_id", "name", "email", "plan", "credits_remaining", "total_spent", "created_at", "updated_at",
        "active", "stripe_customer_id", "stripe_subscription_id", "billing_cycle_start", "billing_cycle_end", "metadata",
    }  # fmt: skip
    assert promised <= set(shown)
    assert "api_key" not in shown
    assert set(shown["metadata"]) >= {"credit_adjustments", "cost_log"}
    assert "d1" not in text.replace("key_d1", "")


def test_an_edited_clients_file_is_refused_at_start_naming_client_and_field(shop: Shop) -> None:
    store = shop.open()
    store.run(opening("c1", 5), "open")
    store.run(opening("c2", 5), "open")
    store.close()
    edited = shop.clients.read_text().replace('"credits_remaining": 5', '"credits_remaining": 500', 1)
    shop.clients.write_text(edited)
    with pytest.raises(ForeignEdit, match="c1: credits_remaining") as refused:
        shop.open()
    assert refused.value.differing == {"c1": ["credits_remaining"]}
    assert shop.clients.read_text() == edited


def test_what_was_charged_after_the_snapshot_is_nobodys_edit(
    shop: Shop, script: Callable[[str], list[str]]
) -> None:
    code = """
        store.open(); store.run(opening("c1", 5), "open"); store._snapshots.stop(); store.snapshot()
        store._snapshots.consider = lambda **_: None
        store.run(charging("c1", "j1"), "charge")
        os._exit(0)
    """
    subprocess.run(script(code), cwd=ROOT, check=True)
    shop.clients.write_text(shop.clients.read_text().replace("Acme", "Other"))
    with pytest.raises(ForeignEdit) as refused:
        shop.open()
    assert refused.value.differing == {"c1": ["name"]}


def test_a_clients_file_that_is_no_json_is_refused(shop: Shop) -> None:
    shop.open().close()
    shop.clients.write_text("{oops")
    with pytest.raises(ForeignEdit, match="not JSON"):
        shop.open()


def test_under_load_the_checkpoint_alone_is_written_and_the_clients_file_is_true_after_it(
    shop: Shop, until: Until
) -> None:
    store = shop.open()
    store.run(opening("c1", 5), "open")
    store.snapshot()
    store._snapshots.stop()
    shown = shop.clients.read_bytes()
    store.run(charging("c1", "j1"), "charge")
    assert store.snapshot(whole=False)
    assert shop.clients.read_bytes() == shown
    assert store.is_behind
    # A start begins from that checkpoint, finds the older clients file to be ours, and writes it anew.
    other = shop.open()
    assert other.view.accounts.get("c1").available == 4
    until(lambda: json.loads(shop.clients.read_text())["c1"]["credits_remaining"] == 4)
    assert not store.view.clients.get("c2")
    until(lambda: not store.is_behind)


def test_an_edit_is_compared_with_what_the_clients_file_was_true_after(shop: Shop) -> None:
    store = shop.open()
    store.run(opening("c1", 5), "open")
    store.snapshot()
    store._snapshots.stop()
    store._snapshots.consider = lambda **_: None
    store.run(charging("c1", "j1"), "charge")
    assert store.snapshot(whole=False)
    shop.clients.write_text(shop.clients.read_text().replace('"Acme"', '"Mine"'))
    with pytest.raises(ForeignEdit, match=r"\(c1: name\)"):
        shop.open()


def test_a_removed_clients_file_is_written_again(shop: Shop, until: Until) -> None:
    store = shop.open()
    store.run(opening("c1", 5), "open")
    store.close()
    shop.clients.unlink()
    shop.open()
    until(shop.clients.exists)


def test_an_edit_while_running_is_kept_aside_and_ours_written_anew(shop: Shop, until: Until) -> None:
    store = shop.open()
    store.run(opening("c1", 5), "open")
    until(lambda: shop.clients.exists() and "c1" in shop.clients.read_text())
    shop.clients.write_text('{"mine": {}}')
    store.run(charging("c1", "j1"), "charge")
    until(lambda: [name for name in shop.names() if ".foreign-" in name])
    until(lambda: shop.clients.exists() and "c1" in shop.clients.read_text())
    [kept] = [name for name in shop.names() if ".foreign-" in name]
    assert (shop.path / kept).read_text() == '{"mine": {}}'
    assert store.health().details["foreign_file"] == kept


@pytest.mark.anyio
async def test_readiness_warns_of_an_edit_while_running_and_names_no_file(shop: Shop) -> None:
    runtime = Runtime(load_settings(data_dir=shop.path, admin_token="0123456789abcdef" * 4))
    store = runtime.open()
    assert isinstance(store, JsonStore)
    store.run(opening("c1", 5), "open")
    store.snapshot()
    admin = Request(
        {
            "type": "http",
            "headers": [(b"x-auth-token", b"0123456789abcdef" * 4)],
            "query_string": b"",
            "client": None,
        }
    )
    assert (await readiness(runtime, admin)).body["warnings"] == []
    shop.clients.write_text('{"mine": {}}')
    store.run(charging("c1", "j1"), "charge")
    store.snapshot()
    found = await readiness(runtime, admin)
    assert found.ready
    [warning] = found.body["warnings"]
    assert "changed by somebody else" in warning
    assert str(shop.path) not in warning
    assert ".foreign-" not in warning
    runtime.close()


def test_a_link_put_in_place_of_the_clients_file_is_set_aside_and_not_followed(
    shop: Shop, tmp_path: Path, until: Until
) -> None:
    store = shop.open()
    store.run(opening("c1", 5), "open")
    store.snapshot()
    target = tmp_path / "target"
    target.write_text("theirs")
    shop.clients.unlink()
    shop.clients.symlink_to(target)
    store.run(charging("c1", "j1"), "charge")
    until(lambda: shop.clients.exists() and not shop.clients.is_symlink())
    assert target.read_text() == "theirs"


# Segments


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_store, "SEGMENT_BYTES_MAX", 600)


@pytest.mark.usefixtures("small_segments")
def test_a_full_segment_is_closed_and_the_history_reads_through_all(shop: Shop) -> None:
    store = shop.open()
    store.run(opening("c1", 50), "open")
    for n in range(6):
        store.run(charging("c1", f"j{n}"), "charge")
        store.snapshot()
    segments = [name for name in shop.names() if ".journal.0" in name]
    assert len(segments) >= 3
    found = store.ledger(HistoryQuery(client_id="c1", limit=4))
    assert ([each.number for each in found.entries], found.total) == ([7, 6, 5, 4], 7)
    store.close()
    again = shop.open()
    account = again.view.accounts.get("c1")
    assert account is not None
    assert account.available == 44
    assert again.ledger(HistoryQuery(limit=99)).total == 7


@pytest.mark.usefixtures("small_segments")
def test_a_snapshot_taken_behind_the_line_of_a_closer_that_died_is_believed(shop: Shop) -> None:
    store, other = shop.make(), shop.make()
    for each in (store, other):
        each._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
        each.open()
    store.run(opening("c1", 5), "open")
    with store._exclusive():
        store._replica.append([("closed", "")], Layer())
    # It reads on to the last line, and begins the next segment only when it puts its snapshot in place.
    assert other.snapshot()
    assert other.run(charging("c1", "j1"), "charge") is True
    account = shop.open().view.accounts.get("c1")
    assert account is not None
    assert account.available == 4


def test_another_process_follows_over_several_closed_segments(shop: Shop) -> None:
    store, reader, writer = shop.open(), shop.open(), shop.open()
    store.run(opening("c1", 50), "open")
    assert reader.view.accounts.get("c1") is not None
    for n in range(6):
        store.run(charging("c1", f"j{n}"), "charge")
        store.snapshot()
    account = reader.view.accounts.get("c1")
    assert account is not None
    assert account.available == 44
    assert reader.ledger(HistoryQuery()).total == 7
    assert writer.run(charging("c1", "last"), "charge") is True
    account = reader.view.accounts.get("c1")
    assert account is not None
    assert account.available == 43


@pytest.mark.usefixtures("small_segments")
def test_a_missing_closed_segment_is_refused(shop: Shop) -> None:
    store = shop.open()
    store.run(opening("c1", 50), "open")
    for n in range(6):
        store.run(charging("c1", f"j{n}"), "charge")
        store.snapshot()
    store.close()
    (shop.path / "openclaw_clients.journal.000001").unlink()
    with pytest.raises(CorruptStore, match="segment is missing"):
        shop.open()


@pytest.mark.usefixtures("small_segments")
def test_history_pages_are_whole_while_segments_are_closed(shop: Shop) -> None:
    store = shop.open()
    store.run(opening("c1", 500), "open")
    stop, problems = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            page = store.ledger(HistoryQuery(client_id="c1", limit=1000))
            numbers = [each.number for each in page.entries]
            if numbers != list(range(len(numbers), 0, -1)):
                problems.append(numbers)

    reading = threading.Thread(target=read)
    reading.start()
    for n in range(40):
        store.run(charging("c1", f"j{n}"), "charge")
        store.snapshot()
    stop.set()
    reading.join()
    assert problems == []


# While others do damage


def test_a_journal_removed_while_in_use_refuses_changes_and_says_so(shop: Shop) -> None:
    store = shop.open()
    store.run(opening("c1", 5), "open")
    shop.journal.rename(shop.path / "elsewhere")
    with pytest.raises(StorageUnavailable):
        store.run(charging("c1", "j1"), "charge")
    assert not store.health().writable
    assert "removed or replaced" in store.health().reason
    assert store.view.accounts.get("c1") is not None


def test_a_journal_cut_below_what_was_durable_refuses_changes_and_says_so(shop: Shop) -> None:
    store = shop.open()
    store.run(opening("c1", 5), "open")
    size = shop.journal.stat().st_size
    store.run(charging("c1", "j1"), "charge")
    os.truncate(shop.journal, size)
    with pytest.raises(StorageUnavailable):
        store.run(charging("c1", "j2"), "charge")
    assert not store.health().writable
    assert store.view.spent.get("j1") is not None


def test_junk_appended_while_in_use_refuses_changes_and_reads_go_on(shop: Shop) -> None:
    store = shop.open()
    store.run(opening("c1", 5), "open")
    with shop.journal.open("ab") as file:
        file.write(b"junk\n")
    assert store.view.accounts.get("c1") is not None
    with pytest.raises(StorageUnavailable):
        store.run(charging("c1", "j1"), "charge")
    assert not store.health().writable
    assert store.view.accounts.get("c1") is not None


def test_a_reader_follows_when_what_it_read_ahead_is_cut(shop: Shop, until: Until) -> None:
    writer, reader = shop.open(), shop.open()
    writer.run(opening("c1", 5), "open")
    durable = shop.journal.read_bytes()
    writer.run(charging("c1", "lost1"), "charge")
    ahead = shop.journal.read_bytes()[len(durable) :]
    writer.close()
    # As a writer leaves it whose flush failed after somebody had read: cut back, then another line as long.
    reader._replica._proven_seq = 0
    assert reader.view.spent.get("lost1") is not None
    os.truncate(shop.journal, len(durable))
    shop.checkpoint.unlink()
    shop.clients.unlink()
    cut = shop.open()
    cut.run(charging("c1", "kept1"), "charge")
    # By chance the file may now be as long as what was read: the next line shows it at the latest.
    cut.run(charging("c1", "kept2"), "charge")
    assert shop.journal.stat().st_size >= len(durable) + len(ahead)
    until(lambda: reader.view.spent.get("kept1") is not None)
    assert reader.view.spent.get("lost1") is None
    assert reader.run(charging("c1", "more1"), "charge") is True
    assert reader.health().writable


def test_a_snapshot_packs_what_has_ended_and_changes_nothing_of_it(shop: Shop) -> None:
    store = shop.open()
    store.run(lambda tx: ledger.open_account(tx, "c1", "pro", MOMENT), "open")
    made = {}
    for job in ("j1", "j2"):
        reserve = partial(ledger.reserve, client_id="c1", job_id=job, now=MOMENT)
        made[job] = store.run(reserve, "reserve")
    store.run(partial(ledger.capture, client_id="c1", job_id="j1", now=MOMENT), "capture")
    store._snapshots.stop()
    store.run(partial(ledger.charge, client_id="c1", job_id="j3", now=MOMENT), "charge")
    store.snapshot()
    assert {type(row) for row in store.base.reservations.rows.values()} == {bytes}
    assert store.view.reservations.by("pending", "c1") == [made["j2"]]
    store.run(partial(ledger.release, client_id="c1", job_id="j2", now=MOMENT), "release")
    assert store.view.reservations.by("pending", "c1") == []
    store.snapshot()
    other = shop.open()
    for name in ("accounts", "reservations"):
        assert list(other.base.tables[name]) == list(store.base.tables[name])
