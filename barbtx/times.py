"""Wall clock time in the form that the database and the API use: naive datetimes in UTC."""

from __future__ import annotations

import datetime
import time
from typing import Protocol


class Clock(Protocol):
    """A wall clock. Tests use Twisted's ``task.Clock``."""

    def seconds(self) -> float:
        """Seconds since the epoch."""


class WallClock:
    """The wall clock of this machine. It can be set, so timers use the reactor's monotonic clock instead."""

    def seconds(self) -> float:
        """Seconds since the epoch."""
        return time.time()


def utcnow(clock: Clock) -> datetime.datetime:
    """Return the time of a clock as a naive datetime in UTC."""
    return datetime.datetime.fromtimestamp(clock.seconds(), datetime.UTC).replace(tzinfo=None)


def whole_second(moment: datetime.datetime) -> datetime.datetime:
    """Round a time down to a second, which is the resolution of a secret's expiration."""
    return moment.replace(microsecond=0)


def parse_time(text: str) -> datetime.datetime:
    """Parse an ISO 8601 time and convert it to naive UTC.

    Basic and extended form, a date alone, ``T`` or a space as separator, and any zone are accepted; a time without a
    zone is in UTC.

    :raises ValueError: the text is not an ISO 8601 time, or the time in UTC is outside of the calendar.
    """
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        try:
            moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
        except OverflowError:
            raise ValueError("out of range") from None
    return moment
