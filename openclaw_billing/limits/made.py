"""The limits of one gateway, made as its settings say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from openclaw_billing.clock import Clock, ticks_of, unix_seconds_of
from openclaw_billing.contracts import Limiter, LocalLimiter
from openclaw_billing.limits.believed import Believed
from openclaw_billing.limits.failures import Failures
from openclaw_billing.limits.rates import Rates
from openclaw_billing.limits.redis import RedisLimiter
from openclaw_billing.limits.shared import SharedLimiter
from openclaw_billing.settings import Settings


@dataclass(frozen=True, slots=True)
class Limits:
    """`clients` counts clients' calls; None where they are not limited."""

    local: LocalLimiter
    clients: Limiter | None
    failures: Failures
    believed: Believed
    rates: Rates
    unix_seconds: Callable[[], float]

    @property
    def redis_lost(self) -> bool:
        """Whether clients' calls are counted without the other machines."""
        return isinstance(self.clients, RedisLimiter) and self.clients.degraded

    @property
    def degraded(self) -> bool:
        """The same, or without the other workers of this machine."""
        return self.redis_lost or self.local.degraded

    async def aclose(self) -> None:
        if self.clients is not None:
            await self.clients.aclose()
        await self.local.aclose()

    def close(self) -> None:
        self.local.close()


def make_limits(settings: Settings, clock: Clock) -> Limits:
    """Opens nothing: the first call does.

    Raises:
        BadSettings: Redis is named and its library is not there.
    """
    ticks = ticks_of(clock)
    local = SharedLimiter(settings.data_dir, ticks)
    clients: Limiter | None = local if settings.rate_limits else None
    if settings.rate_limits and settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
        clients = RedisLimiter(url, local, prefix=settings.redis_prefix)
    failures = Failures(
        local, ticks, per_address=settings.failures_per_address, overall=settings.failures_overall
    )
    believed = Believed(ticks)
    return Limits(
        local,
        clients,
        failures,
        believed,
        Rates(settings, believed),
        unix_seconds_of(clock),
    )
