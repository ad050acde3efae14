"""Fixtures that every test may use."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

# A context costs as much as a dozen requests, and what the tests call speaks plain HTTP.
ssl.create_default_context = functools.cache(ssl.create_default_context)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of the gateway that the module's `app` makes, in this process."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: most tests that take long wait for another process."""
    return (os.cpu_count() or 1) + 1
