"""What new objects look like, field for field, in the current API version."""

from __future__ import annotations

from typing import Any

from openclaw_billing.testing.world import Obj, World, listing


def customer(world: World, **fields: Any) -> Obj:
    """A customer with a working card."""
    customer_id = world.new_id("cus")
    return {
        "id": customer_id,
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": world.now(),
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "email": None,
        "invoice_prefix": f"F{customer_id[-6:]}",
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": world.livemode,
        "metadata": {},
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    } | fields


def product(world: World, **fields: Any) -> Obj:
    """A product, active."""
    return {
        "id": world.new_id("prod"),
        "object": "product",
        "active": True,
        "created": world.now(),
        "default_price": None,
        "description": None,
        "images": [],
        "livemode": world.livemode,
        "marketing_features": [],
        "metadata": {},
        "name": "",
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "type": "service",
        "unit_label": None,
        "updated": world.now(),
        "url": None,
    } | fields


def price(world: World, **fields: Any) -> Obj:
    """A price per unit, active."""
    return {
        "id": world.new_id("price"),
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": world.now(),
        "currency": "usd",
        "custom_unit_amount": None,
        "livemode": world.livemode,
        "lookup_key": None,
        "metadata": {},
        "nickname": None,
        "product": "",
        "recurring": None,
        "tax_behavior": "unspecified",
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "one_time",
        "unit_amount": None,
        "unit_amount_decimal": None,
    } | fields


def plan(of: Obj) -> Obj:
    """The old name of a recurring price, which items still carry."""
    return {
        "id": of["id"],
        "object": "plan",
        "active": of["active"],
        "amount": of["unit_amount"],
        "amount_decimal": of["unit_amount_decimal"],
        "billing_scheme": of["billing_scheme"],
        "created": of["created"],
        "currency": of["currency"],
        "interval": of["recurring"]["interval"],
        "interval_count": of["recurring"]["interval_count"],
        "livemode": of["livemode"],
        "metadata": dict(of["metadata"]),
        "meter": of["recurring"]["meter"],
        "nickname": of["nickname"],
        "product": of["product"],
        "tiers_mode": of["tiers_mode"],
        "transform_usage": None,
        "trial_period_days": of["recurring"]["trial_period_days"],
        "usage_type": of["recurring"]["usage_type"],
    }


def subscription(world: World, **fields: Any) -> Obj:
    """A subscription without items, not yet paid."""
    return {
        "id": world.new_id("sub"),
        "object": "subscription",
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": world.now(),
        "billing_cycle_anchor_config": None,
        "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible"},
        "billing_schedules": [],
        "billing_thresholds": None,
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically",
        "created": world.now(),
        "currency": "usd",
        "customer": "",
        "customer_account": None,
        "days_until_due": None,
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "items": listing([], "/v1/subscription_items"),
        "latest_invoice": None,
        "livemode": world.livemode,
        "metadata": {},
        "next_pending_invoice_item_invoice": None,
        "on_behalf_of": None,
        "pause_collection": None,
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "pending_invoice_item_interval": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "start_date": world.now(),
        "status": "incomplete",
        "status_details": None,
        "test_clock": None,
        "transfer_data": None,
        "trial_end": None,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": None,
    } | fields


def subscription_item(
    world: World, sub_id: str, of: Obj, quantity: int | None, period: tuple[int, int]
) -> Obj:
    """One price of a subscription, with the period it is billed for."""
    return {
        "id": world.new_id("si"),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": world.now(),
        "current_period_end": period[1],
        "current_period_start": period[0],
        "discounts": [],
        "metadata": {},
        "plan": plan(of),
        "price": of,
        **({} if of["recurring"]["usage_type"] == "metered" else {"quantity": quantity or 1}),
        "subscription": sub_id,
        "tax_rates": [],
    }


def meter(world: World, **fields: Any) -> Obj:
    """A meter that sums values per customer."""
    return {
        "id": world.new_id("mtr"),
        "object": "billing.meter",
        "created": world.now(),
        "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
        "default_aggregation": {"formula": "sum"},
        "display_name": "",
        "event_name": "",
        "event_time_window": None,
        "livemode": world.livemode,
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": world.now(),
        "value_settings": {"event_payload_key": "value"},
    } | fields


def webhook_endpoint(world: World, **fields: Any) -> Obj:
    """An enabled endpoint; `secret` is shown by its creation only."""
    return {
        "id": world.new_id("we"),
        "object": "webhook_endpoint",
        "api_version": None,
        "application": None,
        "created": world.now(),
        "description": None,
        "enabled_events": [],
        "livemode": world.livemode,
        "metadata": {},
        "status": "enabled",
        "url": "",
    } | fields
