"""Rates: how often a client may call, by its own word or its plan's."""

from __future__ import annotations

from collections.abc import Callable

from openclaw_billing.contracts import View
from openclaw_billing.errors import StorageUnavailable
from openclaw_billing.plans import LEGACY_PLAN_ID
from openclaw_billing.records import Client, Rate
from openclaw_billing.settings import Settings

PLAN_US = 5_000_000
KEPT_MAX = 50_000


class Rates:
    """From a database, a client's plan is asked for every few seconds: it is no row that is kept."""

    def __init__(self, settings: Settings, ticks: Callable[[], int]) -> None:
        self._of_plan = {
            "free": settings.rate_free,
            "starter": settings.rate_starter,
            "pro": settings.rate_pro,
            "enterprise": settings.rate_enterprise,
            LEGACY_PLAN_ID: settings.rate_free,
        }
        self._ticks = ticks
        self._far = settings.database_url is not None
        self._kept: dict[str, tuple[int, str]] = {}

    def of(self, client: Client, view: View) -> Rate:
        """The client's rate now."""
        if client.rate_limit is not None:
            return client.rate_limit
        plan_id = self._far_plan(client.client_id, view) if self._far else _plan_of(client.client_id, view)
        return self._of_plan.get(plan_id) or self._of_plan[LEGACY_PLAN_ID]

    def _far_plan(self, client_id: str, view: View) -> str:
        kept = self._kept.get(client_id)
        now = self._ticks()
        if kept is not None and now < kept[0]:
            return kept[1]
        try:
            plan_id = _plan_of(client_id, view)
        except StorageUnavailable:
            if kept is None:
                raise
            plan_id = kept[1]
        if len(self._kept) >= KEPT_MAX:
            self._kept.clear()
        self._kept[client_id] = (now + PLAN_US, plan_id)
        return plan_id


def _plan_of(client_id: str, view: View) -> str:
    account = view.accounts.get(client_id)
    return LEGACY_PLAN_ID if account is None else account.plan_id
