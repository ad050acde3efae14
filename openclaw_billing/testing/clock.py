"""A clock that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class FakeClock:
    """Gives the fake's moment, in whole seconds as Stripe counts them."""

    def __init__(self, start: datetime) -> None:
        self._seconds = int(start.timestamp())

    def seconds(self) -> int:
        """The moment as a Unix timestamp."""
        return self._seconds

    def now(self) -> datetime:
        """The moment as an aware datetime in UTC."""
        return datetime.fromtimestamp(self._seconds, UTC)

    def move_to(self, seconds: int) -> None:
        """Set the moment; time never runs backwards."""
        if seconds < self._seconds:
            raise ValueError("the fake's clock only moves forward")
        self._seconds = seconds

    def after(self, step: timedelta) -> int:
        """The timestamp `step` from now."""
        return self._seconds + int(step.total_seconds())


def add_interval(start: int, interval: str, count: int) -> int:
    """The end of a billing period that begins at `start`, with the day clamped to the month's last."""
    moment = datetime.fromtimestamp(start, UTC)
    if interval in ("day", "week"):
        return int((moment + timedelta(days=count * (7 if interval == "week" else 1))).timestamp())
    months = moment.year * 12 + moment.month - 1 + count * (12 if interval == "year" else 1)
    year, month = divmod(months, 12)
    return int(
        moment.replace(year=year, month=month + 1, day=_clamped(moment.day, year, month + 1)).timestamp()
    )


def _clamped(day: int, year: int, month: int) -> int:
    first_of_next = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return min(day, (first_of_next - timedelta(days=1)).day)
