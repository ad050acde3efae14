"""Serving: what begins and ends with the application that includes our router."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from openclaw_billing.runtime import Runtime
from openclaw_billing.web.watch import watching
from openclaw_billing.worker import working


def show_new_token(runtime: Runtime) -> None:
    """Show the admin token to whoever started this, if it was made now; once."""
    token, runtime.new_admin_token = runtime.new_admin_token, None
    if token is not None:
        # To the terminal and never through logging, which is kept and shipped.
        said = f"\n  Admin token (shown this once, kept in the data directory): {token}\n"
        print(said, flush=True)  # noqa: T201


def serving(runtime: Runtime) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan: the runtime opens, its Stripe worker works, it is watched, and all end with the application."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        await asyncio.to_thread(runtime.warm)
        show_new_token(runtime)
        try:
            async with working(runtime), watching(runtime):
                yield
        finally:
            await runtime.aclose()

    return lifespan
