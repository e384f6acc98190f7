"""Carries out the removals of projects that are noted in the database.

Any number of workers may run it. Each step belongs to one of them by a lease, and whatever a worker leaves behind when
it dies, another takes up.
"""

from __future__ import annotations

from typing import Any

from oslo_config import cfg
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger

from barbtx.errors import ServiceUnavailable
from barbtx.tasks.project_removal import AdvanceRemoval

log = Logger()


class ProjectRemover(Service):
    """See the module's text.

    :param concurrency: removals at the same time, at most.
    :param interval: seconds between two looks for what is due.
    """

    def __init__(self, reactor: Any, step: AdvanceRemoval, concurrency: int, interval: float) -> None:
        self._reactor = reactor
        self._step = step
        self._concurrency = concurrency
        self._interval = interval
        self._woken = False
        self._sleeping: set[Deferred[None]] = set()
        self._runners: list[Deferred[None]] = []

    def startService(self) -> None:
        super().startService()
        self._runners = [Deferred.fromCoroutine(self._run()) for _ in range(self._concurrency)]

    def stopService(self) -> Deferred[Any]:
        """Stop in the middle of whatever is under way, and let go of it, so that another worker goes on at once."""
        super().stopService()
        for runner in self._runners:
            runner.cancel()
        return DeferredList(self._runners)

    def wake(self) -> None:
        """Look for what is due now."""
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
        """Do a step, if one is due; how long to wait for the next one."""
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
            # Somebody called while this one looked.
            self._woken = False
            return
        sleep: Deferred[None] = Deferred()
        call = self._reactor.callLater(seconds, sleep.callback, None)
        self._sleeping.add(sleep)
        try:
            await sleep
        finally:
            self._woken = False
            self._sleeping.discard(sleep)
            if call.active():
                call.cancel()


def make_project_remover(reactor: Any, conf: cfg.ConfigOpts, step: AdvanceRemoval) -> ProjectRemover:
    """The remover, as ``[keystone_notifications]`` wants it."""
    options = conf.keystone_notifications
    return ProjectRemover(reactor, step, options.concurrency, options.interval_seconds)
