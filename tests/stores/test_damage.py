"""Damaged files: refused with the place named, or harmless; never silently another state, never empty."""

from __future__ import annotations

import json
import logging
import random
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openclaw_billing.errors import CorruptStore
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.json_create import seal_batch
from openclaw_billing.stores.json_load import ForeignEdit, Loaded, check_clients_file, load
from openclaw_billing.stores.json_store import JsonStore
from tests.stores.charging import charging, opening
from tests.stores.conftest import Shop

KEY = b"k" * 32


def state_of(loaded: Loaded) -> list[object]:
    return [list(table) for table in loaded.base.tables.values()]


@pytest.fixture
def journal(shop: Shop) -> bytes:
    """A small journal with no snapshot beside it."""
    store = shop.make()
    store._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
    store.open()
    store.run(opening("c1", 5), "open")
    for n in range(3):
        store.run(charging("c1", f"j{n}"), "charge")
    store._replica.loaded.marked_seq = 99
    store.close()
    assert shop.names() == {
        "openclaw_clients.journal",
        "openclaw_clients.lock",
        "openclaw_clients.checkpoint.turn",
    }
    return shop.journal.read_bytes()


@pytest.fixture
def directory(shop: Shop) -> Iterator[Directory]:
    directory = Directory(shop.path)
    directory.open()
    yield directory
    directory.close()


@pytest.fixture
def outcome(directory: Directory, caplog: pytest.LogCaptureFixture) -> Callable[..., object]:
    """What loading the files gives: the state, or the refusal."""
    caplog.set_level(logging.WARNING)

    def load_again(chain: Chain | None = None) -> Loaded | CorruptStore | ForeignEdit:
        chain = chain or Chain()
        try:
            loaded = load(directory, chain)
            check_clients_file(directory, chain, loaded)
        except (CorruptStore, ForeignEdit) as error:
            return error
        return loaded

    return load_again


def flipped(data: bytes, places: range) -> Iterator[tuple[int, bytes]]:
    """The data with one byte changed in its lowest bit, into a newline, and into nothing."""
    for place in places:
        for byte in (data[place] ^ 1, 10, 0):
            if data[place] != byte:
                yield place, data[:place] + bytes([byte]) + data[place + 1 :]


def test_every_byte_of_a_journal_changed_three_ways_is_refused_where_it_is(
    shop: Shop, journal: bytes, outcome: Callable[[], object]
) -> None:
    true = outcome()
    assert isinstance(true, Loaded)
    starts = [0] + [found.end() for found in re.finditer(b"\n", journal)]
    for place, damaged in flipped(journal, range(len(journal))):
        shop.journal.write_bytes(damaged)
        found = outcome()
        if isinstance(found, CorruptStore):
            line = max(start for start in starts if start <= place)
            assert found.offset == line, f"byte {place}: {found}"
            assert shop.journal.read_bytes() == damaged
        else:
            assert isinstance(found, Loaded)
            assert state_of(found) == state_of(true), f"byte {place} was changed and nobody noticed"


@pytest.mark.parametrize("name", ["checkpoint", "json"])
def test_every_byte_of_a_snapshot_changed_is_refused_or_harmless(
    shop: Shop, journal: bytes, outcome: Callable[[], object], name: str
) -> None:
    store = shop.open()
    store.snapshot()
    store.close()
    file = shop.path / f"openclaw_clients.{name}"
    data, true = file.read_bytes(), outcome()
    assert isinstance(true, Loaded)
    for place, damaged in flipped(data, range(0, len(data), 2)):
        file.write_bytes(damaged)
        found = outcome()
        assert isinstance(found, CorruptStore | ForeignEdit), f"byte {place} was changed and nobody noticed"
        if name == "checkpoint":
            assert isinstance(found, CorruptStore)
            assert found.offset is not None
            assert "checkpoint" in str(found) or "journal" in str(found)
        assert file.read_bytes() == damaged


def test_a_torn_tail_of_any_length_loses_only_the_batch_that_nobody_was_told_of(
    shop: Shop, journal: bytes, outcome: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    last = journal.rfind(b"\n", 0, -1) + 1
    shop.journal.write_bytes(journal)
    whole = outcome()
    shop.journal.write_bytes(journal[:last])
    without = outcome()
    assert isinstance(whole, Loaded)
    assert isinstance(without, Loaded)
    for length in range(last + 1, len(journal)):
        shop.journal.write_bytes(journal[:length])
        caplog.clear()
        found = outcome()
        assert isinstance(found, Loaded), f"cut at {length}: {found}"
        if state_of(found) == state_of(without):
            assert len(caplog.records) == 1
            assert f"at byte {last}" in caplog.text
            assert shop.journal.read_bytes() == journal[:last]
        else:
            # Only the closing bytes were missing: the line proves itself, and is ended.
            assert length >= len(journal) - 3
            assert state_of(found) == state_of(whole)
            assert shop.journal.read_bytes() == journal


def test_a_tail_of_blocks_that_were_never_written_is_cut(
    shop: Shop, journal: bytes, outcome: Callable[[], object]
) -> None:
    true = outcome()
    assert isinstance(true, Loaded)
    for zeros in (1, 100, 512, 4096):
        shop.journal.write_bytes(journal + b"\0" * zeros)
        found = outcome()
        assert isinstance(found, Loaded)
        assert state_of(found) == state_of(true)
        assert shop.journal.read_bytes() == journal


def test_a_last_line_whose_newline_became_nul_is_kept_wherever_it_ends(
    shop: Shop, journal: bytes, outcome: Callable[[], object]
) -> None:
    true = outcome()
    assert isinstance(true, Loaded)
    shop.journal.write_bytes(journal[:-1] + b"\0")
    found = outcome()
    assert isinstance(found, Loaded)
    assert state_of(found) == state_of(true)
    assert shop.journal.read_bytes() == journal


def torn(batch: bytes, start: int, choice: random.Random) -> bytes:
    """A batch as a crash may leave it: 512-byte blocks of it missing, its end missing."""
    blocks = [
        batch[max(0, edge - start) : edge + 512 - start]
        for edge in range(start // 512 * 512, start + len(batch), 512)
    ]
    kept = [block if choice.random() < 0.6 else b"\0" * len(block) for block in blocks]
    data = b"".join(kept)
    return data[: choice.randrange(1, len(data) + 1)] if choice.random() < 0.5 else data


def check_torn_batches(shop: Shop, journal: bytes, outcome: Callable[[], object], rounds: int) -> None:
    last = json.loads(journal.splitlines()[-1])
    for seed in range(rounds):
        choice = random.Random(seed)
        lines = [(f"op{n}", f',"pad":"{"x" * choice.randrange(600)}"') for n in range(choice.randrange(2, 6))]
        sealed, _, _ = seal_batch(
            Chain(), lines, seq=last["seq"], head=last["sum"], batch=last["batch"][0] + 1
        )
        left = torn(sealed, len(journal), choice)
        shop.journal.write_bytes(journal + left)
        found = outcome()
        assert isinstance(found, Loaded), f"seed {seed}: {found}"
        assert found.seq >= last["seq"]


def test_a_batch_of_several_lines_torn_anyhow_loads(
    shop: Shop, journal: bytes, outcome: Callable[[], object]
) -> None:
    check_torn_batches(shop, journal, outcome, 300)


@pytest.mark.slow
def test_five_thousand_torn_batches_load(shop: Shop, journal: bytes, outcome: Callable[[], object]) -> None:
    check_torn_batches(shop, journal, outcome, 5000)


def test_after_a_batch_left_unfinished_the_next_may_be_torn_in_its_first_line(
    shop: Shop, journal: bytes, outcome: Callable[[], object]
) -> None:
    last = json.loads(journal.splitlines()[-1])
    lines = [("a", ""), ("b", ""), ("c", "")]
    sealed, _, _ = seal_batch(Chain(), lines, seq=last["seq"], head=last["sum"], batch=last["batch"][0] + 1)
    first = sealed.index(b"\n") + 1
    for left in (sealed[:first], sealed[: first + 20], sealed[: first - 1]):
        shop.journal.write_bytes(journal + left)
        store = shop.open()
        store.close()
        for each in (shop.checkpoint, shop.clients):
            each.unlink()
        kept = shop.journal.read_bytes()
        end = json.loads(kept.splitlines()[-1])
        lines = [("d", f',"pad":"{"x" * 1500}"'), ("e", "")]
        following, _, _ = seal_batch(
            Chain(), lines, seq=end["seq"], head=end["sum"], batch=end["batch"][0] + 1
        )
        hole = (-len(kept)) % 512 + 512
        torn_first = following[:hole] + b"\0" * 512 + following[hole + 512 :]
        shop.journal.write_bytes(kept + torn_first)
        assert isinstance(outcome(), Loaded)
        assert shop.journal.read_bytes() == kept


def test_a_batch_cut_between_two_lines_holds_whole_operations_only(
    shop: Shop, journal: bytes, outcome: Callable[[], object]
) -> None:
    """Each operation's line holds what it changed, and nothing of the operations behind it in the batch."""
    store = shop.make()
    store._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
    store.open()
    left = threading.Semaphore(0)
    for n in range(2):
        store.submit(charging("c1", f"more{n}"), "charge", lambda _answer, _error: left.release())
    store.flush_soon()
    for _ in range(2):
        assert left.acquire(timeout=10)
    store._replica.loaded.marked_seq = 99
    store.close()
    lines = shop.journal.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["batch"][1:] for line in lines[-2:]] == [[1, 2], [2, 2]]
    for kept in range(1, 3):
        shop.journal.write_bytes(b"".join(lines[: len(lines) - 2 + kept]))
        found = outcome()
        assert isinstance(found, Loaded)
        account = found.base.accounts.get("c1")
        assert account is not None
        assert (account.available, account.entries) == (2 - kept, 4 + kept)
        charged = [each.spent_id for each in found.base.spent]
        assert charged == ["j0", "j1", "j2", "more0", "more1"][: 3 + kept]


@pytest.mark.parametrize("what", ["swapped", "doubled", "deleted", "first deleted", "last doubled"])
def test_lines_moved_are_refused_with_the_first_bad_entry(
    shop: Shop, journal: bytes, outcome: Callable[[], object], what: str
) -> None:
    lines = journal.splitlines(keepends=True)
    moved = {
        "swapped": [*lines[:1], lines[2], lines[1], *lines[3:]],
        "doubled": [*lines[:2], lines[1], *lines[2:]],
        "deleted": [*lines[:2], *lines[3:]],
        "first deleted": lines[1:],
        "last doubled": [*lines, lines[-1]],
    }[what]
    shop.journal.write_bytes(b"".join(moved))
    found = outcome()
    assert isinstance(found, CorruptStore)
    assert "missing or doubled" in found.reason
    assert found.seq is not None


def test_a_deleted_line_is_refused_though_the_last_lacks_its_end(
    shop: Shop, journal: bytes, outcome: Callable[[], object]
) -> None:
    lines = journal.splitlines(keepends=True)
    shop.journal.write_bytes(b"".join([*lines[:-2], lines[-1][:-1]]))
    assert isinstance(outcome(), CorruptStore)


def test_damage_before_a_torn_tail_is_damage(
    shop: Shop, journal: bytes, outcome: Callable[[], object]
) -> None:
    """The last acknowledged line is changed, and behind it stands the beginning of another batch."""
    last = json.loads(journal.splitlines()[-1])
    following, _, _ = seal_batch(
        Chain(), [("d", ""), ("e", "")], seq=last["seq"], head=last["sum"], batch=last["batch"][0] + 1
    )
    place = len(journal) - 100
    damaged = journal[:place] + bytes([journal[place] ^ 1]) + journal[place + 1 :]
    shop.journal.write_bytes(damaged + following[:-20])
    found = outcome()
    assert isinstance(found, CorruptStore)
    assert found.offset == journal.rfind(b"\n", 0, -1) + 1


def resealed(chain: Chain, journal: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The journal with one thing changed and every sum made to fit."""
    head, out = "0" * 64, b""
    for line in journal.splitlines():
        body = change(line.partition(b',"sum":"')[0])
        body = re.sub(rb'"prev":"[0-9a-f]{64}"', f'"prev":"{head}"'.encode(), body)
        raw, head = chain.seal(body)
        out += raw
    return out


def more_credits(body: bytes) -> bytes:
    return body.replace(b'["lot","promo",5,null]', b'["lot","promo",9,null]')


def test_with_a_chain_key_edited_and_summed_again_is_refused(
    shop: Shop, outcome: Callable[..., object]
) -> None:
    store = JsonStore(shop.path, chain_key=KEY)
    store._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
    store.open()
    store.run(opening("c1", 5), "open")
    store._replica.loaded.marked_seq = 99
    store.close()
    data = shop.journal.read_bytes()
    for chain in (Chain(), Chain(b"another key" * 3)):
        forged = resealed(chain, data, more_credits)
        assert forged != data
        shop.journal.write_bytes(forged)
        found = outcome(Chain(KEY))
        assert isinstance(found, CorruptStore)
        assert found.offset == 0
    shop.journal.write_bytes(data)
    assert isinstance(outcome(Chain(KEY)), Loaded)
    assert isinstance(outcome(Chain()), CorruptStore)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"put":{"clients":[{', b'"put":{"clients":[{"unknown_field":1,'),
        (b'"put":{"clients"', b'"put":{"no_such_table"'),
        (b'"lots":[[', b'"lots":[["x",['),
        (b'"batch":[2,1,1]', b'"batch":"oops"'),
        (b'"promo"', b'"no_such_source"'),
    ],
)
def test_lines_with_right_sums_that_say_nonsense_are_refused_with_the_reason(
    shop: Shop, journal: bytes, outcome: Callable[[], object], old: bytes, new: bytes
) -> None:
    assert old in journal
    shop.journal.write_bytes(resealed(Chain(), journal, lambda body: body.replace(old, new)))
    found = outcome()
    assert isinstance(found, CorruptStore)
    assert found.offset is not None


def test_a_store_that_was_refused_is_left_byte_for_byte(shop: Shop, journal: bytes) -> None:
    store = shop.open()
    store.snapshot()
    store.close()
    data = shop.journal.read_bytes()
    shop.journal.write_bytes(data[:200] + b"?" + data[201:])
    before = {name: (shop.path / name).read_bytes() for name in shop.names()}
    shop.checkpoint.unlink()
    before.pop(shop.checkpoint.name)
    with pytest.raises(CorruptStore, match="at byte 0"):
        shop.open()
    assert {name: (shop.path / name).read_bytes() for name in shop.names()} == before


@pytest.mark.slow
def test_every_byte_of_a_journal_of_many_batches_changed_in_every_way(
    shop: Shop, tmp_path: Path, outcome: Callable[[], object]
) -> None:
    store = shop.open()
    store.run(opening("c1", 50), "open")
    for n in range(12):
        store.run(charging("c1", f"j{n}"), "charge")
    store.close()
    for each in (shop.checkpoint, shop.clients):
        each.unlink()
    data = shop.journal.read_bytes()
    true = outcome()
    assert isinstance(true, Loaded)
    for place in range(len(data)):
        for value in range(0, 256, 17):
            if data[place] == value:
                continue
            shop.journal.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
            found = outcome()
            assert isinstance(found, CorruptStore) or state_of(found) == state_of(true)  # type: ignore[arg-type]
