"""Refusals, in the shape and the words Stripe uses."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """One refusal: a status, and the error object that goes into the body."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", **fields: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error: dict[str, Any] = {"type": kind, "message": message, **fields}

    @property
    def kept(self) -> bool:
        """Whether an Idempotency-Key remembers this answer: a request that failed validation is not kept."""
        code = str(self.error.get("code", ""))
        return self.status not in (401, 403, 404, 409, 429) and not code.startswith("parameter_")

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {"error": self.error}


def missing(noun: str, object_id: str, param: str = "id") -> ApiError:
    """404 for an id nobody knows."""
    return ApiError(404, f"No such {noun}: '{object_id}'", code="resource_missing", param=param)


def unknown_parameter(name: str) -> ApiError:
    """400 for a parameter the endpoint does not take."""
    return ApiError(400, f"Received unknown parameter: {name}", code="parameter_unknown", param=name)


def required(name: str) -> ApiError:
    """400 for a parameter left out."""
    return ApiError(400, f"Missing required param: {name}.", code="parameter_missing", param=name)


def invalid(name: str, message: str, code: str = "parameter_invalid_empty") -> ApiError:
    """400 for a value that cannot be read."""
    return ApiError(400, message, code=code, param=name)


def declined(
    decline_code: str, charge_id: str | None, payment_intent: dict[str, Any] | None = None
) -> ApiError:
    """402 for a card that was refused."""
    code = "authentication_required" if decline_code == "authentication_required" else "card_declined"
    fields: dict[str, Any] = {"code": code, "decline_code": decline_code}
    if charge_id is not None:
        fields["charge"] = charge_id
    if payment_intent is not None:
        fields["payment_intent"] = payment_intent
    return ApiError(402, "Your card was declined.", kind="card_error", **fields)
