"""The checkup: is Stripe set up so that every payment arrives here? It asks, and changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime

from openclaw_billing import plans
from openclaw_billing.payments import wanted
from openclaw_billing.payments.bodies import is_ours
from openclaw_billing.payments.calls import Calls, Obj
from openclaw_billing.payments.catalogue import Report
from openclaw_billing.payments.translate import price_fact
from openclaw_billing.prices import INTERVALS, MONTHLY, SOLD, PriceBook
from openclaw_billing.stripe_events import EVENT_TYPES


class Checkup:
    """One look at everything. `report.facts` says what was seen, `report.findings` what is wrong."""

    def __init__(self, calls: Calls, book: PriceBook, *, mode: str, signed: bool) -> None:
        self._calls = calls
        self._book = book
        self._mode = mode
        self._signed = signed
        self.report = Report()

    async def check(self, gateway: str | None, now: datetime) -> Report:
        """Look at the account, the prices, the portal and the endpoint at the gateway's public address."""
        await self._account()
        for plan_id in SOLD:
            for interval in INTERVALS:
                await self._plan(plan_id, interval)
        for credits in self._book.packs:
            await self._pack(credits)
        await self._portal()
        await self._endpoints(gateway)
        await self._last_event(now)
        return self.report

    async def _account(self) -> None:
        account = await self._calls.get("accounts.retrieve_current")
        self._fact("mode", self._mode)
        self._fact("account", str(account["id"]))
        self._fact("api_version", self._calls.api_version)
        if account.get("charges_enabled") is False:
            self._finding("The account may not take payments yet: finish its setup in Stripe's dashboard")
        if not self._signed:
            self._finding("STRIPE_WEBHOOK_SECRET is not set: events are refused, so payments change nothing")

    async def _plan(self, plan_id: str, interval: str) -> None:
        price_id, key = self._book.setting_for(plan_id, interval), self._book.lookup_key(plan_id, interval)
        what = f"{plan_id} {interval}"
        if price_id is not None:
            price = await self._calls.find("prices.retrieve", price_id)
        else:
            page = await self._calls.get("prices.list", params={"lookup_keys": [key], "active": True})
            price = page["data"][0] if page["data"] else None
        if price is None and (price_id is not None or interval == MONTHLY):
            self._finding(f"No price for {what}: {price_id or key} is unknown to this account")
        if price is None:
            return
        self._terms(price, what)
        fact = price_fact(price, self._book)
        self._fact(what, f"{price['id']} {price['unit_amount']} {price['currency']}")
        if fact.interval != interval:
            self._finding(f"The price {price['id']} for {what} is not billed {interval}")
        due = plans.CATALOGUE[plan_id].price_cents
        if (
            interval == MONTHLY
            and self._book.currency not in wanted.ODD_CURRENCIES
            and fact.unit_amount != due
        ):
            self._finding(
                f"The price {price['id']} for {what} is {fact.unit_amount}, but the plans page says {due}"
            )

    async def _pack(self, credits: int) -> None:
        price_id, what = self._book.packs[credits], f"the pack of {credits} credits"
        price = await self._calls.find("prices.retrieve", price_id)
        if price is None:
            self._finding(f"No price for {what}: {price_id} is unknown to this account")
            return
        self._terms(price, what)
        if price["recurring"] is not None:
            self._finding(f"The price {price_id} for {what} would be charged again and again")

    def _terms(self, price: Obj, what: str) -> None:
        if not price["active"]:
            self._finding(f"The price {price['id']} for {what} is sold no more")
        if price["currency"] != self._book.currency:
            self._finding(
                f"The price {price['id']} for {what} is in {price['currency']}, not in {self._book.currency}"
            )

    async def _portal(self) -> None:
        listed = self._calls.pages("billing_portal.configurations.list", params={"active": True})
        if not [each async for each in listed if is_ours(each)]:
            self._finding("The portal has no configuration of ours: run `stripe sync`")

    async def _endpoints(self, gateway: str | None) -> None:
        url = None if gateway is None else wanted.endpoint_url(gateway)
        listed = [each async for each in self._calls.pages("webhook_endpoints.list")]
        mine = [each for each in listed if (is_ours(each) if url is None else each["url"] == url)]
        live = [each for each in mine if each["status"] == "enabled"]
        for each in live:
            self._fact("endpoint", f"{each['id']} {each['url']}")
            version = each["api_version"]
            if version != self._calls.api_version:
                self._finding(
                    f"The event endpoint {each['id']} speaks {version or 'the account default'}, "
                    f"not {self._calls.api_version}: run `stripe sync`"
                )
            if is_ours(each) and not wanted.is_kept(each):
                self._finding(
                    f"Nobody kept the signing secret of the event endpoint {each['id']}: run `stripe sync`"
                )
            lacking = set(EVENT_TYPES) - set(each["enabled_events"])
            if lacking and "*" not in each["enabled_events"]:
                self._finding(f"The event endpoint {each['id']} is not told of {', '.join(sorted(lacking))}")
        if not live:
            disabled = ", ".join(each["id"] for each in mine)
            self._finding(
                f"The event endpoint {disabled} is disabled: payments change nothing"
                if disabled
                else "No event endpoint sends Stripe's events here: run `stripe sync --gateway`"
            )

    async def _last_event(self, now: datetime) -> None:
        page = await self._calls.get("events.list", params={"limit": 1})
        for event in page["data"]:
            age = now - datetime.fromtimestamp(event["created"], UTC)
            self._fact("last_event", f"{event['id']} {int(age.total_seconds())} seconds ago")

    def _fact(self, name: str, value: str) -> None:
        self.report.facts[name] = value

    def _finding(self, sentence: str) -> None:
        self.report.findings.append(sentence)
