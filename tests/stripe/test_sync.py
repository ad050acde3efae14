"""`stripe sync` sets an account up, and a second time finds nothing to do; `stripe check` only looks."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import stripe

from openclaw_billing import cli
from openclaw_billing.payments import wanted
from openclaw_billing.stripe_events import EVENT_TYPES
from openclaw_billing.testing import FakeStripe

GATEWAY = "https://gateway.example.com"
URL = f"{GATEWAY}/api/billing/webhook"
PACKS = ("--pack", "100=8000", "--pack", "20=1900")


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def done(self) -> list[tuple[str, str]]:
        return [(each["action"], each["name"]) for each in self.json["changes"]]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENCLAW_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def run(
    fake: FakeStripe,
    data: Path,
    brisk: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Done]:
    """`python -m openclaw_billing stripe …` in this process, against the fake."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", fake.key_text)
    monkeypatch.setenv("STRIPE_API_BASE", fake.url)
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", "whsec_fake")

    def command(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["openclaw_billing", "stripe", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Done(ended.value.code if isinstance(ended.value.code, int) else 0, out, err)

    return command


def _posts(fake: FakeStripe) -> int:
    return sum(each.method != "GET" for each in fake.requests)


def test_an_empty_account_is_set_up_and_a_second_time_there_is_nothing_to_do(fake, run, data):
    first = run("sync", "--json", "--gateway", GATEWAY, *PACKS)
    assert (first.code, first.json["findings"]) == (0, [])
    assert first.done == [
        ("create", "ca_starter"),
        ("create", "starter_monthly_usd"),
        ("create", "ca_pro"),
        ("create", "pro_monthly_usd"),
        ("create", "ca_credits"),
        ("create", "topup_100_usd"),
        ("create", "topup_20_usd"),
        ("create", "configuration"),
        ("create", URL),
    ]
    sent = _posts(fake)
    second = run("sync", "--json", "--gateway", GATEWAY, *PACKS)
    assert (second.code, second.json["changes"], second.json["findings"]) == (0, [], [])
    assert _posts(fake) == sent
    assert run("sync").code == 0
    assert _posts(fake) == sent
    assert run("check", "--gateway", GATEWAY).code == 0
    keys = [each.idempotency_key for each in fake.requests if each.method == "POST"]
    assert all(keys)
    assert len(set(keys)) == len(keys)


def test_what_was_set_up_is_what_the_account_looks_for(fake, run, make):
    run("sync", "--gateway", GATEWAY, *PACKS, "--yearly", "pro=199000")
    prices = {each["lookup_key"]: each for each in fake.all("price")}
    assert prices["starter_monthly_usd"]["unit_amount"] == 4_900
    assert prices["pro_yearly_usd"]["recurring"]["interval"] == "year"
    assert fake.all("billing.meter") == [], "nothing is sold that is not counted"
    (portal,) = fake.all("billing_portal.configuration")
    updates = portal["features"]["subscription_update"]
    assert updates["schedule_at_period_end"]["conditions"] == [
        {"type": "decreasing_item_amount"},
        {"type": "shortening_interval"},
    ]
    pro = [prices[key]["id"] for key in ("pro_monthly_usd", "pro_yearly_usd")]
    assert {each["product"]: sorted(each["prices"]) for each in updates["products"]} == {
        "ca_pro": sorted(pro),
        "ca_starter": [prices["starter_monthly_usd"]["id"]],
    }
    again = run("sync", "--json", "--gateway", GATEWAY, *PACKS, "--yearly", "pro=199000")
    assert again.json["changes"] == []


@pytest.mark.anyio
async def test_the_account_sells_what_was_set_up(fake, run, make, wish):
    # The command makes an event loop of its own, for which another thread is needed here.
    await asyncio.to_thread(run, "sync", *PACKS)
    account = make()
    found = await account.price_for("pro", "monthly")
    assert (found.plan_id, found.unit_amount) == ("pro", 19_900)
    assert [each.credits for each in await account.packs()] == [20, 100]
    pro = replace(wish, plan_id="pro", price_id=found.price_id)
    await account.open_session(pro, key="co:c1:a1")
    assert fake.requests[-1].params["line_items"] == [{"price": found.price_id, "quantity": "1"}]
    url = await account.portal(wish.customer_id, return_url=GATEWAY, key="p:1")
    assert url.startswith("https://")
    await account.close()


def test_the_endpoint_speaks_our_version_and_is_told_exactly_our_events(fake, run, data):
    done = run("sync", "--gateway", f"{GATEWAY}/")
    (endpoint,) = fake.all("webhook_endpoint")
    assert (endpoint["url"], endpoint["api_version"]) == (URL, stripe.api_version)
    assert sorted(endpoint["enabled_events"]) == sorted(EVENT_TYPES)
    kept = data / "stripe_webhook_secret"
    secret = f"whsec_{endpoint['id']}"
    assert kept.read_text() == f"{secret}\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert str(kept) in done.err
    assert secret not in done.out + done.err


def test_a_dry_run_tells_the_same_and_does_nothing(fake, run, data):
    dry = run("sync", "--dry-run", "--json", "--gateway", GATEWAY, *PACKS)
    assert _posts(fake) == 0
    assert not data.exists()
    assert dry.json["dry_run"]
    wet = run("sync", "--json", "--gateway", GATEWAY, *PACKS)
    assert dry.done == wet.done
    shown = run("sync", "--dry-run", "--gateway", GATEWAY, "--pack", "100=9000")
    assert "would create price topup_100_usd" in shown.out
    assert "would deactivate price topup_100_usd" in shown.out


def test_another_amount_is_another_price_and_the_old_one_is_sold_no_more(fake, run):
    run("sync", "--pack", "100=8000")
    (old,) = [each for each in fake.all("price") if each["lookup_key"] == "topup_100_usd"]
    done = run("sync", "--json", "--pack", "100=9000")
    assert done.done == [("create", "topup_100_usd"), ("deactivate", "topup_100_usd")]
    (new,) = [each for each in fake.all("price") if each["lookup_key"] == "topup_100_usd"]
    assert (new["unit_amount"], new["active"]) == (9_000, True)
    assert (fake.get(old["id"])["active"], fake.get(old["id"])["lookup_key"]) == (False, None)
    assert run("sync", "--json", "--pack", "100=9000").json["changes"] == []


def test_a_run_that_was_cut_off_is_finished_by_the_next(fake, run):
    run("sync", "--pack", "100=8000")
    # The new price is made, then Stripe is gone: the old one is still for sale.
    fake.inject("rate_limit", None, method="POST", path="/v1/prices/*")
    cut = run("sync", "--pack", "100=9000")
    assert cut.code == 2
    assert "create price topup_100_usd" in cut.err
    fake.clear_faults()
    assert run("sync", "--json", "--pack", "100=9000").done == [("deactivate", "topup_100_usd")]
    active = [each for each in fake.all("price") if each["product"] == "ca_credits" and each["active"]]
    assert [each["unit_amount"] for each in active] == [9_000]


def test_what_somebody_changed_in_the_dashboard_is_put_right(fake, run, api):
    run("sync", "--gateway", GATEWAY)
    (endpoint,), (portal,) = fake.all("webhook_endpoint"), fake.all("billing_portal.configuration")
    api.v1.products.update("ca_pro", {"name": "Professional", "active": False})
    (price,) = [each for each in fake.all("price") if each["lookup_key"] == "pro_monthly_usd"]
    api.v1.prices.update(price["id"], {"active": False})
    api.v1.webhook_endpoints.update(endpoint["id"], {"enabled_events": ["invoice.paid"], "disabled": True})
    api.v1.billing_portal.configurations.update(
        portal["id"], {"features": {"subscription_cancel": {"enabled": True, "mode": "immediately"}}}
    )
    done = run("sync", "--json", "--gateway", GATEWAY)
    assert done.done == [
        ("update", "ca_pro"),
        ("activate", "pro_monthly_usd"),
        ("update", "configuration"),
        ("update", URL),
    ]
    assert run("sync", "--json", "--gateway", GATEWAY).json["changes"] == []
    assert run("check").code == 0


def test_another_version_is_a_second_endpoint_and_both_secrets_are_kept(fake, run, api, data):
    old = api.v1.webhook_endpoints.create(
        {
            "url": URL,
            "enabled_events": ["invoice.paid"],
            "api_version": "2025-03-31.basil",
            "metadata": {"managed_by": "openclaw-billing"},
        }
    )
    data.mkdir(mode=0o700)
    (data / "stripe_webhook_secret").write_text("whsec_old\n")
    assert run("sync", "--json").done[-2:] == [("create", URL), ("disable", URL)]
    assert fake.get(old.id)["status"] == "disabled"
    new = next(each["id"] for each in fake.all("webhook_endpoint") if each["id"] != old.id)
    assert (data / "stripe_webhook_secret").read_text() == f"whsec_{new},whsec_old\n"
    assert run("sync", "--json").json["changes"] == []


def test_an_endpoint_whose_secret_was_lost_with_the_reply_makes_room_for_another(
    fake, run, data, monkeypatch
):
    monkeypatch.setenv("OPENCLAW_STRIPE_RETRIES_MAX", "0")
    fake.inject("reply_lost", None, method="POST", path="/v1/webhook_endpoints")
    assert run("sync", "--gateway", GATEWAY).code == 2
    fake.clear_faults()
    (lost,) = fake.all("webhook_endpoint")
    assert not (data / "stripe_webhook_secret").exists()
    found = run("check", "--gateway", GATEWAY)
    assert found.code == 1
    assert f"kept the signing secret of the event endpoint {lost['id']}" in found.err
    assert run("sync", "--json", "--dry-run", "--gateway", GATEWAY).done[-2:] == [
        ("create", URL),
        ("disable", URL),
    ]
    assert run("sync", "--json", "--gateway", GATEWAY).done[-2:] == [("create", URL), ("disable", URL)]
    (live,) = [each for each in fake.all("webhook_endpoint") if each["status"] == "enabled"]
    assert live["id"] != lost["id"]
    assert (data / "stripe_webhook_secret").read_text() == f"whsec_{live['id']}\n"
    sent = _posts(fake)
    assert run("sync", "--gateway", GATEWAY).code == 0
    assert run("check", "--gateway", GATEWAY).code == 0
    assert _posts(fake) == sent


def test_an_endpoint_whose_reply_is_late_is_made_once(fake, run, data):
    fake.inject("reply_lost", 1, method="POST", path="/v1/webhook_endpoints")
    assert run("sync", "--gateway", GATEWAY).code == 0
    (live,) = fake.all("webhook_endpoint")
    assert (data / "stripe_webhook_secret").read_text() == f"whsec_{live['id']}\n"


def test_foreign_objects_are_told_of_and_never_touched(fake, run, api):
    api.v1.products.create({"id": "ca_starter", "name": "Somebody's"})
    fake.add_price(100, lookup_key="pro_monthly_usd", interval="month")
    api.v1.webhook_endpoints.create({"url": URL, "enabled_events": ["*"]})
    api.v1.billing_portal.configurations.create({"features": {"invoice_history": {"enabled": True}}})
    before = {
        each["id"]: each for kind in ("product", "price", "webhook_endpoint") for each in fake.all(kind)
    }
    done = run("sync", "--json", "--gateway", GATEWAY)
    assert done.code == 1
    assert len(done.json["findings"]) == 3
    assert {each["id"]: fake.get(each["id"]) for each in before.values()} == before
    assert done.done == [("create", "configuration")]


def test_a_price_that_the_settings_name_is_the_operators_own(fake, run, monkeypatch):
    own = fake.add_price(5_000, interval="month")
    monkeypatch.setenv("STRIPE_PRICE_STARTER", own)
    done = run("sync", "--json", "--gateway", GATEWAY)
    assert "starter_monthly_usd" not in [name for _, name in done.done]
    updates = fake.all("billing_portal.configuration")[0]["features"]["subscription_update"]
    assert [own] in [each["prices"] for each in updates["products"]]


def test_a_currency_without_hundredths_is_left_to_the_operator(fake, run, monkeypatch):
    monkeypatch.setenv("OPENCLAW_CURRENCY", "jpy")
    done = run("sync", "--json", "--gateway", GATEWAY, "--pack", "100=12000")
    assert done.code == 1
    assert "hundredths" in done.json["findings"][0]
    assert [each["unit_amount"] for each in fake.all("price")] == [12_000]


def test_without_an_address_there_is_no_endpoint_to_make(fake, run):
    done = run("sync")
    assert done.code == 1
    assert "--gateway" in done.err
    assert fake.all("webhook_endpoint") == []


def test_a_key_that_stripe_refuses_could_not_run(fake, run):
    fake.inject("unauthorized", None)
    for command in ("sync", "check"):
        assert run(command).code == 2


def test_mock_mode_has_nothing_to_set_up(run, monkeypatch):
    monkeypatch.delenv("STRIPE_SECRET_KEY")
    for command in ("sync", "check"):
        done = run(command)
        assert done.code == 2
        assert "STRIPE_SECRET_KEY" in done.err


@pytest.mark.parametrize(
    "wrong",
    [
        ("--gateway", "http://gateway.example.com"),
        ("--gateway", "gateway.example.com"),
        ("--pack", "100"),
        ("--pack", "0=100"),
        ("--pack", "many=100"),
        ("--pack", "100=0"),
        ("--pack", "100=1.5"),
        ("--pack", "100=999999999"),
        ("--yearly", "enterprise=100"),
    ],
)
def test_wrong_wishes_are_refused_before_anything_is_asked(fake, run, wrong):
    assert run("sync", *wrong).code == 2
    assert fake.requests == []


def test_a_check_changes_nothing_and_finds_what_is_wrong(fake, run, api, monkeypatch):
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", "")
    empty = run("check", "--json")
    assert empty.code == 1
    assert len(empty.json["findings"]) == 5
    euro = fake.add_price(4_900, interval="year", currency="eur")
    once = fake.add_price(19_900)
    weekly = fake.add_price(100, interval="week")
    api.v1.prices.update(euro, {"active": False})
    api.v1.webhook_endpoints.create(
        {"url": URL, "enabled_events": ["invoice.paid"], "api_version": "2025-03-31.basil"}
    )
    for name, value in {
        "STRIPE_PRICE_STARTER": euro,
        "STRIPE_PRICE_PRO": once,
        "STRIPE_PRICE_PRO_YEARLY": "price_nobody",
        "STRIPE_PRICE_TOPUP_100": weekly,
        "STRIPE_PRICE_TOPUP_200": "price_nobody",
        "STRIPE_WEBHOOK_SECRET": "whsec_fake",
    }.items():
        monkeypatch.setenv(name, value)
    sent = _posts(fake)
    found = run("check", "--json", "--gateway", GATEWAY)
    assert _posts(fake) == sent
    sentences = "\n".join(found.json["findings"])
    for part in (
        f"{euro} for starter monthly is sold no more",
        "is in eur, not in usd",
        f"{euro} for starter monthly is not billed monthly",
        f"{once} for pro monthly is not billed monthly",
        "No price for pro yearly: price_nobody",
        f"{weekly} for the pack of 100 credits would be charged again",
        "No price for the pack of 200 credits: price_nobody",
        "no configuration of ours",
        "speaks 2025-03-31.basil",
        "is not told of billing.alert.triggered",
    ):
        assert part in sentences
    assert found.json["facts"]["account"] == "acct_1Fake000000001"
    assert found.json["facts"]["mode"] == "test"


def test_a_price_that_is_not_the_plans_pages_is_found(fake, run, monkeypatch):
    run("sync", "--gateway", GATEWAY)
    monkeypatch.setenv("STRIPE_PRICE_PRO", fake.add_price(5_000, interval="month"))
    done = run("check")
    assert done.code == 1
    assert "is 5000, but the plans page says 19900" in done.err


def test_a_disabled_endpoint_and_the_age_of_the_last_event_are_told(fake, run, api):
    run("sync", "--gateway", GATEWAY)
    (endpoint,) = fake.all("webhook_endpoint")
    api.v1.webhook_endpoints.update(endpoint["id"], {"disabled": True})
    done = run("check")
    assert done.code == 1
    assert f"{endpoint['id']} is disabled" in done.err
    assert "last_event: evt_" in done.out


@pytest.mark.parametrize(
    ("shown", "want", "same"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": None}, {"a": {"b": 1}}, False),
        (["x", "y"], ["y", "x"], True),
        (["x"], ["x", "y"], False),
        ("x", ["x"], False),
        ({"features": {"products": None}}, {"features": {"products": [1]}}, True),
    ],
)
def test_what_is_wanted_must_be_shown_and_more_does_not_matter(shown, want, same):
    assert wanted.holds(shown, want) is same


@pytest.mark.parametrize(
    "given", [GATEWAY, f"{GATEWAY}/", URL, f"{GATEWAY}?x=1", f"{GATEWAY}/api/billing/webhook/"]
)
def test_an_address_leads_to_the_endpoint_however_it_is_given(given):
    assert wanted.endpoint_url(given) == URL
    assert (
        wanted.endpoint_url("https://a.example/mounted/") == "https://a.example/mounted/api/billing/webhook"
    )
