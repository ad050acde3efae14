"""Rates: how often a client may call, by its own word or its plan's."""

from __future__ import annotations

from openclaw_billing.contracts import View
from openclaw_billing.limits.believed import Believed
from openclaw_billing.plans import LEGACY_PLAN_ID
from openclaw_billing.records import Client, Rate
from openclaw_billing.settings import Settings


class Rates:
    """A database is asked for a client's plan every few seconds: it is no row that is kept."""

    def __init__(self, settings: Settings, believed: Believed) -> None:
        self._of_plan = {
            "free": settings.rate_free,
            "starter": settings.rate_starter,
            "pro": settings.rate_pro,
            "enterprise": settings.rate_enterprise,
            LEGACY_PLAN_ID: settings.rate_free,
        }
        self._believed = believed
        self._far = settings.database_url is not None

    def of(self, client: Client, view: View) -> Rate:
        """The client's rate now."""
        if client.rate_limit is not None:
            return client.rate_limit
        client_id = client.client_id
        if self._far:
            plan_id = self._believed.of("plan", client_id, lambda: _plan_of(client_id, view))
        else:
            plan_id = _plan_of(client_id, view)
        return self._of_plan.get(plan_id) or self._of_plan[LEGACY_PLAN_ID]


def _plan_of(client_id: str, view: View) -> str:
    account = view.accounts.get(client_id)
    return LEGACY_PLAN_ID if account is None else account.plan_id
