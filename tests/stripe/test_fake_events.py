"""FakeStripe tells: events listed, signed, delivered; objects in the current shape."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
import stripe

from tests.stripe.sdk_shapes import check_shape

# The SDK hands httpx its form as `data`, which httpx would rather be given as `content`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_pages_walk_both_ways(fake, api):
    made = [fake.add_price(number) for number in range(1, 6)]
    walked = [price.id for price in api.v1.prices.list({"limit": 2}).auto_paging_iter()]
    assert walked == made[::-1]
    before = api.v1.prices.list({"limit": 2, "ending_before": made[1]})
    assert [price.id for price in before.data] == [made[3], made[2]]
    assert before.has_more


def test_events_are_listed_by_type_time_and_cursor(fake, api, sub):
    first, begun = fake.events[0], fake.clock.seconds()
    fake.advance(days=1)
    fake.renew(sub.id)
    kinds = ["invoice.paid", "checkout.session.completed"]
    found = api.v1.events.list({"types": kinds})
    assert [event.type for event in found.data] == ["invoice.paid", *kinds[::-1][:1], "invoice.paid"]
    recent = api.v1.events.list({"types": kinds, "created": {"gte": begun + 1}})
    assert [event.type for event in recent.data] == ["invoice.paid"]
    newer = api.v1.events.list({"ending_before": first["id"], "limit": 1})
    assert newer.data[0].id == fake.events[1]["id"]
    assert api.v1.events.retrieve(first["id"]).type == first["type"]
    assert {event.type for event in api.v1.events.list({"type": "price.*"}).data} == {"price.created"}


def test_events_are_forgotten_after_thirty_days(fake, once, starter):
    event = fake.events[0]
    fake.advance(days=30)
    assert once.v1.events.list().data == []
    with pytest.raises(stripe.InvalidRequestError):
        once.v1.events.retrieve(event["id"])


def test_a_signed_event_is_one_the_sdk_believes(fake, api, sub):
    body, headers = fake.signed(fake.events[-1], secret="whsec_x")
    event = api.construct_event(body, headers["Stripe-Signature"], "whsec_x")
    assert event.type == "checkout.session.completed"
    stale = fake.signed(fake.events[-1], secret="whsec_x", at=int(time.time()) - 600)[1]["Stripe-Signature"]
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(body.decode(), stale, "whsec_x", 300)


def test_a_thin_event_is_announced_and_fetched(fake, api):
    notice = fake.thin_event("v1.billing.meter.no_meter_found", data={"reason": "none"})
    body, headers = fake.signed(notice, secret="whsec_thin")
    parsed = api.parse_event_notification(body, headers["Stripe-Signature"], "whsec_thin")
    assert parsed.type == "v1.billing.meter.no_meter_found"
    assert parsed.fetch_event().id == notice["id"]


def test_an_event_of_the_tests_own_making_is_kept_like_any_other(fake, api, customer):
    fake.emit("billing.alert.triggered", {"object": "billing.alert_triggered", "customer": customer} | ALERT)
    assert api.v1.events.list({"limit": 1}).data[0].type == "billing.alert.triggered"


ALERT = {
    "alert": {
        "id": "alrt_1",
        "object": "billing.alert",
        "alert_type": "usage_threshold",
        "livemode": False,
        "title": "Many tokens",
    },
    "created": 1,
    "livemode": False,
    "value": 100,
}


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """An address that believes signed events, and what it was told; it refuses the first `invoice.paid`."""
    told: list[tuple[str, int]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            stripe.WebhookSignature.verify_header(body, self.headers["Stripe-Signature"], "whsec_x", 300)
            kind = json.loads(body)["type"]
            refused = kind == "invoice.paid" and not any(one == (kind, 500) for one in told)
            told.append((kind, 500 if refused else 200))
            self.send_response(told[-1][1])
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", told
        server.shutdown()
        thread.join()


def test_events_are_delivered_until_they_are_taken(fake, api, sub, receiver):
    url, told = receiver
    fake.deliver_to(url, "whsec_x")
    fake.deliver()
    assert ("invoice.paid", 500) in told
    assert [one.type for one in api.v1.events.list({"delivery_success": False}).data] == ["invoice.paid"]
    assert [(one.type, one.status) for one in fake.deliver()] == [("invoice.paid", 200)]
    assert fake.deliver() == []


def test_events_come_in_any_order_twice_or_never(fake, sub):
    told: list[str] = []

    def receive(body: bytes, _headers: Any) -> int:
        told.append(json.loads(body)["id"])
        return 200

    fake.deliver_to(receive)
    sent = [event["id"] for event in fake.events if event["type"] != "invoice.paid"]
    fake.deliver(order="reversed", twice=True, drop=["invoice.paid"])
    assert told == sent[::-1] * 2
    fake.renew(sub.id)
    count = len(told)
    fake.deliver(order="shuffled", seed=7, drop=lambda event: event["type"].startswith("charge."))
    assert sorted(told[count:]) != told[count:]
    assert fake.deliver() == []


def test_a_test_may_hand_events_over_itself(fake, sub):
    first, *rest = fake.due()
    assert [first, *rest] == fake.events
    fake.taken(first["id"])
    assert fake.due(order="reversed") == rest[::-1]


def test_a_receiver_that_is_away_is_tried_again(fake, starter):
    fake.deliver_to("http://127.0.0.1:9/nobody")
    assert [one.status for one in fake.deliver()] == [0]
    assert len(fake.deliver()) == 1


# Shapes.

KINDS = [
    "customer",
    "product",
    "price",
    "checkout.session",
    "subscription",
    "subscription_schedule",
    "invoice",
    "invoice_payment",
    "payment_intent",
    "charge",
    "refund",
    "dispute",
    "billing.meter",
]


def test_every_object_shown_is_in_the_current_shape(fake, api, customer, sub, pack, meter):
    fake.refund(pack.payment_intent, 100)
    fake.dispute(pack.payment_intent)
    fake.renew(sub.id, paid=False)
    api.v1.subscription_schedules.create({"from_subscription": sub.id})
    for kind in KINDS:
        shown = fake.all(kind)
        assert shown, kind
        assert [check_shape(one) for one in shown] == [[]] * len(shown)
    expanded = fake.get(sub.latest_invoice.id, ["payments", "confirmation_secret", "customer.subscriptions"])
    assert check_shape(expanded) == []


def test_the_shape_check_sees_what_moved(fake, sub):
    bill = fake.get(sub.latest_invoice.id)
    assert check_shape({**bill, "subscription": sub.id}) == ["invoice.subscription: unknown field"]
    assert check_shape({**bill, "status": "settled"}) != []
    assert check_shape({**bill, "amount_due": "2900"}) != []
    assert check_shape({name: value for name, value in bill.items() if name != "lines"}) == [
        "invoice.lines: missing field"
    ]
