"""Taking money: attempts on a card, and what a paid or refused invoice does to its subscription."""

from __future__ import annotations

import copy

from openclaw_billing.testing import shapes_money
from openclaw_billing.testing.invoicing import finalize, subscription_of
from openclaw_billing.testing.world import Obj, World

RETRY_AFTER = 3 * 86_400
PENDING_SECONDS = 23 * 3_600
AUTHENTICATION = "authentication_required"


def attempt(world: World, intent: Obj, refusal: str | None) -> Obj:
    """Charge the card once."""
    made = world.add(shapes_money.charge(world, intent, refusal))
    if refusal is None:
        intent.update(
            status="succeeded",
            amount_received=intent["amount"],
            latest_charge=made["id"],
            last_payment_error=None,
            next_action=None,
        )
        world.emit("charge.succeeded", made)
        world.emit("payment_intent.succeeded", intent)
        return made
    error = {
        "charge": made["id"],
        "code": AUTHENTICATION if refusal == AUTHENTICATION else "card_declined",
        "decline_code": refusal,
        "message": "Your card was declined.",
        "type": "card_error",
    }
    waits = refusal == AUTHENTICATION
    intent.update(latest_charge=made["id"], last_payment_error=error)
    intent["status"] = "requires_action" if waits else "requires_payment_method"
    world.emit("charge.failed", made)
    world.emit("payment_intent.requires_action" if waits else "payment_intent.payment_failed", intent)
    return made


def collect(world: World, made: Obj, refusal: str | None) -> None:
    """Finalize an invoice if need be and try to have it paid."""
    if made["status"] == "draft":
        finalize(world, made)
    made.update(attempted=True, attempt_count=made["attempt_count"] + 1)
    if made["amount_due"] == 0:
        mark_paid(world, made)
        return
    link = _payment_of(world, made)
    intent = world.objects[link["payment"]["payment_intent"]]
    attempt(world, intent, refusal)
    if refusal is None:
        link.update(status="paid", amount_paid=made["amount_due"])
        link["status_transitions"]["paid_at"] = world.now()
        mark_paid(world, made)
        world.emit("invoice_payment.paid", link)
    else:
        _refused(world, made, refusal)


def mark_paid(world: World, made: Obj) -> None:
    """Settle an invoice and let its subscription know."""
    made.update(
        status="paid",
        attempted=True,
        amount_paid=made["amount_due"],
        amount_remaining=0,
        auto_advance=False,
        next_payment_attempt=None,
    )
    made["status_transitions"]["paid_at"] = world.now()
    world.emit("invoice.paid", made)
    world.emit("invoice.payment_succeeded", made)
    sub = subscription_of(world, made)
    if sub is not None:
        _recover(world, sub, made)


def void(world: World, made: Obj) -> None:
    """Cancel an open invoice as if it had never been."""
    made.update(status="void", auto_advance=False, next_payment_attempt=None)
    made["status_transitions"]["voided_at"] = world.now()
    for link in world.all("invoice_payment"):
        if link["invoice"] == made["id"] and link["status"] == "open":
            link["status"] = "canceled"
            link["status_transitions"]["canceled_at"] = world.now()
            intent = world.objects[link["payment"]["payment_intent"]]
            intent.update(status="canceled", canceled_at=world.now(), cancellation_reason="void_invoice")
    world.emit("invoice.voided", made)


def write_off(world: World, made: Obj) -> None:
    """Give up on an open invoice."""
    made.update(status="uncollectible", auto_advance=False, next_payment_attempt=None)
    made["status_transitions"]["marked_uncollectible_at"] = world.now()
    world.emit("invoice.marked_uncollectible", made)


def hold_update(world: World, sub: Obj, items: list[Obj]) -> None:
    """Keep a change of items waiting until its invoice is paid."""
    held = {
        "billing_cycle_anchor": None,
        "expires_at": world.now() + PENDING_SECONDS,
        "subscription_items": copy.deepcopy(items),
        "trial_end": None,
        "trial_from_plan": None,
    }
    world.change("customer.subscription.updated", sub, pending_update=held)


def expire_update(world: World, sub: Obj) -> None:
    """Drop a change that was not paid in time."""
    waiting = world.objects[sub["latest_invoice"]]
    if waiting["status"] == "open":
        void(world, waiting)
    sub["pending_update"] = None
    world.emit("customer.subscription.pending_update_expired", sub)


def replace_items(world: World, sub: Obj, items: list[Obj]) -> None:
    """Give a subscription other items, with prices shared with the catalogue again."""
    for item in items:
        item["price"] = world.objects[item["price"]["id"]]
    sub["items"]["data"] = items


def _payment_of(world: World, made: Obj) -> Obj:
    for link in world.all("invoice_payment"):
        if link["invoice"] == made["id"]:
            return link
    intent = shapes_money.payment_intent(world, made["amount_due"], made["currency"], made["customer"])
    world.emit("payment_intent.created", world.add(intent))
    return world.add(shapes_money.invoice_payment(world, made, intent["id"]))


def _refused(world: World, made: Obj, refusal: str) -> None:
    made["next_payment_attempt"] = world.now() + RETRY_AFTER
    world.emit("invoice.payment_failed", made)
    if refusal == AUTHENTICATION:
        world.emit("invoice.payment_action_required", made)
    sub = subscription_of(world, made)
    held = sub is not None and sub["pending_update"] is not None
    if sub is not None and not held and sub["status"] in ("active", "trialing"):
        world.change("customer.subscription.updated", sub, status="past_due")


def _recover(world: World, sub: Obj, made: Obj) -> None:
    if sub["status"] in ("incomplete", "past_due", "unpaid") and sub["latest_invoice"] == made["id"]:
        world.change("customer.subscription.updated", sub, status="active")
    if sub["pending_update"] is not None and sub["latest_invoice"] == made["id"]:
        previous = {"pending_update": sub["pending_update"]}
        replace_items(world, sub, sub["pending_update"]["subscription_items"])
        sub["pending_update"] = None
        world.emit("customer.subscription.pending_update_applied", sub)
        world.emit("customer.subscription.updated", sub, previous)
