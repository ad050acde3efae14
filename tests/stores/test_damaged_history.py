"""A journal changed behind its checkpoint: a start reads none of it, but the history is told as it was written, or not at all."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from openclaw_billing.contracts import HistoryQuery
from openclaw_billing.errors import CorruptStore
from openclaw_billing.records import AuditEntry, LedgerEntry
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import load_settings
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.journal_history import JournalHistory
from openclaw_billing.web.billing import billing_routes
from tests.stores.charging import audit, charging, opening
from tests.stores.conftest import Shop
from tests.stores.test_damage import flipped

TOKEN = "0123456789abcdef" * 4
ADMIN = {"X-Auth-Token": TOKEN}
PARTS: tuple[tuple[str, type], ...] = (("ledger", LedgerEntry), ("audit", AuditEntry))
QUERIES = (HistoryQuery(), HistoryQuery(client_id="c1"))


@pytest.fixture
def behind(shop: Shop) -> int:
    """A small store with a checkpoint; how many bytes of its journal a start does not read."""
    store = shop.open()
    store.run(opening("c1", 5), "open")
    store.run(lambda tx: tx.write_audit(audit("client.created", "c1")), "note")
    store.run(charging("c1", "j"), "charge")
    store.snapshot()
    store.close()
    [offset] = re.findall(rb'"offset":(\d+)', shop.checkpoint.read_bytes())
    return int(offset)


@pytest.fixture
def directory(shop: Shop) -> Iterator[Directory]:
    directory = Directory(shop.path)
    directory.open()
    yield directory
    directory.close()


def told(history: JournalHistory, journal: Path) -> list[list[Any]]:
    """Everything that the history tells, of one client and of all."""
    size = journal.stat().st_size
    return [
        list(history.entries((os.open(journal, os.O_RDONLY), size), 1, part, record, query))
        for part, record in PARTS
        for query in QUERIES
    ]


def test_every_byte_changed_behind_the_checkpoint_is_refused_where_it_is_when_the_history_is_read(
    shop: Shop, behind: int, directory: Directory
) -> None:
    journal = shop.journal.read_bytes()
    assert [len(each) for each in told(JournalHistory(directory, Chain()), shop.journal)] == [2, 2, 1, 1]
    starts = [0] + [found.end() for found in re.finditer(b"\n", journal)]
    for place, damaged in flipped(journal, range(behind)):
        shop.journal.write_bytes(damaged)
        line = max(start for start in starts if start <= place)
        with pytest.raises(CorruptStore) as refused:
            told(JournalHistory(directory, Chain()), shop.journal)
        found = refused.value
        assert (found.path, found.offset) == (str(shop.journal), line), f"byte {place}: {found}"
        assert found.seq == starts.index(line) + 1


def test_what_is_changed_after_it_was_checked_is_refused_too(
    shop: Shop, behind: int, directory: Directory
) -> None:
    history, journal = JournalHistory(directory, Chain()), shop.journal.read_bytes()
    told(history, shop.journal)
    shop.journal.write_bytes(journal.replace(b'"available":5', b'"available":9'))
    with pytest.raises(CorruptStore):
        told(history, shop.journal)


def test_a_closed_segment_that_was_changed_since_it_was_checked_is_checked_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openclaw_billing.stores.json_store.SEGMENT_BYTES_MAX", 0)
    store = shop.open()
    for number in range(3):
        store.run(opening(f"c{number}", 5), "open")
        assert store.ledger(HistoryQuery()).total == number + 1
        store.snapshot()
    segments = shop.path.glob("openclaw_clients.journal.*")
    [closed] = [each for each in segments if b'"client_id":"c1"' in each.read_bytes()]
    data = closed.read_bytes()
    closed.write_bytes(data.replace(b'"client_id":"c1"', b'"client_id":"c9"'))
    with pytest.raises(CorruptStore, match=closed.name):
        store.ledger(HistoryQuery(client_id="c1"))
    closed.write_bytes(data)
    assert store.ledger(HistoryQuery(client_id="c1")).total == 1


def test_lines_that_were_cut_by_their_writer_and_written_anew_are_no_damage(
    shop: Shop, directory: Directory
) -> None:
    store = shop.open()
    store.run(opening("c1", 5), "open")
    history, before = JournalHistory(directory, Chain()), shop.journal.read_bytes()
    store.run(charging("c1", "a"), "charge")
    told(history, shop.journal)
    store.close()
    for file in (shop.checkpoint, shop.clients):
        file.unlink()
    shop.journal.write_bytes(before)
    again = shop.open()
    again.run(charging("c1", "b"), "charge")
    again.run(charging("c1", "c"), "charge")
    assert len(told(history, shop.journal)[0]) == 3


@pytest.fixture
async def http(shop: Shop, behind: int) -> AsyncIterator[httpx.AsyncClient]:
    from openclaw_billing.web.admin_history import admin_history_routes

    runtime = Runtime(load_settings(data_dir=shop.path, admin_token=TOKEN))
    app = FastAPI()
    app.include_router(billing_routes(runtime))
    app.include_router(admin_history_routes(runtime))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
    runtime.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"available":5', b'"available":9'),
        (b'"client_id":"c1","number":1', b'"client_id":"cX","number":1'),
        (b'"kind":"grant"', b'"kind":"granX"'),
        (b'"ledger":[{', b'"ledger":[}'),
    ],
)
async def test_over_http_damage_is_503_and_the_operator_reads_where(
    shop: Shop, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, old: bytes, new: bytes
) -> None:
    journal = shop.journal.read_bytes()
    assert old in journal
    shop.journal.write_bytes(journal.replace(old, new))
    for path in ("/api/admin/clients/c1/ledger", "/api/admin/audit"):
        caplog.clear()
        answer = await http.get(path, headers=ADMIN)
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
        assert str(shop.path) not in answer.text
        [said] = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert f"{shop.journal} at byte" in said.getMessage()
        assert said.exc_info is None
    shop.journal.write_bytes(journal)
    answer = await http.get("/api/admin/clients/c1/ledger", headers=ADMIN)
    assert answer.json()["total"] == 2
