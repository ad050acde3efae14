"""API keys: their text, their shape, and the digest under a pepper that is all we keep of them."""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from collections.abc import Sequence
from datetime import datetime

from openclaw_billing.errors import BadSettings
from openclaw_billing.records import Key

PREFIX = "oc_live_"
SCANNER_PATTERN = r"oc_(live|test|admin)_[0-9a-f]{32}\b"
"""For secret scanners: publish it where leaked keys are looked for."""
START_LENGTH = 12
PEPPER_BYTES_MIN = 32
PEPPERS_MAX = 5

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_LENGTH = 22
_CHECKSUM_LENGTH = 6
_HEX_SHAPE = re.compile(r"oc_live_[0-9a-f]{32}")
_CHECKSUM_SHAPE = re.compile(r"oc_live_[0-9A-Za-z]{28}")
_BLOCK_BYTES = hashlib.sha256().block_size
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def new_key_text() -> str:
    """A new key text: 128 random bits in hex."""
    return PREFIX + secrets.token_hex(16)


def new_checked_key_text() -> str:
    """A new key text whose last six characters tell a typing error from a stranger: 131 random bits."""
    random = "".join(secrets.choice(_BASE62) for _ in range(_RANDOM_LENGTH))
    return PREFIX + random + _checksum(random)


def is_key_shape(text: object) -> bool:
    """Whether the text could be a key at all. What could not never reaches the store."""
    if not isinstance(text, str):
        return False
    if _HEX_SHAPE.fullmatch(text):
        return True
    if not _CHECKSUM_SHAPE.fullmatch(text):
        return False
    random = text[len(PREFIX) : -_CHECKSUM_LENGTH]
    return _checksum(random) == text[-_CHECKSUM_LENGTH:]


class Peppers:
    """Secrets that digests are made under, oldest to newest: the newest makes them, all verify."""

    def __init__(self, peppers: Sequence[tuple[str, bytes]]) -> None:
        """Raises `BadSettings` where one of them, or their number, is unfit."""
        if not 1 <= len(peppers) <= PEPPERS_MAX:
            raise BadSettings(f"There must be 1 to {PEPPERS_MAX} key peppers")
        if len({pepper_id for pepper_id, _ in peppers}) != len(peppers):
            raise BadSettings("Two key peppers have one id")
        for pepper_id, secret in peppers:
            # An empty secret digests as anybody could.
            if len(secret) < PEPPER_BYTES_MIN:
                raise BadSettings(f"Key pepper {pepper_id} has fewer than {PEPPER_BYTES_MIN} bytes")
        self.ids = tuple(pepper_id for pepper_id, _ in peppers)
        self._newest_first = [_halves(secret) for _, secret in reversed(peppers)]

    @property
    def newest_id(self) -> str:
        return self.ids[-1]

    def digest(self, key_text: str) -> str:
        """HMAC-SHA256 of the key text under the newest pepper, in hex."""
        return _digest(self._newest_first[0], key_text.encode())

    def digests(self, key_text: str) -> list[str]:
        """The digest under every pepper, newest first: where a key may be found."""
        data = key_text.encode()
        if len(self._newest_first) == 1:
            return [_digest(self._newest_first[0], data)]
        return [_digest(halves, data) for halves in self._newest_first]


def key_of(
    key_text: str,
    peppers: Peppers,
    *,
    key_id: str,
    client_id: str,
    name: str = "",
    expires_at: datetime | None = None,
    now: datetime,
) -> Key:
    """The record of a key: all that is kept once its text was shown."""
    assert is_key_shape(key_text)
    return Key(
        digest=peppers.digest(key_text),
        key_id=key_id,
        client_id=client_id,
        pepper_id=peppers.newest_id,
        start=key_text[:START_LENGTH],
        last4=key_text[-4:],
        created_at=now,
        name=name,
        expires_at=expires_at,
    )


def _checksum(random: str) -> str:
    rest = zlib.crc32(random.encode())
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        rest, digit = divmod(rest, len(_BASE62))
        digits = _BASE62[digit] + digits
    return digits


def _halves(secret: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """HMAC's two hashes with the secret taken in: copying them is quicker than `hmac` (RFC 2104)."""
    block = hashlib.sha256(secret).digest() if len(secret) > _BLOCK_BYTES else secret
    block = block.ljust(_BLOCK_BYTES, b"\0")
    return hashlib.sha256(block.translate(_INNER)), hashlib.sha256(block.translate(_OUTER))


def _digest(halves: tuple[hashlib._Hash, hashlib._Hash], data: bytes) -> str:
    inner, outer = halves[0].copy(), halves[1].copy()
    inner.update(data)
    outer.update(inner.digest())
    return outer.hexdigest()
