"""Examples: one of each model, for the OpenAPI document. All of them are of one client's first days; none has key text."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_CLIENT_ID = "8d1f0c2e-6c7e-4f0a-9b1d-2f4a6c8e0b13"
_JOB_ID = "0f4e5a1c-3b7d-4c5e-8a9f-1b2c3d4e5f60"
_KEY_ID = "key_5f1c0a9e2b7d4c36"
_BEGAN, _ENDS = "2026-02-19T10:30:00+00:00", "2026-03-21T10:30:00+00:00"
_LATER = "2026-02-19T11:45:00+00:00"
_SESSION_ID = "cs_test_a1b2c3"
_SUBSCRIPTION_ID, _CUSTOMER_ID = "sub_1Q2w3E", "cus_R4t5Y6"

_RATE = {"per_second": 50, "burst": 250, "per_minute": 2400}
_JOB = {
    "project_name": "Feature Build",
    "description": "Add user authentication",
    "task_type": "feature_build",
    "priority": "P1",
}
_CLIENT = {
    "client_id": _CLIENT_ID,
    "name": "Acme Corp",
    "email": "api@acmecorp.com",
    "plan": "pro",
    "credits_remaining": 200,
    "total_spent": 0.0,
    "created_at": _BEGAN,
    "updated_at": _BEGAN,
    "active": True,
    "billing_cycle_start": _BEGAN,
    "billing_cycle_end": _ENDS,
    "stripe_customer_id": None,
    "stripe_subscription_id": None,
    "metadata": {"crm": "4711"},
    "rate_limit": None,
    "version": 1,
}
_KEY = {
    "key_id": _KEY_ID,
    "name": "ci",
    "start": "oc_live_1a2b",
    "last4": "c3d4",
    "state": "active",
    "created_at": _BEGAN,
    "expires_at": None,
}
_ENTRY = {
    "number": 2,
    "client_id": _CLIENT_ID,
    "kind": "capture",
    "time": _LATER,
    "amount": -1,
    "reserved": 0,
    "balance": 199,
    "operation_id": f"reserve:{_CLIENT_ID}:{_JOB_ID}",
    "lot_id": "allowance:0",
    "job_id": _JOB_ID,
    "cycle_number": 0,
    "reason": "",
}
_AUDITED = {
    "time": _LATER,
    "actor": "admin",
    "action": "client.plan_changed",
    "client_id": _CLIENT_ID,
    "object_id": _CLIENT_ID,
    "address": "192.0.2.7",
    "request_id": "5f1c0a9e2b7d4c36",
    "reason": "",
    "before": {"plan": "starter", "credits": "50"},
    "after": {"plan": "pro", "credits": "200"},
}
_SHOWN_JOB = {
    **_JOB,
    "job_id": _JOB_ID,
    "client_id": _CLIENT_ID,
    "status": "queued",
    "budget_limit": None,
    "contact_email": None,
    "cost_usd_micros": 0,
    "created_at": _LATER,
    "updated_at": _LATER,
}
_INVOICE = {
    "id": "in_1Q2w3E",
    "number": "ACME-0001",
    "status": "paid",
    "amount_due": 4900,
    "amount_paid": 4900,
    "amount_remaining": 0,
    "currency": "usd",
    "amount_due_text": "49.00 USD",
    "created": _BEGAN,
    "period_start": _BEGAN,
    "period_end": _ENDS,
    "hosted_invoice_url": None,
    "invoice_pdf": None,
    "subscription_id": _SUBSCRIPTION_ID,
}
_EVENT: dict[str, Any] = {
    "event_id": "evt_1Q2w3E",
    "type": "invoice.paid",
    "mode": "test",
    "status": "applied",
    "source": "endpoint",
    "created_at": _LATER,
    "happened_at": _LATER,
    "customer_id": _CUSTOMER_ID,
    "object_id": "in_1Q2w3E",
    "subscription_id": _SUBSCRIPTION_ID,
    "payment_intent_id": None,
    "facts": {},
    "attempts": 1,
    "parkings": 0,
    "stumbles": 0,
    "next_at": None,
    "reason": "",
}
_STANDING = {
    "billing_state": "none",
    "pause_reason": None,
    "grace_until": None,
    "ends_at": None,
    "pending_plan": None,
    "pending_at": None,
    "dispute_hold": False,
    "needs_review": False,
}
_WHOLE = {"total": 1, "next_cursor": None, "has_more": False}

EXAMPLES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "NewClient": {"name": "Acme Corp", "email": "api@acmecorp.com", "plan": "pro"},
        "ClientChanges": {"name": "Acme Incorporated", "rate_limit": {"per_second": 100, "burst": 500}},
        "CreditChange": {"credits": 50, "reason": "promotional credit for Q1"},
        "PlanChange": {"plan": "starter"},
        "JobMove": {"status": "done", "cost": 5.5},
        "NewKey": {"name": "ci", "expires_at": "2027-02-19T10:30:00+00:00"},
        "Rotation": {"grace_seconds": 3600},
        "IntakeRequest": _JOB,
        "CheckoutRequest": {"plan_id": "starter", "interval": "monthly"},
        "PortalRequest": {"flow": "payment_method_update"},
        "PlanRequest": {"plan_id": "pro", "preview": True},
        "CancelRequest": {"feedback": "unused"},
        "Attachment": {"client_id": _CLIENT_ID},
        "PlanView": {
            "plan_id": "pro",
            "name": "Pro",
            "price": 199.0,
            "currency": "USD",
            "billing_period": "monthly",
            "job_limit": 200,
            "features": ["24/7 support", "Advanced analytics", "Webhooks", "90-day history"],
        },
        "ClientView": _CLIENT,
        "WholeClientView": {**_CLIENT, **_STANDING},
        "NewClientView": {**_CLIENT, **_STANDING, "api_key": "oc_live_…", "key_id": _KEY_ID},
        "ClientList": {"clients": [_CLIENT], **_WHOLE},
        "CreditsView": {
            "client_id": _CLIENT_ID,
            "previous_credits": 199,
            "credits_added": 50,
            "new_credits": 249,
            "reason": "promotional credit for Q1",
        },
        "DeactivationView": {
            "client_id": _CLIENT_ID,
            "status": "deactivated",
            "message": "Client Acme Corp has been deactivated",
        },
        "UsageView": {
            **_STANDING,
            "client_id": _CLIENT_ID,
            "plan": "pro",
            "credits_remaining": 199,
            "credits_limit": 200,
            "credits_reserved": 0,
            "credits_withdrawn": 0,
            "jobs_used": 1,
            "billing_cycle_start": _BEGAN,
            "billing_cycle_end": _ENDS,
            "days_remaining": 29,
            "usage_pct": 0.5,
            "total_spent": 0.0,
            "status": "active",
            "rate_limit": _RATE,
            "lots": [{"source": "allowance", "credits": 199, "expires_at": _ENDS}],
            "credits": {"allowance": 199, "promo": 0, "purchased": 0, "owed": 0},
        },
        "KeyView": _KEY,
        "NewKeyView": {**_KEY, "api_key": "oc_live_…"},
        "KeyList": {"keys": [_KEY], **_WHOLE},
        "LedgerPage": {"entries": [_ENTRY], **_WHOLE},
        "AuditPage": {"entries": [_AUDITED], **_WHOLE},
        "JobView": _SHOWN_JOB,
        "JobList": {"jobs": [_SHOWN_JOB], **_WHOLE},
        "IntakeResponse": {
            "job_id": _JOB_ID,
            "status": "queued",
            "estimated_start": "2026-02-19T11:50:00+00:00",
            "message": "Job accepted",
            "credits_remaining": 199,
        },
        "BillingProblem": {
            "type": "urn:openclaw:not_found",
            "title": "Not Found",
            "status": 404,
            "detail": "Client not found",
            "code": "not_found",
            "request_id": "5f1c0a9e2b7d4c36",
        },
        "InvalidRequest": {
            "detail": [{"loc": ["body", "name"], "msg": "Field required", "type": "missing"}],
            "code": "validation_error",
        },
        "CheckoutView": {
            "session_id": _SESSION_ID,
            "checkout_url": f"https://checkout.stripe.com/c/pay/{_SESSION_ID}",
            "url": f"https://checkout.stripe.com/c/pay/{_SESSION_ID}",
            "plan_id": "starter",
            "pack": None,
            "price": 49.0,
            "currency": "usd",
            "mode": "subscription",
            "billing_mode": "test",
            "mock": False,
            "publishable_key": None,
            "expires_at": "2026-02-20T10:30:00+00:00",
            "message": "Open checkout_url to pay",
        },
        "SessionView": {
            "session_id": _SESSION_ID,
            "status": "complete",
            "payment_status": "paid",
            "plan_id": "starter",
            "pack": None,
            "applied": True,
        },
        "PackList": {
            "packs": [{"pack": "100", "credits": 100, "price": 20.0, "currency": "usd"}],
            "billing_mode": "test",
        },
        "InvoiceList": {"invoices": [_INVOICE], "has_more": False, "stale": False},
        "PortalView": {
            "portal_url": "https://billing.stripe.com/p/session/test_a1b2c3",
            "url": "https://billing.stripe.com/p/session/test_a1b2c3",
            "mock": False,
        },
        "PlanChangeView": {
            "plan_id": "pro",
            "effective": "preview",
            "pending_plan": None,
            "effective_at": None,
            "amount_due": 15000,
            "currency": "usd",
            "credits_after": 199,
        },
        "EndingView": {"status": "ending", "ends_at": _ENDS},
        "Received": {"status": "received", "event_id": "evt_1Q2w3E", "outcome": "stored", "reason": None},
        "StripeEventView": _EVENT,
        "StripeEventList": {"events": [_EVENT], **_WHOLE},
        "StripeStatus": {
            "billing_mode": "test",
            "waiting": 0,
            "parked": 0,
            "lag_seconds": None,
            "last_event_seconds": 12.5,
        },
        "SubscriptionView": {
            "client_id": _CLIENT_ID,
            "mode": "test",
            "billing_state": "active",
            "pause_reason": None,
            "grace_until": None,
            "pending_plan": None,
            "pending_at": None,
            "customer_id": _CUSTOMER_ID,
            "subscription_id": _SUBSCRIPTION_ID,
            "status": "active",
            "plan": "starter",
            "interval": "monthly",
            "period_start": _BEGAN,
            "period_end": _ENDS,
            "ends_at": None,
            "delinquent_since": None,
            "disputes": [],
            "needs_review": "",
            "billing_name": None,
            "billing_email": None,
            "features": [],
            "fetched_at": _LATER,
        },
    }
)


def exemplified(schema: dict[str, Any], model: type[object]) -> None:
    """Put the model's example into its schema, if it has one."""
    example = EXAMPLES.get(model.__name__)
    if example is not None:
        schema["examples"] = [example]
