"""The billing portal: configurations, and the sessions that lead a customer there."""

from __future__ import annotations

from typing import Any

from openclaw_billing.testing.forms import Form, merged_metadata
from openclaw_billing.testing.problems import ApiError, required
from openclaw_billing.testing.routes import Routes
from openclaw_billing.testing.shapes_money import SITE
from openclaw_billing.testing.world import Call, Obj, World, matching

routes = Routes()

FLOWS = ("payment_method_update", "subscription_cancel", "subscription_update", "subscription_update_confirm")
BLANK_PRODUCT: Obj = {"adjustable_quantity": {"enabled": False, "maximum": None, "minimum": 1}}
CONFIGURED = "business_profile default_return_url features login_page metadata name"


@routes.post("/v1/billing_portal/configurations", CONFIGURED)
def create_configuration(world: World, call: Call) -> Obj:
    """A new configuration; the first one is the default."""
    if "features" not in call.form:
        raise required("features")
    made = {
        "id": world.new_id("bpc"),
        "object": "billing_portal.configuration",
        "active": True,
        "application": None,
        "business_profile": {"headline": None, "privacy_policy_url": None, "terms_of_service_url": None},
        "created": world.now(),
        "default_return_url": None,
        "features": _features(),
        "is_default": not world.all("billing_portal.configuration"),
        "livemode": world.livemode,
        "login_page": {"enabled": False, "url": None},
        "metadata": {},
        "name": None,
        "updated": world.now(),
    }
    _configure(world, made, call.form)
    world.emit("billing_portal.configuration.created", world.add(made))
    return made


@routes.get("/v1/billing_portal/configurations/{id}")
def get_configuration(world: World, call: Call) -> Obj:
    """The configuration."""
    return world.find("billing_portal.configuration", call.ids[0])


@routes.post("/v1/billing_portal/configurations/{id}", f"active {CONFIGURED}")
def update_configuration(world: World, call: Call) -> Obj:
    """The configuration with other features."""
    found = world.find("billing_portal.configuration", call.ids[0])
    _configure(world, found, call.form)
    found["active"] = call.form.flag("active", found["active"])
    world.emit("billing_portal.configuration.updated", found)
    return found


@routes.list("/v1/billing_portal/configurations", "active is_default")
def list_configurations(world: World, call: Call) -> Obj:
    """Configurations, by activity."""
    return world.page(matching(world.all("billing_portal.configuration"), call, "active", "is_default"), call)


@routes.post("/v1/billing_portal/sessions", "customer configuration return_url flow_data locale on_behalf_of")
def create_session(world: World, call: Call) -> Obj:
    """A way into the portal for one customer."""
    form = call.form
    customer = world.find("customer", form.needed("customer"), "customer")
    made = {
        "id": world.new_id("bps"),
        "object": "billing_portal.session",
        "configuration": _configuration_id(world, form),
        "created": world.now(),
        "customer": customer["id"],
        "flow": _flow(world, form) if "flow_data" in form else None,
        "livemode": world.livemode,
        "locale": form.text("locale"),
        "on_behalf_of": None,
        "return_url": form.text("return_url"),
        "url": "",
    }
    made["url"] = f"{SITE}/p/session/{made['id']}"
    world.emit("billing_portal.session.created", world.add(made))
    return made


def _configuration_id(world: World, form: Form) -> str:
    wanted = form.text("configuration")
    if wanted is not None:
        return str(world.find("billing_portal.configuration", wanted, "configuration")["id"])
    for one in world.all("billing_portal.configuration"):
        if one["is_default"]:
            return str(one["id"])
    message = (
        "No configuration provided and your test mode default configuration has not been created. "
        "Provide a configuration or create your default."
    )
    raise ApiError(400, message)


def _flow(world: World, form: Form) -> Obj:
    data = form.form("flow_data")
    kind = data.choice("type", FLOWS, "")
    flow: Obj = {
        "after_completion": {"hosted_confirmation": None, "redirect": None, "type": "portal_homepage"},
        "subscription_cancel": None,
        "subscription_update": None,
        "subscription_update_confirm": None,
        "type": kind,
    }
    if kind != "payment_method_update":
        named = data.form(kind).needed("subscription")
        sub = world.find("subscription", named, f"flow_data[{kind}][subscription]")
        if sub["customer"] != form.text("customer"):
            raise ApiError(400, "The subscription does not belong to this customer.", param="flow_data")
        flow[kind] = {
            "subscription": sub["id"],
            **({"retention": None} if kind == "subscription_cancel" else {}),
        }
    return flow


def _configure(world: World, made: Obj, form: Form) -> None:
    made["metadata"] = merged_metadata(made["metadata"], form)
    made["updated"] = world.now()
    for name in ("default_return_url", "name"):
        if name in form:
            made[name] = form.text(name)
    for name in ("business_profile", "features"):
        made[name] = _merged(made[name], form.form(name))
    updates = made["features"]["subscription_update"]
    updates["products"] = [{**BLANK_PRODUCT, **one} for one in updates["products"]]
    if "login_page" in form:
        enabled = form.form("login_page").flag("enabled")
        made["login_page"] = {"enabled": enabled, "url": f"{SITE}/p/login" if enabled else None}


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{name: _merged(old.get(name), value) for name, value in new.items()}}
    if isinstance(new, dict):
        return {name: _merged(None, value) for name, value in new.items()}
    if isinstance(new, list):
        return [_merged(None, value) for value in new]
    if new == "" and isinstance(old, list):
        return []
    return {"true": True, "false": False}.get(new, new)


def _features() -> Obj:
    return {
        "customer_update": {"allowed_updates": [], "enabled": False},
        "invoice_history": {"enabled": False},
        "payment_method_update": {"enabled": False, "payment_method_configuration": None},
        "subscription_cancel": {
            "cancellation_reason": {"enabled": False, "options": []},
            "enabled": False,
            "mode": "at_period_end",
            "proration_behavior": "none",
        },
        "subscription_pause": {"duration": {"interval_options": [], "type": "indefinite"}, "enabled": False},
        "subscription_update": {
            "billing_cycle_anchor": "unchanged",
            "default_allowed_updates": [],
            "enabled": False,
            "products": [],
            "proration_behavior": "none",
            "schedule_at_period_end": {"conditions": []},
            "trial_update_behavior": "end_trial",
        },
    }
