"""Values: what a setting may be, beyond the plain types."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource

from openclaw_billing.records import Rate

SIGNING_SECRETS_MAX = 5
TOPUP_PREFIX = "STRIPE_PRICE_TOPUP"
PER_SECOND_MAX = 10_000
BURST_MAX = 100_000
PER_MINUTE_MAX = 600_000
PROXIES_MAX = 32

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


@dataclass(frozen=True, slots=True)
class Proxies:
    """Whom to believe about where a request came from: so many hops, or these networks. By default nobody."""

    hops: int = 0
    networks: tuple[IPv4Network | IPv6Network, ...] = ()


def proxies_of(value: object) -> object:
    """`2`, or `10.0.0.0/8, 2001:db8::/32`."""
    if not isinstance(value, str):
        return value
    if value.isascii() and value.isdigit() and len(value) <= 2 and int(value) <= PROXIES_MAX:
        return Proxies(hops=int(value))
    try:
        return Proxies(networks=tuple(ip_network(part.strip()) for part in value.split(",") if part.strip()))
    except ValueError:
        raise ValueError("it must be a number of proxies, or networks such as 10.0.0.0/8") from None


def rate_of(value: object) -> Rate:
    """`10/s, burst 30, 300/min`; any part may be left out, and `off` is no limit at all.

    Raises:
        ValueError: it is not one, with what it should be.
    """
    if isinstance(value, Rate):
        return checked_rate(value)
    if not isinstance(value, str) or len(value) > 100:
        raise ValueError(_RATE_SHOULD_BE)
    if value.strip().lower() in ("off", "0"):
        return Rate(0, 0, 0)
    counts = {"s": 0, "burst": 0, "min": 0}
    for part in value.lower().split(","):
        found = _RATE_PART.fullmatch(part.strip())
        if found is None:
            raise ValueError(_RATE_SHOULD_BE)
        name = "burst" if found["burst"] else found["unit"]
        if counts[name]:
            raise ValueError(_RATE_SHOULD_BE)
        counts[name] = int(found["burst"] or found["count"])
    return checked_rate(Rate(counts["s"], counts["burst"], counts["min"]))


def checked_rate(rate: Rate) -> Rate:
    """The rate, with a second's worth as its burst where none is given.

    Raises:
        ValueError: a part is out of range, or is a burst of nothing.
    """
    if not (0 <= rate.per_second <= PER_SECOND_MAX and 0 <= rate.per_minute <= PER_MINUTE_MAX):
        raise ValueError(f"it must be at most {PER_SECOND_MAX}/s and {PER_MINUTE_MAX}/min")
    if not 0 <= rate.burst <= BURST_MAX or (rate.burst and not rate.per_second):
        raise ValueError(f"a burst is at most {BURST_MAX} calls, and of a rate a second")
    return Rate(rate.per_second, rate.burst or rate.per_second, rate.per_minute)


def rate_text(rate: Rate) -> str:
    """The rate as `rate_of` reads it."""
    parts = [f"{rate.per_second}/s, burst {rate.burst}"] if rate.per_second else []
    parts += [f"{rate.per_minute}/min"] if rate.per_minute else []
    return ", ".join(parts) or "off"


_RATE_PART = re.compile(r"(?P<count>\d{1,9})/(?P<unit>s|min)|burst (?P<burst>\d{1,9})", re.ASCII)
_RATE_SHOULD_BE = "it must be like `10/s, burst 30, 300/min`, or `off`"

RateSetting: TypeAlias = Annotated[Rate, NoDecode, BeforeValidator(rate_of)]
ProxiesSetting: TypeAlias = Annotated[Proxies, NoDecode, BeforeValidator(proxies_of)]
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


ADMIN_TOKEN_LENGTH_MIN = 32
PUBLISHED_TOKENS = frozenset({"admin-token-secret", "your-secret-admin-token", "change-me", "changeme"})
WEAK_TOKEN = "is published, or shorter than 32 visible ASCII characters: the admin API is disabled until it is changed."  # noqa: S105


def is_usable_token(token: str) -> bool:
    """Whether nobody can guess an admin token, and every header can carry it."""
    plain = token.isascii() and token.isprintable() and " " not in token
    return plain and token.casefold() not in PUBLISHED_TOKENS and len(token) >= ADMIN_TOKEN_LENGTH_MIN


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


class TopupSource(PydanticBaseSettingsSource):
    """Gathers `STRIPE_PRICE_TOPUP_<credits>`, whose names cannot be listed beforehand."""

    def __init__(self, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._sources = sources

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        packs: dict[str, str] = {}
        for source in self._sources:
            names: Mapping[str, str | None] = getattr(source, "env_vars", {})
            for name, value in names.items():
                credits = name.upper().removeprefix(f"{TOPUP_PREFIX}_")
                if credits.isascii() and credits.isdigit() and value:
                    packs.setdefault(credits, value.strip())
        return {TOPUP_PREFIX: packs} if packs else {}
