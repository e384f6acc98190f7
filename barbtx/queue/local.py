"""The transport without a broker: tasks run in this process, a few at a time."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore, fail
from twisted.logger import Logger
from zope.interface import implementer

from barbtx.queue.server import Tasks
from barbtx.queue.transport import ITransport, Refused, TaskMessage

log = Logger()


@implementer(ITransport)
@attrs.define(eq=False)
class LocalTransport:
    """Runs tasks at once, at most so many at the same time; what does not fit into memory waits in the database."""

    tasks: Tasks
    concurrency: int
    max_waiting: int
    _running: DeferredSemaphore = attrs.field(init=False)
    _pending: set[Deferred[None]] = attrs.field(factory=set, init=False)
    _stopped: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._running = DeferredSemaphore(self.concurrency)

    @property
    def ready(self) -> bool:
        return not self._stopped and len(self._pending) < self.max_waiting

    def send(self, message: TaskMessage) -> Deferred[None]:
        if not self.ready:
            return fail(Refused("no room"))
        running = self._running.run(self._dispatch, message)
        self._pending.add(running)
        answer: Deferred[None] = Deferred(lambda _: None)

        def ended(outcome: object) -> None:
            self._pending.discard(running)
            if not answer.called:
                answer.callback(None)

        running.addErrback(lambda failure: log.failure("a task failed", failure=failure)).addBoth(ended)
        return answer

    def gauges(self) -> dict[str, object]:
        """What is going on, for the report to an operator."""
        return {"tasks in memory": len(self._pending)}

    def _dispatch(self, message: TaskMessage) -> Deferred[None] | None:
        return None if self._stopped else Deferred.fromCoroutine(self.tasks.dispatch(message))

    async def stop(self, reactor: Any, grace: float) -> bool:
        """Begin no more, and wait for what was begun to come to an end. The rest waits in the database.

        :param grace: seconds; what takes longer is given back.
        :return: whether everything came to its end.
        """
        self._stopped = True
        ended: Deferred[Any] = DeferredList([waiting.addBoth(lambda result: result) for waiting in set(self._pending)])
        in_time = await ended.addCallback(lambda _: True).addTimeout(grace, reactor, lambda *_: False)
        if not in_time:
            log.warn("{count} tasks were not finished in time and wait in the database", count=len(self._pending))
            await self.tasks.give_back()
        return in_time


class LocalService(Service):
    """Lets what was begun come to an end before the process does."""

    def __init__(self, reactor: Any, transport: LocalTransport, grace: float) -> None:
        self._reactor = reactor
        self._transport = transport
        self._grace = grace
        self.abandoned = False

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.abandoned = not await self._transport.stop(self._reactor, self._grace)
