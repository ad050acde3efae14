"""Redirects: the addresses that a payment page may send its visitor back to."""

from __future__ import annotations

from urllib.parse import urlsplit

from openclaw_billing.errors import Unprocessable
from openclaw_billing.settings import Settings
from openclaw_billing.values import LOOPBACK, host_of

ADDRESS_LENGTH_MAX = 2000
SESSION = "session_id={CHECKOUT_SESSION_ID}"


def redirect(settings: Settings, asked: str | None, default: str | None, name: str) -> str:
    """The address to go back to: the one asked for where its origin is allowed, else the setting's.

    Raises:
        Unprocessable: `redirect_not_allowed`, or `redirect_missing` where neither is there.
    """
    if asked is None:
        if default is None:
            raise Unprocessable(
                f"There is no {name}, in the request or in the settings", code="redirect_missing"
            )
        return default
    if not _allowed(settings, asked):
        raise Unprocessable(
            f"The {name} is on none of the origins in OPENCLAW_REDIRECT_ORIGINS", code="redirect_not_allowed"
        )
    return asked


def with_session(address: str) -> str:
    """The address with the place where Stripe writes the session's id."""
    if SESSION in address:
        return address
    address, mark, fragment = address.partition("#")
    return f"{address}{'&' if '?' in address else '?'}{SESSION}{mark}{fragment}"


def _allowed(settings: Settings, address: str) -> bool:
    """The origin is compared whole, after the one parse that decides where a browser would go."""
    host = host_of(address)
    if host is None or "\\" in address or not address.isascii() or len(address) > ADDRESS_LENGTH_MAX:
        return False
    parts = urlsplit(address)
    if "@" in parts.netloc:
        return False
    if parts.scheme == "http" and (settings.billing_mode == "live" or host not in LOOPBACK):
        return False
    return f"{parts.scheme}://{parts.netloc}".lower() in settings.redirect_origins
