"""Whatever strangers write, every reader of it answers with a value or with its own refusal, and with nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import client_auth
import gateway
from openclaw_billing import accounts, seed_file
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import BillingError, CorruptStore, StartupError
from openclaw_billing.keys import Peppers, is_key_shape, new_checked_key_text, new_key_text
from openclaw_billing.records import EntryKind, LedgerEntry
from openclaw_billing.settings import Settings, load_settings
from openclaw_billing.signatures import is_signed
from openclaw_billing.stores.journal import Chain, Reader
from openclaw_billing.stores.memory import MemoryStore
from openclaw_billing.text import clean_email
from tests.test_guard import ask

TOKEN = "0123456789abcdef" * 4
NOW = datetime(2026, 2, 19, 10, 30, tzinfo=UTC)
PEPPERS = Peppers([("p1", b"one pepper, long enough to be good")])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=20,
)


@given(st.text(max_size=60) | st.from_regex(r"oc_live_[0-9A-Za-z]{26,34}", fullmatch=True))
def test_only_what_we_could_have_made_is_a_key(text: str) -> None:
    if is_key_shape(text):
        assert text.isascii()
        assert len(text) in (len(new_key_text()), len(new_checked_key_text()))
        assert len(PEPPERS.digests(text)) == 1


@given(st.binary(max_size=40), st.text(max_size=200) | st.from_regex(r"t=\d{0,14}(,v\d=[0-9a-f]*){0,4}"))
def test_no_header_signs_what_was_not_signed(raw: bytes, header: str) -> None:
    assert not is_signed(raw, header, ["whsec_" + "a" * 32, ""], NOW)


@given(st.binary(max_size=300))
def test_no_bytes_are_a_line_of_the_journal(raw: bytes) -> None:
    """A reader gives good lines, a torn tail, or a refusal that names the byte."""
    reader = Reader("journal", Chain())
    assert list(reader.lines(raw, 0)) == []
    try:
        assert reader.tail(raw, 0, 0).torn in (None, 0)
    except CorruptStore as refused:
        sentence = str(refused)
    else:
        return
    assert "at byte 0" in sentence


@given(
    ANY_JSON
    | st.dictionaries(st.text(max_size=5), st.dictionaries(st.sampled_from(["email", "plan"]), ANY_JSON))
)
def test_a_clients_file_of_any_content_is_taken_over_or_refused_in_a_sentence(content: object) -> None:
    data = json.dumps(content).encode()
    store = MemoryStore()
    store.open()
    try:
        store.run(lambda tx: seed_file.take_over(tx, data=data, peppers=PEPPERS, now=NOW), "take over")
    except (StartupError, BillingError) as refused:
        sentence = str(refused)
    else:
        sentence = ""
    store.close()
    assert "Traceback" not in sentence


@given(st.text(max_size=80))
def test_an_email_is_one_address_or_refused(text: str) -> None:
    try:
        kept = clean_email(text)
    except ValueError:
        return
    local, _, domain = kept.rpartition("@")
    assert local
    assert "." in domain
    assert kept == kept.strip()
    assert not set(kept) & set("\r\n\t <>\"'\0")


NAMES = sorted(str(field.validation_alias) for field in Settings.model_fields.values())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.sampled_from(NAMES),
    st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
)
def test_a_setting_of_any_text_is_taken_or_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setenv(name, text)
        sentence = ""
        try:
            load_settings()
        except StartupError as refused:
            sentence = str(refused)
    assert "Traceback" not in sentence
    assert not list(tmp_path.iterdir())


@pytest.fixture
def door(tmp_path: Path) -> Iterator[None]:
    chosen = load_settings(data_dir=tmp_path / "data", admin_token=TOKEN, rate_limits=False)
    client_auth.runtime.reconfigure(chosen)
    yield
    client_auth.runtime.reconfigure()


PATHS = [
    "/api/intake",
    "/api/jobs",
    "/api/jobs/x",
    "/api/billing/usage",
    "/api/admin/clients",
    "/health",
    "/x",
]
HEADERS = st.dictionaries(
    st.sampled_from(
        ["X-Client-Key", "X-Auth-Token", "Host", "X-Request-Id", "Idempotency-Key", "X-Forwarded-For"]
    ),
    st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")),
    max_size=4,
)


@pytest.mark.anyio
async def test_no_headers_let_a_stranger_in(door: None) -> None:
    app = gateway.create_app(load_settings(admin_token=TOKEN, rate_limits=False))
    seen: list[tuple[int, bytes]] = []
    strategy = st.tuples(
        st.sampled_from(PATHS), st.sampled_from(["GET", "POST", "PUT"]), HEADERS, st.binary(max_size=30)
    )
    asked: list[tuple[str, str, dict[str, str], bytes]] = []

    @settings(max_examples=200, database=None)
    @given(strategy)
    def collect(request: tuple[str, str, dict[str, str], bytes]) -> None:
        asked.append(request)

    collect()
    for path, method, headers, query in asked:
        _, status, body = await ask(app, path, method=method, headers=headers, query=query)
        seen.append((status, body))
        assert status in (400, 401, 404, 405, 415, 422, 429) or path == "/health", (path, method, headers)
        assert len(body) <= 2048
    assert len(seen) >= 100


@pytest.mark.anyio
async def test_what_was_kept_with_half_a_character_in_it_is_shown_without_it(door: None) -> None:
    """Nothing lets such text in any more; a store may hold it all the same."""
    odd = "half\ud800"

    def keep(tx: Transaction, *, now: datetime) -> None:
        accounts.create_client(
            tx,
            client_id="acme",
            name=odd,
            email="a@example.com",
            plan_id="free",
            key=None,
            actor=Actor("admin"),
            now=now,
        )
        accounts.update_client(tx, "acme", metadata={odd: odd}, actor=Actor("admin"), now=now)
        tx.write_ledger(
            LedgerEntry(
                client_id="acme", number=2, kind=EntryKind.GRANT, time=now, operation_id=odd, reason=odd
            )
        )

    client_auth.runtime.write_and_wait(keep)
    app = gateway.create_app(load_settings(admin_token=TOKEN, rate_limits=False))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway/api/admin/") as http:
        for path in ("clients", "clients/acme", "clients/acme/ledger", "audit"):
            for accept in ("application/json", "text/csv"):
                answer = await http.get(path, headers={"X-Auth-Token": TOKEN, "Accept": accept})
                assert (answer.status_code, "half?" in answer.text) == (200, True), (path, accept)
