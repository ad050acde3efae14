"""What time does: periods turn, sessions and waiting changes expire, endings come."""

from __future__ import annotations

import copy

from openclaw_billing.testing import checkout
from openclaw_billing.testing.collecting import collect, expire_update, void, write_off
from openclaw_billing.testing.invoicing import make_invoice, period_after, period_lines, period_of
from openclaw_billing.testing.schedules import enter_phase
from openclaw_billing.testing.subscriptions import end, turn
from openclaw_billing.testing.world import Obj, World

INCOMPLETE_SECONDS = 23 * 3_600
WARNING_SECONDS = 3 * 86_400
STEPS_MAX = 10_000


def advance_to(world: World, moment: int) -> None:
    """Move the clock, stopping wherever something falls due on the way."""
    for _ in range(STEPS_MAX):
        due = [
            (when, order, what, obj) for order, (when, what, obj) in enumerate(_due(world)) if when <= moment
        ]
        if not due:
            world.clock.move_to(moment)
            return
        when, _order, what, obj = min(due, key=lambda one: one[:2])
        world.clock.move_to(max(when, world.now()))
        _happen(world, what, obj)
    raise AssertionError("more fell due on the way than the fake expects")


def renew(world: World, sub: Obj, paid: bool | None) -> Obj | None:
    """Turn a subscription's period and bill the new one; the invoice, or None when it ended instead."""
    old = period_of(sub)
    if sub["status"] not in ("active", "trialing", "past_due"):
        raise ValueError(f"a subscription that is {sub['status']} does not renew")
    advance_to(world, max(old[1], world.now()))
    if sub["status"] == "canceled":
        return None
    was_trial = sub["status"] == "trialing"
    previous: Obj = {"items": world.shown(sub["items"])}
    enter_phase(world, sub)
    if sub["status"] == "canceled":
        return None
    turn(sub, period_after(sub, old[1]))
    if was_trial:
        previous["status"] = "trialing"
        sub["status"] = "active"
    lines = period_lines(world, sub["items"]["data"], period_of(sub), None if was_trial else old)
    lines += world.pending_lines.pop(sub["id"], [])
    made = make_invoice(world, sub["customer"], lines, "subscription_cycle", sub)
    made.update(period_start=old[0], period_end=old[1], automatically_finalizes_at=world.now() + 3_600)
    world.emit("customer.subscription.updated", sub, {**previous, "latest_invoice": None})
    _bill(world, sub, made, paid)
    return made


def upcoming(world: World, sub: Obj) -> Obj:
    """The invoice a period's turn would bring; it has an id of its own that nobody can fetch."""
    period = period_after(sub, period_of(sub)[1])
    lines = period_lines(world, sub["items"]["data"], period, period_of(sub))
    lines += copy.deepcopy(world.pending_lines.get(sub["id"], []))
    return make_invoice(world, sub["customer"], lines, "upcoming", sub, keep=False)


def _bill(world: World, sub: Obj, made: Obj, paid: bool | None) -> None:
    collection = sub["pause_collection"]
    behavior = collection["behavior"] if collection else None
    if behavior == "keep_as_draft" or (behavior is None and paid is None):
        made["auto_advance"] = behavior is None
    elif behavior == "void":
        void(world, made)
    elif behavior == "mark_uncollectible":
        write_off(world, made)
    else:
        collect(world, made, None if paid else world.customer_card(sub["customer"]) or "generic_decline")


def _due(world: World) -> list[tuple[int, str, Obj]]:
    due: list[tuple[int, str, Obj]] = []
    sessions = world.all("checkout.session")
    due += [(one["expires_at"], "session", one) for one in sessions if one["status"] == "open"]
    for sub in world.all("subscription"):
        if sub["status"] in ("canceled", "incomplete_expired"):
            continue
        if sub["status"] == "incomplete":
            due.append((sub["created"] + INCOMPLETE_SECONDS, "incomplete", sub))
        if sub["pending_update"] is not None:
            due.append((sub["pending_update"]["expires_at"], "pending", sub))
        if sub["cancel_at"] is not None:
            due.append((sub["cancel_at"], "ending", sub))
        if sub["status"] == "trialing" and sub["id"] not in world.trials_warned:
            due.append((sub["trial_end"] - WARNING_SECONDS, "trial", sub))
        if sub["pause_collection"] is not None and sub["pause_collection"]["resumes_at"] is not None:
            due.append((sub["pause_collection"]["resumes_at"], "collection", sub))
    return due


def _happen(world: World, what: str, obj: Obj) -> None:
    if what == "session":
        checkout.expire_session(world, obj)
    elif what == "incomplete":
        void(world, world.objects[obj["latest_invoice"]])
        world.change("customer.subscription.updated", obj, status="incomplete_expired", ended_at=world.now())
    elif what == "pending":
        expire_update(world, obj)
    elif what == "ending":
        end(world, obj)
    elif what == "trial":
        world.trials_warned.add(obj["id"])
        world.emit("customer.subscription.trial_will_end", obj)
    else:
        world.change("customer.subscription.updated", obj, pause_collection=None)
