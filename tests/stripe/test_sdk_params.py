"""The check of requests knows what the installed SDK knows."""

from __future__ import annotations

import pytest

from tests.stripe import sdk_params


def test_every_call_of_the_sdk_is_known():
    assert len(sdk_params.endpoints()) > 600


@pytest.mark.parametrize(
    ("path", "params", "problem"),
    [
        ("/v1/customers", {"nickname": "x"}, "nickname: unknown key"),
        ("/v1/checkout/sessions", {"payment_method_types": ["card"]}, "payment_method_types: unknown key"),
        ("/v1/checkout/sessions", {"ui_mode": "hosted"}, "ui_mode: 'hosted' is not Literal"),
        ("/v1/billing/meter_events", {"event_name": "x"}, "payload: missing key"),
        ("/v1/refunds", {"amount": "half"}, "amount: 'half' is not int"),
        ("/v1/prices", {"currency": "usd", "recurring": {}}, "recurring[interval]: missing key"),
        ("/v1/subscriptions/sub_1/resume", {"billing_cycle_anchor": "now"}, "wants a dict"),
        ("/v1/subscriptions/sub_1", {"items": [{"cost": 1}]}, "items[0][cost]: unknown key"),
        ("/v1/invoices/in_1/frame", {}, "no such call"),
    ],
)
def test_a_request_the_sdk_does_not_know_is_told(path, params, problem):
    found = sdk_params.check("POST", path, params)
    assert len(found) == 1
    assert problem in found[0]


def test_a_literal_path_is_not_taken_for_an_id():
    found = sdk_params.find("GET", "/v1/customers/search")
    assert found is not None
    assert found.template == "/v1/customers/search"
    assert sdk_params.check("GET", "/v1/customers/search", {"query": "email:'a'"}) == []


def test_clearing_a_value_is_allowed_where_the_sdk_allows_it():
    assert (
        sdk_params.check("POST", "/v1/subscriptions/sub_1", {"cancel_at": "", "pause_collection": ""}) == []
    )
    assert sdk_params.check("POST", "/v1/subscriptions/sub_1", {"description": "words"}) == []
