"""Metrics: what Prometheus is told. Labels are closed lists of words; nothing of a caller's is one."""

from __future__ import annotations

import logging
from collections import Counter as Counts
from collections.abc import Mapping
from types import MappingProxyType

from prometheus_client import Counter, Gauge, Histogram

from openclaw_billing.gcra import MINUTE, SECOND
from openclaw_billing.logs import tell
from openclaw_billing.records import EntryKind, LedgerEntry, LotSource
from openclaw_billing.stripe_events import KINDS
from openclaw_billing.stripe_records import InboxStatus

log = logging.getLogger(__name__.partition(".")[0])

OTHER = "other"
"""The type of every event that we did not ask for, and of what is no event."""

REQUESTS = Counter("openclaw_billing_requests_total", "Answers of our own routes", ["operation", "status"])
_refusals = Counter("openclaw_billing_refusals_total", "Requests refused, by reason", ["reason"])
_rate_refusals = Counter("openclaw_billing_rate_refusals_total", "Calls refused, by limit", ["limit"])
_entries = Counter("openclaw_billing_ledger_entries_total", "Ledger entries written, by kind", ["kind"])
_credits = Counter("openclaw_billing_credits_charged_total", "Credits captured for jobs")
_operations = Counter("openclaw_billing_operations_total", "Operations made durable")
_flush_seconds = Histogram(
    "openclaw_billing_flush_seconds",
    "Time to run a batch and make it durable",
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0),
)
_batch_size = Histogram(
    "openclaw_billing_batch_operations",
    "Operations sharing one flush",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 512),
)
_store_errors = Counter("openclaw_billing_store_errors_total", "Batches that could not be made durable")
_stripe_calls = Counter(
    "openclaw_billing_stripe_calls_total", "Calls to Stripe, by endpoint and outcome", ["endpoint", "outcome"]
)
_stripe_breaker = Gauge(
    "openclaw_billing_stripe_breaker_open", "1 while Stripe is not asked", multiprocess_mode="livemax"
)


class Flag:
    """A gauge that is written only when it changes."""

    def __init__(self, gauge: Gauge) -> None:
        self.gauge = gauge
        self._shown: bool | None = None

    def told(self, value: bool) -> None:
        if value is not self._shown:
            self._shown = value
            self.gauge.set(value)


# A process that was asked nothing yet, or only begins others, says 0 here and with the other flags: nothing is wrong.
STORE_REFUSING = Flag(
    Gauge("openclaw_billing_store_refusing", "1 while every change is refused", multiprocess_mode="livemax")
)
DEGRADED = Flag(
    Gauge(
        "openclaw_billing_rate_limits_degraded",
        "1 while calls are counted without the other gateways or workers",
        multiprocess_mode="livemax",
    )
)

REFUSALS: Mapping[str, Counter] = MappingProxyType(
    {
        reason: _refusals.labels(reason)
        for reason in (
            "invalid_key",
            "invalid_token",
            "quota_exceeded",
            "payment_overdue",
            "client_inactive",
            "rate_limited",
        )
    }
)
RATE_REFUSALS: Mapping[str, Counter] = MappingProxyType(
    {limit: _rate_refusals.labels(limit) for limit in (SECOND, MINUTE, "address", "overall")}
)
_KINDS = {kind: _entries.labels(kind.value) for kind in EntryKind}


class StoreMetrics:
    """Counts what the store made durable, and writes the promised log line of each fact, after the commit."""

    def flushed(self, operations: int, seconds: float, entries: list[LedgerEntry]) -> None:
        _operations.inc(operations)
        _flush_seconds.observe(seconds)
        _batch_size.observe(operations)
        STORE_REFUSING.told(False)
        # Counted by the batch: a counter's lock for each entry would cost as much as writing it.
        charged, kinds, facts = 0, Counts[EntryKind](), []
        for entry in entries:
            kinds[entry.kind] += 1
            if entry.kind is EntryKind.CAPTURE:
                charged -= entry.available + entry.reserved
                facts.append(f"Deducted credit for {entry.client_id}: job submission")
            elif entry.kind is EntryKind.GRANT and _is_reset(entry):
                facts.append(f"Reset monthly credits for {entry.client_id}: {entry.available} jobs")
        for kind, count in kinds.items():
            _KINDS[kind].inc(count)
        if charged:
            _credits.inc(charged)
        tell(log, facts)

    def failed(self, reason: str) -> None:  # noqa: ARG002 - the log says it; a label must be a closed list
        _store_errors.inc()
        STORE_REFUSING.told(True)


_stripe_events = Counter(
    "openclaw_billing_stripe_events_total",
    "Stripe events, by type and what became of them",
    ["type", "outcome"],
)
for _kind in (*KINDS, OTHER):
    # From nothing to one is no increase: what is alerted on is shown from the start.
    for _outcome in (InboxStatus.FAILED, InboxStatus.ORPHAN):
        _stripe_events.labels(_kind, _outcome.value)
_stripe_waiting = Gauge(
    "openclaw_billing_stripe_inbox_waiting", "Stripe events not applied yet", multiprocess_mode="livemax"
)
_stripe_lag = Gauge(
    "openclaw_billing_stripe_inbox_lag_seconds",
    "Age of the oldest event not applied yet",
    multiprocess_mode="livemax",
)
_stripe_silence = Gauge(
    "openclaw_billing_stripe_last_event_seconds",
    "Seconds since an event was stored",
    multiprocess_mode="livemin",
)


class StripeMetrics:
    """Counts calls and events; names of endpoints, types and outcomes are ours, so the labels are closed."""

    def called(self, endpoint: str, outcome: str) -> None:
        _stripe_calls.labels(endpoint, outcome).inc()

    def breaker(self, is_open: bool) -> None:
        _stripe_breaker.set(is_open)

    def event(self, kind: str, outcome: str) -> None:
        _stripe_events.labels(kind if kind in KINDS else OTHER, outcome).inc()

    def backlog(self, waiting: int, lag_seconds: float, silence_seconds: float | None) -> None:
        _stripe_waiting.set(waiting)
        _stripe_lag.set(lag_seconds)
        if silence_seconds is not None:
            _stripe_silence.set(silence_seconds)


def _is_reset(entry: LedgerEntry) -> bool:
    """Whether the entry grants the allowance of a cycle after the first."""
    granted = entry.operation_id.startswith("grant:") and entry.cycle_number > 0
    return granted and entry.lot_id is not None and LotSource.ALLOWANCE in entry.lot_id
