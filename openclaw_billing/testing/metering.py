"""Meters, the events they count, and the events of the account itself."""

from __future__ import annotations

from fnmatch import fnmatchcase

from openclaw_billing.testing import shapes
from openclaw_billing.testing.invoicing import usage
from openclaw_billing.testing.problems import ApiError, invalid, missing, required
from openclaw_billing.testing.routes import Routes
from openclaw_billing.testing.world import Call, Obj, World, matching

routes = Routes()

IDENTIFIER_SECONDS = 86_400
IDENTIFIER_LENGTH_MAX = 100
PAST_SECONDS = 35 * 86_400
FUTURE_SECONDS = 300
TYPES_MAX = 20


@routes.post(
    "/v1/billing/meters",
    "display_name event_name default_aggregation customer_mapping value_settings event_time_window",
)
def create_meter(world: World, call: Call) -> Obj:
    """A new meter; only one active meter may count an event name."""
    form = call.form
    name = form.needed("event_name")
    if any(one["event_name"] == name and one["status"] == "active" for one in world.all("billing.meter")):
        raise ApiError(
            400, f"An active meter with the event name `{name}` already exists.", param="event_name"
        )
    made = shapes.meter(world, event_name=name, display_name=form.needed("display_name"))
    formula = form.form("default_aggregation").choice("formula", ("count", "last", "sum"), "")
    made["default_aggregation"] = {"formula": formula}
    for field in ("customer_mapping", "value_settings"):
        made[field] = {**made[field], **form.form(field)}
    world.emit("billing.meter.created", world.add(made))
    return made


@routes.get("/v1/billing/meters/{id}")
def get_meter(world: World, call: Call) -> Obj:
    """The meter."""
    return world.find("billing.meter", call.ids[0])


@routes.post("/v1/billing/meters/{id}", "display_name")
def update_meter(world: World, call: Call) -> Obj:
    """The meter under another name."""
    found = world.find("billing.meter", call.ids[0])
    return world.change("billing.meter.updated", found, display_name=call.form.needed("display_name"))


@routes.list("/v1/billing/meters", "status")
def list_meters(world: World, call: Call) -> Obj:
    """Meters, by status."""
    return world.page(matching(world.all("billing.meter"), call, "status"), call)


@routes.post("/v1/billing/meters/{id}/deactivate")
def deactivate(world: World, call: Call) -> Obj:
    """The meter, counting no more."""
    found = world.find("billing.meter", call.ids[0])
    found["status_transitions"] = {"deactivated_at": world.now()}
    return world.change("billing.meter.deactivated", found, status="inactive")


@routes.post("/v1/billing/meters/{id}/reactivate")
def reactivate(world: World, call: Call) -> Obj:
    """The meter, counting again."""
    found = world.find("billing.meter", call.ids[0])
    found["status_transitions"] = {"deactivated_at": None}
    return world.change("billing.meter.reactivated", found, status="active")


@routes.list("/v1/billing/meters/{id}/event_summaries", "customer start_time end_time value_grouping_window")
def list_summaries(world: World, call: Call) -> Obj:
    """What one customer used between two whole minutes, in all or by hour or day."""
    form, meter = call.form, world.find("billing.meter", call.ids[0])
    start, end = form.number("start_time"), form.number("end_time")
    customer_id = form.needed("customer")
    if start is None or end is None:
        raise required("start_time" if start is None else "end_time")
    if start % 60 or end % 60 or end <= start:
        raise invalid(
            "start_time", "Timestamps must be aligned with minute boundaries, the end after the start."
        )
    window = {None: end - start, "hour": 3_600, "day": 86_400}[form.text("value_grouping_window")]
    found = []
    for begin in range(start, end, window):
        until = min(begin + window, end)
        total = usage(world, meter["id"], customer_id, begin, until)
        if total:
            found.append(_summary(world, meter, total, begin, until))
    page = world.page(found, call)
    return {**page, "data": [{name: one[name] for name in one if name != "created"} for one in page["data"]]}


@routes.post("/v1/billing/meter_events", "event_name payload identifier timestamp")
def create_meter_event(world: World, call: Call) -> Obj:
    """One use, counted once per identifier within a day."""
    form = call.form
    name, moment = form.needed("event_name"), form.number("timestamp")
    moment = world.now() if moment is None else moment
    payload = form.form("payload")
    identifier = form.text("identifier") or world.new_id("mevt")
    meter = _meter(world, name)
    _check_payload(world, meter, payload)
    if len(identifier) > IDENTIFIER_LENGTH_MAX:
        raise invalid(
            "identifier", f"Invalid string: identifiers have at most {IDENTIFIER_LENGTH_MAX} characters"
        )
    if moment < world.now() - PAST_SECONDS:
        raise ApiError(400, "The timestamp is too far in the past.", code="timestamp_too_far_in_past")
    if moment > world.now() + FUTURE_SECONDS:
        raise ApiError(400, "The timestamp is too far in the future.", code="timestamp_in_future")
    seen = world.meter_identifiers.get((name, identifier))
    if seen is not None and world.now() - seen < IDENTIFIER_SECONDS:
        message = f"An event already exists with identifier {identifier}."
        raise ApiError(400, message, code="duplicate_meter_event", param="identifier")
    world.meter_identifiers[name, identifier] = world.now()
    made = {
        "object": "billing.meter_event",
        "created": world.now(),
        "event_name": name,
        "identifier": identifier,
        "livemode": world.livemode,
        "payload": dict(payload),
        "timestamp": moment,
    }
    world.meter_events.append(made)
    return made


@routes.list("/v1/events", "type types delivery_success")
def list_events(world: World, call: Call) -> Obj:
    """The account's events of the last thirty days, newest first."""
    kinds = call.form.texts("types")
    if len(kinds) > TYPES_MAX:
        raise invalid("types", f"Array types exceeded maximum {TYPES_MAX} allowed elements.")
    if kinds and call.form.text("type") is not None:
        raise invalid("types", "You may pass either `type` or `types`, but not both.")
    kinds = kinds or [call.form.text("type") or "*"]
    found = [one for one in world.events if any(fnmatchcase(one["type"], kind) for kind in kinds)]
    delivered = call.form.text("delivery_success")
    if delivered is not None:
        found = [one for one in found if (one["pending_webhooks"] == 0) == (delivered == "true")]
    return world.page([one for one in found if world.event_recent(one)], call)


@routes.get("/v1/events/{id}")
def get_event(world: World, call: Call) -> Obj:
    """The event, while it is young enough."""
    for event in world.events:
        if event["id"] == call.ids[0] and world.event_recent(event):
            return event
    raise missing("event", call.ids[0])


@routes.get("/v2/core/events/{id}")
def get_thin_event(world: World, call: Call) -> Obj:
    """The whole of an event that was announced by a thin notification."""
    if call.ids[0] not in world.thin_events:
        raise missing("event", call.ids[0])
    return world.thin_events[call.ids[0]]


def _meter(world: World, name: str) -> Obj:
    for one in world.all("billing.meter"):
        if one["event_name"] == name and one["status"] == "active":
            return one
    message = f"No active meter found for event name {name}."
    raise ApiError(400, message, code="no_meter", param="event_name")


def _check_payload(world: World, meter: Obj, payload: Obj) -> None:
    customer_key = meter["customer_mapping"]["event_payload_key"]
    value_key = meter["value_settings"]["event_payload_key"]
    for key in (customer_key, value_key):
        if not payload.get(key):
            raise ApiError(
                400, f"Missing payload key `{key}`.", code="meter_event_payload_missing", param="payload"
            )
    if payload[customer_key] not in world.objects:
        message = f"No such customer: '{payload[customer_key]}'"
        raise ApiError(400, message, code="meter_event_customer_not_found", param="payload")
    if not payload[value_key].lstrip("-").isdigit():
        message = "The value must be a whole number."
        raise ApiError(400, message, code="meter_event_invalid_value", param="payload")


def _summary(world: World, meter: Obj, total: int, start: int, end: int) -> Obj:
    return {
        "id": f"mtrsum_{meter['id']}_{start}",
        "object": "billing.meter_event_summary",
        "aggregated_value": float(total),
        "created": start,
        "end_time": end,
        "livemode": world.livemode,
        "meter": meter["id"],
        "start_time": start,
    }
