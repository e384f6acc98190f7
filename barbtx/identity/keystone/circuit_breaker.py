"""Leaving a dependency alone that does not answer."""

from __future__ import annotations

import math

import attrs
from twisted.internet.interfaces import IReactorTime

from barbtx.errors import ServiceUnavailable


@attrs.define
class CircuitBreaker:
    """Open after some failures in a row; after a while one try is let through, and decides.

    :ivar limit: failures.
    :ivar seconds: for which it stays open.
    :ivar cause: of the latest failure, for the log.
    """

    clock: IReactorTime
    name: str
    limit: int
    seconds: float
    cause: str | None = attrs.field(default=None, init=False)
    _failures: int = attrs.field(default=0, init=False)
    _next_try: float = attrs.field(default=0.0, init=False)
    _opened_since_check: bool = attrs.field(default=False, init=False)

    @property
    def is_open(self) -> bool:
        """Whether nobody gets through now, but for the one try that :meth:`check` let through."""
        return self._failures >= self.limit and self._opened_since_check

    def check(self) -> None:
        """Let a try through, or not.

        :raises ServiceUnavailable: not now.
        """
        if self._failures < self.limit:
            return
        now = self.clock.seconds()
        # A clock that was set back must not keep it open for longer than it may be.
        remaining = min(self._next_try - now, self.seconds)
        if remaining > 0:
            raise self.unavailable(remaining)
        self._next_try = now + self.seconds
        self._opened_since_check = False

    def unavailable(self, seconds: float = 2.0) -> ServiceUnavailable:
        """What to tell clients meanwhile."""
        return ServiceUnavailable(
            f"{self.name} cannot be reached; try again later.",
            retry_after=max(1, math.ceil(seconds)),
            **({"cause": self.cause} if self.cause else {}),
        )

    def succeeded(self) -> None:
        self._failures = 0
        self.cause = None

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= self.limit:
            self.open()

    def open(self) -> None:
        """Leave it alone from now on, whatever was before."""
        self._failures = max(self._failures, self.limit)
        self._opened_since_check = True
        self._next_try = self.clock.seconds() + self.seconds
