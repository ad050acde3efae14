"""Everything the fake account holds: objects by id, the events they caused, and how both are shown."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

from openclaw_billing.testing.clock import FakeClock
from openclaw_billing.testing.forms import Form
from openclaw_billing.testing.problems import ApiError, invalid, missing

API_VERSION = "2026-10-28.endive"
EVENT_DAYS = 30
PAGE_MAX = 100
LINES_SHOWN_MAX = 10

Obj = dict[str, Any]

# Stripe leaves these out of an object until they are asked for by `expand`.
HIDDEN = {
    "checkout.session": ("line_items",),
    "charge": ("refunds",),
    "customer": ("subscriptions",),
    "invoice": ("confirmation_secret", "payments"),
}
REVERSE = {
    ("charge", "refunds"): ("refund", "charge", "/v1/refunds"),
    ("customer", "subscriptions"): ("subscription", "customer", "/v1/customers/{id}/subscriptions"),
    ("invoice", "payments"): ("invoice_payment", "invoice", "/v1/invoice_payments"),
}


@dataclass(frozen=True)
class Call:
    """One request that reached its endpoint: parameters, ids from the path, and who asked."""

    form: Form
    ids: tuple[str, ...] = ()
    path: str = ""
    request_id: str | None = None
    idempotency_key: str | None = None


@dataclass
class World:
    """The state of one fake account; every reader and writer holds `lock`."""

    clock: FakeClock
    livemode: bool = False
    lock: RLock = field(default_factory=RLock)
    objects: dict[str, Obj] = field(default_factory=dict)
    events: list[Obj] = field(default_factory=list)
    # The request being answered, which the events it causes name.
    cause: Call | None = None
    # By customer: how the card is refused, and what the customer may use.
    card_answers: dict[str, str] = field(default_factory=dict)
    entitlements: dict[str, list[Obj]] = field(default_factory=dict)
    # By session: what it sells, and the order that opened it.
    line_items: dict[str, list[Obj]] = field(default_factory=dict)
    checkout_data: dict[str, Form] = field(default_factory=dict)
    # By subscription: what the next invoice will also bill, and who was told of a trial's end.
    pending_lines: dict[str, list[Obj]] = field(default_factory=dict)
    trials_warned: set[str] = field(default_factory=set)
    meter_events: list[Obj] = field(default_factory=list)
    meter_identifiers: dict[tuple[str, str], int] = field(default_factory=dict)
    thin_events: dict[str, Obj] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)

    def now(self) -> int:
        """The account's moment."""
        return self.clock.seconds()

    def new_id(self, prefix: str) -> str:
        """A fresh id, the same in every run."""
        number = self._numbers[prefix] = self._numbers.get(prefix, 0) + 1
        return f"{prefix}_1Fake{number:09d}"

    def add(self, obj: Obj) -> Obj:
        """Keep an object under its id."""
        self.objects[obj["id"]] = obj
        return obj

    def find(self, kind: str, object_id: str, param: str = "id") -> Obj:
        """The object, refusing an id of another kind or none."""
        obj = self.objects.get(object_id)
        if obj is None or obj["object"] != kind or obj.get("deleted"):
            raise missing(kind.rpartition(".")[2], object_id, param)
        return obj

    def all(self, kind: str) -> list[Obj]:
        """All objects of a kind, oldest first."""
        return [obj for obj in self.objects.values() if obj["object"] == kind]

    def emit(self, kind: str, obj: Obj, previous: Obj | None = None) -> Obj:
        """Record an event about an object as it is now."""
        data: Obj = {"object": self.shown(obj)}
        if previous is not None:
            data["previous_attributes"] = copy.deepcopy(previous)
        event = {
            "id": self.new_id("evt"),
            "object": "event",
            "account": None,
            "api_version": API_VERSION,
            "context": None,
            "created": self.now(),
            "data": data,
            "livemode": self.livemode,
            "pending_webhooks": 1,
            "request": {
                "id": self.cause.request_id if self.cause else None,
                "idempotency_key": self.cause.idempotency_key if self.cause else None,
            },
            "type": kind,
        }
        self.events.append(event)
        return event

    def change(self, kind: str, obj: Obj, **fields: Any) -> Obj:
        """Set fields and record the event, unless nothing changed."""
        before = {name: obj[name] for name, value in fields.items() if obj[name] != value}
        if before:
            previous = self.shown({"object": "", **before})
            previous.pop("object")
            obj.update(fields)
            self.emit(kind, obj, previous)
        return obj

    def shown(self, obj: Obj, expand: Iterable[str] = ()) -> Obj:
        """A copy as it goes over the wire."""
        shown = _without_hidden(copy.deepcopy(obj))
        for path in expand:
            self._expand(shown, path.split("."), path)
        return shown

    def _expand(self, shown: Obj, steps: list[str], path: str) -> None:
        name, rest = steps[0], steps[1:]
        value = shown.get(name)
        if value is None and name in HIDDEN.get(shown.get("object", ""), ()):
            value = shown[name] = self._hidden(shown, name)
        elif name not in shown:
            raise ApiError(400, f"This property cannot be expanded ({path}).", param="expand")
        if isinstance(value, str):
            if value not in self.objects:
                raise ApiError(400, f"This property cannot be expanded ({path}).", param="expand")
            value = shown[name] = self.shown(self.objects[value])
        for inner in value if isinstance(value, list) else [value]:
            if rest and isinstance(inner, dict):
                self._expand(inner, rest, path)

    def _hidden(self, shown: Obj, name: str) -> Any:
        kind = shown["object"]
        if (kind, name) in REVERSE:
            other, link, url = REVERSE[kind, name]
            found = [self.shown(one) for one in reversed(self.all(other)) if one[link] == shown["id"]]
            return listing(found, url.format(id=shown["id"]))
        if kind == "checkout.session":
            return listing(self.line_items[shown["id"]], f"/v1/checkout/sessions/{shown['id']}/line_items")
        return self.objects[shown["id"]][name]

    def page(self, found: Iterable[Obj], call: Call) -> Obj:
        """One page of a list, newest first; `found` comes oldest first."""
        rows = [obj for obj in found if _created_within(obj, call.form)]
        rows.reverse()
        limit = call.form.number("limit")
        limit = 10 if limit is None else limit
        if not 1 <= limit <= PAGE_MAX:
            raise invalid(
                "limit", f"Invalid integer: {limit}. Must be 1 to {PAGE_MAX}.", "parameter_invalid_integer"
            )
        after, before = call.form.text("starting_after"), call.form.text("ending_before")
        if after is not None and before is not None:
            raise invalid("ending_before", "Only one of starting_after and ending_before may be given.")
        if before is not None:
            newer = rows[: _position(rows, before, "ending_before")]
            data, more = newer[-limit:], len(newer) > limit
        else:
            rest = rows if after is None else rows[_position(rows, after, "starting_after") + 1 :]
            data, more = rest[:limit], len(rest) > limit
        return {"object": "list", "data": data, "has_more": more, "url": call.path}

    def customer_card(self, customer_id: str | None) -> str | None:
        """How the customer's card is refused, or None while it pays."""
        return self.card_answers.get(customer_id or "")

    def event_recent(self, event: Obj) -> bool:
        """Whether the event is still young enough to be fetched."""
        return bool(event["created"] > self.now() - EVENT_DAYS * 86_400)


def listing(data: list[Obj], url: str) -> Obj:
    """A list object inside another object."""
    return {"object": "list", "data": data, "has_more": False, "url": url}


def matching(found: Iterable[Obj], call: Call, *names: str) -> list[Obj]:
    """The objects whose fields equal the filters given."""
    wanted = {name: call.form[name] for name in names if call.form.get(name)}
    return [obj for obj in found if all(_text(obj.get(name)) == value for name, value in wanted.items())]


def _text(value: Any) -> Any:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else value


def _without_hidden(shown: Obj) -> Obj:
    for name in HIDDEN.get(shown.get("object", ""), ()):
        shown.pop(name, None)
    if shown.get("object") == "invoice":
        lines = shown["lines"]
        lines["has_more"] = len(lines["data"]) > LINES_SHOWN_MAX
        del lines["data"][LINES_SHOWN_MAX:]
    return shown


def _position(rows: list[Obj], object_id: str, param: str) -> int:
    for position, row in enumerate(rows):
        if row["id"] == object_id:
            return position
    raise missing("object", object_id, param)


_BOUNDS: dict[str, Callable[[int, int], bool]] = {
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
}


def _created_within(obj: Obj, form: Form) -> bool:
    created = form.get("created")
    if created is None:
        return True
    if isinstance(created, str):
        return bool(obj["created"] == form.number("created"))
    bounds = form.form("created")
    limits = [(holds, bounds.number(name)) for name, holds in _BOUNDS.items()]
    return all(bound is None or holds(obj["created"], bound) for holds, bound in limits)
