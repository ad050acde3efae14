"""Subscription schedules: phases that replace a subscription's items when a period turns."""

from __future__ import annotations

from openclaw_billing.testing import shapes
from openclaw_billing.testing.clock import add_interval
from openclaw_billing.testing.collecting import replace_items
from openclaw_billing.testing.forms import Form, merged_metadata
from openclaw_billing.testing.invoicing import period_of
from openclaw_billing.testing.problems import ApiError, invalid, required
from openclaw_billing.testing.routes import Routes
from openclaw_billing.testing.subscriptions import end
from openclaw_billing.testing.world import Call, Obj, World, matching

routes = Routes()

ENDINGS = ("release", "cancel", "none", "renew")


@routes.post(
    "/v1/subscription_schedules", "from_subscription metadata end_behavior phases customer start_date"
)
def create(world: World, call: Call) -> Obj:
    """A schedule over a running subscription, with its current period as the first phase."""
    form = call.form
    if form.text("from_subscription") is None:
        raise required("from_subscription")
    if set(form) - {"from_subscription", "metadata", "expand"}:
        raise invalid("from_subscription", "You cannot set other parameters if `from_subscription` is set.")
    sub = world.find("subscription", form.needed("from_subscription"), "from_subscription")
    if sub["schedule"] is not None:
        raise ApiError(400, "You cannot migrate a subscription that is already attached to a schedule.")
    start, stop = period_of(sub)
    items = [_phase_item(item["price"], item.get("quantity")) for item in sub["items"]["data"]]
    made = world.add(
        {
            "id": world.new_id("sub_sched"),
            "object": "subscription_schedule",
            "application": None,
            "billing_mode": dict(sub["billing_mode"]),
            "canceled_at": None,
            "completed_at": None,
            "created": world.now(),
            "current_phase": {"start_date": start, "end_date": stop},
            "customer": sub["customer"],
            "customer_account": None,
            "default_settings": _settings(),
            "end_behavior": "release",
            "livemode": world.livemode,
            "metadata": merged_metadata({}, form),
            "pause_schedules": [],
            "phases": [_phase(sub["currency"], start, stop, items)],
            "released_at": None,
            "released_subscription": None,
            "status": "active",
            "subscription": sub["id"],
            "test_clock": None,
        }
    )
    world.emit("subscription_schedule.created", made)
    world.change("customer.subscription.updated", sub, schedule=made["id"])
    return made


@routes.get("/v1/subscription_schedules/{id}")
def retrieve(world: World, call: Call) -> Obj:
    """The schedule."""
    return world.find("subscription_schedule", call.ids[0])


@routes.list("/v1/subscription_schedules", "customer canceled_at completed_at released_at scheduled")
def list_schedules(world: World, call: Call) -> Obj:
    """Schedules, by customer."""
    return world.page(matching(world.all("subscription_schedule"), call, "customer"), call)


@routes.post(
    "/v1/subscription_schedules/{id}", "end_behavior metadata phases proration_behavior default_settings"
)
def update(world: World, call: Call) -> Obj:
    """The schedule with other phases to come."""
    form, found = call.form, _running(world, call.ids[0])
    fields: Obj = {
        "end_behavior": form.choice("end_behavior", ENDINGS, found["end_behavior"]),
        "metadata": merged_metadata(found["metadata"], form),
    }
    if "phases" in form:
        fields["phases"] = _phases(world, found, form.forms("phases"))
    return world.change("subscription_schedule.updated", found, **fields)


@routes.post("/v1/subscription_schedules/{id}/release", "preserve_cancel_date")
def release(world: World, call: Call) -> Obj:
    """The schedule, which has let go of its subscription."""
    found = _running(world, call.ids[0])
    let_go(world, found)
    return found


@routes.post("/v1/subscription_schedules/{id}/cancel", "invoice_now prorate")
def cancel(world: World, call: Call) -> Obj:
    """The schedule, ended together with its subscription."""
    found = _running(world, call.ids[0])
    end(world, world.objects[found["subscription"]])
    return found


def let_go(world: World, found: Obj) -> None:
    """Release a schedule's subscription, which runs on by itself."""
    sub = world.objects[found["subscription"]]
    found.update(
        status="released",
        released_at=world.now(),
        released_subscription=sub["id"],
        subscription=None,
        current_phase=None,
    )
    world.emit("subscription_schedule.released", found)
    world.change("customer.subscription.updated", sub, schedule=None)


def enter_phase(world: World, sub: Obj) -> None:
    """At the turn of a period, put the phase that begins now in place, or end the schedule after its last."""
    if sub["schedule"] is None:
        return
    found, moment = world.objects[sub["schedule"]], world.now()
    running = [one for one in found["phases"] if one["start_date"] <= moment < one["end_date"]]
    if not running:
        if found["end_behavior"] == "cancel":
            end(world, sub)
        else:
            let_go(world, found)
        return
    phase = running[0]
    current = {"start_date": phase["start_date"], "end_date": phase["end_date"]}
    if found["current_phase"] == current:
        return
    world.change("subscription_schedule.updated", found, current_phase=current)
    items = sub["items"]["data"]
    period = period_of(sub)
    replaced = []
    for position, wanted in enumerate(phase["items"]):
        price = world.objects[wanted["price"]]
        fresh = shapes.subscription_item(world, sub["id"], price, wanted.get("quantity"), period)
        kept = {"id": items[position]["id"]} if position < len(items) else {}
        replaced.append({**fresh, **kept})
    replace_items(world, sub, replaced)
    if phase["metadata"]:
        sub["metadata"] = {**sub["metadata"], **phase["metadata"]}


def _running(world: World, schedule_id: str) -> Obj:
    found = world.find("subscription_schedule", schedule_id)
    if found["status"] not in ("active", "not_started"):
        message = (
            f"You cannot change a subscription schedule that is currently in the `{found['status']}` status."
        )
        raise ApiError(400, message)
    return found


def _phases(world: World, found: Obj, forms: list[Form]) -> list[Obj]:
    phases: list[Obj] = []
    for form in forms:
        start = phases[-1]["end_date"] if phases else form.number("start_date")
        if start is None:
            raise invalid(
                "phases[0][start_date]", "The first phase must have a `start_date`.", "parameter_missing"
            )
        if form.number("start_date") not in (None, start):
            raise invalid("phases", "Each phase must begin where the one before it ends.")
        items = [_wanted(world, item) for item in form.forms("items")]
        if not items:
            raise required("phases[0][items]")
        made = _phase(found["phases"][0]["currency"], start, _phase_end(world, form, start, items), items)
        made["proration_behavior"] = form.text("proration_behavior") or "create_prorations"
        made["metadata"] = merged_metadata({}, form)
        phases.append(made)
    if phases[0]["start_date"] != found["current_phase"]["start_date"]:
        raise ApiError(400, "You can not modify the start date of the current phase.")
    return phases


def _phase_end(world: World, form: Form, start: int, items: list[Obj]) -> int:
    stop = form.number("end_date")
    if stop is not None:
        return stop
    recurring = world.objects[items[0]["price"]]["recurring"]
    length = form.form("duration")
    interval = length.text("interval") or recurring["interval"]
    return add_interval(start, interval, length.number("interval_count") or recurring["interval_count"])


def _wanted(world: World, form: Form) -> Obj:
    price = world.find("price", form.needed("price"), "price")
    return _phase_item(
        price, None if price["recurring"]["usage_type"] == "metered" else form.number("quantity") or 1
    )


def _phase_item(price: Obj, quantity: int | None) -> Obj:
    counted = {} if quantity is None else {"quantity": quantity}
    item = {"discounts": [], "metadata": {}, "plan": price["id"], "price": price["id"], "tax_rates": []}
    return {"billing_thresholds": None, **item, **counted}


def _phase(currency: str, start: int, stop: int, items: list[Obj]) -> Obj:
    return {
        "add_invoice_items": [],
        "application_fee_percent": None,
        "billing_cycle_anchor": None,
        "billing_thresholds": None,
        "collection_method": None,
        "currency": currency,
        "default_payment_method": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "end_date": stop,
        "invoice_settings": None,
        "items": items,
        "metadata": {},
        "on_behalf_of": None,
        "proration_behavior": "create_prorations",
        "start_date": start,
        "transfer_data": None,
        "trial_end": None,
    }


def _settings() -> Obj:
    issuer = {"account_tax_ids": None, "days_until_due": None, "issuer": {"type": "self"}}
    return {
        "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": "automatic",
        "billing_thresholds": None,
        "collection_method": "charge_automatically",
        "default_payment_method": None,
        "description": None,
        "invoice_settings": issuer,
        "on_behalf_of": None,
        "transfer_data": None,
    }
