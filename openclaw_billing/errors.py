"""Errors: every refusal a caller can meet, each with its status, its stable code and its sentence.

BillingError (an HTTPException: a host's own route may let it through)
├── BadRequest 400 · KeyRejected, TokenRejected 401 · CardDeclined, PaymentRequired 402 · Forbidden 403 · NotFound 404 · Conflict 409
├── JobRefused 403: QuotaExceeded · PaymentOverdue · ClientInactive
├── TooSlow 408 · StaleVersion 412 · TooLarge 413
├── Unprocessable 422 · TooManyRequests 429 · StripeRejected 502
└── Unavailable 503: StorageUnavailable · AdminDisabled
    └── StripeUnavailable · StripeMisconfigured · PriceNotConfigured · PortalNotConfigured
StartupError (never an answer: the process must not serve): CorruptStore · BadSettings
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeAlias

from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

Fact: TypeAlias = str | int | bool | list[str] | None


class BillingError(HTTPException):
    """A refusal. `code` is the word programs switch on; `facts` go into the answer beside it."""

    status: ClassVar[int] = 500
    code: str = "internal_error"
    sentence: ClassVar[str] = "internal error"

    def __init__(
        self,
        sentence: str | None = None,
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        **facts: Fact,
    ) -> None:
        super().__init__(
            status_code=self.status,
            detail=sentence or self.sentence,
            headers=dict(headers) if headers else None,
        )
        self.code = code or self.code
        self.facts = facts


class BadRequest(BillingError):
    status = 400
    code = "bad_request"
    sentence = "The request cannot be understood"


class UnknownPlan(BadRequest):
    code = "unknown_plan"

    def __init__(self, plan_id: str) -> None:
        super().__init__(f"Unknown plan: {plan_id!a}"[:120])


class UnlimitedPlan(BadRequest):
    code = "unlimited_plan"
    sentence = "Enterprise jobs are unlimited: there are no credits to change"


class KeyRejected(BillingError):
    """Unknown, revoked, expired, inactive: a stranger learns nothing about which."""

    status = 401
    code = "invalid_key"
    sentence = "Invalid or inactive API key"

    def __init__(self) -> None:
        super().__init__(headers={"WWW-Authenticate": 'ApiKey realm="openclaw", header="X-Client-Key"'})


class TokenRejected(BillingError):
    status = 401
    code = "invalid_token"
    sentence = "Unauthorized"

    def __init__(self) -> None:
        super().__init__(headers={"WWW-Authenticate": 'ApiKey realm="openclaw-admin", header="X-Auth-Token"'})


class PaymentRequired(BillingError):
    """A change waits for its payment; until then nothing has changed."""

    status = 402
    code = "payment_required"
    sentence = "The change takes effect when its invoice is paid"

    def __init__(self, *, hosted_invoice_url: str | None, expires_at: datetime | None) -> None:
        super().__init__(
            hosted_invoice_url=hosted_invoice_url,
            expires_at=None if expires_at is None else expires_at.isoformat(),
        )


class CardDeclined(BillingError):
    """The bank refused the card. `decline_code` is Stripe's word for why; nothing was changed."""

    status = 402
    code = "card_declined"
    sentence = "The card was declined"

    def __init__(self, decline_code: str) -> None:
        super().__init__(decline_code=decline_code)


class Forbidden(BillingError):
    status = 403
    code = "forbidden"
    sentence = "This token may not do that"


class JobRefused(BillingError):
    """No job may begin. Never with Retry-After: a client that retries would ask for nothing.

    Where it is `payable`, money would help.
    """

    payable = True

    status = 403


class QuotaExceeded(JobRefused):
    """Out of credits."""

    code = "quota_exceeded"
    sentence = "Monthly job limit reached"

    def __init__(self, *, credits_remaining: int, resets_at: datetime) -> None:
        super().__init__(credits_remaining=credits_remaining, resets_at=resets_at.isoformat())


class PaymentOverdue(JobRefused):
    """An invoice was not paid, at `hosted_invoice_url`; or credits are owed, for which there is no invoice."""

    code = "payment_overdue"

    def __init__(self, hosted_invoice_url: str | None = None) -> None:
        where = "" if hosted_invoice_url is None else f" at {hosted_invoice_url}"
        super().__init__(
            f"A payment is overdue: settle it{where} to submit jobs", hosted_invoice_url=hosted_invoice_url
        )


class ClientInactive(JobRefused):
    """A client that is switched off takes no credit; what it has begun ends as it would."""

    code = "client_inactive"
    sentence = "This client is inactive"
    payable = False


class NotFound(BillingError):
    status = 404
    code = "not_found"

    def __init__(self, what: str = "Resource") -> None:
        super().__init__(f"{what} not found")


class UnknownPack(NotFound):
    code = "unknown_pack"

    def __init__(self) -> None:
        super().__init__("Pack of credits")


class TooSlow(BillingError):
    status = 408
    code = "body_too_slow"
    sentence = "The body did not arrive in time"


class Conflict(BillingError):
    status = 409
    code = "conflict"
    sentence = "The resource is not in a state that allows this"


class DuplicateEmail(Conflict):
    code = "duplicate_email"
    sentence = "A client with this email already exists"


class InFlight(Conflict):
    """The same request is being carried out: its answer will be given again."""

    code = "in_flight"
    sentence = "A request with this Idempotency-Key is being carried out"

    def __init__(self) -> None:
        super().__init__(headers={"Retry-After": "1"})


class StaleVersion(BillingError):
    status = 412
    code = "stale"
    sentence = "The resource has changed since the version you named"


class TooLarge(BillingError):
    status = 413
    code = "body_too_large"
    sentence = "The body is too large"


class Unprocessable(BillingError):
    status = 422
    code = "unprocessable"
    sentence = "The request is well formed but cannot be carried out"


class IdMismatch(Unprocessable):
    """The same id with other content: the first answer stands, nothing is changed."""

    code = "idempotency_mismatch"
    sentence = "This id was used before with other content"


class TooManyRequests(BillingError):
    """Only ever for a rate: out of credits is `QuotaExceeded`. `violated` names the limits."""

    status = 429
    code = "rate_limited"
    sentence = "Too many requests"

    def __init__(
        self,
        sentence: str | None = None,
        *,
        retry_after_seconds: int,
        headers: Mapping[str, str] | None = None,
        violated: Sequence[str] = (),
    ) -> None:
        waiting = {"Retry-After": str(max(1, retry_after_seconds))}
        super().__init__(sentence, headers={**waiting, **(headers or {})})
        if violated:
            self.facts["violated-policies"] = list(violated)


class StripeRejected(BillingError):
    """Stripe did not take a request of ours: a bug here. The id leads to Stripe's own words, in its log."""

    status = 502
    code = "stripe_rejected"
    sentence = "Stripe did not accept the request"

    def __init__(self, request_id: str | None) -> None:
        super().__init__(stripe_request_id=request_id)


class Unavailable(BillingError):
    """Something we need is away. The caller may try again; nothing was changed."""

    status = 503
    code = "unavailable"
    sentence = "Temporarily unavailable"

    def __init__(
        self, sentence: str | None = None, *, code: str | None = None, retry_after_seconds: int = 1
    ) -> None:
        super().__init__(sentence, code=code, headers={"Retry-After": str(retry_after_seconds)})


class StorageUnavailable(Unavailable):
    code = "storage_unavailable"
    sentence = "storage unavailable"


class AdminDisabled(Unavailable):
    code = "admin_disabled"
    sentence = "admin API disabled: set OPENCLAW_ADMIN_TOKEN to a secret of at least 32 characters"

    def __init__(self) -> None:
        super().__init__(retry_after_seconds=30)


class StripeUnavailable(Unavailable):
    code = "stripe_unavailable"
    sentence = "Stripe cannot be reached right now"


class StripeMisconfigured(Unavailable):
    code = "stripe_misconfigured"
    sentence = "Stripe refuses our key: payments are off until the operator has mended the settings"


class PriceNotConfigured(Unavailable):
    code = "price_not_configured"

    def __init__(self, what: str) -> None:
        super().__init__(f"No price in Stripe is set up for {what}", retry_after_seconds=30)


class PortalNotConfigured(Unavailable):
    code = "portal_not_configured"

    def __init__(self) -> None:
        super().__init__("The portal is not set up in Stripe: run `stripe sync`", retry_after_seconds=60)


class StartupError(Exception):
    """The process must not serve. The text is one sentence for the operator."""

    exit_code: ClassVar[int] = 78


class BadSettings(StartupError):
    """A setting is missing or wrong; the text names it and never its value."""


class CorruptStore(StartupError):
    """A file of the store is damaged. It was not changed; nothing was lost by refusing."""

    def __init__(self, path: str, reason: str, *, offset: int | None = None, seq: int | None = None) -> None:
        where = "" if offset is None else f" at byte {offset}"
        entry = "" if seq is None else f" (entry {seq})"
        self.finding = f"{path}{where}{entry}: {reason}."
        super().__init__(
            f"{self.finding} Nothing was changed. "
            "Run `python -m openclaw_billing repair` to see what can be restored."
        )
        self.path, self.reason, self.offset, self.seq = path, reason, offset, seq
