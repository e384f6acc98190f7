"""Time, as the database and the API keep it: naive datetimes in UTC."""

from __future__ import annotations

import datetime
import time
from typing import Protocol


class Clock(Protocol):
    """The time of day. Twisted's ``task.Clock`` is one, for tests."""

    def seconds(self) -> float:
        """Seconds since the epoch."""


class WallClock:
    """The machine's time of day, which somebody may set."""

    def seconds(self) -> float:
        return time.time()


def utcnow(clock: Clock) -> datetime.datetime:
    """The clock's time, in UTC, without a zone."""
    return datetime.datetime.fromtimestamp(clock.seconds(), datetime.UTC).replace(tzinfo=None)


def whole_second(moment: datetime.datetime) -> datetime.datetime:
    """The second that a moment is in, which is as fine as secrets expire."""
    return moment.replace(microsecond=0)


def parse_time(text: str) -> datetime.datetime:
    """Read an ISO 8601 time (date alone, basic or extended form, ``T`` or space, zone or none) as naive UTC.

    :raises ValueError: it is none, or it does not fit the calendar once converted to UTC.
    """
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        try:
            moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
        except OverflowError:
            raise ValueError("out of range") from None
    return moment
