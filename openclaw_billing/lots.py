"""Credit lots: drawn soonest lost first, purchased ones last of all.

Credits of one source that end at one moment are one lot. An emptied lot stays until it ends, so that
credits given back find it; a lot that is not there has ended.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeAlias

from openclaw_billing.records import Draw, Lot, LotSource

Lots: TypeAlias = tuple[Lot, ...]
Draws: TypeAlias = tuple[Draw, ...]

LOTS_MAX = 100

NEVER = datetime.max.replace(tzinfo=UTC)


def allowance_id(cycle_number: int) -> str:
    """The id of the lot that a cycle's allowance is in."""
    return f"allowance:{cycle_number}"


def lot_of(source: LotSource, credits: int, expires_at: datetime | None) -> Lot:
    """A lot of any source but the allowance."""
    assert source is not LotSource.ALLOWANCE
    lot_id = (
        source.value if expires_at is None else f"{source.value}:{expires_at.astimezone(UTC).isoformat()}"
    )
    return Lot(lot_id, source, credits, expires_at)


def total(lots: Lots) -> int:
    """The credits left in all of them."""
    credits = 0
    for lot in lots:
        credits += lot.left
    return credits


def find(lots: Lots, lot_id: str) -> Lot | None:
    for lot in lots:
        if lot.lot_id == lot_id:
            return lot
    return None


def added(lots: Lots, new: Lot) -> Lots:
    """The lots with those credits more: in the lot of that id, or in a new one in its place."""
    if find(lots, new.lot_id) is None:
        return tuple(sorted((*lots, new), key=_order))
    return tuple(_with_left(lot, lot.left + new.left) if lot.lot_id == new.lot_id else lot for lot in lots)


def without(lots: Lots, lot_id: str) -> Lots:
    return tuple(lot for lot in lots if lot.lot_id != lot_id)


def drawn(lots: Lots, credits: int, *, last_lost_first: bool = False) -> tuple[Lots, Draws]:
    """The lots with those credits less, and what came from which. There must be enough."""
    after = list(lots)
    draws: list[Draw] = []
    missing = credits
    places = range(len(after))
    for place in reversed(places) if last_lost_first else places:
        if missing == 0:
            break
        lot = after[place]
        taken = min(missing, lot.left)
        if taken:
            after[place] = Lot(lot.lot_id, lot.source, lot.left - taken, lot.expires_at)
            draws.append(Draw(lot.lot_id, taken))
            missing -= taken
    assert missing == 0
    return tuple(after), tuple(draws)


def drawn_of(lots: Lots, lot_id: str, credits: int) -> tuple[Lots, Draws]:
    """The lots with so many credits less in that one, which holds them."""
    if credits == 0:
        return lots, ()
    after = tuple(_with_left(lot, lot.left - credits) if lot.lot_id == lot_id else lot for lot in lots)
    return after, (Draw(lot_id, credits),)


def drawn_from(draws: Draws, lot_id: str) -> int:
    """How many of the credits came from that lot."""
    credits = 0
    for draw in draws:
        if draw.lot_id == lot_id:
            credits += draw.credits
    return credits


def _with_left(lot: Lot, left: int) -> Lot:
    return Lot(lot.lot_id, lot.source, left, lot.expires_at)


def _order(lot: Lot) -> tuple[bool, datetime, str]:
    return lot.source is LotSource.PURCHASED, lot.expires_at or NEVER, lot.lot_id
