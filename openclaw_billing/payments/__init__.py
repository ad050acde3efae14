"""Payments: Stripe behind an account of our own words. The only folder that knows Stripe's SDK."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from openclaw_billing.payments.account import StripeAccount
    from openclaw_billing.payments.calls import CallObserver
    from openclaw_billing.settings import Settings


def make_account(
    settings: Settings,
    *,
    observer: CallObserver | None = None,
    seconds: Callable[[], float] = time.monotonic,
) -> StripeAccount | None:
    """The account that the settings' key belongs to, or None in mock mode. Nothing is asked of Stripe yet.

    Raises:
        BadSettings: there is a key, but the SDK is not installed.
    """
    if settings.stripe_secret_key is None:
        return None
    from openclaw_billing.payments.account import StripeAccount
    from openclaw_billing.payments.calls import Calls, Line
    from openclaw_billing.payments.shelf import Kept, Shelf
    from openclaw_billing.prices import PriceBook

    line = Line(
        key_text=settings.stripe_secret_key.get_secret_value(),
        base=settings.stripe_api_base,
        timeout_seconds=settings.stripe_timeout_seconds,
        budget_seconds=settings.stripe_budget_seconds,
        retries_max=settings.stripe_retries_max,
        seconds=seconds,
    )
    calls, book = Calls(line, observer), PriceBook.of(settings)
    shelf = Shelf(calls, book, seconds)
    return StripeAccount(calls, book, mode=settings.billing_mode, shelf=shelf, kept=Kept(seconds))
