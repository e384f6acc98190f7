"""A timeout that is set and cleared with every request."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime


@attrs.define(eq=False)
class Deadline:
    """Calls a function at a time, unless it is cleared or set to another time before.

    The delayed call of the reactor stays when the deadline is cleared or moved to a later time, and waits again if it
    comes too early. To set and to clear the deadline of a busy connection therefore costs next to nothing.

    :ivar expired: called when the time has come. The deadline is cleared by then. None after :meth:`close`.
    """

    clock: IReactorTime
    expired: Callable[[], object] | None
    _time: float | None = attrs.field(default=None, init=False)
    _call: IDelayedCall | None = attrs.field(default=None, init=False)

    @property
    def time(self) -> float | None:
        """The time, in seconds of the clock; None if the deadline is cleared."""
        return self._time

    def set(self, seconds: float) -> None:
        """Set the deadline to some seconds from now; after :meth:`close`, do nothing."""
        if self.expired is None:
            return
        self._time = time = self.clock.seconds() + seconds
        if self._call is None:
            self._call = self.clock.callLater(seconds, self._due)
        elif self._call.getTime() > time:
            self._call.reset(seconds)

    def clear(self) -> None:
        """Do not call the function."""
        self._time = None

    def close(self) -> None:
        """Clear the deadline for ever, and release the function, which may refer to the owner of the deadline."""
        self._time = self.expired = None
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _due(self) -> None:
        self._call = None
        if self._time is None or self.expired is None:
            return
        remaining = self._time - self.clock.seconds()
        if remaining > 0:
            self._call = self.clock.callLater(remaining, self._due)
        else:
            self._time = None
            self.expired()
