"""Invoice endpoints: listed, previewed, paid, voided; and what paid them."""

from __future__ import annotations

from openclaw_billing.testing.collecting import collect, mark_paid, void, write_off
from openclaw_billing.testing.cycling import upcoming
from openclaw_billing.testing.forms import Form, merged_metadata
from openclaw_billing.testing.invoicing import (
    finalize,
    make_invoice,
    period_after,
    proration_lines,
    subscription_of,
)
from openclaw_billing.testing.problems import ApiError, declined, required
from openclaw_billing.testing.routes import Routes
from openclaw_billing.testing.subscriptions import change_lines, resets, turn, wanted_items
from openclaw_billing.testing.world import Call, Obj, World, matching

routes = Routes()


@routes.list("/v1/invoices", "customer status subscription collection_method due_date")
def list_invoices(world: World, call: Call) -> Obj:
    """Invoices, by customer, state and subscription."""
    found = matching(world.all("invoice"), call, "customer", "status")
    wanted = call.form.text("subscription")
    if wanted is not None:
        found = [
            one for one in found if (sub := subscription_of(world, one)) is not None and sub["id"] == wanted
        ]
    return world.page(found, call)


@routes.post(
    "/v1/invoices/create_preview",
    "customer subscription subscription_details schedule schedule_details automatic_tax currency "
    "customer_details discounts invoice_items preview_mode",
)
def create_preview(world: World, call: Call) -> Obj:
    """The invoice a change, or the next period, would bring; nothing is kept."""
    if call.form.text("subscription") is None:
        raise required("subscription")
    sub = world.find("subscription", call.form.needed("subscription"), "subscription")
    if sub["status"] in ("canceled", "incomplete_expired"):
        message = "No upcoming invoices for customer."
        raise ApiError(404, message, code="invoice_upcoming_none")
    details = call.form.form("subscription_details")
    if "items" not in details and not details.flag("cancel_now"):
        return upcoming(world, sub)
    return _preview_of_change(world, sub, details)


@routes.get("/v1/invoices/{id}")
def retrieve(world: World, call: Call) -> Obj:
    """The invoice."""
    return world.find("invoice", call.ids[0])


@routes.post("/v1/invoices/{id}", "metadata description auto_advance")
def update(world: World, call: Call) -> Obj:
    """The invoice with other labels."""
    found = world.find("invoice", call.ids[0])
    metadata = merged_metadata(found["metadata"], call.form)
    description = call.form.text("description") or found["description"]
    return world.change("invoice.updated", found, metadata=metadata, description=description)


@routes.list("/v1/invoices/{id}/lines")
def list_lines(world: World, call: Call) -> Obj:
    """The lines of one invoice, which shows only its first ten itself."""
    return world.page(reversed(world.find("invoice", call.ids[0])["lines"]["data"]), call)


@routes.post("/v1/invoices/{id}/pay", "off_session payment_method paid_out_of_band forgive mandate source")
def pay(world: World, call: Call) -> Obj:
    """The invoice, paid by the customer's card."""
    found = world.find("invoice", call.ids[0])
    if found["status"] not in ("open", "draft", "uncollectible"):
        raise ApiError(400, "Invoice is already paid" if found["status"] == "paid" else "Invoice is voided.")
    if call.form.flag("paid_out_of_band"):
        mark_paid(world, found)
        return found
    refusal = world.customer_card(found["customer"])
    collect(world, found, refusal)
    if refusal is not None:
        raise declined(refusal, None)
    return found


@routes.post("/v1/invoices/{id}/finalize", "auto_advance")
def finalize_draft(world: World, call: Call) -> Obj:
    """The invoice, no longer a draft."""
    found = _in(world, call, "draft")
    finalize(world, found)
    if found["amount_due"] == 0:
        mark_paid(world, found)
    return found


@routes.post("/v1/invoices/{id}/void")
def void_open(world: World, call: Call) -> Obj:
    """The invoice, void."""
    found = _in(world, call, "open", "uncollectible")
    void(world, found)
    return found


@routes.post("/v1/invoices/{id}/mark_uncollectible")
def mark_uncollectible(world: World, call: Call) -> Obj:
    """The invoice, written off."""
    found = _in(world, call, "open")
    write_off(world, found)
    return found


@routes.list("/v1/invoice_payments", "invoice payment status")
def list_payments(world: World, call: Call) -> Obj:
    """Which payments paid which invoices."""
    found = matching(world.all("invoice_payment"), call, "invoice", "status")
    payment = call.form.form("payment")
    if "payment" in call.form:
        kind = payment.needed("type")
        found = [one for one in found if one["payment"].get(kind) == payment.text(kind)]
    return world.page(found, call)


@routes.get("/v1/invoice_payments/{id}")
def get_payment(world: World, call: Call) -> Obj:
    """One payment of an invoice."""
    return world.find("invoice_payment", call.ids[0])


def _in(world: World, call: Call, *statuses: str) -> Obj:
    found = world.find("invoice", call.ids[0])
    if found["status"] not in statuses:
        raise ApiError(400, f"This invoice is {found['status']}, so this cannot be done to it.")
    return found


def _preview_of_change(world: World, sub: Obj, details: Form) -> Obj:
    moment = details.number("proration_date") or world.now()
    if details.flag("cancel_now"):
        lines = proration_lines(world, sub["items"]["data"], [], moment)
        return make_invoice(world, sub["customer"], lines, "upcoming", sub, keep=False)
    items = wanted_items(world, sub, details.forms("items"))
    behavior = details.text("proration_behavior") or "create_prorations"
    reset = resets(sub, items, details) and sub["status"] != "trialing"
    if reset:
        begun = {**sub, "billing_cycle_anchor": world.now(), "items": {"data": items}}
        turn(begun, period_after(begun, world.now()))
    lines = [] if behavior == "none" and not reset else change_lines(world, sub, items, moment, reset)
    if behavior == "create_prorations" and not reset:
        changed = {**sub, "items": {"data": items}}
        lines += upcoming(world, changed)["lines"]["data"]
    return make_invoice(world, sub["customer"], lines, "upcoming", sub, keep=False)
