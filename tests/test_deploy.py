"""What lies in deploy/ is true: checked by the programs it is for where they are installed, and run."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

import gateway
from openclaw_billing.metrics import RATE_REFUSALS, REFUSALS
from openclaw_billing.settings import setting_names
from openclaw_billing.stripe_records import InboxStatus
from tests.served import ROOT, Served, clean_environment, free_port, served

DEPLOY = ROOT / "deploy"
UNIT = (DEPLOY / "openclaw-gateway.service").read_text()
NGINX = (DEPLOY / "nginx.conf").read_text()
COMPOSE = (DEPLOY / "compose.yaml").read_text()
ALERTS = (DEPLOY / "prometheus-alerts.yml").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}
KIB = 1024


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [each for each in programs if shutil.which(each) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, **options
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def parsed(text: str) -> Any:
    return pytest.importorskip("yaml", reason="needs PyYAML: requirements-dev.txt").safe_load(text)


# Names


def test_every_setting_that_is_named_exists() -> None:
    known = set(setting_names().values())
    for path in [*DEPLOY.iterdir(), ROOT / "docs/operations.md"]:
        named = set(re.findall(r"\b(?:OPENCLAW|STRIPE)_[A-Z_]+\b", path.read_text()))
        assert named <= known, path.name


def test_every_metric_in_the_alerts_exists() -> None:
    known = {sample.name for family in REGISTRY.collect() for sample in family.samples}
    # Without a sample until the first call of a label.
    known |= {f"{family.name}_total" for family in REGISTRY.collect() if family.type == "counter"}
    known |= {f"{family.name}_bucket" for family in REGISTRY.collect() if family.type == "histogram"}
    for text in (ALERTS, OPERATIONS):
        named = set(re.findall(r"\bopenclaw_billing_\w+", text))
        assert named
        assert named <= known


def test_every_label_that_an_alert_looks_for_exists() -> None:
    known = {
        "reason": set(REFUSALS),
        "limit": set(RATE_REFUSALS),
        "outcome": {*InboxStatus, "bad_signature"},
        "status": {"5.."},
        "job": {"openclaw"},
    }
    for name, values in re.findall(r'(\w+)=~?"([^"]+)"', ALERTS):
        assert set(values.split("|")) <= known[name]


def test_the_page_says_what_to_do_at_each_alert_and_at_no_other() -> None:
    assert re.findall(r"^### (OpenClaw\w+)", OPERATIONS, re.MULTILINE) == re.findall(
        r"- alert: (\w+)", ALERTS
    )


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r"\bdeploy/[\w.-]+", OPERATIONS)
    made_there = {"deploy/compose.env"}
    assert {path.name for path in DEPLOY.iterdir()} <= {name.removeprefix("deploy/") for name in named}
    assert all((ROOT / name).exists() for name in named if name not in made_there)


# systemd


def test_the_unit_waits_longer_than_the_gateway_takes_to_end() -> None:
    [seconds] = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    assert int(seconds) >= gateway.STOP_SECONDS_MAX + 10


@needs("systemd-analyze")
def test_systemd_takes_the_unit_and_finds_little_exposed(tmp_path: Path) -> None:
    unit = tmp_path / "openclaw-gateway.service"
    unit.write_text(UNIT.replace("/opt/openclaw/.venv/bin/python", sys.executable))
    said = run("systemd-analyze", "verify", "--man=no", unit)
    assert unit.name not in said, said
    version = int(run("systemd-analyze", "--version").split()[1])
    if version >= 250:
        run("systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=20", unit)


# Containers


def test_what_the_image_holds_is_enough(tmp_path: Path) -> None:
    copied = re.findall(r"^COPY (.+) (\S+)$", DOCKERFILE, re.MULTILINE)
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    for sources, target in copied:
        for source in sources.split():
            assert source in let_in or (source.startswith("requirements") and "requirements*.txt" in let_in)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / target)
            else:
                shutil.copy(ROOT / source, tmp_path)
    environment = clean_environment(OPENCLAW_DATA_DIR=str(tmp_path / "data"), PYTHONDONTWRITEBYTECODE="1")
    assert "--no-access-log" in run(sys.executable, "gateway.py", "--help", cwd=tmp_path, env=environment)
    pytest.importorskip("alembic", reason="needs alembic: requirements-dev.txt")
    made = run(
        sys.executable, "-m", "openclaw_billing", "db", "upgrade", "--sql", cwd=tmp_path, env=environment
    )
    assert "CREATE TABLE" in made


def test_the_schema_is_upgraded_before_the_gateway_begins() -> None:
    services = parsed(COMPOSE)["services"]
    assert services["upgrade"]["command"][-2:] == ["db", "upgrade"]
    assert services["upgrade"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["gateway"]["depends_on"]["upgrade"] == {"condition": "service_completed_successfully"}
    assert int(services["gateway"]["stop_grace_period"][:-1]) >= gateway.STOP_SECONDS_MAX + 10


def test_the_services_need_what_there_is_and_secrets_have_no_default() -> None:
    compose = parsed(COMPOSE)
    for service in compose["services"].values():
        assert set(service.get("depends_on", ())) <= set(compose["services"])
        named = [each.split(":")[0] for each in service.get("volumes", ())]
        assert set(named) <= set(compose["volumes"])
        assert all(each.startswith("127.0.0.1:") for each in service.get("ports", ()))
    wanted = set(re.findall(r"\$\{(\w+):\?\}", COMPOSE))
    assert wanted == {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "OPENCLAW_KEY_PEPPER", "OPENCLAW_ADMIN_TOKEN"}
    assert all(name in OPERATIONS for name in wanted)


# Prometheus

RULE_TESTS = """
rule_files: [alerts.yml]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - {series: 'openclaw_billing_store_refusing{instance="a"}', values: '0x4 1x20'}
      - {series: 'openclaw_billing_store_refusing{instance="b"}', values: '0x24'}
      - {series: 'openclaw_billing_stripe_events_total{type="invoice.paid", outcome="failed", instance="a"}', values: '0x4 1x60'}
      - {series: 'openclaw_billing_stripe_events_total{type="invoice.paid", outcome="applied", instance="a"}', values: '0+1x60'}
      - {series: 'openclaw_billing_requests_total{operation="submitJob", status="200", instance="a"}', values: '0+50x60'}
      - {series: 'openclaw_billing_requests_total{operation="submitJob", status="503", instance="a"}', values: '0+1x60'}
    alert_rule_test:
      - eval_time: 1m
        alertname: OpenClawStoreNotWritable
      - eval_time: 2m
        alertname: OpenClawStoreNotWritable
        exp_alerts:
          - exp_labels: {instance: a, severity: page}
            exp_annotations: {summary: "a refuses every change: its disk or database is away"}
      - eval_time: 3m
        alertname: OpenClawStripeEventFailed
        exp_alerts:
          - exp_labels: {instance: a, type: invoice.paid, outcome: failed, severity: page}
            exp_annotations: {summary: "A Stripe event could not be applied: invoice.paid failed"}
      - eval_time: 12m
        alertname: OpenClawFailing
        exp_alerts:
          - exp_labels: {instance: a, severity: page}
            exp_annotations: {summary: "a fails 1.961% of its requests"}
"""


@needs("promtool")
def test_prometheus_takes_the_alerts_and_raises_them(tmp_path: Path) -> None:
    (tmp_path / "alerts.yml").write_text(ALERTS)
    (tmp_path / "tests.yml").write_text(RULE_TESTS)
    run("promtool", "check", "rules", tmp_path / "alerts.yml")
    run("promtool", "test", "rules", tmp_path / "tests.yml")


def test_every_alert_says_how_urgent_it_is() -> None:
    [group] = parsed(ALERTS)["groups"]
    assert {rule["labels"]["severity"] for rule in group["rules"]} == {"page", "ticket"}
    assert all(rule["annotations"]["summary"] for rule in group["rules"])


# nginx


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("certificate")
    subject = ["-subj", "/CN=gateway.example.com", "-days", "2", "-nodes", "-newkey", "rsa:2048"]
    run("openssl", "req", "-x509", *subject, "-keyout", home / "privkey.pem", "-out", home / "fullchain.pem")
    return home


class Proxy:
    """The configuration as it is, on free ports and with a certificate of its own."""

    def __init__(self, home: Path, certificate: Path, *upstreams: int) -> None:
        self.home, self.plain_port, self.port = home, free_port(), free_port()
        servers = "".join(f"server 127.0.0.1:{port};" for port in upstreams)
        changed = {
            "server 127.0.0.1:18789;": servers,
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            "listen 443 ssl http2;": f"listen 127.0.0.1:{self.port} ssl http2;",
            "/etc/ssl/openclaw": str(certificate),
            "/var/log/nginx": str(home),
        }
        site = NGINX
        for theirs, ours in changed.items():
            assert theirs in site
            site = site.replace(theirs, ours)
        (home / "openclaw.conf").write_text(site)
        temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{each}_temp_path {home}/{each}; " for each in temporary)
        # As root, workers would be somebody who may not enter the directory of a test.
        who = "user root;" if Path("/proc/self").stat().st_uid == 0 else ""
        (home / "nginx.conf").write_text(
            f"{who} worker_processes 1; pid {home}/pid; events {{}} http {{ {paths} include {home}/openclaw.conf; }}"
        )
        self.command = [
            "nginx",
            "-p",
            str(home),
            "-c",
            str(home / "nginx.conf"),
            "-e",
            str(home / "error.log"),
        ]

    @property
    def log(self) -> str:
        return (self.home / "openclaw.log").read_text()

    def client(self, address: str = "127.0.0.1") -> httpx.Client:
        transport = httpx.HTTPTransport(verify=False, local_address=address)
        return httpx.Client(base_url=f"https://127.0.0.1:{self.port}", transport=transport)


@contextmanager
def proxied(home: Path, certificate: Path, *upstreams: int) -> Iterator[Proxy]:
    home.mkdir(exist_ok=True)
    proxy = Proxy(home, certificate, *upstreams)
    run(*proxy.command, "-t")
    running = subprocess.Popen([*proxy.command, "-g", "daemon off;"])
    try:
        for port in (proxy.port, proxy.plain_port):
            wait_for(lambda port=port: closing(socket.create_connection(("127.0.0.1", port), 1)))
        yield proxy
    finally:
        running.terminate()
        running.wait(10)


def wait_for(connect: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            with connect():
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[tuple[Proxy, Served]]:
    """A gateway, and nginx before it."""
    home = tmp_path_factory.mktemp("behind")
    settings = {"OPENCLAW_TRUSTED_PROXIES": "1"}
    with (
        served(home, settings=settings) as running,
        proxied(home / "nginx", certificate, running.port) as proxy,
    ):
        yield proxy, running


nginx = needs("nginx", "openssl")


@nginx
def test_a_caller_behind_nginx_is_known_by_its_address_and_not_by_what_it_claims(
    behind: tuple[Proxy, Served],
) -> None:
    proxy, running = behind
    with proxy.client("127.0.0.3") as http:
        admin = {"X-Auth-Token": running.token, "X-Forwarded-For": "6.6.6.6"}
        body = {"name": "Acme", "email": "a@example.com"}
        made = http.post("/api/admin/clients", headers=admin, json=body).raise_for_status().json()
        key = {"X-Client-Key": made["api_key"]}
        assert http.post("/api/intake", headers=key, json=JOB).status_code == 200
        [entry] = http.get("/api/admin/audit", headers=admin, params={"limit": 1}).json()["entries"]
    assert entry["address"] == "127.0.0.3"


@nginx
def test_bodies_are_as_large_as_the_gateway_takes_them(behind: tuple[Proxy, Served]) -> None:
    proxy, _ = behind
    with proxy.client() as http:
        for path, size, status, code in (
            ("/api/intake", 64 * KIB + 1, 413, "body_too_large"),
            ("/api/billing/webhook", 1024 * KIB, 503, "webhook_not_configured"),
            ("/api/billing/webhook", 1024 * KIB + 1, 413, "body_too_large"),
        ):
            answer = http.post(path, content=b"x" * size)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert answer.headers["content-type"] == "application/problem+json"


@nginx
def test_metrics_and_readiness_are_for_the_inside(behind: tuple[Proxy, Served]) -> None:
    proxy, _ = behind
    for address, status in (("127.0.0.1", 200), ("127.0.0.9", 403)):
        with proxy.client(address) as http:
            assert [http.get(path).status_code for path in ("/metrics", "/ready")] == [status] * 2
            assert http.get("/health").status_code == 200


@nginx
def test_a_token_in_an_address_is_in_no_log_and_plain_http_is_refused(behind: tuple[Proxy, Served]) -> None:
    proxy, _ = behind
    with proxy.client() as http:
        http.get("/api/billing/plans", params={"token": "canary"})
    assert httpx.get(f"http://127.0.0.1:{proxy.plain_port}/api/billing/plans?key=canary").status_code == 403
    assert proxy.log.count("/api/billing/plans") == 2
    assert "canary" not in proxy.log


@nginx
def test_a_gateway_that_is_gone_is_told_as_a_problem_with_a_time_to_come_again(
    tmp_path: Path, certificate: Path
) -> None:
    with proxied(tmp_path, certificate, free_port()) as proxy, proxy.client() as http:
        answer = http.post("/api/intake", json=JOB)
    assert (answer.status_code, answer.json()["code"]) == (502, "no_answer")
    assert answer.headers["Retry-After"] == "1"


class Silent(threading.Thread):
    """A gateway that takes each request and hangs up. `asked` are the first lines it heard."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.asked: list[str] = []
        self.door = socket.create_server(("127.0.0.1", 0))
        self.port = self.door.getsockname()[1]
        self.start()

    def run(self) -> None:
        while True:
            try:
                caller, _ = self.door.accept()
            except OSError:
                return
            with caller:
                self.asked.append(caller.recv(KIB).decode().splitlines()[0])

    def close(self) -> None:
        self.door.shutdown(socket.SHUT_RDWR)
        self.door.close()


@nginx
@pytest.mark.parametrize(
    ("method", "path", "times"),
    [
        ("GET", "/api/billing/usage", 2),
        ("POST", "/api/intake", 1),
        ("PUT", "/api/admin/clients/c/credits", 1),
    ],
)
def test_only_what_changes_nothing_is_asked_of_another_machine(
    tmp_path: Path, certificate: Path, method: str, path: str, times: int
) -> None:
    with closing(Silent()) as one, closing(Silent()) as other:
        with proxied(tmp_path, certificate, one.port, other.port) as proxy, proxy.client() as http:
            assert http.request(method, path, json=JOB).status_code == 502
        assert len(one.asked + other.asked) == times


def test_the_example_of_settings_is_one_that_the_gateway_takes(tmp_path: Path) -> None:
    lines = (DEPLOY / "gateway.env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    code = "from openclaw_billing.settings import load_settings, problems; s = load_settings(); print([s.workers, problems(s)])"
    said = run(sys.executable, "-c", code, env=clean_environment(**given, PYTHONPATH=str(ROOT)), cwd=tmp_path)
    assert json.loads(said) == [2, []]
