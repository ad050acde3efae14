"""Limits at the door: a client's rate, and strangers who guess. Asked before credits: what is refused costs none."""

from __future__ import annotations

import logging
import time
from functools import cache, lru_cache
from typing import Any, TypeAlias

from fastapi import Request
from starlette.types import Scope

from openclaw_billing.addresses import UNKNOWN, caller_of, counted_as
from openclaw_billing.contracts import View
from openclaw_billing.errors import TooManyRequests
from openclaw_billing.gcra import SECOND_US, Limit, Verdict, limits_of, wait_us
from openclaw_billing.metrics import RATE_REFUSALS, REFUSALS
from openclaw_billing.records import Client, Rate
from openclaw_billing.runtime import Runtime
from openclaw_billing.values import Proxies
from openclaw_billing.web.problems import MEDIA_TYPE

CLIENT_FIELDS = "openclaw.client"
"""Where a request's scope keeps the header fields that the answer to its client shall have."""
ADDRESS_FIELD = "openclaw.address"
"""Where it keeps where the request came from, once a secret was asked about."""
LOG_SECONDS = 60.0
NUMBER_MAX = 1 << 62

Fields = list[tuple[bytes, bytes]]
Responses: TypeAlias = dict[int | str, dict[str, Any]]

log = logging.getLogger("openclaw_billing")

_DEGRADED = (b"x-ratelimit-degraded", b"1")

PROBLEM = {"$ref": "#/components/schemas/BillingProblem"}
"""The schema of a refusal in the OpenAPI document."""
RATE_LIMITED: Responses = {
    429: {
        "description": "Called too often, or too many wrong keys or tokens came from this address: `rate_limited`, with "
        "`violated-policies`. It costs no credit; `Retry-After` says when to come again",
        "headers": {
            name: {"description": told, "schema": {"type": kind}}
            for name, told, kind in (
                ("Retry-After", "Seconds to wait", "integer"),
                ("RateLimit", "What is left of each limit: `r` calls, `t` seconds to more", "string"),
                ("RateLimit-Policy", "Each limit: `q` calls in `w` seconds, `burst` at once", "string"),
            )
        },
        "content": {MEDIA_TYPE: {"schema": PROBLEM}},
    }
}


class ClientGate:
    """Lets a client's calls in at its rate."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def admit(self, request: Request, client: Client, view: View) -> None:
        """Count the call, and add to what its scope says that its answer shall say.

        Raises:
            TooManyRequests: it comes too soon; it was not counted.
        """
        limits = self._runtime.limits
        if limits.clients is None:
            return
        told = _told(limits.rates.of(client, view))
        if not told.limits:
            return
        if limits.clients is limits.local:
            # Nobody to wait for: the shorter way.
            verdict = limits.local.take_now(client.client_id, told.limits)
        else:
            verdict = await limits.clients.take(client.client_id, told.limits)
        fields = told.fields(verdict, int(limits.unix_seconds()))
        if verdict.refused_by:
            raise _refusal(verdict, fields)
        request.scope[CLIENT_FIELDS] += fields


class Told:
    """How answers to clients of one rate tell of it."""

    __slots__ = ("_policy", "_template", "limits")

    def __init__(self, rate: Rate) -> None:
        self.limits = limits_of(rate)
        self._policy = (b"ratelimit-policy", b", ".join(map(_policy_of, self.limits)))
        self._template = b", ".join(map(_template_of, self.limits))

    def fields(self, verdict: Verdict, unix_now: int) -> Fields:
        """The header fields of an answer; a refusal's tell only of what refused it."""
        numbers: list[int] = []
        now, fewest, at_once, soonest = verdict.now, NUMBER_MAX, 0, 0
        # `left` and `wait_us` of the rule, for both at once: this is on the path of every call.
        for limit, moment in zip(verdict.limits, verdict.times, strict=True):
            if verdict.refused_by and limit not in verdict.refused_by:
                continue
            wait = moment - now
            remaining = (limit.span_us - wait) // limit.interval_us
            if remaining <= 0:
                # None is left: told is when the next may come, and not when all may come again.
                remaining, wait = 0, wait + limit.interval_us - limit.span_us
            seconds = -(-wait // SECOND_US)
            numbers += (remaining, seconds)
            if remaining < fewest:
                fewest, at_once, soonest = remaining, limit.burst, seconds
        template = b", ".join(map(_template_of, verdict.refused_by)) if verdict.refused_by else self._template
        fields = [
            self._policy,
            (b"ratelimit", template % tuple(numbers)),
            (b"x-ratelimit-limit", b"%d" % at_once),
            (b"x-ratelimit-remaining", b"%d" % fewest),
            (b"x-ratelimit-reset", b"%d" % (unix_now + soonest)),
        ]
        if verdict.degraded:
            fields.append(_DEGRADED)
        return fields


@lru_cache(maxsize=1024)
def _told(rate: Rate) -> Told:
    return Told(rate)


class Attempt:
    """One secret that came with a request: asked before it is looked at, told what came of it."""

    __slots__ = ("_address", "_failures", "_runtime", "_scope", "_secret")

    def __init__(self, runtime: Runtime, scope: Scope, secret: str) -> None:
        """Raises `TooManyRequests` when too many wrong ones came from there."""
        self._runtime, self._scope = runtime, scope
        self._failures = runtime.limits.failures
        self._secret = secret
        scope[ADDRESS_FIELD] = address = address_of(runtime, scope)
        self._address = counted_as(address)
        verdict = self._failures.refusal(self._address, secret)
        if verdict is not None:
            raise _blocked(verdict)

    def failed(self) -> None:
        """Raises `TooManyRequests` if it was one too many."""
        if self._runtime.settings.trusted_proxies == Proxies() and _forwarded(self._scope):
            _warn_of_proxy()
        verdict = self._failures.failed(self._address, self._secret)
        if verdict is not None:
            raise _blocked(verdict)

    def passed(self) -> None:
        """Raises `TooManyRequests` if too many wrong ones came from there while this one was looked up."""
        verdict = self._failures.passed(self._address, self._secret)
        if verdict is not None:
            raise _blocked(verdict)


def address_of(runtime: Runtime, scope: Scope) -> str:
    """Where the request came from, as far as the trusted proxies say."""
    peer = scope.get("client")
    host = None if peer is None else str(peer[0])
    proxies = runtime.settings.trusted_proxies
    if not (proxies.hops or proxies.networks):
        return host or UNKNOWN
    return caller_of(host, [value.decode("latin-1") for value in _forwarded(scope)], proxies)


class Tally:
    """Tells the log of refusals: the first at once, then how many there were, once a minute at most."""

    def __init__(self) -> None:
        self._count = 0
        self._next = 0.0

    def add(self, names: str) -> None:
        self._count += 1
        now = time.monotonic()
        if now >= self._next:
            log.warning("Refused %d calls for a rate, the last for %s", self._count, names)
            self._count, self._next = 0, now + LOG_SECONDS


_tally = Tally()


def _refusal(verdict: Verdict, fields: Fields, sentence: str | None = None) -> TooManyRequests:
    names = [limit.name for limit in verdict.refused_by]
    REFUSALS["rate_limited"].inc()
    for name in names:
        RATE_REFUSALS[name].inc()
    _tally.add(" and ".join(names))
    wait = max(
        wait_us(limit, moment, verdict.now)
        for limit, moment in zip(verdict.limits, verdict.times, strict=True)
        if limit in verdict.refused_by
    )
    headers = {name.decode(): value.decode() for name, value in fields}
    return TooManyRequests(sentence, retry_after_seconds=_seconds(wait), headers=headers, violated=names)


def _blocked(verdict: Verdict) -> TooManyRequests:
    sentence = "Too many wrong keys or tokens came from this address"
    if verdict.limits[0].name == "overall":
        sentence = "Too many wrong keys and tokens are coming in"
    return _refusal(verdict, [], sentence)


def _policy_of(limit: Limit) -> bytes:
    burst = f";burst={limit.burst}" if limit.burst != limit.count else ""
    return f'"{limit.name}";q={limit.count};w={limit.period_us // SECOND_US}{burst}'.encode()


def _template_of(limit: Limit) -> bytes:
    return b'"%s";r=%%d;t=%%d' % limit.name.encode()


def _seconds(microseconds: int) -> int:
    """Whole seconds, never fewer: who comes when told is let in."""
    return -(-microseconds // SECOND_US)


def _forwarded(scope: Scope) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == b"x-forwarded-for"]


@cache
def _warn_of_proxy() -> None:
    log.warning(
        "A wrong key or token came with X-Forwarded-For, and OPENCLAW_TRUSTED_PROXIES names no proxy: "
        "all callers behind one count as one address"
    )
