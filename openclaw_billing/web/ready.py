"""Readiness: whether a change could be made now."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
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
    """Asks the store, the disk and the secrets; never a remote service. What it says beyond yes or no is for admins."""
    ready, status, details = await runtime.read(lambda: _readiness(runtime))
    if not _is_admins(runtime, request):
        return Readiness(ready, {"status": status})
    if ready:
        billing = await stripe_status(runtime)
        inbox = billing.model_dump(exclude={"billing_mode"})
        details = {**details, "billing_mode": billing.billing_mode, "inbox": inbox}
    return Readiness(ready, {"status": status, **details})


def _is_admins(runtime: Runtime, request: Request) -> bool:
    try:
        return runtime.admin_enabled and AdminToken(runtime).identify(request) is not None
    except (BillingError, StartupError):
        # Whoever asks with an old token, or too often, still hears whether changes can be made.
        return False


def _readiness(runtime: Runtime) -> tuple[bool, str, dict[str, Any]]:
    try:
        health = runtime.store.health()
    except StartupError:
        return False, "unavailable", {"reason": "the store cannot be opened"}
    if not health.writable:
        return False, "read-only", {"reason": health.reason}
    warnings = []
    if runtime.limits.redis_lost:
        warnings.append("Redis is away: each gateway lets in its part of the rates")
    if "foreign_file" in health.details:
        warnings.append(
            "the clients file was changed by somebody else: theirs is kept aside, ours is there again"
        )
    # A store that is no directory of ours has no disk to ask about.
    with contextlib.suppress(FileNotFoundError):
        if shutil.disk_usage(runtime.settings.data_dir).free < FREE_BYTES_MIN:
            warnings.append("less than 64 MiB free on the disk")
    return True, "ready", {"warnings": warnings}
