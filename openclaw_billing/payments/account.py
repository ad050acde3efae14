"""The account: everything we ask of Stripe and everything we have it do.

Every change carries an Idempotency-Key that the caller made and stored before, so that a lost reply, a retry
or a restart makes one object and not two. Nothing here decides who may have what.
"""

from __future__ import annotations

from uuid import uuid4

from openclaw_billing.errors import PortalNotConfigured, StripeRejected
from openclaw_billing.payments import bodies, translate
from openclaw_billing.payments.bodies import MANAGED_BY
from openclaw_billing.payments.calls import NoSuchObject, Obj
from openclaw_billing.payments.reading import WHOLE_SUBSCRIPTION, StripeReader
from openclaw_billing.stripe_facts import CheckoutWish, Preview, PriceFact, SessionFact, SubscriptionFact

RELEASED = ("released", "completed", "canceled")


class StripeAccount(StripeReader):
    """Stripe, in our words. One per process; every event loop gets connections of its own."""

    async def ensure_customer(self, client_id: str, name: str, email: str, *, key: str) -> str:
        """The id of the client's customer, made at the first call under this key."""
        body = {"name": name, "email": email, "metadata": {"client_id": client_id, "managed_by": MANAGED_BY}}

        async def made_before() -> Obj | None:
            async for each in self._calls.pages("customers.list", params={"email": email}):
                if each["metadata"].get("client_id") == client_id:
                    return each
            return None

        return str(
            (await self._calls.post("customers.create", params=body, key=key, search=made_before))["id"]
        )

    async def open_session(self, wish: CheckoutWish, *, key: str) -> SessionFact:
        """A checkout session with its page."""
        body = bodies.checkout(wish)

        async def made_before() -> Obj | None:
            return await self._session_of(wish.customer_id, wish.attempt_id)

        made = await self._calls.post("checkout.sessions.create", params=body, key=key, search=made_before)
        return translate.session_fact(made, self._book)

    async def expire_session(self, session_id: str, *, key: str) -> SessionFact | None:
        """The session, closed; one that was completed or has lapsed meanwhile stays what it is.

        None is one that never was.
        """

        async def closed_before() -> Obj | None:
            found = await self._calls.get("checkout.sessions.retrieve", session_id)
            return None if found["status"] == "open" else found

        try:
            made = await self._calls.post(
                "checkout.sessions.expire", session_id, params={}, key=key, search=closed_before
            )
        except NoSuchObject:
            return None
        return translate.session_fact(made, self._book)

    async def preview_change(self, fact: SubscriptionFact, price: PriceFact) -> Preview:
        """What a change to this price would cost now; nothing is changed."""
        # Stripe takes the question as a POST, but keeps nothing that a key could repeat.
        key = f"preview:{fact.subscription_id}:{uuid4()}"
        invoice = await self._calls.post(
            "invoices.create_preview", params=bodies.preview(fact, price), key=key
        )
        return translate.preview_fact(invoice, await self._invoice_fact(invoice), fact, price)

    async def change_price(self, fact: SubscriptionFact, price: PriceFact, *, key: str) -> SubscriptionFact:
        """The subscription at the new price if that was paid at once, else with a waiting update.

        Raises:
            CardDeclined: the bank refused outright; nothing was changed.
        """
        body = {**bodies.change(fact, price), "expand": list(WHOLE_SUBSCRIPTION)}

        async def changed_before() -> Obj | None:
            found = await self._whole(fact.subscription_id)
            now = await self._subscription_fact(found)
            return found if price.terms in (now.price.terms, now.pending_terms) else None

        made = await self._calls.post(
            "subscriptions.update", fact.subscription_id, params=body, key=key, search=changed_before
        )
        return await self._subscription_fact(made)

    async def schedule_price(self, fact: SubscriptionFact, price: PriceFact, *, key: str) -> SubscriptionFact:
        """The subscription with a schedule that brings the new price when the period ends."""

        async def planned_before() -> Obj | None:
            found = await self._whole(fact.subscription_id)
            planned = (await self._subscription_fact(found)).pending_terms == price.terms
            return found["schedule"] if planned else None

        schedule = await self._schedule_of(fact, key=f"{key}:a")
        schedule_id, body = schedule["id"], bodies.phases(schedule, fact, price)
        await self._calls.post(
            "subscription_schedules.update",
            schedule_id,
            params=body,
            key=f"{key}:b:{schedule_id}",
            search=planned_before,
        )
        return await self._subscription_fact(await self._whole(fact.subscription_id))

    async def release_schedule(self, schedule_id: str, *, key: str) -> None:
        """Let a schedule go of its subscription, which runs on as it is; one that has ended stays so."""

        async def released_before() -> Obj | None:
            found = await self._calls.get("subscription_schedules.retrieve", schedule_id)
            return found if found["status"] in RELEASED else None

        await self._calls.post(
            "subscription_schedules.release", schedule_id, params={}, key=key, search=released_before
        )

    async def set_ending(
        self,
        subscription_id: str,
        ending: bool,
        *,
        feedback: str | None = None,
        comment: str | None = None,
        key: str,
    ) -> SubscriptionFact:
        """The subscription, set to end with its period or set to go on."""

        async def set_before() -> Obj | None:
            found = await self._whole(subscription_id)
            return found if _ends(found) == ending else None

        body: Obj = {"cancel_at_period_end": ending, "expand": list(WHOLE_SUBSCRIPTION)}
        if ending:
            said = {"feedback": feedback, "comment": comment}
            if details := {name: text for name, text in said.items() if text}:
                body["cancellation_details"] = details
        else:
            found = await self._whole(subscription_id)
            if not _ends(found):
                return await self._subscription_fact(found)
            if not found["cancel_at_period_end"]:
                # Set to end at a moment of its own, which is undone in another way.
                del body["cancel_at_period_end"]
                body["cancel_at"] = ""
                key = f"{key}:at"
        made = await self._calls.post(
            "subscriptions.update", subscription_id, params=body, key=key, search=set_before
        )
        return await self._subscription_fact(made)

    async def cancel_now(self, subscription_id: str, *, prorate: bool) -> SubscriptionFact | None:
        """The subscription, ended now; one that had ended stays so, and None is one that never was.

        With `prorate` the rest of the period is given back on a last invoice.
        """
        body = {"prorate": prorate, "invoice_now": prorate}
        try:
            await self._calls.delete("subscriptions.cancel", subscription_id, params=body)
        except StripeRejected:
            found = await self.subscription(subscription_id)
            if found is not None and found.ended_at is None:
                raise
            return found
        return await self.subscription(subscription_id)

    async def resume(self, subscription_id: str, *, key: str) -> SubscriptionFact:
        """The subscription, no longer paused; its periods go on as if it never had been."""

        async def running() -> Obj | None:
            found = await self._whole(subscription_id)
            return None if found["status"] == "paused" else found

        async def collecting() -> Obj | None:
            found = await self._whole(subscription_id)
            return None if found["pause_collection"] else found

        found = await self._whole(subscription_id)
        expand = list(WHOLE_SUBSCRIPTION)
        if found["status"] == "paused":
            body: Obj = {"billing_cycle_anchor": {"type": "unchanged"}, "expand": expand}
            found = await self._calls.post(
                "subscriptions.resume", subscription_id, params=body, key=key, search=running
            )
        elif found["pause_collection"]:
            body = {"pause_collection": "", "expand": expand}
            found = await self._calls.post(
                "subscriptions.update",
                subscription_id,
                params=body,
                key=f"{key}:collection",
                search=collecting,
            )
        return await self._subscription_fact(found)

    async def portal(
        self,
        customer_id: str,
        *,
        return_url: str,
        flow: str | None = None,
        subscription_id: str | None = None,
        configuration: str | None = None,
        key: str,
    ) -> str:
        """The address of the customer's portal, for one thing only if `flow` names it.

        Raises:
            PortalNotConfigured: nobody has set one up.
        """
        configuration = configuration or await self._configuration()
        body: Obj = {"customer": customer_id, "return_url": return_url, "configuration": configuration}
        if flow is not None:
            body["flow_data"] = bodies.portal_flow(flow, subscription_id)
        return str((await self._calls.post("billing_portal.sessions.create", params=body, key=key))["url"])

    async def _whole(self, subscription_id: str) -> Obj:
        expand = {"expand": list(WHOLE_SUBSCRIPTION)}
        return await self._calls.get("subscriptions.retrieve", subscription_id, params=expand)

    async def _schedule_of(self, fact: SubscriptionFact, *, key: str) -> Obj:
        """The subscription's schedule, made if it has none."""

        async def made_before() -> Obj | None:
            found = (await self._whole(fact.subscription_id))["schedule"]
            return found if isinstance(found, dict) else None

        known = await made_before()
        if known is not None:
            return known
        body = {"from_subscription": fact.subscription_id}
        return await self._calls.post(
            "subscription_schedules.create", params=body, key=key, search=made_before
        )

    async def _configuration(self) -> str:
        """The portal's configuration that `stripe sync` keeps; without one, the dashboard's default."""
        known = self._kept.get("configuration")
        if known is not None:
            return known
        default = None
        async for each in self._calls.pages("billing_portal.configurations.list", params={"active": True}):
            if bodies.is_ours(each):
                return self._kept.put("configuration", str(each["id"]))
            default = str(each["id"]) if each["is_default"] else default
        if default is None:
            raise PortalNotConfigured
        return default


def _ends(sub: Obj) -> bool:
    return bool(sub["cancel_at_period_end"]) or sub["cancel_at"] is not None
