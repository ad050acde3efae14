"""Readiness: whether a change could be made now."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request

from openclaw_billing.errors import BillingError, StartupError
from openclaw_billing.runtime import Runtime
from openclaw_billing.web.admin_stripe import stripe_status
from openclaw_billing.web.auth import AdminToken

FREE_BYTES_MIN = 64 << 20


@dataclass(frozen=True, slots=True)
class Readiness:
    ready: bool
    body: dict[str, Any]


async def readiness(runtime: Runtime, request: Request) -> Readiness:
    """Asks the store, the disk and the secrets; never a remote service. An admin is told how billing goes too."""
    state = await runtime.read(lambda: _readiness(runtime))
    if not (state.ready and _is_admin(runtime, request)):
        return state
    billing = await stripe_status(runtime)
    inbox = billing.model_dump(exclude={"billing_mode"})
    return replace(state, body={**state.body, "billing_mode": billing.billing_mode, "inbox": inbox})


def _is_admin(runtime: Runtime, request: Request) -> bool:
    """Without a good token one is answered like anybody: a load balancer must not be refused for it."""
    with contextlib.suppress(BillingError):
        return AdminToken(runtime).identify(request) is not None
    return False


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
    if runtime.limits.degraded:
        warnings.append("Redis is away: each gateway lets in its part of the rates")
    # A store that is no directory of ours has no disk to ask about.
    with contextlib.suppress(FileNotFoundError):
        if shutil.disk_usage(runtime.settings.data_dir).free < FREE_BYTES_MIN:
            warnings.append("less than 64 MiB free on the disk")
    return Readiness(True, {"status": "ready", "warnings": warnings})
