"""Adding changes of the numbers of secrets to the counts, so that lists have few rows to sum up."""

from __future__ import annotations

import random
from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from barbtx.errors import ServiceUnavailable
from barbtx.model.repositories.secret_counts import SecretCountRepo

log = Logger()

_BATCH = 1000
# Seconds between batches: while secrets are added or deleted, and at most.
_LEAST_SECONDS = 1.0
_MOST_SECONDS = 10.0


class CountFolding(Service):
    """Folds changes in batches, where the database has any. It may run in any number of processes.

    :param jitter: returns a factor by which each wait is multiplied.
    """

    def __init__(
        self,
        clock: IReactorTime,
        counts: SecretCountRepo,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),
    ) -> None:
        self._clock = clock
        self._counts = counts
        self._jitter = jitter
        self._running: Deferred[None] | None = None

    def startService(self) -> None:
        """Start to fold changes."""
        super().startService()
        if self._counts.maintained:
            self._running = Deferred.fromCoroutine(self._run())
            self._running.addErrback(lambda failure: failure.trap(CancelledError))

    def stopService(self) -> None:
        """Fold no more changes."""
        super().stopService()
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        wait = _LEAST_SECONDS
        while True:
            await deferLater(self._clock, wait * self._jitter(), lambda: None)
            changes = await self._fold()
            if changes == _BATCH:
                wait = 0
            elif changes:
                wait = _LEAST_SECONDS
            else:
                wait = min(max(2 * wait, _LEAST_SECONDS), _MOST_SECONDS)

    async def _fold(self) -> int:
        try:
            return await self._counts.fold(_BATCH)
        except ServiceUnavailable:
            # The database logs why.
            return 0
        except CancelledError:
            raise
        except Exception:
            log.failure("folding the counts of secrets failed")
            return 0
