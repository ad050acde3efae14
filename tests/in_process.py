"""The gateway in this process, made once: what tests differ in is how `client_auth.runtime` is configured."""

from __future__ import annotations

import functools

from fastapi import FastAPI

import gateway
from openclaw_billing.settings import load_settings


@functools.cache
def gateway_app(*, docs: bool = False) -> FastAPI:
    """To be left as it is: a test that adds something to it makes one of its own."""
    return gateway.create_app(load_settings(docs=docs))
