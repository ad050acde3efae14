"""Copies: what we keep of Stripe's invoices, customers and features, to show while Stripe is away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from openclaw_billing import paid
from openclaw_billing.contracts import Transaction
from openclaw_billing.stripe_facts import CustomerFact, InvoiceFact
from openclaw_billing.stripe_records import Invoice, Subscription
from openclaw_billing.subscriptions import UnknownReference, is_stale, mode_of, note_change, owner, put
from openclaw_billing.turning import touch


def take_invoice(tx: Transaction, invoice: InvoiceFact, fetched_at: datetime, *, now: datetime) -> None:
    """Keep our copy of an invoice; an older answer does not replace a newer one.

    Raises:
        UnknownReference
    """
    mode = mode_of(invoice.livemode)
    known = owner(tx, mode, invoice.customer_id)
    if known is None:
        raise UnknownReference(f"customer {invoice.customer_id}")
    copy = tx.invoices.get(invoice.invoice_id)
    if copy is not None and is_stale(fetched_at, copy.fetched_at, now):
        return
    tx.invoices.put(
        Invoice(
            invoice_id=invoice.invoice_id,
            client_id=known.client_id,
            mode=mode,
            created_at=invoice.created,
            number=invoice.number,
            status=invoice.status,
            amount_due=invoice.amount_due,
            amount_paid=invoice.amount_paid,
            amount_remaining=invoice.amount_remaining,
            currency=invoice.currency,
            period_start=invoice.period_start,
            period_end=invoice.period_end,
            hosted_invoice_url=invoice.hosted_invoice_url,
            invoice_pdf=invoice.invoice_pdf,
            subscription_id=invoice.subscription_id,
            fetched_at=fetched_at,
        )
    )


def take_customer(tx: Transaction, customer: CustomerFact, *, now: datetime) -> None:
    """Copy the billing name and address; a customer that was deleted takes its subscription with it.

    Raises:
        UnknownReference
    """
    known = owner(tx, mode_of(customer.livemode), customer.customer_id)
    if known is None:
        raise UnknownReference(f"customer {customer.customer_id}")
    if not customer.deleted:
        put(tx, replace(known, billing_name=customer.name, billing_email=customer.email), now)
        return
    before = touch(tx, known.client_id, now)
    if known.subscription_id is not None:
        account = paid.end_paid(tx, before, now, now)
        note_change(tx, before, account, "customer deleted", now)
    gone = Subscription(
        client_id=known.client_id,
        mode=known.mode,
        created_at=known.created_at,
        trial_used=known.trial_used,
        disputes=known.disputes,
        fetched_at=known.fetched_at,
        customers=known.customers + 1,
    )
    put(tx, gone, now)


def take_features(
    tx: Transaction, mode: str, customer_id: str, features: Sequence[str], *, now: datetime
) -> None:
    """Replace what the customer is entitled to.

    Raises:
        UnknownReference
    """
    known = owner(tx, mode, customer_id)
    if known is None:
        raise UnknownReference(f"customer {customer_id}")
    put(tx, replace(known, features=tuple(features)), now)
