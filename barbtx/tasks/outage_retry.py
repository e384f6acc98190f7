"""Doing again what failed because something was out of reach."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from barbtx.errors import ServiceUnavailable

T = TypeVar("T")


@attrs.define(eq=False)
class OutageRetry:
    """Outlasts an outage: work resumes within :attr:`longest_wait` of its end.

    :ivar limit: seconds after which an outage is not waited for any longer.
    :ivar longest_wait: seconds between two tries, at most.
    """

    clock: IReactorTime
    limit: float
    longest_wait: float = 2.0
    _stopped: bool = attrs.field(default=False, init=False)
    _pauses: set[Deferred[None]] = attrs.field(factory=set, init=False)

    async def run_until_available(
        self,
        work: Callable[[], Awaitable[T]],
        unless: type[Exception] | tuple[type[Exception], ...] = (),
        outage: type[ServiceUnavailable] = ServiceUnavailable,
    ) -> T:
        """Run work until it does not fail with :class:`ServiceUnavailable`, or with a kind of it.

        :param work: may have been done although it failed so; must do no harm if it is repeated.
        :param unless: failures of that kind after which it would be of no use to run it again.
        :param outage: the kind of failure that is an outage to be waited for.
        :raises ServiceUnavailable: the outage lasts too long, or this process stops.
        """
        end = self.clock.seconds() + self.limit

        def is_over(_: RetryCallState) -> bool:
            return self._stopped or self.clock.seconds() >= end

        def is_outage(problem: BaseException) -> bool:
            return isinstance(problem, outage) and not isinstance(problem, unless)

        async def attempt() -> T:
            return await work()

        return await AsyncRetrying(
            retry=retry_if_exception(is_outage),
            stop=is_over,
            sleep=self._pause,
            wait=wait_random_exponential(multiplier=0.25, min=0.1, max=self.longest_wait),
            reraise=True,
        )(attempt)

    def stop(self) -> None:
        """Wait for nothing any longer: each work is tried once more, and then it has failed."""
        self._stopped = True
        for pause in list(self._pauses):
            pause.callback(None)

    async def _pause(self, seconds: float) -> None:
        pause: Deferred[None] = Deferred()
        self._pauses.add(pause)
        timer = self.clock.callLater(seconds, pause.callback, None)
        try:
            await pause
        finally:
            self._pauses.discard(pause)
            if timer.active():
                timer.cancel()
