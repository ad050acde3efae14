"""Reasons: why a key that we know was refused. Whoever sent it is told nothing, so the log is.

Not the audit log: that is kept for ever, and whoever holds a dead key could make it grow. Unknown keys are counted only.
"""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta

from openclaw_billing.keyring import KeyOutcome
from openclaw_billing.records import Key

EVERY = timedelta(minutes=1)
KEPT_MAX = 1000

log = logging.getLogger("openclaw_billing")


class Reasons:
    """Tells of each key once a minute at most."""

    def __init__(self) -> None:
        self._told: dict[str, datetime] = {}
        self._guard = threading.Lock()

    def tell(self, key: Key, outcome: KeyOutcome, now: datetime) -> None:
        with self._guard:
            before = self._told.pop(key.key_id, None)
            if before is not None and before <= now < before + EVERY:
                self._told[key.key_id] = before
                return
            if len(self._told) >= KEPT_MAX:
                # The one that nobody asked with for the longest.
                del self._told[next(iter(self._told))]
            self._told[key.key_id] = now
        log.info("Refused key %s of client %s: %s", key.key_id, key.client_id, outcome)
