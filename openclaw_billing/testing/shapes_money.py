"""What invoices, payments, refunds and disputes look like when they are new."""

from __future__ import annotations

import copy
from typing import Any

from openclaw_billing.testing.world import Obj, World, listing

SITE = "https://stripe.invalid"

# What an invoice says before anybody has set it.
BLANK_INVOICE: Obj = {
    "object": "invoice",
    "account_country": "US",
    "account_name": "Fake account",
    "account_tax_ids": None,
    "amount_due": 0,
    "amount_overpaid": 0,
    "amount_paid": 0,
    "amount_remaining": 0,
    "amount_shipping": 0,
    "application": None,
    "attempt_count": 0,
    "attempted": False,
    "auto_advance": True,
    "automatic_tax": {
        "disabled_reason": None,
        "enabled": False,
        "liability": None,
        "provider": None,
        "status": None,
    },
    "automatically_finalizes_at": None,
    "billing_reason": "manual",
    "collection_method": "charge_automatically",
    "currency": "usd",
    "custom_fields": None,
    "customer": None,
    "customer_account": None,
    "customer_address": None,
    "customer_email": None,
    "customer_name": None,
    "customer_phone": None,
    "customer_shipping": None,
    "customer_tax_exempt": "none",
    "customer_tax_ids": [],
    "default_payment_method": None,
    "default_source": None,
    "default_tax_rates": [],
    "description": None,
    "discounts": [],
    "due_date": None,
    "effective_at": None,
    "ending_balance": None,
    "footer": None,
    "from_invoice": None,
    "hosted_invoice_url": None,
    "invoice_pdf": None,
    "issuer": {"type": "self"},
    "last_finalization_error": None,
    "latest_revision": None,
    "metadata": {},
    "next_payment_attempt": None,
    "number": None,
    "on_behalf_of": None,
    "parent": None,
    "payment_settings": {
        "default_mandate": None,
        "payment_method_options": None,
        "payment_method_types": None,
    },
    "post_payment_credit_notes_amount": 0,
    "pre_payment_credit_notes_amount": 0,
    "receipt_number": None,
    "rendering": None,
    "shipping_cost": None,
    "shipping_details": None,
    "starting_balance": 0,
    "statement_descriptor": None,
    "status": "draft",
    "status_transitions": {
        "finalized_at": None,
        "marked_uncollectible_at": None,
        "paid_at": None,
        "voided_at": None,
    },
    "subtotal": 0,
    "subtotal_excluding_tax": 0,
    "test_clock": None,
    "total": 0,
    "total_discount_amounts": [],
    "total_excluding_tax": 0,
    "total_pretax_credit_amounts": [],
    "total_taxes": [],
    "webhooks_delivered_at": None,
}


def invoice(world: World, **fields: Any) -> Obj:
    """A draft without lines."""
    invoice_id = world.new_id("in")
    return {
        **copy.deepcopy(BLANK_INVOICE),
        "id": invoice_id,
        "confirmation_secret": {"client_secret": f"{invoice_id}_secret_fake", "type": "payment_intent"},
        "created": world.now(),
        "lines": listing([], f"/v1/invoices/{invoice_id}/lines"),
        "livemode": world.livemode,
        "period_end": world.now(),
        "period_start": world.now(),
    } | fields


def line(world: World, price: Obj, amount: int, quantity: int | None, period: tuple[int, int]) -> Obj:
    """An invoice line for a price, not yet tied to anything."""
    return {
        "id": world.new_id("il"),
        "object": "line_item",
        "amount": amount,
        "currency": price["currency"],
        "description": price["nickname"],
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": None,
        "livemode": world.livemode,
        "metadata": {},
        "parent": None,
        "period": {"start": period[0], "end": period[1]},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "quantity": quantity,
        "quantity_decimal": None if quantity is None else str(quantity),
        "subscription": None,
        "subtotal": amount,
        "taxes": [],
    }


def item_line(world: World, item: Obj, amount: int, period: tuple[int, int], proration: bool = False) -> Obj:
    """A line for an item of a subscription."""
    made = line(world, item["price"], amount, item.get("quantity"), period)
    made["subscription"] = item["subscription"]
    made["discountable"] = not proration
    made["parent"] = {
        "invoice_item_details": None,
        "subscription_item_details": {
            "invoice_item": world.new_id("ii") if proration else None,
            "proration": proration,
            "proration_details": {"credited_items": None},
            "subscription": item["subscription"],
            "subscription_item": item["id"],
        },
        "type": "subscription_item_details",
    }
    return made


def invoice_payment(world: World, of: Obj, intent_id: str) -> Obj:
    """The link between an invoice and the payment intent that pays it."""
    return {
        "id": world.new_id("inpay"),
        "object": "invoice_payment",
        "amount_paid": None,
        "amount_requested": of["amount_due"],
        "created": world.now(),
        "currency": of["currency"],
        "invoice": of["id"],
        "is_default": True,
        "livemode": world.livemode,
        "payment": {"payment_intent": intent_id, "type": "payment_intent"},
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    }


def payment_intent(world: World, amount: int, currency: str, customer_id: str | None, **fields: Any) -> Obj:
    """A payment intent that still wants a card."""
    intent_id = world.new_id("pi")
    return {
        "id": intent_id,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": None,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic",
        "client_secret": f"{intent_id}_secret_fake",
        "confirmation_method": "automatic",
        "created": world.now(),
        "currency": currency,
        "customer": customer_id,
        "customer_account": None,
        "description": None,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": world.livemode,
        "metadata": {},
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "processing": None,
        "receipt_email": None,
        "review": None,
        "setup_future_usage": None,
        "shipping": None,
        "source": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "requires_payment_method",
        "transfer_data": None,
        "transfer_group": None,
    } | fields


def charge(world: World, intent: Obj, refusal: str | None) -> Obj:
    """One attempt on the card, taken or refused."""
    taken = refusal is None
    charge_id = world.new_id("ch")
    return {
        "id": charge_id,
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": intent["amount"] if taken else 0,
        "amount_refunded": 0,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": None,
        "billing_details": {"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
        "calculated_statement_descriptor": "FAKE",
        "captured": taken,
        "created": world.now(),
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": None if taken else "card_declined",
        "failure_message": None if taken else "Your card was declined.",
        "fraud_details": {},
        "livemode": world.livemode,
        "metadata": dict(intent["metadata"]),
        "on_behalf_of": None,
        "outcome": {
            "network_status": "approved_by_network" if taken else "declined_by_network",
            "reason": refusal,
            "risk_level": "normal",
            "seller_message": "Payment complete." if taken else "The bank refused the payment.",
            "type": "authorized" if taken else "issuer_declined",
        },
        "paid": taken,
        "payment_intent": intent["id"],
        "payment_method": intent["payment_method"],
        "payment_method_details": None,
        "receipt_email": None,
        "receipt_number": None,
        "receipt_url": f"{SITE}/receipts/{charge_id}",
        "refunded": False,
        "review": None,
        "shipping": None,
        "source": None,
        "source_transfer": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "succeeded" if taken else "failed",
        "transfer_data": None,
        "transfer_group": None,
    }


def refund(world: World, of: Obj, amount: int, reason: str | None, metadata: dict[str, str]) -> Obj:
    """A refund that went through."""
    return {
        "id": world.new_id("re"),
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": of["id"],
        "created": world.now(),
        "currency": of["currency"],
        "destination_details": {"type": "card"},
        "metadata": metadata,
        "payment_intent": of["payment_intent"],
        "reason": reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
    }


def dispute(world: World, of: Obj, amount: int, reason: str, status: str) -> Obj:
    """A dispute just opened by the cardholder's bank."""
    return {
        "id": world.new_id("dp"),
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": of["id"],
        "created": world.now(),
        "currency": of["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {"enhanced_evidence": {}},
        "evidence_details": {
            "due_by": world.now() + 7 * 86_400,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        "is_charge_refundable": status.startswith("warning_"),
        "livemode": world.livemode,
        "metadata": {},
        "payment_intent": of["payment_intent"],
        "payment_method_details": {
            "card": {
                "brand": "visa",
                "case_type": "chargeback",
                "network": "visa",
                "network_reason_code": "10.4",
            },
            "type": "card",
        },
        "reason": reason,
        "status": status,
    }
