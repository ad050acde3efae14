"""The watch: what a process says of itself while nobody asks it anything."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from openclaw_billing import metrics
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import load_settings
from openclaw_billing.stores import backups
from openclaw_billing.stores.anchors import Anchor
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import Chain
from openclaw_billing.web import watch
from openclaw_billing.web.watch import watching

pytestmark = pytest.mark.anyio


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(load_settings(data_dir=tmp_path / "data"))
    runtime.open()
    yield runtime
    runtime.close()


def heads(caplog: pytest.LogCaptureFixture) -> list[Anchor]:
    found = [re.search(r"at (\d+:[0-9a-f]{64})$", each.getMessage()) for each in caplog.records]
    return [Anchor.parsed(each[1]) for each in found if each is not None]


async def test_the_log_is_told_again_and_again_and_at_the_end_where_the_journal_ends(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(watch, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(watch, "HEAD_SECONDS", 0.05)
    async with asyncio.timeout(10), watching(runtime):
        while len(heads(caplog)) < 2:
            await asyncio.sleep(0.01)
    runtime.close()
    told = heads(caplog)
    assert len(told) >= 3
    directory = Directory(tmp_path / "data")
    directory.open()
    for head in told:
        assert backups.verify(directory, Chain(), head=head).problems == []
    directory.close()


async def test_a_store_that_is_gone_is_told_and_so_is_its_return(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCH_SECONDS", 0.01)

    def refusing() -> float:
        return sum(sample.value for sample in metrics.STORE_REFUSING.gauge.collect()[0].samples)

    runtime.close()
    data, gone = tmp_path / "data", tmp_path / "gone"
    data.rename(gone)
    data.write_text("no directory")
    async with asyncio.timeout(10), watching(runtime):
        while refusing() != 1:
            await asyncio.sleep(0.01)
        data.unlink()
        gone.rename(data)
        while refusing() != 0:
            await asyncio.sleep(0.01)
