"""Jobs while Stripe hangs: a gateway whose Stripe never answers, beside one without a Stripe key.

    python -m benchmarks.stripe_away --help

The first has a worker with a backlog of signed events to apply, each of which it tries. Rounds take turns, and the
ratio is of the jobs a second. A ratio of 1 says that nothing on the path of a job waits for Stripe.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks import server
from benchmarks.load import LoadPlan, run_load
from benchmarks.rounds import BODY, INTAKE_PATH
from benchmarks.subjects.ours import Ours
from benchmarks.subjects.subject import Site
from openclaw_billing.testing import FakeStripe

EVENTS = 200
CLIENTS = 100
SECRET = "whsec_fake"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stripe_away", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args(arguments)
    rates: dict[str, list[float]] = {"absent": [], "hangs": []}
    slowest: dict[str, list[float]] = {"absent": [], "hangs": []}
    with tempfile.TemporaryDirectory(prefix="stripe-away-") as folder:
        ours, data_dir = Ours(), Path(folder) / "data"
        data_dir.mkdir()
        keys = ours.prepare(data_dir, CLIENTS)
        for number in range(1, options.rounds + 1):
            for state in rates:
                rate, p99_ms = _round(ours, data_dir, keys, state, options.seconds, Path(folder) / "log")
                rates[state].append(rate)
                slowest[state].append(p99_ms)
                print(f"round {number} Stripe {state}: {rate:,.0f}/s, p99 {p99_ms:.1f} ms", flush=True)
    ratios = [hangs / absent for hangs, absent in zip(rates["hangs"], rates["absent"], strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
    p99s = {state: statistics.median(found) for state, found in slowest.items()}
    print(f"p99 {p99s['absent']:.1f} ms without Stripe, {p99s['hangs']:.1f} ms while it hangs")
    return 0


def _round(
    ours: Ours, data_dir: Path, keys: list[str], state: str, seconds: float, log: Path
) -> tuple[float, float]:
    """Jobs a second and their p99, with events waiting for Stripe."""
    with FakeStripe() as stripe:
        stripe.inject("hang", times=None)
        site = Site(data_dir, server.free_port(), 1)
        environment = {**ours.environment(site), "STRIPE_WEBHOOK_SECRET": SECRET}
        if state == "hangs":
            environment |= {"STRIPE_SECRET_KEY": stripe.key_text, "STRIPE_API_BASE": stripe.url}
        with server.running(ours.command(site), environment, site.port, log, 0) as _:
            _send_events(stripe, site.port)
            load = run_load(
                LoadPlan(
                    port=site.port,
                    path=INTAKE_PATH,
                    body=BODY,
                    keys=keys,
                    first=0,
                    connections=32,
                    warmup_seconds=0.5,
                    seconds=seconds,
                )
            )
        stripe.clear_faults()
        return load.rate, load.p99_ms


def _send_events(stripe: FakeStripe, port: int) -> None:
    """Signed events about subscriptions that Stripe would have to be asked for."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        for number in range(EVENTS):
            about = {"id": f"sub_{number}", "object": "subscription", "customer": f"cus_{number}"}
            event = {
                "id": f"evt_{time.time_ns()}_{number}",
                "object": "event",
                "type": "customer.subscription.updated",
                "created": int(time.time()),
                "livemode": False,
                "data": {"object": about},
            }
            body, headers = stripe.signed(event, at=int(time.time()))
            http.post("/api/billing/webhook", content=body, headers=headers).raise_for_status()


if __name__ == "__main__":
    raise SystemExit(main())
