"""The transport without a broker: tasks run in this process, a few at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.logger import Logger
from zope.interface import implementer

from barbtx.model.records import ASYMMETRIC, SYMMETRIC
from barbtx.queue.fair_queue import FairQueue
from barbtx.queue.server import Tasks
from barbtx.queue.transport import ITransport, PublishRefused, RetryLater, TaskMessage

log = Logger()


@attrs.define(eq=False)
class _Lane:
    """:ivar free: how many more may run now."""

    free: int
    waiting: FairQueue[tuple[TaskMessage, Deferred[None]]] = attrs.field(factory=FairQueue, init=False)


@implementer(ITransport)
@attrs.define(eq=False)
class LocalTransport:
    """Runs tasks at once, at most so many at the same time; what does not fit into memory waits in the database.

    Each lane runs as many as it may, and in each the projects take turns.

    :ivar concurrency: tasks that run at the same time in a lane, at most.
    :ivar asymmetric: the same for the lane of key pairs, if it differs.
    """

    tasks: Tasks
    concurrency: int
    max_waiting: int
    asymmetric: int | None = None
    _lanes: dict[str, _Lane] = attrs.field(init=False)
    _pending: set[Deferred[None]] = attrs.field(factory=set, init=False)
    _running: set[Deferred[None]] = attrs.field(factory=set, init=False)
    _stopped: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._lanes = {SYMMETRIC: _Lane(self.concurrency), ASYMMETRIC: _Lane(self.asymmetric or self.concurrency)}

    @property
    def ready(self) -> bool:
        return not self._stopped and len(self._pending) < self.max_waiting

    def send(self, message: TaskMessage) -> Deferred[None]:
        if not self.ready:
            return fail(PublishRefused("no room"))
        answer: Deferred[None] = Deferred(lambda _: None)
        self._pending.add(answer)
        self._put(message, answer)
        return answer

    def gauges(self) -> dict[str, object]:
        """What is going on, for the report to an operator."""
        return {"tasks in memory": len(self._pending)}

    def _put(self, message: TaskMessage, answer: Deferred[None]) -> None:
        lane = self._lanes[message.lane]
        lane.waiting.put(message.args.get("project_id"), (message, answer))
        self._begin(lane)

    def _begin(self, lane: _Lane) -> None:
        while lane.free and lane.waiting and not self._stopped:
            message, answer = lane.waiting.get()
            lane.free -= 1
            running = Deferred.fromCoroutine(self._run(message, answer))
            self._running.add(running)
            running.addBoth(self._ended, running, lane)

    async def _run(self, message: TaskMessage, answer: Deferred[None]) -> None:
        try:
            await self.tasks.dispatch(message)
        except RetryLater:
            # Nothing forgets it here, so that it can wait for another outage like the one that it has outlasted.
            if not self._stopped:
                self._put(message, answer)
                return
        except Exception:
            log.failure("a task failed")
        self._answer(answer)

    def _ended(self, _: object, running: Deferred[None], lane: _Lane) -> None:
        self._running.discard(running)
        lane.free += 1
        self._begin(lane)

    def _answer(self, answer: Deferred[None]) -> None:
        self._pending.discard(answer)
        if not answer.called:
            answer.callback(None)

    async def stop(self, reactor: Any, grace: float) -> bool:
        """Begin no more, and wait for what was begun to come to an end. The rest waits in the database.

        :param grace: seconds; what takes longer is given back.
        :return: whether everything came to its end.
        """
        self._stopped = True
        for lane in self._lanes.values():
            while lane.waiting:
                self._answer(lane.waiting.get()[1])
        ended: Deferred[Any] = DeferredList([running.addBoth(lambda result: result) for running in set(self._running)])
        in_time = await ended.addCallback(lambda _: True).addTimeout(grace, reactor, lambda *_: False)
        if not in_time:
            log.warn("{count} tasks were not finished in time and wait in the database", count=len(self._running))
            await self.tasks.release_orders()
        return in_time


class LocalService(Service):
    """Lets what was begun come to an end before the process does.

    :param stopping: called when the service begins to stop.
    """

    def __init__(
        self, reactor: Any, transport: LocalTransport, grace: float, stopping: Callable[[], None] = lambda: None
    ) -> None:
        self._reactor = reactor
        self._transport = transport
        self._grace = grace
        self._stopping = stopping
        self.abandoned = False

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._stopping()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.abandoned = not await self._transport.stop(self._reactor, self._grace)
