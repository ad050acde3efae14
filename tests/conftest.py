"""Fixtures that every test may use."""

from __future__ import annotations

import functools
import os
import ssl

import pytest

# A context costs as much as a dozen requests, and what the tests call speaks plain HTTP.
ssl.create_default_context = functools.cache(ssl.create_default_context)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: most tests that take long wait for another process."""
    return (os.cpu_count() or 1) + 1
