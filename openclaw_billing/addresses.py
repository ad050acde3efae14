"""Addresses: where a request came from, as far as somebody can be believed, and what counts as one caller."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from openclaw_billing.values import Proxies

UNKNOWN = "unknown"
FORWARDED_MAX = 64
"""How many forwarded addresses are looked at, from the right."""
SITE_BITS = 64


def caller_of(peer: str | None, forwarded: Sequence[str], proxies: Proxies) -> str:
    """Whose request it is, read from the right: what each proxy appended, and nothing that a caller wrote.

    `forwarded` is every X-Forwarded-For in order. What is not an address ends the walk: the one before it,
    nearer to us, is the last that anybody vouches for.
    """
    if not forwarded or proxies == _NOBODY:
        return peer or UNKNOWN
    came = [part.strip() for value in forwarded for part in value.split(",")][-FORWARDED_MAX:]
    if proxies.hops:
        # Fewer than all proxies would have written: it came past them, and only the peer is known.
        known = _parsed(came[-proxies.hops]) if len(came) >= proxies.hops else None
        return peer or UNKNOWN if known is None else str(known)
    caller = None if peer is None else _parsed(peer)
    for each in reversed(came):
        if caller is None or not _is_among(caller, proxies):
            break
        before = _parsed(each)
        if before is None:
            break
        caller = before
    return peer or UNKNOWN if caller is None else str(caller)


@lru_cache(maxsize=4096)
def counted_as(address: str) -> str:
    """What failures are counted by: an IPv4 address, or the network of one IPv6 site, which has many."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, SITE_BITS), strict=False))
    return address if parsed is None else str(parsed)


_NOBODY = Proxies()


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """The address, without a port or a zone; an IPv4 address in an IPv6 one's clothes is what it is."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _is_among(address: IPv4Address | IPv6Address, proxies: Proxies) -> bool:
    return any(address in network for network in proxies.networks)
