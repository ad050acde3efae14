"""Payments: Stripe behind an account of our own words. The only folder that knows Stripe's SDK."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from openclaw_billing.prices import PriceBook

if TYPE_CHECKING:
    from collections.abc import Callable

    from openclaw_billing.payments.account import StripeAccount
    from openclaw_billing.payments.calls import CallObserver, Calls
    from openclaw_billing.payments.catalogue import Catalogue
    from openclaw_billing.payments.checkup import Checkup
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
    from openclaw_billing.payments.shelf import Kept, Shelf

    calls, book = make_calls(settings, observer, seconds), PriceBook.of(settings)
    shelf = Shelf(calls, book, seconds)
    return StripeAccount(calls, book, mode=settings.billing_mode, shelf=shelf, kept=Kept(seconds))


def make_catalogue(settings: Settings, calls: Calls, *, dry_run: bool) -> Catalogue:
    """What `stripe sync` runs."""
    from openclaw_billing.payments.catalogue import Catalogue

    return_url = settings.portal_return_url
    return Catalogue(calls, PriceBook.of(settings), return_url=return_url, dry_run=dry_run)


def make_checkup(settings: Settings, calls: Calls) -> Checkup:
    """What `stripe check` runs."""
    from openclaw_billing.payments.checkup import Checkup

    signed = bool(settings.stripe_webhook_secret)
    return Checkup(calls, PriceBook.of(settings), mode=settings.billing_mode, signed=signed)


def make_calls(
    settings: Settings,
    observer: CallObserver | None = None,
    seconds: Callable[[], float] = time.monotonic,
) -> Calls:
    """The way to Stripe under the settings' key, which must be there."""
    from openclaw_billing.payments.calls import Calls, Line

    assert settings.stripe_secret_key is not None
    line = Line(
        key_text=settings.stripe_secret_key.get_secret_value(),
        base=settings.stripe_api_base,
        timeout_seconds=settings.stripe_timeout_seconds,
        budget_seconds=settings.stripe_budget_seconds,
        retries_max=settings.stripe_retries_max,
        seconds=seconds,
    )
    return Calls(line, observer)
