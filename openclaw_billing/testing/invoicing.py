"""Making invoices: lines for a period, lines for a change inside one, totals, the moment they become final."""

from __future__ import annotations

from fractions import Fraction

from openclaw_billing.testing.clock import add_interval
from openclaw_billing.testing.shapes_money import SITE, invoice, item_line
from openclaw_billing.testing.world import Obj, World

PERIODS_MAX = 5_000


def period_of(sub: Obj) -> tuple[int, int]:
    """The current period, as its first item has it."""
    first = sub["items"]["data"][0]
    return first["current_period_start"], first["current_period_end"]


def period_after(sub: Obj, start: int) -> tuple[int, int]:
    """The period that begins at `start`, with its end counted from the anchor so that days do not drift."""
    recurring = sub["items"]["data"][0]["price"]["recurring"]
    for number in range(1, PERIODS_MAX):
        count = number * recurring["interval_count"]
        end = add_interval(sub["billing_cycle_anchor"], recurring["interval"], count)
        if end > start:
            return start, end
    raise AssertionError("the subscription has run for more periods than the fake counts")


def period_lines(
    world: World, items: list[Obj], period: tuple[int, int], used: tuple[int, int] | None
) -> list[Obj]:
    """What a new period costs; metered prices are billed for the one that has just been used."""
    lines = []
    for item in items:
        if item["price"]["recurring"]["usage_type"] != "metered":
            lines.append(item_line(world, item, _price(item), period))
        elif used is not None:
            lines.append(metered_line(world, item, used))
    return lines


def metered_line(world: World, item: Obj, used: tuple[int, int]) -> Obj:
    """What was used of a metered price in a period."""
    customer_id = world.objects[item["subscription"]]["customer"]
    quantity = usage(world, item["price"]["recurring"]["meter"], customer_id, *used)
    amount = _rounded(Fraction(item["price"]["unit_amount_decimal"]) * quantity)
    made = item_line(world, item, amount, used)
    made.update(quantity=quantity, quantity_decimal=str(quantity))
    return made


def usage(world: World, meter_id: str, customer_id: str, start: int, end: int) -> int:
    """The sum of a customer's meter events from `start` to before `end`."""
    meter = world.objects[meter_id]
    total = 0
    for event in world.meter_events:
        mine = event["payload"].get(meter["customer_mapping"]["event_payload_key"]) == customer_id
        if mine and event["event_name"] == meter["event_name"] and start <= event["timestamp"] < end:
            total += int(event["payload"][meter["value_settings"]["event_payload_key"]])
    return total


def proration_lines(world: World, old: list[Obj], new: list[Obj], moment: int) -> list[Obj]:
    """The unused rest of what is left, and the rest of what comes instead."""
    lines = []
    before = {item["id"]: item for item in old}
    after = {item["id"]: item for item in new}
    for item_id in dict.fromkeys([*before, *after]):
        was, now = before.get(item_id), after.get(item_id)
        if was is not None and now is not None and _same(was, now):
            continue
        for item, sign, word in ((was, -1, "Unused time on"), (now, 1, "Remaining time on")):
            if item is not None and item["price"]["recurring"]["usage_type"] != "metered":
                lines.append(_proration(world, item, moment, sign))
                lines[-1]["description"] = f"{word} {item['price']['nickname'] or item['price']['id']}"
    return lines


def make_invoice(
    world: World, customer_id: str, lines: list[Obj], reason: str, sub: Obj | None, keep: bool = True
) -> Obj:
    """A draft with its lines and totals; a preview is one that is not kept."""
    customer = world.objects[customer_id]
    made = invoice(
        world,
        billing_reason=reason,
        currency=lines[0]["currency"] if lines else sub["currency"] if sub else "usd",
        customer=customer_id,
        customer_email=customer.get("email"),
        customer_name=customer.get("name"),
        starting_balance=customer.get("balance", 0),
    )
    if not keep:
        made["id"] = f"upcoming_{made['id']}"
    for line in lines:
        line["invoice"] = made["id"]
    made["lines"]["data"] = lines
    if sub is not None:
        details = {"metadata": dict(sub["metadata"]), "subscription": sub["id"]}
        made["parent"] = {
            "quote_details": None,
            "subscription_details": details,
            "type": "subscription_details",
        }
    total_up(made)
    if keep:
        world.add(made)
        if sub is not None:
            sub["latest_invoice"] = made["id"]
        world.emit("invoice.created", made)
    return made


def total_up(made: Obj) -> None:
    """Set the sums from the lines and the customer's balance."""
    total = sum(line["amount"] for line in made["lines"]["data"])
    due = max(0, total + made["starting_balance"])
    made.update(subtotal=total, subtotal_excluding_tax=total, total=total, total_excluding_tax=total)
    made.update(amount_due=due, amount_remaining=due)


def finalize(world: World, made: Obj) -> None:
    """Turn a draft into a bill; the customer's balance is used up."""
    customer = world.objects[made["customer"]]
    number = customer.get("next_invoice_sequence", 1)
    ending = min(0, made["total"] + made["starting_balance"])
    customer.update(next_invoice_sequence=number + 1, balance=ending)
    made.update(
        status="open",
        number=f"{customer.get('invoice_prefix', 'FAKE')}-{number:04d}",
        effective_at=world.now(),
        ending_balance=ending,
        hosted_invoice_url=f"{SITE}/i/{made['id']}",
        invoice_pdf=f"{SITE}/i/{made['id']}/pdf",
    )
    made["status_transitions"]["finalized_at"] = world.now()
    world.emit("invoice.finalized", made)


def subscription_of(world: World, made: Obj) -> Obj | None:
    """The subscription an invoice belongs to."""
    if made["parent"] is None:
        return None
    sub: Obj = world.objects[made["parent"]["subscription_details"]["subscription"]]
    return sub


def _price(item: Obj) -> int:
    return _rounded(Fraction(item["price"]["unit_amount_decimal"]) * (item.get("quantity") or 0))


def _same(one: Obj, other: Obj) -> bool:
    return bool(one["price"]["id"] == other["price"]["id"] and one.get("quantity") == other.get("quantity"))


def _proration(world: World, item: Obj, moment: int, sign: int) -> Obj:
    start, end = item["current_period_start"], item["current_period_end"]
    share = Fraction(max(0, end - moment), end - start)
    amount = sign * _rounded(share * _price(item))
    return item_line(world, item, amount, (moment, end), proration=True)


def _rounded(amount: Fraction) -> int:
    return int(amount + Fraction(1, 2))
