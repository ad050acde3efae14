"""Readiness: whether a change could be made now."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from typing import Any

from openclaw_billing.errors import StartupError
from openclaw_billing.runtime import Runtime

FREE_BYTES_MIN = 64 << 20


@dataclass(frozen=True, slots=True)
class Readiness:
    ready: bool
    body: dict[str, Any]


async def readiness(runtime: Runtime) -> Readiness:
    """Asks the store, the disk and the secrets; never a remote service."""
    return await runtime.read(lambda: _readiness(runtime))


def _readiness(runtime: Runtime) -> Readiness:
    try:
        health = runtime.store.health()
    except StartupError:
        return Readiness(False, {"status": "unavailable", "reason": "the store cannot be opened"})
    if not health.writable:
        return Readiness(False, {"status": "read-only", "reason": "changes are refused"})
    warnings = []
    if not runtime.admin_enabled:
        warnings.append("admin API disabled")
    if runtime.limits.redis_lost:
        warnings.append("Redis is away: each gateway lets in its part of the rates")
    # A store that is no directory of ours has no disk to ask about.
    with contextlib.suppress(FileNotFoundError):
        if shutil.disk_usage(runtime.settings.data_dir).free < FREE_BYTES_MIN:
            warnings.append("less than 64 MiB free on the disk")
    return Readiness(True, {"status": "ready", "warnings": warnings})
