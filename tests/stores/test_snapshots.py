"""When a snapshot pays: after quiet, or when the journal has outgrown the last one, whichever process wrote that."""

from __future__ import annotations

import pytest

from openclaw_billing.stores import json_store, snapshots
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.json_load import load
from openclaw_billing.stores.json_store import JsonStore
from tests.stores.charging import charging, opening
from tests.stores.conftest import Shop

CLIENTS = 60


@pytest.fixture(autouse=True)
def never_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_store, "QUIET_SECONDS", 3600.0)
    monkeypatch.setattr(snapshots, "BYTES_BEHIND_MIN", 4_000)
    monkeypatch.setattr(snapshots, "REST_FACTOR", 0)


@pytest.fixture
def grown(shop: Shop) -> Shop:
    """A store whose checkpoint is long beside what a snapshot pays for at least."""
    store = shop.open()
    for number in range(CLIENTS):
        store.run(opening(f"c{number}", 1_000_000), "open")
    store.close()
    assert shop.checkpoint.stat().st_size > 4 * snapshots.BYTES_BEHIND_MIN
    return shop


def charge(store: JsonStore, name: str, bytes_max: float) -> int:
    """Charge until so much was written, and wait for a snapshot that was begun; how much it was."""
    begun, number = store._replica.end.size, 0
    while store._replica.end.size - begun < bytes_max:
        number += 1
        assert store.run(charging("c1", f"{name} {number}"), "charge")
    written = store._replica.end.size - begun
    store._snapshots.stop()
    return written


def test_after_a_start_a_snapshot_waits_until_the_journal_has_outgrown_the_one_that_is_there(
    grown: Shop,
) -> None:
    store = grown.open()
    before, long = store.last_mark(), grown.checkpoint.stat().st_size
    charge(store, "some", 1.5 * long)
    assert store.last_mark() == before
    charge(store, "more", long)
    assert store.last_mark() != before


def test_a_snapshot_of_another_process_counts_as_ours(grown: Shop) -> None:
    ours, theirs = grown.open(), grown.open()
    long = grown.checkpoint.stat().st_size
    charge(ours, "before", 1.5 * long)
    assert theirs.snapshot(whole=False)
    theirs_mark = theirs.last_mark()
    charge(ours, "after", 1.5 * long)
    assert ours.last_mark() == theirs_mark
    assert theirs.run(charging("c1", "theirs"), "charge")
    assert theirs.last_mark() == theirs_mark


def test_what_a_crash_left_behind_the_checkpoint_counts_after_it(grown: Shop) -> None:
    store = grown.open()
    begun = store._replica.end.size
    written = charge(store, "some", grown.checkpoint.stat().st_size)
    loaded = load(store.directory, Chain(None))
    assert loaded.size - begun == written
    assert written <= loaded.bytes_behind <= written + begun
