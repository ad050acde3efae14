"""Signatures: whether a Stripe event was signed by somebody who knows one of our secrets, and lately."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime

HEADER_LENGTH_MAX = 4096
TOLERANCE_SECONDS = 300


def is_signed(raw: bytes, header: str, secrets: Sequence[str], now: datetime) -> bool:
    """Whether `header` (`t=…,v1=…,v1=…`) signs the body under one of the secrets, within five minutes of now.

    Malformed headers and moments too old or too far ahead are simply not signatures.
    """
    if len(header) > HEADER_LENGTH_MAX or not header.isascii():
        return False
    pairs = [part.partition("=") for part in header.split(",")]
    times = [value for name, _, value in pairs if name.strip() == "t"]
    given = [value for name, _, value in pairs if name.strip() == "v1"]
    if not times or not times[0].isdigit() or len(times[0]) > 12:
        return False
    if abs(now.timestamp() - int(times[0])) > TOLERANCE_SECONDS:
        return False
    signed = times[0].encode() + b"." + raw
    matched = False
    for secret in secrets:
        # An empty secret verifies against an empty key, which anyone can forge.
        if not secret.strip():
            continue
        expected = hmac.new(secret.strip().encode(), signed, hashlib.sha256).hexdigest().encode()
        for signature in given:
            matched |= hmac.compare_digest(expected, signature.strip().encode())
    return matched
