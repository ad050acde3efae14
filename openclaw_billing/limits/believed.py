"""Believed: what a database said of a client, for a few seconds after it was asked: it is on the path of every call."""

from __future__ import annotations

from collections.abc import Callable

from openclaw_billing.errors import StorageUnavailable

BELIEVED_US = 5_000_000
KEPT_MAX = 50_000


class Believed:
    """Words, by what they tell and of whom."""

    def __init__(self, ticks: Callable[[], int]) -> None:
        self._ticks = ticks
        self._kept: dict[tuple[str, str], tuple[int, str]] = {}

    def of(self, what: str, client_id: str, ask: Callable[[], str]) -> str:
        """What the database says, or said lately; while it is away, what it said last.

        Raises:
            StorageUnavailable: it is away, and was never asked for this.
        """
        kept, now = self._kept.get((what, client_id)), self._ticks()
        if kept is not None and now < kept[0]:
            return kept[1]
        try:
            said = ask()
        except StorageUnavailable:
            if kept is None:
                raise
            said = kept[1]
        if len(self._kept) >= KEPT_MAX:
            self._kept.clear()
        self._kept[what, client_id] = (now + BELIEVED_US, said)
        return said
