"""Jobs while Stripe hangs: a gateway whose Stripe never answers, beside one without a Stripe key.

    python -m benchmarks.stripe_away --help

The first has a worker with a backlog of signed events to apply, each of which it tries. Rounds take turns, and the
ratios are of the jobs a second and of their p99. A ratio of 1 says that nothing on the path of a job waits for Stripe.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Compared:
    """Round by round: jobs a second and their p99 in ms, without Stripe and while it hangs."""

    absent: list[tuple[float, float]]
    hangs: list[tuple[float, float]]

    def ratios(self, which: int) -> list[float]:
        """Of each round: of the rates (0) or of the p99 (1)."""
        return [hangs[which] / absent[which] for absent, hangs in zip(self.absent, self.hangs, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stripe_away", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args(arguments)
    found = compare(options.rounds, options.seconds, connections=32, say=print)
    for which, what in enumerate(("jobs a second", "p99")):
        ratios = found.ratios(which)
        print(f"{what}: ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
    return 0


def compare(rounds: int, seconds: float, *, connections: int, say: Callable[[str], None]) -> Compared:
    """Let both gateways run, each on a store of its own, and load them in turn."""
    ours, found = Ours(), Compared([], [])
    with (
        tempfile.TemporaryDirectory(prefix="stripe-away-") as folder,
        FakeStripe() as stripe,
        ExitStack() as stack,
    ):
        stripe.inject("hang", times=None)
        plans = {
            state: stack.enter_context(_gateway(ours, stripe, Path(folder) / state, connections, seconds))
            for state in ("absent", "hangs")
        }
        for number in range(1, rounds + 1):
            # Who is first has the warmer machine: they take turns in that, too.
            for state in ("absent", "hangs") if number % 2 else ("hangs", "absent"):
                load = run_load(plans[state])
                getattr(found, state).append((load.rate, load.p99_ms))
                say(f"round {number} Stripe {state}: {load.rate:,.0f}/s, p99 {load.p99_ms:.1f} ms")
        stripe.clear_faults()
    return found


@contextmanager
def _gateway(
    ours: Ours, stripe: FakeStripe, folder: Path, connections: int, seconds: float
) -> Iterator[LoadPlan]:
    """A gateway with events waiting for Stripe, and the load for it; it has a key where the folder says so."""
    data_dir = folder / "data"
    data_dir.mkdir(parents=True)
    keys = ours.prepare(data_dir, CLIENTS)
    site = Site(data_dir, server.free_port(), 1)
    environment = {**ours.environment(site), "STRIPE_WEBHOOK_SECRET": SECRET}
    if folder.name == "hangs":
        environment |= {"STRIPE_SECRET_KEY": stripe.key_text, "STRIPE_API_BASE": stripe.url}
    with server.running(ours.command(site), environment, site.port, folder / "log", 0):
        _send_events(stripe, site.port)
        yield LoadPlan(
            port=site.port,
            path=INTAKE_PATH,
            body=BODY,
            keys=keys,
            first=0,
            connections=connections,
            warmup_seconds=0.3,
            seconds=seconds,
        )


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
