"""The events we ask for, and what is read of one's body: ids, in today's shape and in the ones before."""

from __future__ import annotations

import ast
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openclaw_billing.stripe_events import EVENT_TYPES, Kind, event_fact, wants
from tests.stripe import sdk_params

ENVELOPE = {
    "id": "evt_1",
    "object": "event",
    "account": None,
    "api_version": "2026-10-28.endive",
    "created": 1_769_860_800,
    "livemode": False,
    "type": "invoice.paid",
}


def _event(obj: dict, **envelope: object) -> dict:
    return {**ENVELOPE, "data": {"object": obj}, **envelope}


def _literal(path: str, name: str, within: str | None = None) -> set[str]:
    """The words that the SDK admits for a field of a class."""
    tree = sdk_params.tree(sdk_params.sdk_folder() / path)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and within in (None, node.name):
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and ast.unparse(line.target) == name:
                    text = ast.unparse(sdk_params.unquoted(line.annotation))
                    inner = ast.parse(text, mode="eval")
                    found = [one for one in ast.walk(inner) if isinstance(one, ast.Constant)]
                    return {one.value for one in found if isinstance(one.value, str) and "." in one.value}
    raise AssertionError(name)


def test_the_36_types_are_the_sdks_own():
    assert len(EVENT_TYPES) == len(set(EVENT_TYPES)) == 36
    assert set(EVENT_TYPES) <= _literal("_event.py", "type", "Event")
    asked = _literal("params/_webhook_endpoint_create_params.py", "enabled_events")
    assert set(EVENT_TYPES) <= asked


def test_each_type_is_wanted_for_one_thing_and_others_for_nothing():
    assert {wants(name) for name in EVENT_TYPES} == {Kind.FACT, Kind.STATE, Kind.NOTICE, Kind.COPY}
    assert wants("invoice.paid") is Kind.FACT
    # The same fact under a second name.
    assert wants("invoice.payment_succeeded") is Kind.IGNORED
    assert wants("customer.subscription.updated") is Kind.STATE
    assert wants("no.such.event") is Kind.IGNORED


def test_the_envelope_is_taken_whole():
    fact = event_fact(_event({"id": "in_1", "object": "invoice", "customer": "cus_1"}, account="acct_1"))
    assert (fact.event_id, fact.type, fact.livemode) == ("evt_1", "invoice.paid", False)
    assert (fact.account, fact.api_version) == ("acct_1", "2026-10-28.endive")
    assert fact.created == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert (fact.object_id, fact.customer_id, fact.subscription_id) == ("in_1", "cus_1", None)


OBJECTS = [
    # Today's shapes.
    (
        {
            "id": "in_1",
            "object": "invoice",
            "customer": "cus_1",
            "status": "paid",
            "billing_reason": "subscription_cycle",
            "parent": {"subscription_details": {"subscription": "sub_1"}},
        },
        ("in_1", "cus_1", "sub_1", None, {"status": "paid", "billing_reason": "subscription_cycle"}),
    ),
    (
        {"object": "invoice", "customer": "cus_1", "parent": None, "subscription": None},
        ("", "cus_1", None, None, {}),
    ),
    (
        {"id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "active"},
        ("sub_1", "cus_1", "sub_1", None, {"status": "active"}),
    ),
    (
        {
            "id": "cs_1",
            "object": "checkout.session",
            "mode": "payment",
            "payment_status": "paid",
            "customer": "cus_1",
            "payment_intent": "pi_1",
            "metadata": {"attempt_id": "a1"},
            "client_reference_id": "typed by a visitor",
        },
        (
            "cs_1",
            "cus_1",
            None,
            "pi_1",
            {"mode": "payment", "payment_status": "paid", "attempt_id": "a1"},
        ),
    ),
    (
        {"id": "re_1", "object": "refund", "charge": "ch_1", "payment_intent": "pi_1", "reason": "duplicate"},
        ("re_1", None, None, "pi_1", {"charge": "ch_1", "reason": "duplicate"}),
    ),
    ({"id": "cus_1", "object": "customer", "email": "a@example.com"}, ("cus_1", "cus_1", None, None, {})),
    ({"id": "pi_1", "object": "payment_intent"}, ("pi_1", None, None, "pi_1", {})),
    (
        {"object": "entitlements.active_entitlement_summary", "customer": "cus_1"},
        ("", "cus_1", None, None, {}),
    ),
    # Before March 2025.
    (
        {
            "id": "in_1",
            "object": "invoice",
            "customer": {"id": "cus_1", "object": "customer"},
            "subscription": "sub_1",
            "payment_intent": "pi_1",
            "charge": "ch_1",
            "paid": True,
        },
        ("in_1", "cus_1", "sub_1", "pi_1", {"charge": "ch_1"}),
    ),
    (
        {
            "id": "ch_1",
            "object": "charge",
            "invoice": "in_1",
            "customer": "cus_1",
            "payment_intent": {"id": "pi_1"},
        },
        ("ch_1", "cus_1", None, "pi_1", {}),
    ),
    # A charge from before payment intents.
    (
        {"id": "dp_1", "object": "dispute", "charge": "ch_1", "status": "needs_response"},
        ("dp_1", None, None, None, {"charge": "ch_1", "status": "needs_response"}),
    ),
]


@pytest.mark.parametrize(("obj", "read"), OBJECTS)
def test_the_ids_of_an_object_are_found_where_they_stand(obj, read):
    fact = event_fact(_event(obj))
    assert (
        fact.object_id,
        fact.customer_id,
        fact.subscription_id,
        fact.payment_intent_id,
        fact.facts,
    ) == read


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"object": "v2.core.event"}, "no event"),
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"id": "e" * 256}, "id"),
        ({"id": "evt\n"}, "id"),
        ({"type": None}, "type"),
        ({"created": "today"}, "created"),
        ({"created": True}, "created"),
        ({"created": 10**30}, "created"),
        ({"livemode": "false"}, "livemode"),
    ],
)
def test_an_envelope_that_is_none_is_named(change, field):
    with pytest.raises(ValueError, match=field):
        event_fact(_event({}, **change))


WORDS = st.sampled_from(["", "id", "object", "in_1", "\n", "\ud800", "é", "x" * 300])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=12,
)
NAMES = [
    "id",
    "object",
    "customer",
    "subscription",
    "payment_intent",
    "parent",
    "metadata",
    "status",
    "mode",
    "charge",
    "subscription_details",
]


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=8), st.sampled_from(["invoice", "charge", "?"]))
def test_no_body_breaks_the_reading_of_its_ids(obj, kind):
    fact = event_fact(_event({"object": kind, **obj}))
    json.dumps([fact.object_id, fact.customer_id, fact.facts]).encode()


@given(JSON)
def test_no_data_breaks_the_reading_of_an_event(data):
    assert event_fact({**ENVELOPE, "data": data}).event_id == "evt_1"


def test_every_event_of_the_fake_is_read(fake, api, sub, customer):
    fake.announce_renewal(sub.id)
    fake.renew(sub.id, paid=False)
    fake.set_entitlements(customer, ["api"])
    api.v1.customers.delete(customer)
    for body in fake.events:
        fact = event_fact(body)
        assert fact.customer_id == customer or fact.type.startswith(
            ("price.", "product.", "invoice_payment.")
        )
        if fact.type.startswith("customer.subscription."):
            assert fact.subscription_id == fact.object_id == sub.id
        if fact.type.startswith("invoice."):
            assert fact.subscription_id == sub.id
