"""Payment intents, charges, refunds and disputes."""

from __future__ import annotations

from openclaw_billing.testing import shapes_money
from openclaw_billing.testing.forms import merged_metadata
from openclaw_billing.testing.problems import ApiError, invalid, required
from openclaw_billing.testing.routes import Routes
from openclaw_billing.testing.world import Call, Obj, World, matching

routes = Routes()

REASONS = ("duplicate", "fraudulent", "requested_by_customer")
DISPUTE_FEE_CENTS = 1_500


@routes.get("/v1/payment_intents/{id}", "client_secret")
def get_intent(world: World, call: Call) -> Obj:
    """The payment intent."""
    return world.find("payment_intent", call.ids[0])


@routes.list("/v1/payment_intents", "customer")
def list_intents(world: World, call: Call) -> Obj:
    """Payment intents, by customer."""
    return world.page(matching(world.all("payment_intent"), call, "customer"), call)


@routes.get("/v1/charges/{id}")
def get_charge(world: World, call: Call) -> Obj:
    """The charge."""
    return world.find("charge", call.ids[0])


@routes.list("/v1/charges", "customer payment_intent transfer_group")
def list_charges(world: World, call: Call) -> Obj:
    """Charges, by customer or payment intent."""
    return world.page(matching(world.all("charge"), call, "customer", "payment_intent"), call)


@routes.post("/v1/refunds", "charge payment_intent amount reason metadata currency instructions_email")
def create_refund(world: World, call: Call) -> Obj:
    """Money given back, at most what is left of the charge."""
    form = call.form
    target = form.text("charge") or form.text("payment_intent")
    if target is None:
        raise required("charge")
    reason = form.text("reason")
    if reason is not None:
        form.choice("reason", REASONS, "")
    return refund(world, charge_of(world, target), form.number("amount"), reason, merged_metadata({}, form))


@routes.get("/v1/refunds/{id}")
def get_refund(world: World, call: Call) -> Obj:
    """The refund."""
    return world.find("refund", call.ids[0])


@routes.list("/v1/refunds", "charge payment_intent")
def list_refunds(world: World, call: Call) -> Obj:
    """Refunds, by charge or payment intent."""
    return world.page(matching(world.all("refund"), call, "charge", "payment_intent"), call)


@routes.get("/v1/disputes/{id}")
def get_dispute(world: World, call: Call) -> Obj:
    """The dispute."""
    return world.find("dispute", call.ids[0])


@routes.list("/v1/disputes", "charge payment_intent")
def list_disputes(world: World, call: Call) -> Obj:
    """Disputes, by charge or payment intent."""
    return world.page(matching(world.all("dispute"), call, "charge", "payment_intent"), call)


@routes.post("/v1/disputes/{id}", "evidence metadata submit")
def update_dispute(world: World, call: Call) -> Obj:
    """The dispute, answered when its evidence is submitted."""
    found = world.find("dispute", call.ids[0])
    submitted = call.form.flag("submit") and found["status"] == "needs_response"
    metadata = merged_metadata(found["metadata"], call.form)
    status = "under_review" if submitted else found["status"]
    return world.change("charge.dispute.updated", found, metadata=metadata, status=status)


@routes.post("/v1/disputes/{id}/close")
def accept_dispute(world: World, call: Call) -> Obj:
    """The dispute, given up."""
    found = world.find("dispute", call.ids[0])
    close_dispute(world, found, won=False)
    return found


def charge_of(world: World, target: str) -> Obj:
    """The charge named, or the last one of the payment intent named."""
    if target.startswith("pi_"):
        charge_id = world.find("payment_intent", target, "payment_intent")["latest_charge"]
        if charge_id is None:
            message = f"This PaymentIntent ({target}) does not have a successful charge to refund."
            raise ApiError(400, message, param="payment_intent")
        return world.find("charge", charge_id)
    return world.find("charge", target, "charge")


def refund(world: World, of: Obj, amount: int | None, reason: str | None, metadata: dict[str, str]) -> Obj:
    """Give back a charge, whole or in part."""
    left = of["amount_captured"] - of["amount_refunded"]
    if left == 0:
        message = f"Charge {of['id']} has already been refunded."
        raise ApiError(400, message, code="charge_already_refunded")
    if any(one["charge"] == of["id"] and not one["is_charge_refundable"] for one in world.all("dispute")):
        raise ApiError(400, f"Charge {of['id']} has been charged back.", code="charge_disputed")
    amount = left if amount is None else amount
    if not 0 < amount <= left:
        raise invalid(
            "amount", f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})"
        )
    made = world.add(shapes_money.refund(world, of, amount, reason, metadata))
    _count_refunds(world, of)
    world.emit("refund.created", made)
    world.emit("charge.refunded", of)
    return made


def fail_refund(world: World, made: Obj) -> None:
    """Let a refund bounce: the money is back with the merchant."""
    made.update(status="failed", failure_reason="lost_or_stolen_card")
    _count_refunds(world, world.objects[made["charge"]])
    world.emit("refund.updated", made)
    world.emit("refund.failed", made)


def open_dispute(world: World, of: Obj, amount: int | None, reason: str, status: str) -> Obj:
    """Let the cardholder dispute a charge; an inquiry (`warning_…`) takes no money yet."""
    made = world.add(shapes_money.dispute(world, of, amount or of["amount"], reason, status))
    of["disputed"] = True
    if not made["is_charge_refundable"] and status != "prevented":
        made["balance_transactions"] = [_balance_transaction(world, made, -made["amount"], DISPUTE_FEE_CENTS)]
    world.emit("charge.dispute.created", made)
    if made["balance_transactions"]:
        world.emit("charge.dispute.funds_withdrawn", made)
    return made


def close_dispute(world: World, made: Obj, won: bool) -> None:
    """Decide a dispute; winning brings back what was withdrawn."""
    inquiry = made["status"].startswith("warning_")
    made["status"] = "warning_closed" if inquiry else "won" if won else "lost"
    withdrawn = bool(made["balance_transactions"])
    if won and withdrawn:
        made["balance_transactions"].append(_balance_transaction(world, made, made["amount"], 0))
    world.emit("charge.dispute.closed", made)
    if won and withdrawn:
        world.emit("charge.dispute.funds_reinstated", made)


def _count_refunds(world: World, of: Obj) -> None:
    good = [
        one["amount"]
        for one in world.all("refund")
        if one["charge"] == of["id"] and one["status"] != "failed"
    ]
    of.update(amount_refunded=sum(good), refunded=sum(good) == of["amount_captured"])


def _balance_transaction(world: World, made: Obj, amount: int, fee: int) -> Obj:
    return {
        "id": world.new_id("txn"),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": world.now(),
        "balance_type": "payments",
        "created": world.now(),
        "currency": made["currency"],
        "description": f"Dispute of {made['charge']}",
        "exchange_rate": None,
        "fee": fee,
        "fee_details": [],
        "net": amount - fee,
        "reporting_category": "dispute",
        "source": made["id"],
        "status": "available",
        "type": "adjustment",
    }
