"""The secrets that a first start makes in the data directory: read, made or refused in a sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import client_auth
import gateway
from openclaw_billing.errors import BadSettings
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import load_settings
from tests.served import clean_environment
from tests.stores.test_real_faults import needs_mounts, private_disk

__all__ = ["private_disk"]

GOOD = "0123456789abcdef" * 4


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory whose store and secrets are made."""
    data = tmp_path / "data"
    runtime = Runtime(load_settings(data_dir=data))
    runtime.open()
    runtime.close()
    return data


@pytest.fixture
def opened(data: Path) -> Iterator[Callable[[], Runtime]]:
    runtimes: list[Runtime] = []

    def open_again() -> Runtime:
        runtimes.append(Runtime(load_settings(data_dir=data)))
        runtimes[-1].open()
        return runtimes[-1]

    yield open_again
    for runtime in runtimes:
        runtime.close()


@pytest.mark.parametrize("name", ["pepper", "admin_token"])
@pytest.mark.parametrize(
    ("content", "said"),
    [("schlüssel".encode() * 8, "not ASCII"), (b"\xff" * 64, "not ASCII"), (b"\n", "is empty")],
)
def test_a_secret_that_is_no_text_is_refused_by_its_name(
    data: Path, opened: Callable[[], Runtime], name: str, content: bytes, said: str
) -> None:
    (data / name).write_bytes(content)
    with pytest.raises(BadSettings, match=f"{data / name} .*{said}"):
        opened()
    assert (data / name).read_bytes() == content


def test_a_secret_that_cannot_be_read_is_refused_by_its_name(
    data: Path, opened: Callable[[], Runtime]
) -> None:
    # A directory can be read by nobody, root included.
    (data / "admin_token").unlink()
    (data / "admin_token").mkdir()
    with pytest.raises(BadSettings, match=str(data / "admin_token")):
        opened()


def test_a_pepper_that_others_may_read_is_refused(data: Path, opened: Callable[[], Runtime]) -> None:
    for mode in (0o640, 0o604, 0o660):
        (data / "pepper").chmod(mode)
        with pytest.raises(BadSettings, match=f"Others may read or write {data / 'pepper'}: chmod 600 it"):
            opened()
    (data / "pepper").chmod(0o600)
    opened()


@pytest.mark.parametrize(
    ("token", "mode", "reason"),
    [
        ("a", 0o600, "shorter than 32 visible ASCII characters"),
        ("a" * 31, 0o600, "shorter than 32"),
        ("a b " * 16, 0o600, "shorter than 32"),
        ("your-secret-admin-token", 0o600, "published"),
        (GOOD, 0o644, "chmod 600 it"),
        (GOOD, 0o620, "chmod 600 it"),
    ],
)
def test_a_weak_admin_token_file_disables_the_admin_api_and_nothing_else(
    data: Path,
    opened: Callable[[], Runtime],
    caplog: pytest.LogCaptureFixture,
    token: str,
    mode: int,
    reason: str,
) -> None:
    (data / "admin_token").write_text(token)
    (data / "admin_token").chmod(mode)
    runtime = opened()
    assert not runtime.admin_enabled
    assert not runtime.is_admin(token)
    assert reason in runtime.admin_refusal
    assert str(data / "admin_token") in runtime.admin_refusal
    assert runtime.admin_refusal in caplog.text
    assert token == "a" or token not in caplog.text
    assert runtime.store.health().writable


def test_a_good_admin_token_file_is_taken(data: Path, opened: Callable[[], Runtime]) -> None:
    (data / "admin_token").write_text(f"{GOOD}\n")
    (data / "admin_token").chmod(0o400)
    runtime = opened()
    assert runtime.is_admin(GOOD)
    assert runtime.admin_refusal == ""


@pytest.mark.anyio
async def test_the_admin_api_says_that_it_is_disabled(data: Path, anyio_backend: str) -> None:
    (data / "admin_token").write_text("a")
    client_auth.runtime.reconfigure(load_settings(data_dir=data))
    transport = httpx.ASGITransport(gateway.create_app(load_settings(data_dir=data)))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            refused = await http.get("/api/admin/clients", headers={"X-Auth-Token": "a"})
            assert (refused.status_code, refused.json()["code"]) == (503, "admin_disabled")
            assert (await http.get("/api/billing/plans")).status_code == 200
    finally:
        client_auth.runtime.reconfigure()


def test_a_first_start_on_a_disk_that_takes_nothing_is_refused_in_a_sentence(tmp_path: Path) -> None:
    code = "ulimit -f 0; exec {} -c 'import gateway; raise SystemExit(gateway.main([]))'"
    environment = clean_environment(OPENCLAW_DATA_DIR=str(tmp_path / "data"), PYTHONPATH=str(Path.cwd()))
    command = ["bash", "-c", code.format(sys.executable)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path / 'data' / 'pepper'} cannot be read or made: File too large" in done.stderr


@needs_mounts
@pytest.mark.parametrize(
    ("what", "said"),
    [("first_start_on_a_full_disk", "No space left"), ("first_start_read_only", "Read-only file system")],
)
def test_a_first_start_on_a_full_or_read_only_disk_is_refused_in_a_sentence(
    private_disk: Callable[[str], list[str]], what: str, said: str
) -> None:
    for told in private_disk(what):
        code, _, sentence = told.partition(" ")
        assert code == "78"
        assert said in sentence
        assert "Traceback" not in sentence
