"""The limiter of several machines: Redis counts, by its own clock, and one script judges a batch of calls.

Whatever waits on an event loop goes in one call, so that many requests share a journey. A Redis that is lost
costs one short wait: from then on each machine lets in its part of the limits, as many gateways as were last
known sharing them, until a beat in the background finds Redis again.

What Redis lets in is counted here as well, so that a machine's part goes on from there. And what was let in
without Redis, or forgotten by it, is held against a call for as long as it matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from openclaw_billing.errors import BadSettings
from openclaw_billing.gcra import Limit, Verdict, judge, shared_by
from openclaw_billing.limits.shared import SharedLimiter

WAIT_SECONDS_MAX = 0.5
BATCH_MAX = 100
BEAT_SECONDS = 3.0
RETRY_SECONDS = 0.5
GATEWAY_US = 15_000_000
"""How long a gateway counts as there after its last beat."""

PIP = 'pip install "redis>=6.4"'
LUA = Path(__file__).parent / "lua"

log = logging.getLogger(__name__)


class RedisLimiter:
    """See `contracts.Limiter`. `local` is who counts on this machine while Redis is lost."""

    def __init__(self, url: str, local: SharedLimiter, *, prefix: str = "openclaw:") -> None:
        """Raises `BadSettings` when the extra is not installed; nothing is connected yet."""
        self._redis = _redis()
        self._url = url
        self._local = local
        self._prefix = prefix.encode()
        self._lines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = weakref.WeakKeyDictionary()

    async def take(self, key: str, limits: Sequence[Limit]) -> Verdict:
        loop = asyncio.get_running_loop()
        line = self._lines.get(loop)
        if line is None:
            line = self._lines[loop] = _Line(self._redis, self._url, self._local, self._prefix)
        return await line.take(key, limits)

    @property
    def degraded(self) -> bool:
        """Whether Redis was lost when it was asked last."""
        return any(line.lost for line in list(self._lines.values()))

    async def aclose(self) -> None:
        line = self._lines.pop(asyncio.get_running_loop(), None)
        if line is not None:
            await line.aclose()


class _Call(NamedTuple):
    key: bytes
    limits: Sequence[Limit]
    name: str
    verdict: asyncio.Future[Verdict]


class _Line:
    """One event loop's connection to Redis, and whether it is lost."""

    def __init__(self, redis: Any, url: str, local: SharedLimiter, prefix: bytes) -> None:
        # One connection: a batch waits for the one before, and gathers meanwhile what comes.
        self._client = redis.asyncio.Redis.from_url(
            url,
            single_connection_client=True,
            socket_timeout=WAIT_SECONDS_MAX,
            socket_connect_timeout=WAIT_SECONDS_MAX,
            retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 1),
        )
        self._errors = (redis.exceptions.RedisError, OSError, TimeoutError)
        self._no_script = redis.exceptions.NoScriptError
        self._local, self._prefix, self._began = local, prefix, prefix + b"began"
        self._gateway_id = local.gateway_id
        self.lost = False
        self._waiting: list[_Call] = []
        self._talking = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending = False
        self._next_beat: asyncio.TimerHandle | None = None
        self._begin(self._beat())

    async def take(self, key: str, limits: Sequence[Limit]) -> Verdict:
        if self.lost:
            return self._alone(key, limits)._replace(degraded=True)
        if self._has_gap(limits) and (here := self._alone(key, limits, cost=0)).refused_by:
            return here
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        name = key.encode("utf-8", "surrogatepass")
        self._waiting.append(_Call(self._prefix + b"rate:" + name, limits, key, verdict))
        if not self._sending:
            self._sending = True
            self._begin(self._send())
        return await verdict

    async def aclose(self) -> None:
        if self._next_beat is not None:
            self._next_beat.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._lose(None, [])
        with contextlib.suppress(*self._errors):
            await self._client.aclose()

    async def _send(self) -> None:
        """Send what waits, batch by batch, until nothing does."""
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
                try:
                    stored = await self._ask(batch)
                except self._errors as error:
                    self._lose(error, batch)
                    return
                except asyncio.CancelledError:
                    self._lose(None, batch)
                    raise
                self._answer(batch, stored)
        finally:
            self._sending = False

    async def _ask(self, batch: list[_Call]) -> list[int]:
        arguments: list[int] = []
        for call in batch:
            arguments.append(len(call.limits))
            for limit in call.limits:
                arguments += (limit.interval_us, limit.span_us)
        keys = [self._began, *(call.key for call in batch)]
        answer: list[int] = await self._run("take", keys, arguments)
        return answer

    def _answer(self, batch: list[_Call], stored: list[int]) -> None:
        now, began, at = stored[0], stored[1], 2
        self._local.counted_together_since(began)
        for call in batch:
            end = at + len(call.limits)
            verdict = judge(call.limits, stored[at:end], now)
            if verdict.allowed:
                here = self._alone(call.name, call.limits)
                if self._has_gap(call.limits) and here.remaining < verdict.remaining:
                    verdict = here
            if not call.verdict.done():
                call.verdict.set_result(verdict)
            at = end

    async def _run(self, script: str, keys: list[bytes], arguments: Sequence[int | str]) -> Any:
        text, digest = _script(script)
        async with asyncio.timeout(WAIT_SECONDS_MAX), self._talking:
            try:
                return await self._client.evalsha(digest, len(keys), *keys, *arguments)
            except self._no_script:
                return await self._client.eval(text, len(keys), *keys, *arguments)

    def _lose(self, error: BaseException | None, batch: list[_Call]) -> None:
        """Judge what waits without Redis, and all that comes until it is found again."""
        waiting, self._waiting = batch + self._waiting, []
        if error is not None and not self.lost:
            log.warning(
                "Redis is lost (%s): each of %d gateways lets in its part of the rates",
                type(error).__name__,
                self._local.gateways,
            )
            self._beat_in(RETRY_SECONDS)
        self.lost = True
        for call in waiting:
            if not call.verdict.done():
                call.verdict.set_result(self._alone(call.name, call.limits)._replace(degraded=True))

    def _alone(self, key: str, limits: Sequence[Limit], cost: int = 1) -> Verdict:
        """What this machine says, by its part of the limits."""
        return self._local.take_now(key, shared_by(tuple(limits), self._local.gateways), cost)

    def _has_gap(self, limits: Sequence[Limit]) -> bool:
        """Whether Redis may not know of all that still counts against a call."""
        return self._local.gap_within(max((limit.span_us for limit in limits), default=0))

    async def _beat(self) -> None:
        """Say that this gateway is there, learn how many are, and find Redis again if it was lost."""
        try:
            arguments: list[int | str] = [self._gateway_id, GATEWAY_US]
            keys = [self._prefix + b"gateways", self._began]
            gateways, began = await self._run("register", keys, arguments)
            self._local.counted_together_since(began)
            if self.lost:
                self._local.had_gap()
            if self._local.gap_within(GATEWAY_US):
                # It may not have heard of all of them again.
                gateways = max(gateways, self._local.gateways)
            self._local.gateways = gateways
            if self.lost:
                log.warning("Redis is back: %d gateways share the rates", self._local.gateways)
            self.lost = False
        except self._errors as error:
            self._lose(error, [])
        self._beat_in(RETRY_SECONDS if self.lost else BEAT_SECONDS)

    def _beat_in(self, seconds: float) -> None:
        if self._next_beat is not None:
            self._next_beat.cancel()
        loop = asyncio.get_running_loop()
        self._next_beat = loop.call_later(seconds, lambda: self._begin(self._beat()))

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@cache
def _script(name: str) -> tuple[str, str]:
    text = (LUA / f"{name}.lua").read_text(encoding="utf-8")
    # Not for secrecy: it is how Redis names scripts.
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _redis() -> Any:
    try:
        import redis.asyncio
        import redis.asyncio.retry
        import redis.backoff
        import redis.exceptions
    except ImportError:
        raise BadSettings(f"OPENCLAW_REDIS_URL needs redis: {PIP}") from None
    return redis
