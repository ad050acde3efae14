"""A clients file of the seed's own form: taken over once, whole, or refused with the client named."""

from __future__ import annotations

import json
import logging
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from openclaw_billing import ledger, usage
from openclaw_billing.clock import ManualClock
from openclaw_billing.errors import QuotaExceeded, StartupError
from openclaw_billing.records import Rate
from openclaw_billing.runtime import Runtime
from openclaw_billing.settings import load_settings
from openclaw_billing.stores import backups
from openclaw_billing.web.auth import key_of

NOW = datetime(2026, 2, 19, 10, 30, tzinfo=UTC)
BAK = "openclaw_clients.json.v0.bak"


def seed_client(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "client_id": f"old-{number}",
        "name": f"Client {number}",
        "email": f"client{number}@example.com",
        "api_key": "oc_live_" + f"{number:02x}" * 16,
        "plan": "pro",
        "credits_remaining": 150 + number,
        "total_spent": 0.1 + 0.2,
        "created_at": "2026-02-01T10:00:00",
        "updated_at": "2026-02-10T10:00:00.123456",
        "active": True,
        "stripe_customer_id": f"cus_{number}",
        "stripe_subscription_id": None,
        "billing_cycle_start": "2026-02-01T10:00:00",
        "billing_cycle_end": "2026-03-03T10:00:00",
        "metadata": {
            "credit_adjustments": [{"timestamp": "2026-02-05T10:00:00", "amount": 50, "reason": "promo"}],
            "cost_log": [{"timestamp": "2026-02-06T10:00:00", "cost": 0.25, "job_id": "j"}],
            "note": "dear",
        },
        **changes,
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def write(data: Path) -> Callable[..., bytes]:
    """Put clients into the data directory as the seed wrote them, readable for all."""

    def writing(*clients: dict[str, Any]) -> bytes:
        whole = json.dumps({each["client_id"]: each for each in clients}, indent=2).encode()
        file = data / "openclaw_clients.json"
        file.write_bytes(whole)
        file.chmod(0o644)
        return whole

    return writing


@pytest.fixture
def runtime(data: Path) -> Iterator[Runtime]:
    made = Runtime(load_settings(data_dir=data, admin_token="a" * 64), clock=ManualClock(NOW))
    yield made
    made.close()


def test_every_client_is_taken_over_as_it_was(runtime: Runtime, write: Callable[..., bytes]) -> None:
    clients = [seed_client(number) for number in range(1, 6)]
    write(*clients, seed_client(6, active=False))
    runtime.open()
    for number, client in enumerate(clients, 1):
        stand = usage.standing(runtime.view, client["client_id"], NOW)
        assert (stand.available, stand.spent_usd_micros) == (150 + number, 300_000)
        assert stand.start == datetime(2026, 2, 1, 10, tzinfo=UTC)
        assert stand.end == datetime(2026, 3, 3, 10, tzinfo=UTC)
        found = key_of(runtime, client["api_key"])
        assert found is not None
        assert found[0].client_id == client["client_id"]
        assert (found[0].stripe_customer_id, found[0].metadata) == (f"cus_{number}", {"note": "dear"})
    assert key_of(runtime, seed_client(6)["api_key"]) is None
    verified = backups.verify(runtime.store.directory, backups.Chain(None))  # type: ignore[attr-defined]
    assert (verified.problems, verified.clients) == ([], 6)


def test_a_rate_of_its_own_goes_round(runtime: Runtime, write: Callable[..., bytes], data: Path) -> None:
    """What the clients file shows of it is what is taken over."""
    write(seed_client(1, rate_limit="7/s, burst 9, 80/min"), seed_client(2, rate_limit=None))
    runtime.open()
    first, second = (runtime.view.clients.get(each) for each in ("old-1", "old-2"))
    assert first is not None
    assert second is not None
    assert (first.rate_limit, second.rate_limit) == (Rate(7, 9, 80), None)
    runtime.close()
    shown = json.loads((data / "openclaw_clients.json").read_text())
    assert shown["old-1"]["rate_limit"] == "7/s, burst 9, 80/min"
    assert shown["old-2"]["rate_limit"] is None
    again = runtime.view.clients.get("old-1")
    assert again is not None
    assert again.rate_limit == Rate(7, 9, 80)


def test_the_original_is_kept_for_its_owner_alone_and_named_at_each_start(
    runtime: Runtime, write: Callable[..., bytes], data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = write(seed_client(1))
    logging.getLogger("openclaw_billing").propagate = True
    for _ in range(3):
        caplog.clear()
        runtime.open()
        warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
        assert [BAK in each for each in warnings] == [True]
        assert (data / BAK).read_bytes() == whole
        assert stat.S_IMODE((data / BAK).stat().st_mode) == 0o600
        runtime.close()
    (data / BAK).unlink()
    caplog.clear()
    runtime.open()
    assert BAK not in caplog.text


def test_a_second_start_does_nothing_more(runtime: Runtime, write: Callable[..., bytes], data: Path) -> None:
    write(seed_client(1))
    runtime.open()
    runtime.write_and_wait(ledger.charge, "old-1", job_id="job")
    runtime.close()
    journal = (data / "openclaw_clients.journal").read_bytes()
    runtime.open()
    assert usage.standing(runtime.view, "old-1", NOW).available == 150
    runtime.close()
    assert (data / "openclaw_clients.journal").read_bytes() == journal


def test_no_key_text_is_left_but_in_the_original_and_no_backup_holds_it(
    runtime: Runtime, write: Callable[..., bytes], data: Path, tmp_path: Path
) -> None:
    write(seed_client(1))
    runtime.open()
    backups.backup(runtime.store.directory, backups.Chain(None), tmp_path / "made")  # type: ignore[attr-defined]
    runtime.close()
    holding = [
        path.name
        for path in tmp_path.rglob("*")
        if path.is_file() and seed_client(1)["api_key"].encode() in path.read_bytes()
    ]
    assert holding == [BAK]


@pytest.mark.parametrize(
    ("changes", "available"),
    [
        ({"plan": "platinum"}, 151),
        ({"plan": "enterprise", "credits_remaining": -1}, 0),
        ({"credits_remaining": 151.0}, 151),
        ({"created_at": "2026-02-01T11:00:00+01:00", "billing_cycle_start": None}, 151),
        ({"api_key": None}, 151),
        ({"metadata": None}, 151),
        ({"total_spent": 1e-9}, 151),
        ({"metadata": {"cost_log": [None, {"cost": 1}], "credit_adjustments": "none"}}, 151),
    ],
)
def test_odd_clients_keep_their_balance(
    runtime: Runtime, write: Callable[..., bytes], changes: dict[str, Any], available: int
) -> None:
    write(seed_client(1, **changes))
    runtime.open()
    assert usage.standing(runtime.view, "old-1", NOW).available == available


def test_a_plan_that_we_do_not_know_is_kept_and_shown(runtime: Runtime, write: Callable[..., bytes]) -> None:
    write(seed_client(1, plan="platinum", credits_remaining=0))
    runtime.open()
    assert usage.standing(runtime.view, "old-1", NOW).plan.plan_id == "legacy"
    with pytest.raises(QuotaExceeded):
        runtime.write_and_wait(ledger.charge, "old-1", job_id="job")


@pytest.mark.parametrize(
    "changes",
    [
        {"credits_remaining": -5},
        {"credits_remaining": -1},
        {"plan": "platinum", "credits_remaining": -1},
        {"billing_cycle_start": "9999-12-31T00:00:00"},
        {"created_at": "0001-01-01T00:00:00+05:00", "billing_cycle_start": None},
        {"name": "Bad\ud800 name"},
        {"name": "two\nlines"},
        {"metadata": {"note": "half\udfff"}},
        {"metadata": {"cost_log": [{"cost": 1, "job_id": "half\udfff"}]}},
        {"credits_remaining": "many"},
        {"credits_remaining": True},
        {"credits_remaining": 1.5},
        {"total_spent": -1},
        {"total_spent": "nan"},
        {"total_spent": [1]},
        {"created_at": "yesterday"},
        {"created_at": 1},
        {"api_key": "oc_live_short"},
        {"api_key": 7},
        {"email": ""},
        {"name": None},
        {"plan": {}},
        {"rate_limit": "often"},
        {"rate_limit": 5},
        {"email": "CLIENT1@example.com"},
        {"api_key": "oc_live_" + "01" * 16},
    ],
)
def test_a_client_that_cannot_be_is_named_and_nothing_is_touched(
    runtime: Runtime, write: Callable[..., bytes], data: Path, changes: dict[str, Any]
) -> None:
    whole = write(seed_client(1), seed_client(2, **changes))
    for _ in range(2):
        with pytest.raises(StartupError, match="old-2") as refused:
            runtime.open()
        assert "oc_live_" + "02" * 16 not in str(refused.value)
    assert (data / "openclaw_clients.json").read_bytes() == whole
    assert not (data / "openclaw_clients.journal").exists()
    assert not (data / BAK).exists()


def test_a_file_that_is_no_json_is_refused_with_the_place(runtime: Runtime, data: Path) -> None:
    (data / "openclaw_clients.json").write_bytes(b'{"old-1": {"name": "Acme",\n  "email": }}')
    with pytest.raises(StartupError, match=r"openclaw_clients\.json: .* line 2 column 12"):
        runtime.open()


def test_a_client_id_that_cannot_be_shown_is_refused(runtime: Runtime, write: Callable[..., bytes]) -> None:
    write(seed_client(1, client_id="half\ud800"))
    with pytest.raises(StartupError, match=r"half\\ud800"):
        runtime.open()


@pytest.mark.parametrize(
    "whole",
    [
        b"",
        b"x",
        b"[]",
        b'"text"',
        b"null",
        b'{"a": NaN}',
        b'{"a": {}, "a": {}}',
        b'{"a": []}',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b'{"old-1": {',
        b"[" * 100_000,
    ],
)
def test_a_file_of_another_form_is_refused_and_left(runtime: Runtime, data: Path, whole: bytes) -> None:
    (data / "openclaw_clients.json").write_bytes(whole)
    with pytest.raises(StartupError, match=r"openclaw_clients\.json"):
        runtime.open()
    assert (data / "openclaw_clients.json").read_bytes() == whole
    assert not (data / "openclaw_clients.journal").exists()
