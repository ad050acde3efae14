"""Settings: what the operator says, read from the environment and `.env` when first asked for."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic import ModelWrapValidatorHandler as Handler
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from openclaw_billing.errors import BadSettings
from openclaw_billing.records import Rate
from openclaw_billing.values import (
    LOOPBACK,
    SECRET_KEY,
    TOPUP_PREFIX,
    WEAK_TOKEN,
    AdminTokenState,
    BillingMode,
    Contact,
    LogLevel,
    Origins,
    Proxies,
    ProxiesSetting,
    QuotaStatus,
    RateSetting,
    Seconds,
    SigningSecrets,
    TopupSource,
    WebAddress,
    host_of,
    is_usable_token,
    placeholders_in,
)

ENV_FILE = Path(".env")
SECRET_LENGTH_MIN = 32
URL_SCHEMES = {
    "database_url": ("postgresql://", "postgres://"),
    "redis_url": ("redis://", "rediss://", "unix://"),
}


def _setting(name: str, default: Any, description: str, **bounds: Any) -> Any:
    return Field(default, validation_alias=name, description=description, **bounds)


class Settings(BaseSettings):
    """Every setting. `.env.example` lists them all, in this order."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        validate_default=False,
    )

    admin_token: SecretStr | None = _setting(
        "OPENCLAW_ADMIN_TOKEN",
        None,
        "The admin token, at least 32 characters; made at first start if absent.",
    )
    stripe_public_key: str | None = _setting(
        "STRIPE_PUBLIC_KEY",
        None,
        "The publishable key handed to front ends.",
        pattern=r"^pk_(test|live)_\w+$",
    )
    stripe_secret_key: SecretStr | None = _setting(
        "STRIPE_SECRET_KEY", None, "The secret or restricted key; without one, billing is in mock mode."
    )
    stripe_webhook_secret: SigningSecrets = _setting(
        "STRIPE_WEBHOOK_SECRET",
        (),
        "Comma list of at most 5 signing secrets for Stripe events, tried in turn.",
    )

    data_dir: Path = _setting("OPENCLAW_DATA_DIR", Path("data"), "The directory of the embedded store.")
    database_url: SecretStr | None = _setting(
        "OPENCLAW_DATABASE_URL", None, "A postgresql:// address, to keep everything in PostgreSQL instead."
    )
    keys_seconds_without_database: int = _setting(
        "OPENCLAW_KEYS_SECONDS_WITHOUT_DATABASE",
        0,
        "How long a good key is believed while PostgreSQL is away; 0 is its one second and no longer.",
        ge=0,
        le=3600,
    )
    redis_url: SecretStr | None = _setting(
        "OPENCLAW_REDIS_URL", None, "A redis:// address, to share rate limits between machines."
    )
    redis_prefix: str = _setting(
        "OPENCLAW_REDIS_PREFIX",
        "openclaw:",
        "What the names of all keys in Redis begin with; gateways of one prefix share limits.",
        pattern=r"^[!-~]{1,64}$",
    )
    lock_seconds_max: Seconds = _setting(
        "OPENCLAW_LOCK_SECONDS_MAX", 2.0, "How long a change waits for another process's lock."
    )
    allow_nfs: bool = _setting(
        "OPENCLAW_ALLOW_NFS", False, "Whether the data directory may be on a network file system."
    )
    key_pepper: SecretStr | None = _setting(
        "OPENCLAW_KEY_PEPPER", None, "Comma list of peppers, newest first; a file of the store if absent."
    )
    key_format: Literal["seed", "checksum"] = _setting(
        "OPENCLAW_KEY_FORMAT",
        "seed",
        "`seed` is oc_live_ and 32 hex digits; `checksum` tells typos at sight.",
    )
    chain_key: SecretStr | None = _setting(
        "OPENCLAW_CHAIN_KEY",
        None,
        "The key of the journal's chain, so that no one without it can forge entries.",
    )

    host: str = _setting("OPENCLAW_HOST", "127.0.0.1", "The address that `python gateway.py` serves on.")
    port: int = _setting(
        "OPENCLAW_PORT", 18789, "The port that `python gateway.py` serves on.", ge=1, le=65535
    )
    workers: int = _setting("OPENCLAW_WORKERS", 1, "The number of worker processes.", ge=1, le=256)
    docs: bool = _setting("OPENCLAW_DOCS", False, "Whether /docs and /openapi.json are public.")
    allow_query_token: bool = _setting(
        "OPENCLAW_ALLOW_QUERY_TOKEN",
        False,
        "Whether ?token= is accepted; addresses end up in logs, so better not.",
    )
    log_format: Literal["text", "json"] = _setting(
        "OPENCLAW_LOG_FORMAT", "text", "One line a fact: `text` or `json`."
    )
    log_level: LogLevel = _setting("OPENCLAW_LOG_LEVEL", "INFO", "The least important level that is logged.")

    rate_limits: bool = _setting("OPENCLAW_RATE_LIMITS", True, "Whether clients may call only so often.")
    rate_free: RateSetting = _setting(
        "OPENCLAW_RATE_FREE", Rate(10, 30, 300), "How often a client of the Free plan may call."
    )
    rate_starter: RateSetting = _setting(
        "OPENCLAW_RATE_STARTER", Rate(20, 100, 900), "How often a client of the Starter plan may call."
    )
    rate_pro: RateSetting = _setting(
        "OPENCLAW_RATE_PRO", Rate(50, 250, 2400), "How often a client of the Pro plan may call."
    )
    rate_enterprise: RateSetting = _setting(
        "OPENCLAW_RATE_ENTERPRISE", Rate(200, 1000, 0), "How often a client of the Enterprise plan may call."
    )
    failures_per_address: int = _setting(
        "OPENCLAW_FAILURES_PER_ADDRESS",
        10,
        "Wrong keys and admin tokens that one address may send in five minutes; 0 is no limit.",
        ge=0,
        le=100_000,
    )
    failures_overall: int = _setting(
        "OPENCLAW_FAILURES_OVERALL",
        1000,
        "Wrong keys and admin tokens of all addresses together in five minutes; 0 is no limit.",
        ge=0,
        le=100_000,
    )
    trusted_proxies: ProxiesSetting = _setting(
        "OPENCLAW_TRUSTED_PROXIES",
        Proxies(),
        "Whose X-Forwarded-For is believed: the number of proxies before the gateway, or their networks.",
    )

    quota_status: QuotaStatus = _setting(
        "OPENCLAW_QUOTA_STATUS", 403, "The status when out of credits: 403, or 402."
    )
    reservation_minutes: int = _setting(
        "OPENCLAW_RESERVATION_MINUTES",
        15,
        "How long credits stay set aside for a job that never ends.",
        ge=1,
        le=1440,
    )
    upgrade_url: WebAddress | None = _setting(
        "OPENCLAW_UPGRADE_URL", None, "Where a client who is out of credits can buy more."
    )
    contact_url: Contact | None = _setting(
        "OPENCLAW_CONTACT_URL", None, "Where to ask for the Enterprise plan: a web address or mailto:."
    )
    currency: str = _setting(
        "OPENCLAW_CURRENCY", "usd", "The currency of prices, three small letters.", pattern=r"^[a-z]{3}$"
    )
    tax: Literal["off", "auto"] = _setting("OPENCLAW_TAX", "off", "`auto` lets Stripe Tax compute taxes.")
    grace_days: int = _setting(
        "OPENCLAW_GRACE_DAYS", 7, "Days of full access after a failed payment.", ge=0, le=90
    )
    trial_days: int = _setting("OPENCLAW_TRIAL_DAYS", 0, "Days of trial, once per client.", ge=0, le=365)
    topup_expiry_days: int = _setting(
        "OPENCLAW_TOPUP_EXPIRY_DAYS", 0, "Days until purchased credits expire; 0 is never.", ge=0, le=3650
    )
    redirect_origins: Origins = _setting(
        "OPENCLAW_REDIRECT_ORIGINS",
        (),
        "Comma list of origins that success, cancel and return addresses may have.",
    )
    checkout_success_url: WebAddress | None = _setting(
        "OPENCLAW_CHECKOUT_SUCCESS_URL",
        None,
        "Where a paid checkout returns when the request names no address.",
    )
    checkout_cancel_url: WebAddress | None = _setting(
        "OPENCLAW_CHECKOUT_CANCEL_URL",
        None,
        "Where a cancelled checkout returns when the request names no address.",
    )
    portal_return_url: WebAddress | None = _setting(
        "OPENCLAW_PORTAL_RETURN_URL", None, "Where Stripe's portal returns when the request names no address."
    )

    stripe_api_base: WebAddress | None = _setting(
        "STRIPE_API_BASE", None, "Another address for all of Stripe's, for tests."
    )
    stripe_timeout_seconds: Seconds = _setting(
        "OPENCLAW_STRIPE_TIMEOUT_S", 8.0, "Seconds that Stripe may take for one read."
    )
    stripe_budget_seconds: Seconds = _setting(
        "OPENCLAW_STRIPE_BUDGET_S", 9.0, "Seconds for all Stripe calls of one request together."
    )
    stripe_retries_max: int = _setting(
        "OPENCLAW_STRIPE_RETRIES_MAX", 2, "How often a Stripe call is tried again.", ge=0, le=10
    )
    stripe_poll_minutes: int = _setting(
        "OPENCLAW_STRIPE_POLL_MINUTES", 10, "Minutes between looks for events that were lost.", ge=1, le=1440
    )
    stripe_price_starter: str | None = _setting(
        "STRIPE_PRICE_STARTER", None, "The price of Starter by the month; found by its look-up key if absent."
    )
    stripe_price_starter_yearly: str | None = _setting(
        "STRIPE_PRICE_STARTER_YEARLY", None, "The price of Starter by the year."
    )
    stripe_price_pro: str | None = _setting("STRIPE_PRICE_PRO", None, "The price of Pro by the month.")
    stripe_price_pro_yearly: str | None = _setting(
        "STRIPE_PRICE_PRO_YEARLY", None, "The price of Pro by the year."
    )
    stripe_price_topups: Annotated[dict[int, str], NoDecode] = _setting(
        TOPUP_PREFIX, {}, "The price of a pack of credits, one line a pack; the number is the credits in it."
    )

    _placeholders: tuple[str, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        packs = TopupSource(settings_cls, env_settings, dotenv_settings)
        return init_settings, env_settings, dotenv_settings, packs

    @model_validator(mode="wrap")
    @classmethod
    def _drop_what_is_no_value(cls, data: dict[str, Any], build: Handler[Settings]) -> Settings:
        stripped = {name: value.strip() if isinstance(value, str) else value for name, value in data.items()}
        counts = {name: placeholders_in(value) for name, value in stripped.items()}
        absent = {name for name, (found, parts) in counts.items() if found == parts or stripped[name] == ""}
        made = build({name: value for name, value in stripped.items() if name not in absent})
        placeholders = tuple(sorted(name for name, (found, _) in counts.items() if found))
        if placeholders and made.billing_mode == "live":
            raise ValueError(f"{', '.join(placeholders)} holds the guide's placeholder beside a live key")
        made._placeholders = placeholders
        return made

    @field_validator("data_dir")
    @classmethod
    def _home(cls, value: Path) -> Path:
        return value.expanduser()

    @field_validator("stripe_secret_key")
    @classmethod
    def _known_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not SECRET_KEY.fullmatch(value.get_secret_value()):
            raise ValueError("it must begin with sk_test_, rk_test_, sk_live_ or rk_live_")
        return value

    @field_validator("database_url", "redis_url")
    @classmethod
    def _known_scheme(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        schemes = URL_SCHEMES[str(info.field_name)]
        if value is not None and not value.get_secret_value().startswith(schemes):
            raise ValueError(f"it must begin with {' or '.join(schemes)}")
        return value

    @model_validator(mode="after")
    def _safe_base(self) -> Settings:
        base = self.stripe_api_base
        if base is not None and not base.startswith("https://"):
            if self.billing_mode == "live":
                raise ValueError("STRIPE_API_BASE must be https beside a live key")
            if host_of(base) not in LOOPBACK:
                raise ValueError("STRIPE_API_BASE must be https or a loopback address")
        return self

    @property
    def billing_mode(self) -> BillingMode:
        """`mock` without a Stripe key, else what the key is for."""
        if self.stripe_secret_key is None:
            return "mock"
        return "live" if "_live_" in self.stripe_secret_key.get_secret_value()[:8] else "test"

    @property
    def admin_token_state(self) -> AdminTokenState:
        if self.admin_token is None:
            return "missing"
        return "usable" if is_usable_token(self.admin_token.get_secret_value()) else "refused"


def load_settings(**overrides: object) -> Settings:
    """The settings of this process, read now; an override goes by its attribute's name.

    Raises:
        BadSettings: one sentence per problem, naming the variable and never its value.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        problems_found = error.errors(include_url=False, include_context=False, include_input=False)
        raise BadSettings(" ".join(_sentence(dict(problem)) for problem in problems_found)) from None
    except UnicodeDecodeError:
        raise BadSettings("The file .env is not UTF-8.") from None


def problems(settings: Settings) -> list[str]:
    """What an operator should know and need not stop the process for, in sentences without values."""
    found = [f"{name} holds the guide's placeholder and counts as absent." for name in settings._placeholders]
    if settings.admin_token_state == "refused":  # noqa: S105
        found.append(f"OPENCLAW_ADMIN_TOKEN {WEAK_TOKEN}")
    for name, secret in (
        ("OPENCLAW_KEY_PEPPER", settings.key_pepper),
        ("OPENCLAW_CHAIN_KEY", settings.chain_key),
    ):
        if secret is not None and len(secret.get_secret_value()) < SECRET_LENGTH_MIN:
            found.append(f"{name} is shorter than {SECRET_LENGTH_MIN} characters.")
    public = settings.stripe_public_key
    if (
        public is not None
        and settings.billing_mode != "mock"
        and f"_{settings.billing_mode}_" not in public[:8]
    ):
        found.append("STRIPE_PUBLIC_KEY and STRIPE_SECRET_KEY belong to different modes.")
    if settings.billing_mode != "mock" and not settings.stripe_webhook_secret:
        found.append(
            "STRIPE_WEBHOOK_SECRET is absent: Stripe events are refused, so payments change nothing."
        )
    if settings.allow_query_token:
        found.append("OPENCLAW_ALLOW_QUERY_TOKEN lets the admin token into addresses, which others may log.")
    return found + _unknown_names()


def setting_names() -> dict[str, str]:
    """The environment's name of every setting, by attribute."""
    return {name: str(field.validation_alias) for name, field in Settings.model_fields.items()}


def _sentence(problem: dict[str, Any]) -> str:
    text = str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
    where = problem["loc"]
    if not where:
        return f"{text}."
    name = setting_names().get(str(where[0]), str(where[0]))
    return f"{name} is wrong: {text[0].lower()}{text[1:]}."


def _unknown_names() -> list[str]:
    known = set(setting_names().values())
    in_file = dotenv_values(ENV_FILE) if ENV_FILE.is_file() else {}
    present = {name.upper() for name in (*os.environ, *in_file)}
    found = []
    for name in sorted(present - known):
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if name.startswith(("OPENCLAW_", "STRIPE_")) and close and not name.startswith(f"{TOPUP_PREFIX}_"):
            found.append(f"{name} is no setting: did you mean {close[0]}?")
        elif name.startswith("OPENCLAW_"):
            found.append(f"{name} is no setting of ours and is ignored.")
    return found
