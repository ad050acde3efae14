"""Settings: read when asked for, refused in sentences, never shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from openclaw_billing.errors import BadSettings
from openclaw_billing.records import Rate
from openclaw_billing.settings import Settings, load_settings, problems, setting_names
from openclaw_billing.values import Proxies, rate_of, rate_text

ROOT = Path(__file__).parent.parent
TOKEN = "0123456789abcdef" * 2
EXAMPLE_LINE = re.compile(r"(?:# )?([A-Z][A-Z0-9_]+)=(.*)")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("OPENCLAW_", "STRIPE_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def example() -> list[tuple[str, str, str]]:
    """(comment, name, value) of each setting in `.env.example`."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    found = [(lines[i - 1], EXAMPLE_LINE.fullmatch(line)) for i, line in enumerate(lines)]
    return [(before, match[1], match[2]) for before, match in found if match]


def test_the_example_names_every_setting_once_in_order(example: list[tuple[str, str, str]]) -> None:
    names = [re.sub(r"_TOPUP_\d+$", "_TOPUP", name) for _, name, _ in example]
    assert names == list(setting_names().values())


def test_the_example_explains_each_setting_with_its_description(example: list[tuple[str, str, str]]) -> None:
    assert [before for before, _, _ in example] == [
        f"# {field.description}" for field in Settings.model_fields.values()
    ]


def test_the_example_shows_the_defaults(example: list[tuple[str, str, str]], tmp_path: Path) -> None:
    defaults = load_settings()
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for _, name, value in example))
    assert load_settings().model_dump() == defaults.model_dump()


def test_nothing_set_gives_a_gateway_in_mock_mode() -> None:
    settings = load_settings()
    assert settings.billing_mode == "mock"
    assert settings.admin_token_state == "missing"
    assert (settings.host, settings.port, settings.quota_status) == ("127.0.0.1", 18789, 403)
    assert settings.data_dir == Path("data")
    assert problems(settings) == []


def test_importing_reads_neither_environment_nor_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"OPENCLAW_PORT=\xff\xfe")
    done = subprocess.run(
        [sys.executable, "-c", "import openclaw_billing.settings"],
        cwd=tmp_path,
        env={"OPENCLAW_PORT": "no port", "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_environment_wins_over_the_file_and_an_override_over_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("OPENCLAW_PORT=1111\nOPENCLAW_WORKERS=3\nSOMETHING_FOREIGN=1\n")
    monkeypatch.setenv("OPENCLAW_PORT", "2222")
    settings = load_settings()
    assert (settings.port, settings.workers) == (2222, 3)
    assert load_settings(port=3333).port == 3333


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENCLAW_QUOTA_STATUS", "429"),
        ("OPENCLAW_PORT", "70000"),
        ("OPENCLAW_WORKERS", "many"),
        ("OPENCLAW_RESERVATION_MINUTES", "1441"),
        ("OPENCLAW_LOCK_SECONDS_MAX", "nan"),
        ("OPENCLAW_LOCK_SECONDS_MAX", "inf"),
        ("OPENCLAW_KEY_FORMAT", "jwt"),
        ("OPENCLAW_LOG_LEVEL", "LOUD"),
        ("OPENCLAW_CURRENCY", "dollars"),
        ("OPENCLAW_UPGRADE_URL", "javascript:alert(1)"),
        ("OPENCLAW_CONTACT_URL", "mailto:nobody"),
        ("OPENCLAW_REDIRECT_ORIGINS", "https://fine.example, https://bad.example/path"),
        ("OPENCLAW_DATABASE_URL", "mysql://user:hunter2secret@host/db"),
        ("OPENCLAW_REDIS_URL", "postgresql://user:hunter2secret@host/db"),
        ("STRIPE_SECRET_KEY", "hunter2secret"),
        ("STRIPE_PUBLIC_KEY", "sk_live_hunter2secret"),
        ("STRIPE_WEBHOOK_SECRET", ",".join(f"whsec_hunter2secret{n}" for n in range(6))),
        ("STRIPE_PRICE_TOPUP", "price_1"),
        ("OPENCLAW_RATE_FREE", "10 per second"),
        ("OPENCLAW_RATE_FREE", "10/s, 20/s"),
        ("OPENCLAW_RATE_FREE", "burst 30"),
        ("OPENCLAW_RATE_FREE", "99999/s"),
        ("OPENCLAW_RATE_FREE", "9/s,,burst 3"),
        ("OPENCLAW_FAILURES_PER_ADDRESS", "-1"),
        ("OPENCLAW_TRUSTED_PROXIES", "everybody"),
        ("OPENCLAW_REDIS_PREFIX", "two words"),
    ],
)
def test_a_wrong_value_is_named_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings) as refused:
        load_settings()
    assert str(refused.value).startswith(f"{name} is wrong: ")
    assert value not in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_several_wrong_values_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCLAW_PORT", "x")
    monkeypatch.setenv("OPENCLAW_WORKERS", "0")
    with pytest.raises(BadSettings, match=r"OPENCLAW_PORT is wrong: .*\. OPENCLAW_WORKERS is wrong: .*\."):
        load_settings()


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"OPENCLAW_HOST=\xff\xfe\n")
    with pytest.raises(BadSettings, match="not UTF-8"):
        load_settings()


def test_402_may_be_said_instead_of_403(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCLAW_QUOTA_STATUS", " 402 ")
    assert load_settings().quota_status == 402


@pytest.mark.parametrize(
    ("token", "state"),
    [
        (None, "missing"),
        ("", "missing"),
        ("   ", "missing"),
        (TOKEN, "usable"),
        (TOKEN[:-1], "refused"),
        ("admin-token-secret", "refused"),
        ("your-secret-admin-token", "refused"),
        ("ü" * 40, "refused"),
        ("a b" * 20, "refused"),
    ],
)
def test_the_admin_token_is_usable_missing_or_refused(
    monkeypatch: pytest.MonkeyPatch, token: str | None, state: str
) -> None:
    if token is not None:
        monkeypatch.setenv("OPENCLAW_ADMIN_TOKEN", token)
    settings = load_settings()
    assert settings.admin_token_state == state
    assert any("OPENCLAW_ADMIN_TOKEN" in told for told in problems(settings)) == (state == "refused")


@pytest.mark.parametrize(
    ("key", "mode"),
    [
        ("sk_test_4eC39", "test"),
        ("rk_test_4eC39", "test"),
        (" sk_live_4eC39 ", "live"),
        ("rk_live_4eC39", "live"),
    ],
)
def test_the_billing_mode_follows_from_the_key(key: str, mode: str) -> None:
    assert load_settings(stripe_secret_key=key).billing_mode == mode


def test_placeholders_of_the_guide_count_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_xxxx")
    monkeypatch.setenv("STRIPE_PUBLIC_KEY", "pk_test_xxxx")
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", "whsec_xxxx")
    settings = load_settings()
    assert settings.billing_mode == "mock"
    assert settings.stripe_public_key is None
    assert settings.stripe_webhook_secret == ()
    assert [told.partition(" ")[0] for told in problems(settings)] == [
        "STRIPE_PUBLIC_KEY",
        "STRIPE_SECRET_KEY",
        "STRIPE_WEBHOOK_SECRET",
    ]


@pytest.mark.parametrize("secrets", ["whsec_xxxx", "whsec_realone,whsec_xxxx"])
def test_a_placeholder_beside_a_live_key_is_refused(monkeypatch: pytest.MonkeyPatch, secrets: str) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_live_4eC39")
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", secrets)
    with pytest.raises(
        BadSettings, match="STRIPE_WEBHOOK_SECRET holds the guide's placeholder beside a live"
    ):
        load_settings()


def test_signing_secrets_are_a_list_whose_blanks_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", " whsec_one , ,whsec_two,")
    secrets = load_settings().stripe_webhook_secret
    assert [secret.get_secret_value() for secret in secrets] == ["whsec_one", "whsec_two"]
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", " , ,")
    assert load_settings().stripe_webhook_secret == ()


@pytest.mark.parametrize(
    ("key", "base", "accepted"),
    [
        ("sk_test_1", "http://127.0.0.1:12111", True),
        ("sk_test_1", "http://[::1]:12111", True),
        ("sk_test_1", "http://localhost.evil.example", False),
        ("sk_test_1", "http://stripe.example", False),
        ("sk_test_1", "https://stripe.example", True),
        ("sk_live_1", "https://stripe.example", True),
        ("sk_live_1", "http://127.0.0.1:12111", False),
    ],
)
def test_stripes_address_is_https_or_loopback(key: str, base: str, accepted: bool) -> None:
    if accepted:
        assert load_settings(stripe_secret_key=key, stripe_api_base=base).stripe_api_base == base
    else:
        with pytest.raises(BadSettings, match="STRIPE_API_BASE must be https"):
            load_settings(stripe_secret_key=key, stripe_api_base=base)


def test_packs_are_gathered_from_environment_and_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("STRIPE_PRICE_TOPUP_10=price_file\nSTRIPE_PRICE_TOPUP_50=price_file\n")
    monkeypatch.setenv("STRIPE_PRICE_TOPUP_50", "price_fifty")
    monkeypatch.setenv("STRIPE_PRICE_TOPUP_100", "")
    settings = load_settings()
    assert settings.stripe_price_topups == {10: "price_file", 50: "price_fifty"}
    assert problems(settings) == []


def test_origins_are_a_list() -> None:
    settings = load_settings(redirect_origins="https://App.example.com, http://localhost:3000")
    assert settings.redirect_origins == ("https://app.example.com", "http://localhost:3000")


def test_a_misspelt_name_is_told_with_what_was_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENCLAW_ADMIN_TOKN", TOKEN)
    monkeypatch.setenv("OPENCLAW_SOMETHING_ELSE", "1")
    (tmp_path / ".env").write_text("STRIPE_WEBHOOK_SECRETS=whsec_hunter2\n")
    assert problems(load_settings()) == [
        "OPENCLAW_ADMIN_TOKN is no setting: did you mean OPENCLAW_ADMIN_TOKEN?",
        "OPENCLAW_SOMETHING_ELSE is no setting of ours and is ignored.",
        "STRIPE_WEBHOOK_SECRETS is no setting: did you mean STRIPE_WEBHOOK_SECRET?",
    ]


def test_weak_choices_are_told() -> None:
    settings = load_settings(
        key_pepper="short",
        chain_key="short",
        allow_query_token=True,
        stripe_secret_key="sk_live_1",
        stripe_public_key="pk_test_1",
    )
    told = " ".join(problems(settings))
    for name in (
        "OPENCLAW_KEY_PEPPER",
        "OPENCLAW_CHAIN_KEY",
        "OPENCLAW_ALLOW_QUERY_TOKEN",
        "STRIPE_PUBLIC_KEY",
        "STRIPE_WEBHOOK_SECRET",
    ):
        assert name in told


def test_secrets_are_not_in_what_settings_look_like() -> None:
    settings = load_settings(
        admin_token=TOKEN,
        key_pepper=TOKEN,
        stripe_secret_key="sk_test_hunter2",
        stripe_webhook_secret="whsec_hunter2",
    )
    assert TOKEN not in repr(settings)
    assert "hunter2" not in repr(settings) + str(settings.model_dump())


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/s, burst 30, 300/min", Rate(10, 30, 300)),
        ("300/min,burst 30,10/s", Rate(10, 30, 300)),
        (" 10/S ", Rate(10, 10, 0)),
        ("60/min", Rate(0, 0, 60)),
        ("off", Rate(0, 0, 0)),
        ("0", Rate(0, 0, 0)),
        ("0/s", Rate(0, 0, 0)),
    ],
)
def test_a_rate_is_written_as_it_is_said(text: str, rate: Rate) -> None:
    found = load_settings(rate_pro=text).rate_pro
    assert found == rate
    assert rate_of(rate_text(found)) == rate


def test_trusted_proxies_are_a_number_or_networks() -> None:
    assert load_settings(trusted_proxies="2").trusted_proxies == Proxies(hops=2)
    networks = load_settings(trusted_proxies="10.0.0.0/8, ::1").trusted_proxies.networks
    assert [str(each) for each in networks] == ["10.0.0.0/8", "::1/128"]
    assert load_settings(trusted_proxies="").trusted_proxies == Proxies()
