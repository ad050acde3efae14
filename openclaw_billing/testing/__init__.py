"""Doubles for tests: a Stripe account on loopback that the real SDK can talk to."""

from openclaw_billing.testing.delivery import Delivery
from openclaw_billing.testing.fake import FakeStripe
from openclaw_billing.testing.front import RecordedRequest

__all__ = ["Delivery", "FakeStripe", "RecordedRequest"]
