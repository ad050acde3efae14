"""Frozen records made quickly are the dataclasses that they are written as."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from datetime import UTC, datetime

import pytest

from openclaw_billing.records import Account, Client, Draw, Lot, LotSource

NOW = datetime(2026, 2, 19, tzinfo=UTC)


def account() -> Account:
    return Account(
        client_id="c1", plan_id="pro", anchor=NOW, cycle_number=0, cycle_start=NOW, cycle_end=NOW, used=3
    )


def test_fields_and_defaults_are_as_written() -> None:
    made = account()
    assert type(made) is Account
    assert (made.client_id, made.used, made.lots, made.period) == ("c1", 3, (), None)
    assert dataclasses.replace(made, used=4) != made
    assert dataclasses.replace(made, used=3) == made
    assert hash(dataclasses.replace(made, used=3)) == hash(made)
    assert dataclasses.asdict(Draw("l1", 2)) == {"lot_id": "l1", "credits": 2}
    assert repr(Draw("l1", 2)) == "Draw(lot_id='l1', credits=2)"


def test_a_record_is_frozen_and_has_no_room_for_more() -> None:
    made = account()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.used = 4  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        object.__setattr__(made, "more", 1)


def test_each_record_has_a_dictionary_of_its_own() -> None:
    one, other = (Client(client_id=name, name="", email="", created_at=NOW, updated_at=NOW) for name in "ab")
    one.metadata["a"] = "b"
    assert other.metadata == {}


def test_a_field_that_is_missing_or_unknown_is_told() -> None:
    with pytest.raises(TypeError, match="client_id"):
        Account()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="more"):
        Lot("l1", LotSource.PROMO, 1, more=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Account("c1", "pro", NOW, 0, NOW, NOW)  # type: ignore[misc]


def test_records_are_copied_and_pickled() -> None:
    made = account()
    assert copy.copy(made) == made
    assert copy.deepcopy(made) == made
    assert pickle.loads(pickle.dumps(made)) == made
