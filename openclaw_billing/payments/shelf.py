"""The shelf: Stripe's prices as we last saw them, kept for ten minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from openclaw_billing.errors import PriceNotConfigured
from openclaw_billing.payments.calls import Calls
from openclaw_billing.payments.translate import price_fact
from openclaw_billing.prices import INTERVALS, SOLD, PriceBook
from openclaw_billing.stripe_facts import PriceFact

KEPT_SECONDS = 600.0
KEPT_MAX = 1_000

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by name, each for ten minutes; the oldest goes when there are too many."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._values: dict[str, tuple[float, T]] = {}

    def get(self, name: str) -> T | None:
        until, value = self._values.get(name, (0.0, None))
        return value if self._seconds() < until else None

    def put(self, name: str, value: T) -> T:
        self._values.pop(name, None)
        if len(self._values) >= KEPT_MAX:
            del self._values[next(iter(self._values))]
        self._values[name] = self._seconds() + KEPT_SECONDS, value
        return value


class Shelf:
    """Finds prices: by the setting, else by the look-up key."""

    def __init__(self, calls: Calls, book: PriceBook, seconds: Callable[[], float]) -> None:
        self._calls = calls
        self._book = book
        self._prices: Kept[PriceFact] = Kept(seconds)
        self._named: Kept[dict[str, PriceFact]] = Kept(seconds)
        self._packs: Kept[tuple[PriceFact, ...]] = Kept(seconds)

    async def price(self, price_id: str) -> PriceFact | None:
        """The price, or None where Stripe has none under the id."""
        known = self._prices.get(price_id)
        if known is None:
            found = await self._calls.find("prices.retrieve", price_id)
            known = None if found is None else self._prices.put(price_id, price_fact(found, self._book))
        return known

    async def prices(self, price_ids: Iterable[str]) -> dict[str, PriceFact]:
        """Those of the prices that there are, by id."""
        found = {price_id: await self.price(price_id) for price_id in dict.fromkeys(price_ids)}
        return {price_id: price for price_id, price in found.items() if price is not None}

    async def price_for(self, plan_id: str, interval: str) -> PriceFact:
        """The price that a plan is sold at.

        Raises:
            PriceNotConfigured: there is none, or it is sold no more.
        """
        price_id = self._book.setting_for(plan_id, interval)
        if price_id is None:
            found = await self._by_key(self._book.lookup_key(plan_id, interval))
        else:
            found = await self.price(price_id)
        if found is None or not found.active:
            raise PriceNotConfigured(f"the {plan_id} plan, {interval}")
        return found

    async def packs(self) -> tuple[PriceFact, ...]:
        """Every pack of credits that is for sale, the smallest first."""
        known = self._packs.get("")
        if known is not None:
            return known
        by_credits: dict[int, PriceFact] = {}
        filters = {"active": True, "type": "one_time", "currency": self._book.currency}
        async for each in self._calls.pages("prices.list", params=filters):
            found = price_fact(each, self._book)
            named = each.get("lookup_key") == self._book.pack_key(found.credits)
            if named and found.credits not in self._book.packs:
                by_credits[found.credits] = found
        for price_id in self._book.packs.values():
            set_up = await self.price(price_id)
            if set_up is not None and set_up.active and set_up.credits:
                by_credits[set_up.credits] = set_up
        return self._packs.put("", tuple(by_credits[credits] for credits in sorted(by_credits)))

    async def _by_key(self, key: str) -> PriceFact | None:
        known = self._named.get("") or {}
        if key not in known:
            # What was missing is asked for again: the operator may be setting it up just now.
            keys = [self._book.lookup_key(plan_id, interval) for plan_id in SOLD for interval in INTERVALS]
            filters = {"lookup_keys": keys, "active": True}
            page = await self._calls.get("prices.list", params=filters)
            known = {each["lookup_key"]: price_fact(each, self._book) for each in page["data"]}
            self._named.put("", known)
        return known.get(key)
