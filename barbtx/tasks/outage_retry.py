"""Retrying work during an outage of the database or another service."""

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
    """Retries work with exponential backoff and jitter, so that it succeeds soon after the end of an outage.

    :ivar limit: seconds after which the retries end.
    :ivar longest_wait: maximum number of seconds between two attempts.
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
        """Run work until it succeeds or fails for another reason than an outage.

        :param work: must be idempotent, because an attempt that failed may have taken effect.
        :param unless: subclasses of ``outage`` that are not retried.
        :param outage: exceptions that mean an outage.
        :raises ServiceUnavailable: the outage lasts longer than :attr:`limit`, or :meth:`stop` was called.
        """
        end = self.clock.seconds() + self.limit
        try:
            return await work()
        except outage as problem:
            first: list[ServiceUnavailable] = [problem]

        def is_over(_: RetryCallState) -> bool:
            return self._stopped or self.clock.seconds() >= end

        def is_outage(problem: BaseException) -> bool:
            return isinstance(problem, outage) and not isinstance(problem, unless)

        async def attempt() -> T:
            if first:
                raise first.pop()
            return await work()

        return await AsyncRetrying(
            retry=retry_if_exception(is_outage),
            stop=is_over,
            sleep=self._pause,
            wait=wait_random_exponential(multiplier=0.25, min=0.1, max=self.longest_wait),
            reraise=True,
        )(attempt)

    def stop(self) -> None:
        """End all waits: each work is attempted once more and not retried after that."""
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
