"""Checkout sessions: opened, completed, settled later, expired."""

from __future__ import annotations

import copy

from openclaw_billing.testing import shapes, shapes_money
from openclaw_billing.testing.collecting import attempt, mark_paid
from openclaw_billing.testing.forms import Form, merged_metadata
from openclaw_billing.testing.invoicing import finalize, make_invoice
from openclaw_billing.testing.problems import ApiError, invalid, required
from openclaw_billing.testing.routes import Routes
from openclaw_billing.testing.shapes_money import SITE
from openclaw_billing.testing.subscriptions import begin
from openclaw_billing.testing.world import Call, Obj, World, listing, matching

routes = Routes()

MODES = ("payment", "subscription")
UI_MODES = ("hosted_page", "embedded_page", "elements", "form")
LIFE_SECONDS = 86_400
LIFE_SECONDS_MIN = 1_800
CREATE_FIELDS = (
    "mode ui_mode customer customer_email customer_creation customer_update client_reference_id line_items "
    "success_url cancel_url return_url allow_promotion_codes expires_at metadata subscription_data "
    "payment_intent_data invoice_creation automatic_tax tax_id_collection payment_method_collection locale "
    "submit_type billing_address_collection currency discounts consent_collection custom_text "
    "phone_number_collection saved_payment_method_options payment_method_options"
)

# What a session says before anybody has set it.
BLANK: Obj = {
    "object": "checkout.session",
    "adaptive_pricing": {"enabled": False},
    "after_expiration": None,
    "client_secret": None,
    "collected_information": None,
    "consent": None,
    "consent_collection": None,
    "currency_conversion": None,
    "custom_fields": [],
    "custom_text": {"after_submit": None, "shipping_address": None, "submit": None},
    "customer_details": None,
    "discounts": [],
    "invoice": None,
    "payment_intent": None,
    "payment_link": None,
    "payment_method_options": {},
    "payment_method_types": ["card"],
    "payment_status": "unpaid",
    "phone_number_collection": {"enabled": False},
    "recovered_from": None,
    "saved_payment_method_options": None,
    "setup_intent": None,
    "shipping_address_collection": None,
    "shipping_cost": None,
    "shipping_options": [],
    "status": "open",
    "subscription": None,
    "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
    "wallet_options": None,
}


@routes.post("/v1/checkout/sessions", CREATE_FIELDS)
def create(world: World, call: Call) -> Obj:
    """An open session with its payment page."""
    form = call.form
    mode = form.choice("mode", MODES, "")
    if form.text("customer") is not None:
        world.find("customer", form.needed("customer"), "customer")
    rows = [_line_item(world, row, mode) for row in form.forms("line_items")]
    if not rows:
        raise required("line_items")
    if mode == "subscription" and all(row["price"]["recurring"] is None for row in rows):
        message = "You must provide at least one recurring price in `subscription` mode when using prices."
        raise ApiError(400, message)
    made = _session(world, form, mode, rows)
    world.line_items[made["id"]] = rows
    world.checkout_data[made["id"]] = form
    return world.add(made)


@routes.get("/v1/checkout/sessions/{id}")
def retrieve(world: World, call: Call) -> Obj:
    """The session."""
    return world.find("checkout.session", call.ids[0])


@routes.list("/v1/checkout/sessions", "customer payment_intent subscription status")
def list_sessions(world: World, call: Call) -> Obj:
    """Sessions, by customer, state or result."""
    found = matching(
        world.all("checkout.session"), call, "customer", "payment_intent", "subscription", "status"
    )
    return world.page(found, call)


@routes.list("/v1/checkout/sessions/{id}/line_items")
def list_line_items(world: World, call: Call) -> Obj:
    """What the session sells."""
    rows = world.line_items[world.find("checkout.session", call.ids[0])["id"]]
    return listing(rows, call.path)


@routes.post("/v1/checkout/sessions/{id}", "metadata")
def update(world: World, call: Call) -> Obj:
    """The session with other labels."""
    found = world.find("checkout.session", call.ids[0])
    found["metadata"] = merged_metadata(found["metadata"], call.form)
    return found


@routes.post("/v1/checkout/sessions/{id}/expire")
def expire(world: World, call: Call) -> Obj:
    """The session, closed without a payment."""
    found = world.find("checkout.session", call.ids[0])
    if found["status"] != "open":
        message = (
            f'Only Checkout Sessions with a status in ["open"] can be expired. This one is {found["status"]}.'
        )
        raise ApiError(400, message)
    expire_session(world, found)
    return found


def expire_session(world: World, found: Obj) -> None:
    """Close an open session."""
    found.update(status="expired", url=None)
    world.emit("checkout.session.expired", found)


def complete(world: World, found: Obj, paid: bool) -> None:
    """What the visitor's click does; unpaid means a method whose money comes later."""
    if found["status"] != "open":
        raise ValueError(f"a session that is {found['status']} cannot be completed")
    form = world.checkout_data[found["id"]]
    if found["customer"] is None and (
        found["mode"] == "subscription" or form.text("customer_creation") == "always"
    ):
        made = world.add(shapes.customer(world, email=found["customer_email"]))
        found["customer"] = made["id"]
        world.emit("customer.created", made)
    if found["mode"] == "subscription":
        _subscribe(world, found, form)
    else:
        _sell(world, found, form, paid)
    email = found["customer_email"] or world.objects.get(found["customer"] or "", {}).get("email")
    found.update(status="complete", url=None)
    found["customer_details"] = {
        "address": None,
        "email": email,
        "name": None,
        "phone": None,
        "tax_exempt": "none",
    }
    found["customer_details"]["tax_ids"] = []
    world.emit("checkout.session.completed", found)


def settle(world: World, found: Obj, succeeded: bool) -> None:
    """The end of a payment that came later."""
    if found["status"] != "complete" or found["payment_status"] != "unpaid":
        raise ValueError("only a completed, unpaid session can be settled")
    intent = world.objects[found["payment_intent"]]
    if not succeeded:
        attempt(world, intent, "generic_decline")
        world.emit("checkout.session.async_payment_failed", found)
        return
    attempt(world, intent, None)
    found["payment_status"] = "paid"
    world.emit("checkout.session.async_payment_succeeded", found)


def _subscribe(world: World, found: Obj, form: Form) -> None:
    wanted = [
        (row["price"], row["quantity"]) for row in world.line_items[found["id"]] if row["price"]["recurring"]
    ]
    sub = begin(world, found["customer"], wanted, form.form("subscription_data"), None)
    free = world.objects[sub["latest_invoice"]]["amount_due"] == 0
    found.update(subscription=sub["id"], invoice=sub["latest_invoice"])
    found["payment_status"] = "no_payment_required" if free else "paid"


def _sell(world: World, found: Obj, form: Form, paid: bool) -> None:
    if found["amount_total"] == 0:
        found["payment_status"] = "no_payment_required"
        return
    data = form.form("payment_intent_data")
    intent = shapes_money.payment_intent(world, found["amount_total"], found["currency"], found["customer"])
    intent.update(metadata=merged_metadata({}, data), description=data.text("description"))
    found["payment_intent"] = world.add(intent)["id"]
    world.emit("payment_intent.created", intent)
    if not paid:
        intent["status"] = "processing"
        world.emit("payment_intent.processing", intent)
        return
    attempt(world, intent, None)
    found["payment_status"] = "paid"
    if found["invoice_creation"]["enabled"] and found["customer"] is not None:
        found["invoice"] = _receipt(world, found, form, intent)["id"]


def _receipt(world: World, found: Obj, form: Form, intent: Obj) -> Obj:
    moment = (world.now(), world.now())
    rows = world.line_items[found["id"]]
    lines = [
        shapes_money.line(world, row["price"], row["amount_total"], row["quantity"], moment) for row in rows
    ]
    made = make_invoice(world, found["customer"], lines, "manual", None)
    made["metadata"] = merged_metadata({}, form.form("invoice_creation").form("invoice_data"))
    finalize(world, made)
    link = world.add(shapes_money.invoice_payment(world, made, intent["id"]))
    link.update(status="paid", amount_paid=made["amount_due"])
    link["status_transitions"]["paid_at"] = world.now()
    made.update(attempt_count=1)
    mark_paid(world, made)
    world.emit("invoice_payment.paid", link)
    return made


def _line_item(world: World, form: Form, mode: str) -> Obj:
    price = world.find("price", form.needed("price"), "line_items[0][price]")
    metered = price["recurring"] is not None and price["recurring"]["usage_type"] == "metered"
    quantity = form.number("quantity")
    if not price["active"]:
        raise invalid("line_items[0][price]", f"The price `{price['id']}` is not available to be purchased.")
    if mode == "payment" and price["recurring"] is not None:
        raise ApiError(400, "You specified `payment` mode but passed a recurring price.")
    if metered and quantity is not None:
        raise invalid(
            "line_items[0][quantity]", "Quantity should not be specified where usage_type is `metered`."
        )
    if not metered and quantity is None:
        raise required("line_items[0][quantity]")
    amount = 0 if metered else price["unit_amount"] * (quantity or 0)
    return {
        "id": world.new_id("li"),
        "object": "item",
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": amount,
        "amount_tax": 0,
        "amount_total": amount,
        "currency": price["currency"],
        "description": world.objects[price["product"]]["name"],
        "metadata": {},
        "price": price,
        "quantity": quantity,
    }


def _session(world: World, form: Form, mode: str, rows: list[Obj]) -> Obj:
    session_id = world.new_id("cs_live" if world.livemode else "cs_test")
    total = sum(row["amount_total"] for row in rows)
    ui_mode = form.choice("ui_mode", UI_MODES, "hosted_page")
    if ui_mode == "hosted_page" and form.text("success_url") is None:
        raise required("success_url")
    taxed = form.form("automatic_tax").flag("enabled")
    return {
        **copy.deepcopy(BLANK),
        "metadata": merged_metadata({}, form),
        "id": session_id,
        "allow_promotion_codes": form.flag("allow_promotion_codes")
        if "allow_promotion_codes" in form
        else None,
        "amount_subtotal": total,
        "amount_total": total,
        "automatic_tax": {"enabled": taxed, "liability": None, "provider": None, "status": None},
        "billing_address_collection": form.text("billing_address_collection"),
        "cancel_url": form.text("cancel_url"),
        "client_reference_id": form.text("client_reference_id"),
        "created": world.now(),
        "currency": rows[0]["currency"],
        "customer": form.text("customer"),
        "customer_creation": form.text("customer_creation"),
        "customer_email": form.text("customer_email"),
        "expires_at": _expiry(world, form),
        "invoice_creation": _invoice_creation(form) if mode == "payment" else None,
        "livemode": world.livemode,
        "locale": form.text("locale"),
        "mode": mode,
        "payment_method_collection": form.choice(
            "payment_method_collection", ("always", "if_required"), "always"
        ),
        "submit_type": form.text("submit_type"),
        "success_url": form.text("success_url"),
        "ui_mode": ui_mode,
        "url": f"{SITE}/c/pay/{session_id}" if ui_mode == "hosted_page" else None,
    }


def _expiry(world: World, form: Form) -> int:
    wanted = form.number("expires_at")
    if wanted is None:
        return world.now() + LIFE_SECONDS
    if not LIFE_SECONDS_MIN <= wanted - world.now() <= LIFE_SECONDS:
        message = "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation."
        raise invalid("expires_at", message)
    return wanted


def _invoice_creation(form: Form) -> Obj:
    given = form.form("invoice_creation")
    data = {
        "account_tax_ids": None,
        "custom_fields": None,
        "description": None,
        "footer": None,
        "issuer": None,
        "metadata": merged_metadata({}, given.form("invoice_data")),
        "rendering_options": None,
    }
    return {"enabled": given.flag("enabled"), "invoice_data": data}
