"""Addresses: read from the right, and believed only as far as a trusted proxy wrote them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openclaw_billing.addresses import UNKNOWN, caller_of, counted_as
from openclaw_billing.values import Proxies, proxies_of

PEER = "10.0.0.1"


@pytest.mark.parametrize(
    ("trusted", "forwarded", "caller"),
    [
        ("", ["203.0.113.7"], PEER),
        ("0", ["203.0.113.7"], PEER),
        ("1", [], PEER),
        ("1", ["203.0.113.7"], "203.0.113.7"),
        ("1", ["6.6.6.6, 203.0.113.7"], "203.0.113.7"),
        ("1", ["6.6.6.6", "203.0.113.7"], "203.0.113.7"),
        ("2", ["6.6.6.6, 203.0.113.7, 10.0.0.9"], "203.0.113.7"),
        ("2", ["203.0.113.7"], PEER),
        ("1", ["nonsense"], PEER),
        ("1", ["203.0.113.7:4711"], "203.0.113.7"),
        ("1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        ("10.0.0.0/8", ["6.6.6.6, 203.0.113.7"], "203.0.113.7"),
        ("10.0.0.0/8", ["6.6.6.6, 203.0.113.7, 10.3.3.3"], "203.0.113.7"),
        ("10.0.0.0/8, 203.0.113.0/24", ["6.6.6.6, 203.0.113.7, 10.3.3.3"], "6.6.6.6"),
        ("10.0.0.0/8", ["10.5.5.5, 10.3.3.3"], "10.5.5.5"),
        ("10.0.0.0/8", ["6.6.6.6, nonsense, 10.3.3.3"], "10.3.3.3"),
        ("192.168.0.0/16", ["203.0.113.7"], PEER),
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
    ],
)
def test_the_caller_is_who_the_last_trusted_proxy_saw(
    trusted: str, forwarded: list[str], caller: str
) -> None:
    proxies = proxies_of(trusted)
    assert isinstance(proxies, Proxies)
    assert caller_of(PEER, forwarded, proxies) == caller


def test_a_peer_without_an_address_is_nobody_in_particular() -> None:
    assert caller_of(None, [], Proxies()) == UNKNOWN
    assert caller_of(None, ["203.0.113.7"], Proxies(hops=1)) == "203.0.113.7"


@given(st.lists(st.text(max_size=30), max_size=5), st.lists(st.ip_addresses().map(str), max_size=5))
def test_whatever_a_caller_writes_it_stays_the_caller(written: list[str], more: list[str]) -> None:
    forwarded = [*written, *more, "203.0.113.7"]
    assert caller_of(PEER, forwarded, Proxies(hops=1)) == "203.0.113.7"
    networks = proxies_of("10.0.0.0/8")
    assert isinstance(networks, Proxies)
    assert caller_of(PEER, forwarded, networks) == "203.0.113.7"


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        (UNKNOWN, UNKNOWN),
        ("", ""),
    ],
)
def test_an_ipv6_site_counts_as_one(address: str, counted: str) -> None:
    assert counted_as(address) == counted


@pytest.mark.parametrize(
    "trusted", ["-1", "33", "10.0.0.0/33", "10.0.0.1/8", "proxy.example", "1, 10.0.0.0/8x"]
)
def test_what_is_neither_a_number_nor_networks_is_refused(trusted: str) -> None:
    with pytest.raises(ValueError, match="a number of proxies, or networks"):
        proxies_of(trusted)
