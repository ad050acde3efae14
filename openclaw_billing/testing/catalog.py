"""Customers, products, prices, webhook endpoints, entitlements: what is only kept and shown."""

from __future__ import annotations

from decimal import Decimal

from openclaw_billing.testing import shapes
from openclaw_billing.testing.forms import Form, merged_metadata
from openclaw_billing.testing.problems import ApiError, invalid, required
from openclaw_billing.testing.routes import Routes
from openclaw_billing.testing.subscriptions import end
from openclaw_billing.testing.world import Call, Obj, World, matching

routes = Routes()

LOOKUP_KEYS_MAX = 10
CUSTOMER_FIELDS = ("email", "name", "description", "phone")
INTERVALS = ("day", "week", "month", "year")


@routes.post(
    "/v1/customers",
    "address description email name phone metadata tax tax_exempt preferred_locales shipping "
    "invoice_settings payment_method test_clock balance individual_name business_name",
)
def create_customer(world: World, call: Call) -> Obj:
    """A new customer."""
    fields = {name: call.form.text(name) for name in CUSTOMER_FIELDS}
    made = world.add(shapes.customer(world, **fields, metadata=merged_metadata({}, call.form)))
    world.emit("customer.created", made)
    return made


@routes.get("/v1/customers/{id}")
def get_customer(world: World, call: Call) -> Obj:
    """The customer, or its tombstone."""
    known = world.objects.get(call.ids[0], {})
    return known if known.get("deleted") else world.find("customer", call.ids[0])


@routes.post(
    "/v1/customers/{id}",
    "address description email name phone metadata tax tax_exempt preferred_locales shipping "
    "invoice_settings balance default_source individual_name business_name",
)
def update_customer(world: World, call: Call) -> Obj:
    """The customer with other contact data."""
    found = world.find("customer", call.ids[0])
    fields = {name: call.form.text(name) for name in CUSTOMER_FIELDS if name in call.form}
    return world.change(
        "customer.updated", found, **fields, metadata=merged_metadata(found["metadata"], call.form)
    )


@routes.delete("/v1/customers/{id}")
def delete_customer(world: World, call: Call) -> Obj:
    """The tombstone; the customer's subscriptions end with it."""
    found = world.find("customer", call.ids[0])
    for sub in world.all("subscription"):
        if sub["customer"] == found["id"] and sub["status"] != "canceled":
            end(world, sub)
    world.emit("customer.deleted", found)
    return world.add({"id": found["id"], "object": "customer", "deleted": True})


@routes.list("/v1/customers", "email test_clock")
def list_customers(world: World, call: Call) -> Obj:
    """Customers that were not deleted."""
    living = [one for one in world.all("customer") if not one.get("deleted")]
    return world.page(matching(living, call, "email"), call)


@routes.post(
    "/v1/products",
    "id name active description metadata images default_price_data tax_code unit_label url "
    "statement_descriptor marketing_features shippable",
)
def create_product(world: World, call: Call) -> Obj:
    """A new product, under an id of the caller's choice if one is given."""
    wanted = call.form.text("id")
    if wanted in world.objects:
        raise ApiError(400, "Product already exists.", code="resource_already_exists", param="id")
    fields = {"name": call.form.needed("name"), "description": call.form.text("description")}
    made = shapes.product(world, **fields, active=call.form.flag("active", True))
    made.update(id=wanted or made["id"], metadata=merged_metadata({}, call.form))
    world.emit("product.created", world.add(made))
    return made


@routes.get("/v1/products/{id}")
def get_product(world: World, call: Call) -> Obj:
    """The product."""
    return world.find("product", call.ids[0])


@routes.post(
    "/v1/products/{id}",
    "name active description metadata images default_price tax_code unit_label url "
    "statement_descriptor marketing_features shippable",
)
def update_product(world: World, call: Call) -> Obj:
    """The product under other words."""
    found = world.find("product", call.ids[0])
    fields = {name: call.form.text(name) for name in ("name", "description") if name in call.form}
    fields["default_price"] = call.form.text("default_price") or found["default_price"]
    return world.change(
        "product.updated",
        found,
        **fields,
        active=call.form.flag("active", found["active"]),
        metadata=merged_metadata(found["metadata"], call.form),
    )


@routes.list("/v1/products", "active ids shippable url")
def list_products(world: World, call: Call) -> Obj:
    """Products by id or activity."""
    ids = call.form.texts("ids")
    found = [one for one in world.all("product") if not ids or one["id"] in ids]
    return world.page(matching(found, call, "active"), call)


@routes.post(
    "/v1/prices",
    "currency unit_amount unit_amount_decimal product product_data recurring metadata nickname active "
    "lookup_key transfer_lookup_key tax_behavior billing_scheme currency_options",
)
def create_price(world: World, call: Call) -> Obj:
    """A new price; a lookup key moves over only when that is asked for."""
    form = call.form
    product_id = form.text("product") or _product_of(world, form)
    world.find("product", product_id, "product")
    decimal = form.text("unit_amount_decimal") or form.text("unit_amount")
    if decimal is None:
        raise required("unit_amount")
    made = shapes.price(
        world,
        currency=form.needed("currency").lower(),
        product=product_id,
        unit_amount=int(decimal) if Decimal(decimal) == int(Decimal(decimal)) else None,
        unit_amount_decimal=decimal,
        nickname=form.text("nickname"),
        active=form.flag("active", True),
        tax_behavior=form.text("tax_behavior") or "unspecified",
        metadata=merged_metadata({}, form),
    )
    if "recurring" in form:
        made.update(type="recurring", recurring=_recurring(world, form.form("recurring")))
    _claim_lookup_key(world, made, form)
    world.emit("price.created", world.add(made))
    return made


@routes.get("/v1/prices/{id}")
def get_price(world: World, call: Call) -> Obj:
    """The price."""
    return world.find("price", call.ids[0])


@routes.post(
    "/v1/prices/{id}", "active metadata nickname lookup_key transfer_lookup_key tax_behavior currency_options"
)
def update_price(world: World, call: Call) -> Obj:
    """The price with other labels; its amount never changes."""
    found = world.find("price", call.ids[0])
    _claim_lookup_key(world, found, call.form)
    return world.change(
        "price.updated",
        found,
        active=call.form.flag("active", found["active"]),
        nickname=call.form.text("nickname") or found["nickname"],
        metadata=merged_metadata(found["metadata"], call.form),
    )


@routes.list("/v1/prices", "active currency lookup_keys product recurring type")
def list_prices(world: World, call: Call) -> Obj:
    """Prices, by lookup key above all."""
    keys = call.form.texts("lookup_keys")
    if len(keys) > LOOKUP_KEYS_MAX:
        raise invalid("lookup_keys", f"Array lookup_keys exceeded maximum {LOOKUP_KEYS_MAX} elements.")
    found = [one for one in world.all("price") if not keys or one["lookup_key"] in keys]
    return world.page(matching(found, call, "active", "currency", "product", "type"), call)


@routes.post("/v1/webhook_endpoints", "url enabled_events api_version description metadata connect")
def create_endpoint(world: World, call: Call) -> Obj:
    """A new endpoint, with the secret that is shown this once."""
    events = call.form.texts("enabled_events")
    if not events:
        raise required("enabled_events")
    made = shapes.webhook_endpoint(
        world,
        url=call.form.needed("url"),
        enabled_events=events,
        api_version=call.form.text("api_version"),
        description=call.form.text("description"),
        metadata=merged_metadata({}, call.form),
    )
    world.add(made)
    return {**made, "secret": f"whsec_{made['id']}"}


@routes.get("/v1/webhook_endpoints/{id}")
def get_endpoint(world: World, call: Call) -> Obj:
    """The endpoint."""
    return world.find("webhook_endpoint", call.ids[0])


@routes.post("/v1/webhook_endpoints/{id}", "url enabled_events description disabled metadata")
def update_endpoint(world: World, call: Call) -> Obj:
    """The endpoint with other events; its API version cannot change."""
    found = world.find("webhook_endpoint", call.ids[0])
    disabled = call.form.flag("disabled", found["status"] == "disabled")
    found.update(
        url=call.form.text("url") or found["url"],
        enabled_events=call.form.texts("enabled_events") or found["enabled_events"],
        status="disabled" if disabled else "enabled",
        metadata=merged_metadata(found["metadata"], call.form),
    )
    return found


@routes.delete("/v1/webhook_endpoints/{id}")
def delete_endpoint(world: World, call: Call) -> Obj:
    """The tombstone."""
    found = world.find("webhook_endpoint", call.ids[0])
    del world.objects[found["id"]]
    return {"id": found["id"], "object": "webhook_endpoint", "deleted": True}


@routes.list("/v1/webhook_endpoints")
def list_endpoints(world: World, call: Call) -> Obj:
    """All endpoints."""
    return world.page(world.all("webhook_endpoint"), call)


@routes.list("/v1/entitlements/active_entitlements", "customer")
def list_entitlements(world: World, call: Call) -> Obj:
    """The features a customer is entitled to."""
    mine = world.find("customer", call.form.needed("customer"), "customer")["id"]
    owned = world.entitlements.get(mine, [])
    found = world.page([{**one, "created": 0} for one in owned], call)
    found["data"] = [
        {name: value for name, value in one.items() if name != "created"} for one in found["data"]
    ]
    return found


@routes.get("/v1/account")
def get_account(_world: World, _call: Call) -> Obj:
    """The account itself."""
    return {
        "id": "acct_1Fake000000001",
        "object": "account",
        "business_type": "company",
        "charges_enabled": True,
        "country": "US",
        "created": 1_600_000_000,
        "default_currency": "usd",
        "details_submitted": True,
        "email": "owner@example.com",
        "metadata": {},
        "payouts_enabled": True,
        "type": "standard",
    }


def _product_of(world: World, form: Form) -> str:
    if "product_data" not in form:
        raise required("product")
    name = form.form("product_data").needed("name")
    return str(world.add(shapes.product(world, name=name))["id"])


def _recurring(world: World, form: Form) -> Obj:
    meter_id = form.text("meter")
    usage = form.choice("usage_type", ("licensed", "metered"), "licensed")
    if meter_id is not None:
        world.find("billing.meter", meter_id, "recurring[meter]")
    if (usage == "metered") != (meter_id is not None):
        raise invalid(
            "recurring[meter]", "A metered price must name its meter, and only a metered price may."
        )
    return {
        "interval": form.choice("interval", INTERVALS, ""),
        "interval_count": form.number("interval_count") or 1,
        "meter": meter_id,
        "trial_period_days": form.number("trial_period_days"),
        "usage_type": usage,
    }


def _claim_lookup_key(world: World, price: Obj, form: Form) -> None:
    if "lookup_key" not in form:
        return
    key = form.text("lookup_key")
    for other in world.all("price"):
        if key is not None and other["lookup_key"] == key and other["id"] != price["id"]:
            if not form.flag("transfer_lookup_key"):
                message = f"A price (`{other['id']}`) already uses that lookup key."
                raise ApiError(400, message, param="lookup_key")
            world.change("price.updated", other, lookup_key=None)
    price["lookup_key"] = key
