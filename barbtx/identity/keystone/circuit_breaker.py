"""A circuit breaker: while a dependency does not respond, requests fail at once."""

from __future__ import annotations

import math

import attrs
from twisted.internet.interfaces import IReactorTime

from barbtx.errors import ServiceUnavailable
from barbtx.validators import provides


@attrs.define
class CircuitBreaker:
    """Opens after a number of consecutive failures; after a delay, the outcome of one trial request decides.

    :ivar clock: monotonic.
    :ivar name: name of the dependency, for clients.
    :ivar limit: consecutive failures after which the circuit opens.
    :ivar seconds: how long it stays open before a trial request is let through.
    :ivar cause: the cause of the latest failure, for the log.
    """

    clock: IReactorTime = attrs.field(validator=provides(IReactorTime))
    name: str
    limit: int
    seconds: float
    cause: str | None = attrs.field(default=None, init=False)
    _failures: int = attrs.field(default=0, init=False)
    _next_trial: float = attrs.field(default=0.0, init=False)
    _opened_since_check: bool = attrs.field(default=False, init=False)

    @property
    def is_open(self) -> bool:
        """Whether requests must not be sent now, except for the trial request that :meth:`check` let through."""
        return self._failures >= self.limit and self._opened_since_check

    def check(self) -> None:
        """Let a request through if the circuit is closed, or if it is time for a trial request.

        :raises ServiceUnavailable: the circuit is open.
        """
        if self._failures < self.limit:
            return
        now = self.clock.seconds()
        # A clock that was set back must not keep the circuit open for longer than configured.
        remaining = min(self._next_trial - now, self.seconds)
        if remaining > 0:
            raise self.unavailable(remaining)
        self._next_trial = now + self.seconds
        self._opened_since_check = False

    def unavailable(self, seconds: float = 2.0) -> ServiceUnavailable:
        """Make the error for clients.

        :param seconds: when they should retry.
        """
        return ServiceUnavailable(
            f"{self.name} cannot be reached; try again later.",
            retry_after=max(1, math.ceil(seconds)),
            **({"cause": self.cause} if self.cause else {}),
        )

    def record_success(self) -> None:
        """Close the circuit: the dependency responds."""
        self._failures = 0
        self.cause = None

    def record_failure(self) -> None:
        """Count a failure; open the circuit at the limit."""
        self._failures += 1
        if self._failures >= self.limit:
            self.open()

    def open(self) -> None:
        """Open the circuit now, regardless of the number of failures."""
        self._failures = max(self._failures, self.limit)
        self._opened_since_check = True
        self._next_trial = self.clock.seconds() + self.seconds
