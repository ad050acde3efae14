"""Calls: every request to Stripe goes through here, within a budget of time and behind the breaker.

The SDK retries what may pass (connection errors, 409, 5xx) under the same Idempotency-Key; only the budget
ends that. Whatever happens ends as one of the errors of this house, and never with Stripe's own words.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module, metadata
from operator import attrgetter
from typing import Any, Protocol

import httpx

from openclaw_billing.errors import (
    BadSettings,
    BillingError,
    CardDeclined,
    StripeMisconfigured,
    StripeRejected,
    StripeUnavailable,
)
from openclaw_billing.payments.breaker import Breaker, Gate
from openclaw_billing.payments.silence import keep_silent

log = logging.getLogger(__name__.partition(".")[0])

BASE_ADDRESSES = ("api", "connect", "files", "meter_events")
CALLS_AT_ONCE_MAX = 8
CONNECT_SECONDS = 3.0
KEYS_MAX = 3
PAGE_SIZE = 100
PAGES_MAX = 1_000
RETRY_SECONDS = 5
RETRY_SECONDS_MAX = 300

Obj = dict[str, Any]
Params = Mapping[str, Any]
Search = Callable[[], Awaitable[Obj | None]]

_deadline: ContextVar[float | None] = ContextVar("openclaw_stripe_deadline", default=None)


class CallObserver(Protocol):
    """Told of every call, from the loop that made it."""

    def called(self, endpoint: str, outcome: str) -> None:
        """A call ended; both are words of closed lists."""
        ...

    def breaker(self, is_open: bool) -> None:
        """Whether calls are refused without being tried."""
        ...


class NoSuchObject(StripeRejected):
    """Stripe knows no object under the id that we named."""


class KeySpent(StripeUnavailable):
    """Stripe repeats for a day what it answered under this Idempotency-Key, whatever has come of it since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """How Stripe is reached. `seconds` is a clock that only runs forward."""

    key_text: str
    base: str | None
    timeout_seconds: float
    budget_seconds: float
    retries_max: int
    seconds: Callable[[], float] = time.monotonic


class Calls:
    """One per process. Each running event loop gets an SDK object of its own, made at its first call.

    Raises:
        BadSettings: the SDK is not installed.
    """

    def __init__(self, line: Line, observer: CallObserver | None = None) -> None:
        self._sdk = _load_sdk()
        keep_silent(self._sdk, line.base)
        self._line = line
        self._observer = observer
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = weakref.WeakKeyDictionary()
        self._breaker = Breaker(line.seconds, self._tell_breaker)

    @property
    def api_version(self) -> str:
        """The version of Stripe's API that all calls are made in: the SDK's own."""
        return str(self._sdk.api_version)

    @contextlib.contextmanager
    def budget(self, seconds: float | None = None) -> Iterator[None]:
        """All calls within share one budget of time, counted from now; an outer one is never exceeded."""
        until = self._line.seconds() + (self._line.budget_seconds if seconds is None else seconds)
        outer = _deadline.get()
        token = _deadline.set(until if outer is None else min(until, outer))
        try:
            yield
        finally:
            _deadline.reset(token)

    async def get(self, endpoint: str, *ids: str, params: Params | None = None) -> Obj:
        """What an SDK call that reads answers, as plain JSON; `endpoint` is its name below `client.v1`.

        Raises:
            NoSuchObject: nothing has that id.
            BillingError: StripeUnavailable, StripeMisconfigured, CardDeclined or StripeRejected.
        """
        try:
            return await self._call(endpoint, ids, params, {})
        except NoSuchObject as error:
            _log_rejection(endpoint, error)
            raise

    async def find(self, endpoint: str, *ids: str, params: Params | None = None) -> Obj | None:
        """The same, and None where nothing has that id."""
        try:
            return await self._call(endpoint, ids, params, {})
        except NoSuchObject:
            return None

    async def post(
        self, endpoint: str, *ids: str, params: Params, key: str, search: Search | None = None
    ) -> Obj:
        """What an SDK call that changes something answers; the same key makes one object, however often asked.

        Where Stripe refuses, or repeats what it answered under this key before, `search` looks whether all is
        done. If it finds nothing, a spent key is followed by its successor.
        """
        for number in range(1, KEYS_MAX + 1):
            options = {"idempotency_key": key if number == 1 else f"{key}:{number}"}
            try:
                return await self._call(endpoint, ids, params, options, may_repeat=search is None)
            except NoSuchObject as error:
                _log_rejection(endpoint, error)
                raise
            except (KeySpent, StripeRejected) as error:
                found = None if search is None else await search()
                if found is not None:
                    return found
                if isinstance(error, StripeRejected):
                    _log_rejection(endpoint, error)
                    raise
                if number == KEYS_MAX:
                    raise
        raise AssertionError("the last key either answers or raises")

    async def delete(self, endpoint: str, *ids: str, params: Params) -> Obj:
        """What an SDK call that removes answers; it has no key, because removing twice is removing once."""
        return await self._call(endpoint, ids, params, {})

    async def pages(self, endpoint: str, *ids: str, params: Params | None = None) -> AsyncIterator[Obj]:
        """Every object of a list, page by page, in Stripe's order: newest first."""
        asked: Obj = {"limit": PAGE_SIZE, **(params or {})}
        for _ in range(PAGES_MAX):
            page = await self.get(endpoint, *ids, params=asked)
            for each in page["data"]:
                yield each
            if not page["has_more"] or not page["data"]:
                return
            asked["starting_after"] = page["data"][-1]["id"]
        log.warning("Stripe's list %s is longer than %d pages: the rest was not read", endpoint, PAGES_MAX)

    async def close(self) -> None:
        """Close this event loop's connections; the next call opens others."""
        mine = self._loops.pop(asyncio.get_running_loop(), None)
        if mine is not None:
            await mine.transport.close_async()

    async def _call(
        self,
        endpoint: str,
        ids: tuple[str, ...],
        params: Params | None,
        options: Obj,
        *,
        may_repeat: bool = True,
    ) -> Obj:
        left = self._seconds_left()
        if left <= 0:
            raise self._unavailable(endpoint, "no time left")
        self._ask_breaker(endpoint)
        under_way = False
        try:
            mine = self._mine()
            async with asyncio.timeout(left), mine.places:
                under_way = True
                method = attrgetter(f"v1.{endpoint}_async")(mine.client)
                made = await method(*ids, dict(params or {}), options)
        except TimeoutError as error:
            if under_way:
                self._breaker.bad()
            else:
                self._breaker.unknown()
            raise self._unavailable(endpoint, "no answer in time") from error
        except self._sdk.StripeError as error:
            raise self._translated(endpoint, error) from error
        except BaseException:
            self._breaker.unknown()
            raise
        self._breaker.good()
        self._tell(endpoint, "ok")
        if not may_repeat and _is_repeated(made.last_response.headers):
            raise KeySpent
        answer: Obj = made.to_dict(for_json=True)
        return answer

    def _seconds_left(self) -> float:
        until = _deadline.get()
        whole = self._line.budget_seconds
        return whole if until is None else min(whole, until - self._line.seconds())

    def _ask_breaker(self, endpoint: str) -> None:
        gate = self._breaker.ask()
        if gate is Gate.GO:
            return
        self._tell(endpoint, "skipped")
        wait = self._breaker.wait_seconds()
        if gate is Gate.MISCONFIGURED:
            raise StripeMisconfigured(retry_after_seconds=wait)
        raise StripeUnavailable(retry_after_seconds=wait)

    def _translated(self, endpoint: str, error: Any) -> BillingError:
        """What an error of the SDK is here, told to the breaker, the counts and the log."""
        status, headers = error.http_status, error.headers or {}
        request_id = headers.get("request-id")
        if status in (401, 403):
            self._breaker.refused()
            self._tell(endpoint, "misconfigured")
            log.error("Stripe refuses our key for %s: %s (%s)", endpoint, status, request_id)
            return StripeMisconfigured(retry_after_seconds=self._breaker.wait_seconds())
        if status is not None and status >= 500 and _is_repeated(headers):
            self._breaker.good()
            return self._unavailable(endpoint, f"the key was spent on a {status}", kind=KeySpent)
        if status is None or status == 429 or not 400 <= status < 500:
            # Below 400 is what a proxy's page in the way answers.
            self._breaker.bad()
            wait = _retry_after(headers)
            return self._unavailable(endpoint, "no connection" if status is None else str(status), wait)
        self._breaker.good()
        if status == 409:
            # Another request holds the object or the key: ours was not carried out.
            return self._unavailable(endpoint, "409")
        if status == 402:
            self._tell(endpoint, "declined")
            return CardDeclined(_decline_code(error))
        if status == 404:
            self._tell(endpoint, "missing")
            return NoSuchObject(request_id)
        self._tell(endpoint, "rejected")
        why = f"{status} {type(error).__name__} {_word(error.code)}"
        log.info("Stripe rejected %s: %s (%s)", endpoint, why, request_id)
        return StripeRejected(request_id)

    def _unavailable(
        self,
        endpoint: str,
        why: str,
        wait: int = RETRY_SECONDS,
        kind: type[StripeUnavailable] = StripeUnavailable,
    ) -> StripeUnavailable:
        self._tell(endpoint, "unavailable")
        log.warning("Stripe call %s failed: %s", endpoint, why)
        return kind(retry_after_seconds=wait)

    def _tell(self, endpoint: str, outcome: str) -> None:
        if self._observer is not None:
            self._observer.called(endpoint, outcome)

    def _tell_breaker(self, is_open: bool) -> None:
        log.warning("Calls to Stripe are %s", "suspended" if is_open else "resumed")
        if self._observer is not None:
            self._observer.breaker(is_open)

    def _mine(self) -> _Loop:
        loop = asyncio.get_running_loop()
        mine = self._loops.get(loop)
        if mine is None:
            mine = self._loops[loop] = self._connect()
        return mine

    def _connect(self) -> _Loop:
        line = self._line
        transport = self._sdk.HTTPXClient(
            timeout=httpx.Timeout(line.timeout_seconds, connect=CONNECT_SECONDS)
        )
        addresses = {} if line.base is None else dict.fromkeys(BASE_ADDRESSES, line.base)
        client = self._sdk.StripeClient(
            line.key_text,
            base_addresses=addresses,
            max_network_retries=line.retries_max,
            http_client=transport,
        )
        return _Loop(client, transport, asyncio.Semaphore(CALLS_AT_ONCE_MAX))


@dataclass(frozen=True, slots=True)
class _Loop:
    """What belongs to one event loop: connections cannot be shared between two."""

    client: Any
    transport: Any
    places: asyncio.Semaphore


def _load_sdk() -> Any:
    try:
        sdk: Any = import_module("stripe")
    except ImportError as error:
        raise BadSettings(
            "STRIPE_SECRET_KEY is set, but the package stripe[async] is not installed"
        ) from error
    # It would write a file below the user's home and report our calls.
    sdk.enable_telemetry = False
    sdk.set_app_info("openclaw-billing", version=_version())
    return sdk


def _version() -> str:
    try:
        return metadata.version("openclaw-billing")
    except metadata.PackageNotFoundError:
        return "0"


def _log_rejection(endpoint: str, error: StripeRejected) -> None:
    log.error(
        "Stripe did not take a call of %s, a bug of ours: %s", endpoint, error.facts["stripe_request_id"]
    )


def _is_repeated(headers: Mapping[str, str]) -> bool:
    return headers.get("idempotent-replayed") == "true"


def _retry_after(headers: Mapping[str, str]) -> int:
    text = headers.get("retry-after", "")
    return min(int(text), RETRY_SECONDS_MAX) if text.isascii() and text.isdigit() else RETRY_SECONDS


def _decline_code(error: Any) -> str:
    body = error.json_body if isinstance(error.json_body, dict) else {}
    said = body.get("error")
    return (
        _word(said.get("decline_code") if isinstance(said, dict) else None) or _word(error.code) or "unknown"
    )


def _word(text: object) -> str | None:
    return text if isinstance(text, str) and re.fullmatch(r"[a-z0-9_]{1,60}", text) else None
