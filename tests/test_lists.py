"""Lists: filters that are exact, pages that follow one another, and exports that are whole."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import client_auth
from openclaw_billing.clock import ManualClock
from openclaw_billing.contracts import HistoryQuery, Query
from openclaw_billing.settings import load_settings
from tests.in_process import gateway_app

TOKEN = "0123456789abcdef" * 4
ADMIN = {"X-Auth-Token": TOKEN}
JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}
BEGIN = datetime(2026, 2, 19, 10, 30, tzinfo=UTC)

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(BEGIN)


@pytest.fixture
def app(tmp_path: Path, clock: ManualClock) -> Iterator[FastAPI]:
    chosen = load_settings(data_dir=tmp_path / "data", admin_token=TOKEN, rate_limits=False)
    client_auth.runtime.reconfigure(chosen, clock=clock)
    yield gateway_app()
    client_auth.runtime.reconfigure()


@pytest.fixture
async def acme(http: httpx.AsyncClient) -> dict[str, Any]:
    body = {"name": "Acme", "email": "acme@example.com", "plan": "pro"}
    made: dict[str, Any] = (await http.post("/api/admin/clients", headers=ADMIN, json=body)).json()
    return made


def lists_of(client: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """Every list that has dates, with who may ask for it."""
    own = {"X-Client-Key": client["api_key"]}
    return [
        ("/api/admin/clients", ADMIN),
        (f"/api/admin/clients/{client['client_id']}/ledger", ADMIN),
        ("/api/admin/audit", ADMIN),
        ("/api/admin/jobs", ADMIN),
        ("/api/jobs", own),
        ("/api/billing/ledger", own),
    ]


def key_lists_of(client: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    own = {"X-Client-Key": client["api_key"]}
    return [("/api/billing/keys", own), (f"/api/admin/clients/{client['client_id']}/keys", ADMIN)]


# Filters


@pytest.mark.parametrize("name", ["from", "to"])
@pytest.mark.parametrize(
    "wrong",
    [
        "2026-01-01T00:00:00",
        "2026-01-01 00:00:00",
        "2026",
        "1771497000",
        "2026-02-30",
        "2026-02-19T10:30:00 00:00",
        "tomorrow",
        "",
    ],
)
async def test_a_bound_that_could_be_read_in_two_ways_is_refused(
    http: httpx.AsyncClient, acme: dict[str, Any], name: str, wrong: str
) -> None:
    for path, who in lists_of(acme):
        answer = await http.get(path, headers=who, params={name: wrong})
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_error"), path
        assert answer.json()["detail"][0]["loc"] == ["query", name]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moment=st.datetimes())
def test_no_naive_moment_is_an_error_of_ours(app: FastAPI, moment: datetime) -> None:
    async def ask() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            for path in ("/api/admin/clients", "/api/admin/audit", "/api/admin/jobs"):
                for text in (moment.isoformat(), str(moment.timestamp())):
                    answer = await http.get(path, headers=ADMIN, params={"from": text})
                    assert answer.status_code == 422

    asyncio.run(ask())


async def test_bounds_in_other_offsets_and_bare_dates_mean_a_moment_in_utc(
    http: httpx.AsyncClient, acme: dict[str, Any]
) -> None:
    for path, who in lists_of(acme)[:3]:
        for bounds, found in (
            ({"from": "2026-02-19T12:30:00+02:00"}, True),
            ({"from": "2026-02-19T12:30:01+02:00"}, False),
            ({"from": "2026-02-19", "to": "2026-02-20"}, True),
            ({"to": "2026-02-19"}, False),
        ):
            listed = (await http.get(path, headers=who, params=bounds)).json()
            assert (listed["total"] > 0) is found, (path, bounds)


async def test_a_parameter_that_a_list_does_not_know_is_refused(
    http: httpx.AsyncClient, acme: dict[str, Any]
) -> None:
    own = {"X-Client-Key": acme["api_key"]}
    stripes = [("/api/admin/stripe/events", ADMIN), ("/api/billing/invoices", own)]
    for path, who in lists_of(acme) + key_lists_of(acme) + stripes:
        answer = await http.get(path, headers=who, params={"stauts": "active"})
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_error"), path
        assert answer.json()["detail"][0]["loc"] == ["query", "stauts"]
        assert (await http.get(path, params={"stauts": "active"})).status_code == 401


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("clients", {"plan": "weird"}),
        ("clients", {"status": "odd"}),
        ("clients", {"q": "a\0b"}),
        ("clients", {"limit": "0"}),
        ("clients", {"limit": "1001"}),
        ("clients", {"format": "xml"}),
        ("jobs", {"status": "odd"}),
        ("jobs", {"client_id": "a\0b"}),
        ("audit", {"action": "a\nb"}),
    ],
)
async def test_a_wrong_value_of_a_filter_is_refused(
    http: httpx.AsyncClient, path: str, wrong: dict[str, str]
) -> None:
    answer = await http.get(f"/api/admin/{path}", headers=ADMIN, params=wrong)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")


async def test_clients_are_found_by_every_plan_there_is(
    http: httpx.AsyncClient, acme: dict[str, Any]
) -> None:
    for plan in ("free", "starter", "pro", "enterprise", "legacy"):
        answer = await http.get("/api/admin/clients", headers=ADMIN, params={"plan": plan})
        assert (answer.status_code, answer.json()["total"]) == (200, int(plan == "pro"))


async def test_a_token_that_may_stand_in_the_address_is_no_filter(
    http: httpx.AsyncClient, many: dict[str, Any], tmp_path: Path
) -> None:
    chosen = load_settings(data_dir=tmp_path / "data", admin_token=TOKEN, allow_query_token=True)
    client_auth.runtime.reconfigure(chosen, clock=client_auth.runtime.clock)
    answer = await http.get(
        "/api/admin/clients", params={"token": TOKEN, "q": "c", "format": "csv", "limit": 1}
    )
    assert answer.status_code == 200
    assert "q=c&" in answer.headers["link"]
    assert TOKEN not in str(answer.headers)
    assert (await http.get("/api/admin/clients", params={"token": TOKEN, "q": "acme"})).json()["total"] == 1


async def test_the_keys_of_a_client_come_in_pages(http: httpx.AsyncClient, acme: dict[str, Any]) -> None:
    own = {"X-Client-Key": acme["api_key"]}
    made = [acme["key_id"]]
    for _ in range(4):
        made.append((await http.post("/api/billing/keys", headers=own, json={})).json()["key_id"])
    for path, who in key_lists_of(acme):
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page = {"limit": "2", **({"cursor": cursor} if cursor else {})}
            listed = (await http.get(path, headers=who, params=page)).json()
            assert len(listed["keys"]) <= 2
            assert listed["total"] == 5
            seen += [each["key_id"] for each in listed["keys"]]
            cursor = listed["next_cursor"]
            if not listed["has_more"]:
                break
        assert sorted(seen) == sorted(made)
        assert seen[-1] in made
        assert (await http.get(path, headers=who, params={"cursor": "junk"})).status_code == 400


@pytest.mark.parametrize("place", ["2026-02-19T10:30:00 c1", "x c1", "99", "2026-02-19T10:30:00+00:00"])
async def test_a_cursor_of_somebody_elses_making_is_unknown(http: httpx.AsyncClient, place: str) -> None:
    """Its digest is no secret: whoever makes one gets a refusal, whatever it says."""
    from openclaw_billing.web import cursors

    query = Query(text_fields=("name", "email", "client_id"))
    made = cursors.encode(place, cursors._filters("clients:None", query))
    answer = await http.get("/api/admin/clients", headers=ADMIN, params={"cursor": made})
    assert (answer.status_code, answer.json()["code"]) == (400, "unknown_cursor")
    made = cursors.encode("x", cursors._history_filters("audit", HistoryQuery()))
    answer = await http.get("/api/admin/audit", headers=ADMIN, params={"cursor": made})
    assert (answer.status_code, answer.json()["code"]) == (400, "unknown_cursor")


# Exports


def rows_of(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


@pytest.fixture
async def many(http: httpx.AsyncClient, acme: dict[str, Any], clock: ManualClock) -> dict[str, Any]:
    """Acme with more than a page of everything, and another client."""
    body = {"name": "Other", "email": "other@example.com", "plan": "pro"}
    other = (await http.post("/api/admin/clients", headers=ADMIN, json=body)).json()
    for client, count in ((acme, 120), (other, 3)):
        for _ in range(count):
            await http.post("/api/intake", headers={"X-Client-Key": client["api_key"]}, json=JOB)
    for number in range(100):
        new = {"name": f"C{number}", "email": f"c{number}@example.com", "plan": "free"}
        await http.post("/api/admin/clients", headers=ADMIN, json=new)
    return acme


async def test_an_export_is_whole_however_long(http: httpx.AsyncClient, many: dict[str, Any]) -> None:
    for path, who in lists_of(many):
        listed = (await http.get(path, headers=who, params={"limit": 1000})).json()
        (name,) = [each for each in listed if isinstance(listed[each], list)]
        answer = await http.get(path, headers=who, params={"format": "csv"})
        exported = rows_of(answer)
        assert len(exported) == listed["total"] == len(listed[name]) > 100, path
        for row, shown in zip(exported, listed[name], strict=True):
            assert list(row) == list(shown)
            assert all(row[each] == str(shown[each]) for each in shown if isinstance(shown[each], str))
        assert "link" not in answer.headers


async def test_an_export_follows_its_filters(http: httpx.AsyncClient, many: dict[str, Any]) -> None:
    pro = await http.get("/api/admin/clients", headers=ADMIN, params={"format": "csv", "plan": "pro"})
    assert {row["name"] for row in rows_of(pro)} == {"Acme", "Other"}
    none = await http.get("/api/admin/clients", headers=ADMIN, params={"format": "csv", "plan": "legacy"})
    assert rows_of(none) == []
    assert none.text.startswith("client_id,")
    mine = await http.get("/api/jobs", headers={"X-Client-Key": many["api_key"]}, params={"format": "csv"})
    assert {row["client_id"] for row in rows_of(mine)} == {many["client_id"]}


async def test_with_a_limit_an_export_is_a_page_that_links_the_next(
    http: httpx.AsyncClient, many: dict[str, Any]
) -> None:
    for path, who in lists_of(many):
        seen: list[dict[str, str]] = []
        where = f"{path}?format=csv&limit=50&to=2027-01-01"
        while where:
            answer = await http.get(where, headers=who)
            seen += rows_of(answer)
            link = answer.links.get("next", {}).get("url", "")
            assert len(rows_of(answer)) == 50 or not link
            assert not link or link.startswith(f"{path}?")
            where = link
        whole = await http.get(f"{path}?format=csv&to=2027-01-01", headers=who)
        assert seen == rows_of(whole), path


async def test_an_export_may_begin_at_a_cursor(http: httpx.AsyncClient, many: dict[str, Any]) -> None:
    first = (await http.get("/api/admin/jobs", headers=ADMIN, params={"limit": 3})).json()
    rest = await http.get(
        "/api/admin/jobs", headers=ADMIN, params={"format": "csv", "cursor": first["next_cursor"]}
    )
    assert len(rows_of(rest)) == first["total"] - 3


async def test_what_is_asked_for_and_not_there_is_refused_before_the_first_row(
    http: httpx.AsyncClient, acme: dict[str, Any]
) -> None:
    unknown = await http.get("/api/admin/clients/none/ledger", headers=ADMIN, params={"format": "csv"})
    assert unknown.status_code == 404
    junk = await http.get("/api/admin/jobs", headers=ADMIN, params={"format": "csv", "cursor": "junk"})
    assert junk.status_code == 400
    client_auth.runtime.store.close()
    try:
        away = await http.get("/api/admin/audit", headers=ADMIN, params={"format": "csv"})
        assert (away.status_code, away.json()["code"]) == (503, "storage_unavailable")
    finally:
        client_auth.runtime.store.open()


async def test_the_caller_may_name_csv_in_accept(http: httpx.AsyncClient, acme: dict[str, Any]) -> None:
    own = {"X-Client-Key": acme["api_key"]}
    for path, who in [*lists_of(acme), ("/api/billing/usage", own)]:
        as_csv = await http.get(path, headers={**who, "Accept": "text/csv"})
        rows_of(as_csv)
        as_json = await http.get(path, headers=who)
        chosen = await http.get(path, headers={**who, "Accept": "text/csv"}, params={"format": "json"})
        assert as_json.headers["content-type"] == chosen.headers["content-type"] == "application/json"
        for answer in (as_csv, as_json, chosen):
            assert answer.headers["vary"] == "Accept", path
            assert answer.headers["cache-control"] == "no-store"


async def test_usage_is_one_row(http: httpx.AsyncClient, acme: dict[str, Any]) -> None:
    own = {"X-Client-Key": acme["api_key"]}
    (row,) = rows_of(await http.get("/api/billing/usage", headers=own, params={"format": "csv"}))
    assert (row["plan"], row["credits_remaining"]) == ("pro", "200")
    assert list(row) == list((await http.get("/api/billing/usage", headers=own)).json())


async def test_the_gateway_answers_while_it_exports(http: httpx.AsyncClient, many: dict[str, Any]) -> None:
    """The rows are read off the event loop: another request is answered before the export is."""
    order: list[str] = []

    async def ask(path: str) -> None:
        await http.get(path, headers=ADMIN, params={"format": "csv"} if path != "/health" else {})
        order.append(path)

    await asyncio.gather(ask("/api/admin/audit"), ask("/health"))
    assert order == ["/health", "/api/admin/audit"]


async def test_a_file_is_dated_by_the_clock(http: httpx.AsyncClient, clock: ManualClock) -> None:
    clock.advance(days=1)
    answer = await http.get("/api/admin/jobs", headers=ADMIN, params={"format": "csv"})
    assert clock.now() - BEGIN == timedelta(days=1)
    assert answer.headers["content-disposition"] == 'attachment; filename="openclaw-jobs-2026-02-20.csv"'
