"""Subscriptions: begun, changed with or without payment, set to end, ended, paused, resumed."""

from __future__ import annotations

import copy

from openclaw_billing.testing import shapes
from openclaw_billing.testing.collecting import collect, hold_update, replace_items
from openclaw_billing.testing.forms import Form, merged_metadata
from openclaw_billing.testing.invoicing import (
    make_invoice,
    period_after,
    period_lines,
    period_of,
    proration_lines,
)
from openclaw_billing.testing.problems import ApiError, declined, invalid, missing, required
from openclaw_billing.testing.routes import Routes
from openclaw_billing.testing.world import Call, Obj, World, matching

routes = Routes()

PENDING_FIELDS = (
    "items metadata proration_behavior proration_date payment_behavior billing_cycle_anchor trial_end "
    "trial_from_plan add_invoice_items expand"
)
CREATE_FIELDS = (
    "customer items metadata payment_behavior trial_period_days trial_end billing_mode collection_method "
    "currency description default_payment_method proration_behavior payment_settings trial_settings "
    "automatic_tax off_session cancel_at_period_end"
)
UPDATE_FIELDS = (
    "items metadata proration_behavior proration_date payment_behavior billing_cycle_anchor cancel_at "
    "cancel_at_period_end cancellation_details pause_collection trial_end trial_from_plan description "
    "default_payment_method off_session add_invoice_items payment_settings automatic_tax trial_settings"
)
PRORATIONS = ("create_prorations", "always_invoice", "none")
BEHAVIORS = ("allow_incomplete", "pending_if_incomplete", "error_if_incomplete", "default_incomplete")
PAUSES = ("keep_as_draft", "mark_uncollectible", "void")


@routes.post("/v1/subscriptions", CREATE_FIELDS)
def create(world: World, call: Call) -> Obj:
    """A subscription made without a checkout."""
    form = call.form
    customer_id = world.find("customer", form.needed("customer"), "customer")["id"]
    wanted = [(_price(world, item), item.number("quantity")) for item in form.forms("items")]
    if not wanted:
        raise required("items")
    refusal = world.customer_card(customer_id)
    behavior = form.choice(
        "payment_behavior", ("allow_incomplete", "error_if_incomplete"), "allow_incomplete"
    )
    if refusal is not None and behavior == "error_if_incomplete":
        raise declined(refusal, None)
    return begin(world, customer_id, wanted, form, refusal)


def begin(
    world: World, customer_id: str, wanted: list[tuple[Obj, int | None]], form: Form, refusal: str | None
) -> Obj:
    """A new subscription and its first invoice, paid unless the card is refused or a trial comes first."""
    sub = shapes.subscription(world, customer=customer_id, currency=wanted[0][0]["currency"])
    sub.update(metadata=merged_metadata({}, form), description=form.text("description"))
    trial = form.number("trial_period_days")
    period = (world.now(), world.now() + (trial or 0) * 86_400)
    sub["items"]["data"] = [shapes.subscription_item(world, sub["id"], p, q, period) for p, q in wanted]
    if trial:
        sub.update(
            status="trialing", trial_start=period[0], trial_end=period[1], billing_cycle_anchor=period[1]
        )
    else:
        period = period_after(sub, world.now())
        turn(sub, period)
    sub["items"]["url"] = f"/v1/subscription_items?subscription={sub['id']}"
    world.add(sub)
    lines = period_lines(world, sub["items"]["data"], period, None)
    for line in lines if trial else ():
        line.update(amount=0, subtotal=0)
    made = make_invoice(world, customer_id, lines, "subscription_create", sub)
    world.emit("customer.subscription.created", sub)
    collect(world, made, refusal)
    return sub


@routes.get("/v1/subscriptions/{id}")
def retrieve(world: World, call: Call) -> Obj:
    """The subscription, ended or not."""
    return world.find("subscription", call.ids[0])


@routes.list(
    "/v1/subscriptions", "customer price status collection_method current_period_end current_period_start"
)
def list_subscriptions(world: World, call: Call) -> Obj:
    """Subscriptions; ended ones only when their status or `all` is asked for."""
    status = call.form.text("status")
    found = matching(world.all("subscription"), call, "customer")
    if status is None:
        found = [sub for sub in found if sub["status"] != "canceled"]
    elif status == "ended":
        found = [sub for sub in found if sub["status"] in ("canceled", "incomplete_expired")]
    elif status != "all":
        found = [sub for sub in found if sub["status"] == status]
    price = call.form.text("price")
    if price is not None:
        found = [sub for sub in found if price in (item["price"]["id"] for item in sub["items"]["data"])]
    return world.page(found, call)


@routes.list("/v1/subscription_items", "subscription")
def list_items(world: World, call: Call) -> Obj:
    """The items of one subscription."""
    return world.page(world.find("subscription", call.form.needed("subscription"))["items"]["data"], call)


@routes.post("/v1/subscriptions/{id}", UPDATE_FIELDS)
def update(world: World, call: Call) -> Obj:
    """The subscription after a change of items, of its end, or of its labels."""
    form, sub = call.form, world.find("subscription", call.ids[0])
    if sub["status"] in ("canceled", "incomplete_expired"):
        raise ApiError(400, "A canceled subscription can only update its cancellation_details and metadata.")
    behavior = form.choice("payment_behavior", BEHAVIORS, "allow_incomplete")
    if behavior == "pending_if_incomplete" and (extra := sorted(set(form) - set(PENDING_FIELDS.split()))):
        message = f"When `payment_behavior` is `pending_if_incomplete`, you cannot pass {extra[0]}."
        raise ApiError(400, message, param=extra[0])
    if sub["schedule"] is not None and ("cancel_at_period_end" in form or "cancel_at" in form):
        message = (
            f"The subscription is managed by the subscription schedule `{sub['schedule']}`, and updating any "
            "cancelation behavior directly is not allowed. Please update the schedule instead."
        )
        raise ApiError(400, message)
    if "items" in form or form.form("billing_cycle_anchor").text("type") == "now":
        _change_items(world, sub, form, behavior)
    _change_ending(world, sub, form)
    _change_labels(world, sub, form)
    return sub


@routes.delete("/v1/subscriptions/{id}", "cancellation_details invoice_now prorate")
def cancel(world: World, call: Call) -> Obj:
    """The subscription, ended at once."""
    sub = world.find("subscription", call.ids[0])
    if sub["status"] == "canceled":
        raise missing("subscription", sub["id"])
    if call.form.flag("invoice_now"):
        _final_invoice(world, sub, call.form.flag("prorate"))
    details = call.form.form("cancellation_details")
    sub["cancellation_details"].update(
        comment=details.text("comment"), feedback=details.text("feedback"), reason="cancellation_requested"
    )
    end(world, sub)
    return sub


def end(world: World, sub: Obj) -> None:
    """End a subscription now, and its schedule with it."""
    moment = world.now()
    sub.update(
        status="canceled", ended_at=moment, canceled_at=sub["canceled_at"] or moment, pending_update=None
    )
    if sub["schedule"] is not None:
        schedule = world.objects[sub["schedule"]]
        schedule.update(status="canceled", canceled_at=moment, current_phase=None)
        world.emit("subscription_schedule.canceled", schedule)
    for made in world.all("invoice"):
        if made["id"] == sub["latest_invoice"] and made["status"] == "open":
            made.update(auto_advance=False, next_payment_attempt=None)
    world.emit("customer.subscription.deleted", sub)


@routes.post("/v1/subscriptions/{id}/pause", "bill_for invoicing_behavior type")
def pause(world: World, call: Call) -> Obj:
    """The subscription, paused until somebody resumes it."""
    sub = world.find("subscription", call.ids[0])
    if sub["status"] not in ("active", "trialing", "past_due"):
        raise ApiError(400, f"A subscription with status `{sub['status']}` cannot be paused.")
    hold(world, sub)
    return sub


def hold(world: World, sub: Obj, reason: str = "pause_requested") -> None:
    """Put a subscription into status paused."""
    details = {"type": "subscription", "transitioned_at": world.now(), "subscription": {"type": reason}}
    world.change("customer.subscription.updated", sub, status="paused", status_details={"paused": details})
    world.emit("customer.subscription.paused", sub)


@routes.post(
    "/v1/subscriptions/{id}/resume", "billing_cycle_anchor payment_behavior proration_behavior proration_date"
)
def resume(world: World, call: Call) -> Obj:
    """The subscription, running again; a new anchor begins a new period and bills it."""
    sub = world.find("subscription", call.ids[0])
    if sub["status"] != "paused":
        raise ApiError(400, "Only subscriptions with status `paused` can be resumed.")
    anchor = call.form.form("billing_cycle_anchor").choice("type", ("now", "unchanged"), "now")
    if anchor == "now":
        sub["billing_cycle_anchor"] = world.now()
    if anchor == "now" or period_of(sub)[1] <= world.now():
        turn(sub, period_after(sub, world.now()))
        lines = period_lines(world, sub["items"]["data"], period_of(sub), None)
        made = make_invoice(world, sub["customer"], lines, "subscription_update", sub)
        refusal = world.customer_card(sub["customer"])
        collect(world, made, refusal)
        if refusal is not None:
            return sub
    world.change("customer.subscription.updated", sub, status="active", status_details=None)
    world.emit("customer.subscription.resumed", sub)
    return sub


def wanted_items(world: World, sub: Obj, forms: list[Form]) -> list[Obj]:
    """The items a subscription would have after a change."""
    items = {item["id"]: copy.deepcopy(item) for item in sub["items"]["data"]}
    for form in forms:
        item_id = form.text("id")
        if item_id is not None and item_id not in items:
            raise missing("subscription item", item_id, "items[0][id]")
        if form.flag("deleted"):
            items.pop(item_id or "", None)
            continue
        if item_id is None:
            made = shapes.subscription_item(world, sub["id"], _price(world, form), 1, period_of(sub))
            items[item_id := made["id"]] = made
        elif form.text("price") is not None:
            price = _price(world, form)
            items[item_id].update(price=price, plan=shapes.plan(price))
        if form.number("quantity") is not None:
            items[item_id]["quantity"] = form.number("quantity")
    if not items:
        raise invalid("items", "A subscription must keep at least one item.")
    return list(items.values())


def change_lines(world: World, sub: Obj, items: list[Obj], moment: int, reset: bool) -> list[Obj]:
    """What a change costs: the rest of the period, or a whole new one where the change begins one."""
    old = sub["items"]["data"]
    if sub["status"] == "trialing":
        return []
    if not reset:
        return proration_lines(world, old, items, moment)
    unused = proration_lines(world, old, [], moment)
    return unused + period_lines(world, items, period_of({"items": {"data": items}}), None)


def resets(sub: Obj, items: list[Obj], form: Form) -> bool:
    """Whether a change begins a new period: asked for, or another interval."""
    old, new = (these[0]["price"]["recurring"] for these in (sub["items"]["data"], items))
    same = (old["interval"], old["interval_count"]) == (new["interval"], new["interval_count"])
    return not same or form.form("billing_cycle_anchor").text("type") == "now"


def _change_items(world: World, sub: Obj, form: Form, behavior: str) -> None:
    items = wanted_items(world, sub, form.forms("items"))
    reset = resets(sub, items, form) and sub["status"] != "trialing"
    if reset:
        begun = {**sub, "billing_cycle_anchor": world.now(), "items": {"data": items}}
        turn(begun, period_after(begun, world.now()))
    proration = form.choice("proration_behavior", PRORATIONS, "create_prorations")
    moment = form.number("proration_date") or world.now()
    lines = [] if proration == "none" and not reset else change_lines(world, sub, items, moment, reset)
    if proration == "none":
        lines = [line for line in lines if not line["parent"]["subscription_item_details"]["proration"]]
    bills = bool(lines) and (reset or proration == "always_invoice")
    refusal = world.customer_card(sub["customer"])
    owed = sum(line["amount"] for line in lines) + world.objects[sub["customer"]]["balance"] > 0
    refused = bills and owed and refusal is not None
    if refused and behavior == "error_if_incomplete":
        assert refusal is not None
        raise declined(refusal, None)
    if not bills:
        world.pending_lines.setdefault(sub["id"], []).extend(lines)
    made = make_invoice(world, sub["customer"], lines, "subscription_update", sub) if bills else None
    if refused and behavior == "pending_if_incomplete":
        hold_update(world, sub, items)
    else:
        previous = {"items": world.shown(sub["items"])}
        replace_items(world, sub, items)
        if reset:
            sub["billing_cycle_anchor"] = world.now()
        world.emit("customer.subscription.updated", sub, previous)
    if made is not None:
        collect(world, made, refusal)


def _change_ending(world: World, sub: Obj, form: Form) -> None:
    details = {**sub["cancellation_details"], "reason": "cancellation_requested"}
    given = form.form("cancellation_details")
    details.update({name: given.text(name) for name in ("comment", "feedback") if name in given})
    if form.flag("cancel_at_period_end"):
        ending = {"cancel_at": period_of(sub)[1], "canceled_at": sub["canceled_at"] or world.now()}
        fields = {"cancel_at_period_end": True, "cancellation_details": details, **ending}
        world.change("customer.subscription.updated", sub, **fields)
    elif "cancel_at_period_end" in form or form.get("cancel_at") == "":
        none = {"comment": None, "feedback": None, "reason": None}
        fields = {"cancel_at_period_end": False, "cancellation_details": none}
        world.change("customer.subscription.updated", sub, cancel_at=None, canceled_at=None, **fields)
    elif "cancel_at" in form:
        named = form["cancel_at"] in ("min_period_end", "max_period_end")
        moment = period_of(sub)[1] if named else form.number("cancel_at")
        fields = {"cancel_at": moment, "canceled_at": world.now(), "cancellation_details": details}
        world.change("customer.subscription.updated", sub, **fields)


def _change_labels(world: World, sub: Obj, form: Form) -> None:
    fields: Obj = {"metadata": merged_metadata(sub["metadata"], form)}
    for name in ("description", "default_payment_method"):
        if name in form:
            fields[name] = form.text(name)
    if "pause_collection" in form:
        collection = form.form("pause_collection")
        resumes = {"resumes_at": collection.number("resumes_at")}
        empty = form["pause_collection"] == ""
        fields["pause_collection"] = (
            None if empty else {"behavior": collection.choice("behavior", PAUSES, ""), **resumes}
        )
    if form.text("trial_end") is not None:
        fields["trial_end"] = world.now() if form["trial_end"] == "now" else form.number("trial_end")
    world.change("customer.subscription.updated", sub, **fields)


def _final_invoice(world: World, sub: Obj, prorate: bool) -> None:
    items = sub["items"]["data"]
    lines = world.pending_lines.pop(sub["id"], [])
    if prorate:
        lines += proration_lines(world, items, [], world.now())
    metered = [item for item in items if item["price"]["recurring"]["usage_type"] == "metered"]
    start = period_of(sub)[0]
    lines += period_lines(world, metered, period_of(sub), (start, world.now()))
    if lines:
        made = make_invoice(world, sub["customer"], lines, "subscription_update", sub)
        collect(world, made, world.customer_card(sub["customer"]))


def _price(world: World, form: Form) -> Obj:
    price = world.find("price", form.needed("price"), "price")
    if price["recurring"] is None:
        raise invalid(
            "price", "The price specified is set to `type=one_time` but this field only accepts recurring."
        )
    if not price["active"]:
        raise invalid("price", "The price specified is inactive. This field only accepts active prices.")
    return price


def turn(sub: Obj, period: tuple[int, int]) -> None:
    """Move every item to a period."""
    for item in sub["items"]["data"]:
        item.update(current_period_start=period[0], current_period_end=period[1])
