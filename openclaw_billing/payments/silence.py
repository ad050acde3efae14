"""Silence: what Stripe's SDK and the HTTP library under it would write of our calls is kept out of every log.

At DEBUG, or with STRIPE_LOG set, the SDK writes whole bodies; the HTTP library writes each address at INFO, and
an address of Stripe's names a customer. Our own lines tell of every call that failed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import httpx

STRIPE = "api.stripe.com"


def keep_silent(sdk: Any, base: str | None) -> None:
    """Once or often, before the first call."""
    logging.getLogger("stripe").disabled = True
    # The SDK reads the variable when it is imported, and prints past all logging.
    sdk._util.STRIPE_LOG = sdk.log = None
    place = STRIPE if base is None else httpx.URL(base).netloc.decode("ascii")
    logging.getLogger("httpx").addFilter(_Elsewhere(place))


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """Lets pass what is not about an address of that place. Equal ones are added to a logger once."""

    place: str

    def filter(self, record: logging.LogRecord) -> bool:
        told = record.args if isinstance(record.args, tuple) else ()
        return not any(
            isinstance(each, httpx.URL) and each.netloc.decode("ascii") == self.place for each in told
        )
