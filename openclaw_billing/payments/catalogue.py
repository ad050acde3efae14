"""The catalogue at Stripe: `sync` makes it look like ours, and a second time finds nothing to do.

Everything is looked for before it is made, by fixed ids, look-up keys, metadata or address, so a run that was
cut off is finished by the next. What was not made by this program is never changed, only told of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from openclaw_billing.payments import wanted
from openclaw_billing.payments.bodies import Body, is_ours
from openclaw_billing.payments.calls import Calls, Obj
from openclaw_billing.payments.wanted import WantedPrice, Wishes
from openclaw_billing.prices import INTERVALS, SOLD, PriceBook

Keep = Callable[[str, str], None]
"""Told an endpoint's id and its signing secret, which Stripe shows this once."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that was done, or would be."""

    action: str
    kind: str
    name: str
    object_id: str | None = None


@dataclass(slots=True)
class Report:
    """What came of it. A finding is a sentence about what only a person can mend."""

    changes: list[Change] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)


class Catalogue:
    """One run. With `dry_run` nothing is written, and the report says what would be."""

    def __init__(
        self, calls: Calls, book: PriceBook, *, return_url: str | None, dry_run: bool = False
    ) -> None:
        self._calls = calls
        self._book = book
        self._return_url = return_url
        self._dry_run = dry_run
        # Each run looks first and writes what is missing, so its keys need to live no longer than itself;
        # but what Stripe shows once cannot be looked for, so an endpoint's key outlives the run.
        self._run_id = uuid4().hex
        # Products that a dry run would have made: Stripe refuses to list the prices of one it does not know.
        self._absent: set[str] = set()
        self.report = Report()

    async def sync(self, wishes: Wishes, keep: Keep) -> Report:
        """Bring about what is wanted; `keep` is given the secret of a new event endpoint."""
        if self._book.currency in wanted.ODD_CURRENCIES:
            self._finding(
                f"Prices in {self._book.currency} cannot be made from the catalogue, which counts in hundredths: "
                "make them in Stripe's dashboard and name them by STRIPE_PRICE_STARTER and STRIPE_PRICE_PRO"
            )
        for price in wanted.prices(self._book, wishes):
            await self._price(price)
        await self._portal()
        await self._endpoint(wishes.gateway, keep)
        return self.report

    async def _price(self, want: WantedPrice) -> None:
        held = await self._by_key(want.key)
        if held is not None and not is_ours(held):
            if not want.is_sold_by(held) or not held["active"]:
                self._finding(
                    f"{held['id']} holds the look-up key {want.key}, is not ours and sells other terms"
                )
            return
        if not await self._product(want):
            return
        if held is None or not want.is_sold_by(held):
            held = await self._write("create", "price", want.key, "prices.create", body=want.body())
        elif not held["active"]:
            await self._write(
                "activate", "price", want.key, "prices.update", held["id"], body={"active": True}
            )
        await self._retire(want, None if held is None else held["id"])

    async def _retire(self, want: WantedPrice, current: str | None) -> None:
        """Sell no more at what this price was before; whoever subscribed to that stays on it."""
        if want.product_id in self._absent:
            return
        filters = {"product": want.product_id, "active": True}
        async for each in self._calls.pages("prices.list", params=filters):
            before = each["metadata"].get("key") == want.key and each["id"] != current
            if is_ours(each) and before:
                body = {"active": False}
                await self._write("deactivate", "price", want.key, "prices.update", each["id"], body=body)

    async def _product(self, want: WantedPrice) -> bool:
        """Whether the product is there and ours, which it is made to be if need be."""
        found = await self._calls.find("products.retrieve", want.product_id)
        if found is None:
            if not self._planned("product", want.product_id):
                if self._dry_run:
                    self._absent.add(want.product_id)
                await self._write(
                    "create", "product", want.product_id, "products.create", body=want.product()
                )
            return True
        if not is_ours(found):
            self._finding(f"The product {want.product_id} is not ours, so no price was made for {want.key}")
            return False
        body = {"name": want.product_name, "active": True}
        if not wanted.holds(found, body) and not self._planned("product", want.product_id):
            await self._write(
                "update", "product", want.product_id, "products.update", want.product_id, body=body
            )
        return True

    async def _portal(self) -> None:
        body = wanted.portal(await self._sold(), self._return_url)
        async for each in self._calls.pages("billing_portal.configurations.list"):
            if not is_ours(each):
                continue
            if not wanted.holds(each, {**body, "active": True}):
                body = {**body, "active": True}
                endpoint = "billing_portal.configurations.update"
                await self._write("update", "portal", "configuration", endpoint, each["id"], body=body)
            return
        endpoint = "billing_portal.configurations.create"
        await self._write("create", "portal", "configuration", endpoint, body=body)

    async def _sold(self) -> list[Obj]:
        """The prices that a subscriber may change to."""
        found = []
        for plan_id in SOLD:
            for interval in INTERVALS:
                price_id = self._book.setting_for(plan_id, interval)
                if price_id is not None:
                    price = await self._calls.find("prices.retrieve", price_id)
                else:
                    price = await self._by_key(self._book.lookup_key(plan_id, interval))
                if price is not None and price["active"]:
                    found.append(price)
        return found

    async def _endpoint(self, gateway: str | None, keep: Keep) -> None:
        listed = [each async for each in self._calls.pages("webhook_endpoints.list")]
        ours = [each for each in listed if is_ours(each)]
        addresses = {each["url"] for each in ours} if gateway is None else {wanted.endpoint_url(gateway)}
        if not addresses:
            self._finding("No event endpoint is set up: name the gateway's public address by --gateway")
        for url in sorted(addresses):
            foreign = [each for each in listed if each["url"] == url and not is_ours(each)]
            if foreign:
                self._finding(
                    f"The event endpoint {foreign[0]['id']} at {url} is not ours and was left as it is"
                )
            else:
                await self._endpoint_at(url, [each for each in ours if each["url"] == url], keep)

    async def _endpoint_at(self, url: str, known: list[Obj], keep: Keep) -> None:
        body = wanted.endpoint(url, self._calls.api_version)
        # One whose secret nobody kept is as good as none: what it sends cannot be believed.
        current = next(
            (each for each in known if each["api_version"] == body["api_version"] and wanted.is_kept(each)),
            None,
        )
        if current is None:
            key = wanted.endpoint_key(url, body["api_version"], len(known))
            made = await self._write(
                "create", "endpoint", url, "webhook_endpoints.create", body=body, key=key
            )
            if made is not None:
                keep(made["id"], made["secret"])
                kept = {"metadata": wanted.KEPT}
                await self._calls.post("webhook_endpoints.update", made["id"], params=kept, key=f"{key}:kept")
        elif set(current["enabled_events"]) != set(body["enabled_events"]) or current["status"] != "enabled":
            change = {"enabled_events": body["enabled_events"], "disabled": False}
            await self._write(
                "update", "endpoint", url, "webhook_endpoints.update", current["id"], body=change
            )
        # An endpoint's version cannot change: one in another version makes room for the new one.
        for old in known:
            if old is not current and old["status"] == "enabled":
                change = {"disabled": True}
                await self._write(
                    "disable", "endpoint", url, "webhook_endpoints.update", old["id"], body=change
                )

    async def _by_key(self, key: str) -> Obj | None:
        page = await self._calls.get("prices.list", params={"lookup_keys": [key]})
        return page["data"][0] if page["data"] else None

    async def _write(
        self,
        action: str,
        kind: str,
        name: str,
        endpoint: str,
        *ids: str,
        body: Body,
        key: str | None = None,
    ) -> Obj | None:
        """Do it and note it; a dry run only notes it."""
        made = None
        if not self._dry_run:
            key = key or f"sync:{self._run_id}:{len(self.report.changes)}"
            made = await self._calls.post(endpoint, *ids, params=body, key=key)
        object_id = ids[0] if ids else None if made is None else str(made["id"])
        self.report.changes.append(Change(action, kind, name, object_id))
        return made

    def _planned(self, kind: str, name: str) -> bool:
        return any((each.kind, each.name) == (kind, name) for each in self.report.changes)

    def _finding(self, sentence: str) -> None:
        self.report.findings.append(sentence)
