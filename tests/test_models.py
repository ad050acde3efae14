"""Models: what comes in exactly, and what leaves as promised."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from openclaw_billing.records import COST_USD_MICROS_MAX
from openclaw_billing.web.models import (
    Description,
    Dollars,
    DollarsIn,
    Email,
    Input,
    Line,
    Moment,
    Name,
    Output,
    Reason,
    micros_of,
)


class Sent(Input):
    name: Name | None = None
    email: Email | None = None
    reason: Reason | None = None
    line: Line | None = None
    description: Description | None = None
    count: int | None = None
    cost: DollarsIn | None = None
    at: Moment | None = None


class Answered(Output):
    price: Dollars
    at: Moment


@given(st.integers(0, COST_USD_MICROS_MAX))
def test_dollars_leave_and_come_back_to_the_micro(usd_micros: int) -> None:
    shown = Answered(price=Dollars.from_micros(usd_micros), at=datetime(2026, 1, 1, tzinfo=UTC))
    cost = Sent.model_validate({"cost": json.loads(shown.model_dump_json())["price"]}).cost
    assert cost is not None
    assert micros_of(cost) == usd_micros


@pytest.mark.parametrize(
    ("cents", "text"), [(0, "0.0"), (4900, "49.0"), (550, "5.5"), (1, "0.01"), (19999, "199.99")]
)
def test_dollars_are_plain_json_numbers(cents: int, text: str) -> None:
    shown = Answered(price=Dollars.from_cents(cents), at=datetime(2026, 1, 1, tzinfo=UTC))
    assert json.dumps(shown.model_dump(mode="json")["price"]) == text
    assert f'"price":{text},' in shown.model_dump_json()


def test_an_answer_is_rebuilt_from_its_json() -> None:
    shown = Answered(price=Dollars.from_cents(550), at=datetime(2026, 1, 1, 12, tzinfo=UTC))
    assert Answered.model_validate(shown.model_dump(mode="json")) == shown
    assert Answered.model_validate(shown.model_dump()) == shown


@pytest.mark.parametrize("cost", [-0.01, float("nan"), float("inf"), True, "5", None, 1_000_000_000.01, -1])
def test_a_cost_that_is_no_amount_is_refused(cost: object) -> None:
    if cost is None:
        assert Sent.model_validate({"cost": None}).cost is None
        return
    with pytest.raises(ValidationError):
        Sent.model_validate({"cost": cost})


def test_less_than_a_micro_is_rounded() -> None:
    assert micros_of(Decimal("0.30000000000000004")) == 300_000
    assert micros_of(Decimal("0.0000005")) == 0
    assert micros_of(Decimal("0.0000015")) == 2


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])))
def test_moments_leave_in_utc_with_their_offset(moment: datetime) -> None:
    try:
        expected = moment.astimezone(UTC).isoformat()
    except OverflowError:
        return
    assert Answered(price=Dollars(0), at=moment).model_dump(mode="json")["at"] == expected
    assert expected.endswith("+00:00")


@pytest.mark.parametrize(
    "text", ["2026-02-19T10:30:00Z", "2026-02-19T12:30:00+02:00", "2026-02-19t10:30:00.000z"]
)
def test_moments_come_in_with_any_offset(text: str) -> None:
    assert Sent.model_validate({"at": text}).at == datetime(2026, 2, 19, 10, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        "2026-02-19T10:30:00",
        "2026-02-19",
        "20260219T103000Z",
        "2026-W08-4T10:30:00Z",
        "2026-13-01T00:00:00Z",
        "2026-01-01T00:00:00+99:00",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        1771497000,
        True,
        datetime(2026, 1, 1),
    ],
)
def test_what_is_no_moment_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        Sent.model_validate({"at": value})


@pytest.mark.parametrize(
    "sent",
    [
        {"unknown": 1},
        {"count": True},
        {"count": "1"},
        {"count": 1.0},
        {"name": 1},
        {"name": "  "},
        {"name": "x" * 201},
        {"name": "a\nb"},
        {"reason": "x" * 501},
        {"line": "a\u202eb"},
        {"email": "Acme <a@example.com>"},
        {"description": "x" * 20_001},
        {"description": "\x00"},
    ],
)
def test_input_is_exact(sent: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Sent.model_validate(sent)


def test_text_comes_in_without_the_blanks_around_it() -> None:
    sent = Sent.model_validate({"name": " Acme Corp ", "description": "one\n\ttwo\n"})
    assert (sent.name, sent.description) == ("Acme Corp", "one\n\ttwo")


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_the_schema_says_numbers_and_moments(mode: str) -> None:
    properties = Answered.model_json_schema(mode=mode)["properties"]  # type: ignore[arg-type]
    assert properties["price"]["type"] == "number"
    assert properties["at"]["format"] == "date-time"


def test_an_answer_made_of_our_own_values_is_what_validating_them_gives() -> None:
    class Told(Output):
        name: str
        at: Moment
        left: int | None

    values = {"name": "a", "at": datetime(2026, 2, 19, tzinfo=UTC), "left": None}
    made, validated = Told.made(**values), Told.model_validate(values)
    assert made == validated
    assert made.model_dump_json() == validated.model_dump_json()
    with pytest.raises(ValidationError):
        made.name = "b"  # type: ignore[misc]
