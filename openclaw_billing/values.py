"""Values: what a setting may be, beyond the plain types."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

SIGNING_SECRETS_MAX = 5

_PLACEHOLDER = re.compile(r"(?:(?:sk|pk|rk)_(?:test|live)|whsec)_x{4,}|price_x{4,}", re.IGNORECASE)
SECRET_KEY = re.compile(r"(?:sk|rk)_(test|live)_[0-9A-Za-z_]+")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def _number_of(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


def _parts_of(value: object) -> object:
    """A comma list as a tuple; the guide's placeholders in it count as absent."""
    if not isinstance(value, str):
        return value
    parts = (part.strip() for part in value.split(","))
    return tuple(part for part in parts if part and not _PLACEHOLDER.fullmatch(part))


def _web_address(value: str) -> str:
    if host_of(value) is None:
        raise ValueError("it must be an http or https address")
    return value


def _contact(value: str) -> str:
    return value if re.fullmatch(r"mailto:[^\s@]+@[^\s@]+", value) else _web_address(value)


def _origin(value: str) -> str:
    if host_of(value) is None or not re.fullmatch(r"https?://[^/?#@\s]+", value):
        raise ValueError("each must be an origin such as https://app.example.com, without a path")
    return value.lower()


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


WebAddress: TypeAlias = Annotated[str, AfterValidator(_web_address)]
Contact: TypeAlias = Annotated[str, AfterValidator(_contact)]
Origins: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_parts_of)
]
SigningSecrets: TypeAlias = Annotated[
    tuple[SecretStr, ...], NoDecode, BeforeValidator(_parts_of), Field(max_length=SIGNING_SECRETS_MAX)
]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
QuotaStatus: TypeAlias = Annotated[Literal[402, 403], BeforeValidator(_number_of)]
LogLevel: TypeAlias = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)
]
AdminTokenState: TypeAlias = Literal["usable", "missing", "refused"]
BillingMode: TypeAlias = Literal["mock", "test", "live"]


def placeholders_in(value: object) -> tuple[int, int]:
    """How many parts of a comma list are the guide's placeholders, and how many parts there are."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        return 0, 1
    parts = text.split(",")
    return sum(1 for part in parts if _PLACEHOLDER.fullmatch(part.strip())), len(parts)


def host_of(address: str) -> str | None:
    """The host of an http or https address; None where it is no such address."""
    if re.search(r"[\s\x00-\x20\x7f]", address):
        return None
    try:
        parts = urlsplit(address)
        return parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:
        return None
