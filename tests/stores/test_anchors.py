"""What is known from elsewhere of how far the journal went: a tail that was cut is found, and never made official."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openclaw_billing.errors import CorruptStore
from openclaw_billing.stores import backups
from openclaw_billing.stores.anchors import Anchor
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.journal import Chain
from openclaw_billing.stores.json_store import JsonStore
from tests.stores.charging import charging, opening
from tests.stores.conftest import Shop
from tests.stores.test_io_errors import ROOT, STRACE, needs_strace

MADE_FIRST = {"openclaw_clients.lock", "pepper", "admin_token"}
"""What a first start that dies before it has made a journal leaves behind."""


@pytest.fixture
def charged(shop: Shop) -> Shop:
    """A store of eight charges with a snapshot of them, closed."""
    store = shop.open()
    store.run(opening("c1", 100), "open")
    for number in range(8):
        store.run(charging("c1", f"j{number}"), "charge")
    store.close()
    return shop


@pytest.fixture
def known(charged: Shop) -> tuple[int, str]:
    """The last line of that store, as its log named it at the end."""
    last = json.loads(charged.journal.read_bytes().splitlines()[-1])
    return last["seq"], last["sum"]


def cut(shop: Shop, lines: int = 6) -> None:
    kept = shop.journal.read_bytes().splitlines(keepends=True)[:-lines]
    shop.journal.write_bytes(b"".join(kept))


def problems(path: Path, head: Anchor | None = None) -> list[str]:
    directory = Directory(path)
    directory.open()
    try:
        return backups.verify(directory, Chain(), head=head).problems
    finally:
        directory.close()


def back_up(shop: Shop, name: str) -> Path:
    directory = Directory(shop.path)
    directory.open()
    target = shop.path / "backups" / name
    backups.backup(directory, Chain(), target)
    directory.close()
    return target


def rewritten(data: bytes, job: bytes, other: bytes) -> bytes:
    """Another history of the same length, whose chain fits."""
    head, out = "0" * 64, b""
    for line in data.splitlines():
        body = line.partition(b',"sum":"')[0].replace(job, other)
        body = body[: body.index(b'"prev":"') + 8] + head.encode() + body[body.index(b'"prev":"') + 72 :]
        raw, head = Chain().seal(body)
        out += raw
    return out


def test_a_cut_tail_is_found_by_the_checkpoint(charged: Shop) -> None:
    assert problems(charged.path) == []
    cut(charged)
    [found] = problems(charged.path)
    assert "its end was cut off" in found
    assert "the checkpoint" in found


def test_a_cut_tail_is_found_by_a_backup_though_the_checkpoint_is_gone(charged: Shop) -> None:
    back_up(charged, "20260101T000000Z")
    cut(charged)
    charged.checkpoint.unlink()
    charged.clients.unlink()
    [found] = problems(charged.path)
    assert "the backup 20260101T000000Z" in found
    # A start without a checkpoint would make it official.
    before = charged.journal.read_bytes()
    with pytest.raises(CorruptStore, match="the backup 20260101T000000Z knows entry"):
        charged.open()
    assert charged.journal.read_bytes() == before
    assert not charged.checkpoint.exists()


def test_a_cut_tail_is_found_by_a_head_that_was_noted(charged: Shop, known: tuple[int, str]) -> None:
    seq, head = known
    noted = Anchor.parsed(f"{seq}:{head}")
    assert problems(charged.path, noted) == []
    cut(charged)
    charged.checkpoint.unlink()
    assert problems(charged.path) == []
    [found] = problems(charged.path, noted)
    assert f"entry {seq}" in found


def test_a_history_written_anew_is_found_by_everything_that_knew_the_old_one(
    charged: Shop, known: tuple[int, str]
) -> None:
    back_up(charged, "20260101T000000Z")
    charged.journal.write_bytes(rewritten(charged.journal.read_bytes(), b"j3", b"x3"))
    found = problems(charged.path, Anchor.parsed("{}:{}".format(*known)))
    assert len(found) == 3
    for each, source in zip(found, ("the checkpoint", "the backup", "the head"), strict=True):
        assert "is not the one that" in each
        assert source in each


def test_a_backup_is_held_against_its_own_manifest(charged: Shop) -> None:
    made = back_up(charged, "20260101T000000Z")
    assert problems(made) == []
    journal = made / charged.journal.name
    whole = journal.read_bytes()
    journal.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 1])
    assert "manifest" in problems(made)[0]
    journal.write_bytes(whole)
    (made / "backup.json").write_text("[]")
    assert "cannot be read" in problems(made)[0]


def test_a_damaged_checkpoint_and_a_damaged_manifest_know_nothing(charged: Shop) -> None:
    made = back_up(charged, "20260101T000000Z")
    charged.checkpoint.write_bytes(b"garbage\n")
    (made / "backup.json").write_bytes(b"\xff\xfe")
    assert problems(charged.path) == []


@pytest.mark.parametrize("text", ["", "7", "7:", "x:" + "0" * 64, "7:" + "0" * 63, "-7:" + "0" * 64])
def test_a_head_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="SEQ:HEAD"):
        Anchor.parsed(text)


# A start that finds nothing


def left_with(shop: Shop, names: set[str]) -> None:
    for name in shop.names() - names:
        path = shop.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("left", ["a lock that says a store was here", "backups"])
def test_a_store_that_is_gone_is_not_an_empty_one(charged: Shop, left: str) -> None:
    back_up(charged, "20260101T000000Z")
    turn = "openclaw_clients.checkpoint.turn"
    left_with(charged, MADE_FIRST | ({turn} if left.startswith("a lock") else {"backups"}))
    before = charged.names()
    with pytest.raises(CorruptStore, match="is missing"):
        charged.open()
    assert charged.names() == before


def test_a_store_says_that_it_was_here_from_its_first_start_on(shop: Shop) -> None:
    store = shop.make()
    store._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
    store.open()
    shop.journal.unlink()
    with pytest.raises(CorruptStore, match="is missing"):
        shop.open()


@pytest.mark.parametrize("left", [{"openclaw_clients.lock"}, MADE_FIRST, set()])
def test_what_a_first_start_that_died_leaves_behind_is_an_empty_store(shop: Shop, left: set[str]) -> None:
    shop.path.mkdir(mode=0o700)
    for name in left:
        (shop.path / name).touch(mode=0o600)
    (shop.path / "openclaw_clients.journal.tmp").write_bytes(b"half")
    (shop.path / "backups").mkdir()
    assert list(shop.open().view.clients) == []


@needs_strace
@pytest.mark.parametrize(
    "call", [pytest.param("openat", marks=pytest.mark.slow), "write", "fsync", "renameat"]
)
def test_a_first_start_killed_anywhere_is_followed_by_one_that_works(tmp_path: Path, call: str) -> None:
    assert STRACE is not None
    code = "import sys; from pathlib import Path; from openclaw_billing.stores.json_store import JsonStore\n"
    code += "store = JsonStore(Path(sys.argv[1])); store._snapshots.consider = lambda **_: None; store.open()"
    for number in range(1, 20):
        path = tmp_path / f"{number}"
        path.mkdir(mode=0o700)
        watched = [str(path), *(str(path / f"openclaw_clients.{each}") for each in ("lock", "journal.tmp"))]
        command = [STRACE, "-f", "-qq", "-o", "/dev/null", *(f"-P{each}" for each in watched)]
        command += ["-e", f"inject={call}:signal=SIGKILL:when={number}"]
        command += [sys.executable, "-c", code, str(path)]
        done = subprocess.run(command, cwd=ROOT, check=False, timeout=60, stderr=subprocess.PIPE)
        store = JsonStore(path)
        store.open()
        store.close()
        if done.returncode == 0:
            assert number > 1
            return
    raise AssertionError(f"{call} is called without end")


def manifest(**facts: Any) -> str:
    return json.dumps(facts)


def test_a_backup_whose_manifest_cannot_be_read_is_a_backup_all_the_same(shop: Shop) -> None:
    made = shop.path / "backups" / "20260101T000000Z"
    made.mkdir(parents=True, mode=0o700)
    os.chmod(shop.path, 0o700)
    (made / "backup.json").write_bytes(b"")
    with pytest.raises(CorruptStore, match="the backup 20260101T000000Z"):
        shop.open()
