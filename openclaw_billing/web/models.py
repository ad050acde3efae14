"""Models: the bases of what comes in and goes out, and the fields that they share."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import partial
from typing import Annotated, Any, ClassVar, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from openclaw_billing.records import COST_USD_MICROS_MAX, Rate
from openclaw_billing.text import EMAIL_LENGTH_MAX, clean_email, clean_text
from openclaw_billing.values import BURST_MAX, PER_MINUTE_MAX, PER_SECOND_MAX, checked_rate
from openclaw_billing.web.examples import exemplified

NAME_LENGTH_MAX = 200
LABEL_LENGTH_MAX = 40
LINE_LENGTH_MAX = 200
REASON_LENGTH_MAX = 500
DESCRIPTION_LENGTH_MAX = 10_000

_set = object.__setattr__
_MICRO = Decimal("0.000001")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


class Input(BaseModel):
    """What a caller sends: exact types, and no field that we do not know."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, hide_input_in_errors=True, json_schema_extra=exemplified
    )


class Output(BaseModel):
    """What we answer. Fields that are `told_once` stand in no stored reply."""

    model_config = ConfigDict(frozen=True, json_schema_extra=exemplified)
    told_once: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _writable(cls, values: object) -> object:
        return _written(values)

    @classmethod
    def made(cls, **values: object) -> Self:
        """The answer with all of its fields, which are our own: `model_construct` without its walk over them."""
        answer = cls.__new__(cls)
        _set(answer, "__dict__", values)
        _set(answer, "__pydantic_fields_set__", set(values))
        _set(answer, "__pydantic_extra__", None)
        _set(answer, "__pydantic_private__", None)
        return answer


class RateIn(Input):
    """How often a client may call. 0 is no limit; without `burst`, a second's worth may come at once."""

    per_second: int = Field(0, ge=0, le=PER_SECOND_MAX)
    burst: int = Field(0, ge=0, le=BURST_MAX)
    per_minute: int = Field(0, ge=0, le=PER_MINUTE_MAX)

    @model_validator(mode="after")
    def _burst_of_something(self) -> RateIn:
        checked_rate(self.rate)
        return self

    @property
    def rate(self) -> Rate:
        return Rate(self.per_second, self.burst or self.per_second, self.per_minute)


class Dollars(Decimal):
    """An amount that leaves as a JSON number. Made of whole cents or micro-USD, never of sums of floats."""

    @classmethod
    def from_cents(cls, cents: int) -> Dollars:
        return cls(Decimal(cents) / 100)

    @classmethod
    def from_micros(cls, usd_micros: int) -> Dollars:
        return cls(Decimal(usd_micros) / 1_000_000)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._of,
            # The last step only: the nearest float of so few digits is written as those digits.
            serialization=core_schema.plain_serializer_function_ser_schema(
                float, return_schema=core_schema.float_schema(), when_used="json"
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "number"}

    @classmethod
    def _of(cls, value: object) -> Dollars:
        return value if isinstance(value, cls) else cls(_decimal(value))


# ISO 4217, by how Stripe counts them: without a smaller unit, and with a thousandth.
_WHOLE = frozenset(
    [
        "bif",
        "clp",
        "djf",
        "gnf",
        "jpy",
        "kmf",
        "krw",
        "mga",
        "pyg",
        "rwf",
        "ugx",
        "vnd",
        "vuv",
        "xaf",
        "xof",
        "xpf",
    ]
)
_THOUSANDTHS = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])


class Amount(Dollars):
    """The same for any currency, made of its smallest units."""

    @classmethod
    def of(cls, units: int, currency: str) -> Amount:
        return cls(Decimal(units).scaleb(-decimals_of(currency)))

    @staticmethod
    def text(units: int, currency: str) -> str:
        """As people write it: `49.00 USD`, `500 JPY`."""
        places = decimals_of(currency)
        return f"{Decimal(units).scaleb(-places):.{places}f} {currency.upper()}"


def decimals_of(currency: str) -> int:
    """How many decimals the currency has."""
    return 0 if currency in _WHOLE else 3 if currency in _THOUSANDTHS else 2


def micros_of(dollars: Decimal) -> int:
    """Whole micro-USD; less than a millionth of a dollar is rounded, half to even."""
    return int(dollars.quantize(_MICRO, rounding=ROUND_HALF_EVEN) * 1_000_000)


def _decimal(value: object) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("it must be a number")
    # The digits that were written, not the binary fraction nearest to them.
    return Decimal(repr(value))


def _amount(value: object) -> Decimal:
    amount = _decimal(value)
    if not amount.is_finite() or not 0 <= amount <= Decimal(COST_USD_MICROS_MAX) / 1_000_000:
        raise ValueError("it must be an amount of dollars from 0 to a thousand million")
    return amount


def _moment(value: object) -> object:
    try:
        if isinstance(value, str) and _MOMENT.fullmatch(value):
            value = datetime.fromisoformat(value.upper())
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value.astimezone(UTC)
    except (ValueError, OverflowError):
        pass  # A thirteenth month, or a moment that is beyond the calendar once in UTC.
    raise ValueError("it must be a moment with its offset, such as 2026-02-19T10:30:00Z")


def _written(value: object) -> object:
    """The value as it can be written: a row kept long ago may hold half of a character."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_written(name): _written(each) for name, each in value.items()}
    return value


def _text(length_max: int, *, multiline: bool = False) -> Any:
    return AfterValidator(partial(clean_text, length_max=length_max, multiline=multiline))


Moment: TypeAlias = Annotated[
    datetime,
    BeforeValidator(_moment),
    PlainSerializer(datetime.isoformat, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-02-19T10:30:00+00:00"]}),
]
"""A moment in UTC, written with `+00:00`; other offsets are converted, a moment without one is refused."""

DollarsIn: TypeAlias = Annotated[
    Decimal,
    BeforeValidator(_amount),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": COST_USD_MICROS_MAX // 1_000_000}),
]
"""An amount of dollars as a JSON number, to be stored through `micros_of`."""

Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH_MAX), _text(NAME_LENGTH_MAX)]
Label: TypeAlias = Annotated[str, Field(min_length=1, max_length=LABEL_LENGTH_MAX), _text(LABEL_LENGTH_MAX)]
Line: TypeAlias = Annotated[str, Field(min_length=1, max_length=LINE_LENGTH_MAX), _text(LINE_LENGTH_MAX)]
Reason: TypeAlias = Annotated[
    str, Field(min_length=1, max_length=REASON_LENGTH_MAX), _text(REASON_LENGTH_MAX)
]
Description: TypeAlias = Annotated[
    str, Field(min_length=1, max_length=DESCRIPTION_LENGTH_MAX), _text(DESCRIPTION_LENGTH_MAX, multiline=True)
]
Email: TypeAlias = Annotated[
    str,
    Field(min_length=3, max_length=EMAIL_LENGTH_MAX, examples=["api@acmecorp.com"]),
    AfterValidator(clean_email),
]
