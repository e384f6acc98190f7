"""The project remover: it carries out the project removals that are recorded in the database.

Any number of workers may run it. A lease gives each step to one worker; if that worker dies, another one takes over.
"""

from __future__ import annotations

from oslo_config import cfg
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from barbtx.errors import ServiceUnavailable
from barbtx.tasks.project_removal import AdvanceRemoval

log = Logger()


class ProjectRemover(Service):
    """Carries out the steps of removals that are due.

    :param step: carries out one step.
    :param concurrency: maximum number of removals at the same time.
    :param interval: seconds between two checks for steps that are due.
    """

    def __init__(self, clock: IReactorTime, step: AdvanceRemoval, concurrency: int, interval: float) -> None:
        self._clock = clock
        self._step = step
        self._concurrency = concurrency
        self._interval = interval
        self._woken = False
        self._sleeping: set[Deferred[None]] = set()
        self._runners: list[Deferred[None]] = []

    def startService(self) -> None:
        """Start to check for steps that are due."""
        super().startService()
        self._runners = [Deferred.fromCoroutine(self._run()) for _ in range(self._concurrency)]

    def stopService(self) -> Deferred[None]:
        """Cancel the steps in progress and release their leases, so that another worker continues at once."""
        super().stopService()
        for runner in self._runners:
            runner.cancel()
        return DeferredList(self._runners).addCallback(lambda _: None)

    def wake(self) -> None:
        """Check now whether a step is due."""
        self._woken = True
        for sleep in list(self._sleeping):
            sleep.callback(None)

    async def _run(self) -> None:
        try:
            while self.running:
                wait = await self._round()
                if wait > 0 and self.running:
                    await self._sleep(wait)
        except CancelledError:
            pass

    async def _round(self) -> float:
        """Carry out a step, if one is due; return the seconds until the next check."""
        try:
            wait = await self._step.removals.seconds_to_next()
            if wait is None or wait > 0:
                return self._interval if wait is None else min(wait, self._interval)
            claim = await self._step.removals.claim()
            if claim is None:
                return self._interval
            await self._step.run(claim)
        except CancelledError:
            raise
        except ServiceUnavailable:
            return self._interval
        except Exception:
            log.failure("removing projects failed")
            return self._interval
        return 0

    async def _sleep(self, seconds: float) -> None:
        if self._woken:
            # It was woken during the last round.
            self._woken = False
            return
        sleep: Deferred[None] = Deferred()
        call = self._clock.callLater(seconds, sleep.callback, None)
        self._sleeping.add(sleep)
        try:
            await sleep
        finally:
            self._woken = False
            self._sleeping.discard(sleep)
            if call.active():
                call.cancel()


def make_project_remover(clock: IReactorTime, conf: cfg.ConfigOpts, step: AdvanceRemoval) -> ProjectRemover:
    """Make the remover with the options of ``[keystone_notifications]``."""
    options = conf.keystone_notifications
    return ProjectRemover(clock, step, options.concurrency, options.interval_seconds)
