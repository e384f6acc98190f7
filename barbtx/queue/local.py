"""The transport without a broker: tasks run in this process, a limited number of them at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from barbtx.model.records import ASYMMETRIC, SYMMETRIC
from barbtx.queue.fair_queue import FairQueue
from barbtx.queue.server import Tasks
from barbtx.queue.transport import ITransport, PublishRefused, RetryLater, TaskMessage

log = Logger()


@attrs.define(eq=False)
class _Lane:
    """:ivar free: how many more tasks may run now."""

    free: int
    waiting: FairQueue[tuple[TaskMessage, Deferred[None]]] = attrs.field(factory=FairQueue, init=False)


@implementer(ITransport)
@attrs.define(eq=False)
class LocalTransport:
    """Runs tasks at once if their lane has a free slot; others wait in memory.

    In each lane the projects take turns. Messages beyond ``max_waiting`` are refused: their tasks wait in the database.

    :ivar concurrency: maximum number of tasks that run in a lane at the same time.
    :ivar max_waiting: maximum number of tasks in memory, running ones included.
    :ivar asymmetric: concurrency of the lane for key pairs; ``concurrency`` if None.
    """

    permits: ClassVar[bool] = False

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
        """Whether a task fits into memory."""
        return not self._stopped and len(self._pending) < self.max_waiting

    def send(self, message: TaskMessage) -> Deferred[None]:
        """Run a task; fires when it has ended, with or without success. Cancelling ends the wait, not the task.

        :raises PublishRefused: (asynchronously) the transport is full or stopped.
        """
        if not self.ready:
            return fail(PublishRefused("the transport is full or stopped"))
        ended: Deferred[None] = Deferred(lambda _: None)
        self._pending.add(ended)
        self._put(message, ended)
        return ended

    def gauges(self) -> dict[str, object]:
        """Return the transport's state, for the status report."""
        return {"tasks in memory": len(self._pending)}

    def _put(self, message: TaskMessage, ended: Deferred[None]) -> None:
        lane = self._lanes[message.lane]
        lane.waiting.put(message.args.get("project_id"), (message, ended))
        self._start(lane)

    def _start(self, lane: _Lane) -> None:
        while lane.free and lane.waiting and not self._stopped:
            message, ended = lane.waiting.get()
            lane.free -= 1
            running = Deferred.fromCoroutine(self._run(message, ended))
            self._running.add(running)
            running.addBoth(self._free_slot, running, lane)

    async def _run(self, message: TaskMessage, ended: Deferred[None]) -> None:
        try:
            await self.tasks.dispatch(message)
        except RetryLater:
            # The message stays in memory, so that it can wait until a longer outage is over.
            if not self._stopped:
                self._put(message, ended)
                return
        except Exception:
            log.failure("a task failed")
        self._finish(ended)

    def _free_slot(self, _: object, running: Deferred[None], lane: _Lane) -> None:
        self._running.discard(running)
        lane.free += 1
        self._start(lane)

    def _finish(self, ended: Deferred[None]) -> None:
        self._pending.discard(ended)
        if not ended.called:
            ended.callback(None)

    async def stop(self, clock: IReactorTime, grace: float) -> bool:
        """Start no more tasks and wait for the running ones. The others wait in the database.

        :param grace: seconds to wait; the orders of tasks that need longer are released.
        :return: whether all running tasks ended in time.
        """
        self._stopped = True
        for lane in self._lanes.values():
            while lane.waiting:
                self._finish(lane.waiting.get()[1])
        all_ended = DeferredList([running.addBoth(lambda result: result) for running in set(self._running)])
        in_time = await all_ended.addCallback(lambda _: True).addTimeout(grace, clock, lambda *_: False)
        if not in_time:
            log.warn("{count} tasks were not finished in time and wait in the database", count=len(self._running))
            await self.tasks.release_orders()
        return in_time


class LocalService(Service):
    """Lets the tasks that run in this process end before the process stops.

    :param grace: seconds to wait for them.
    :param stopping: called when the service begins to stop.
    :ivar unfinished: whether tasks were still running when the grace period ended.
    """

    def __init__(
        self, clock: IReactorTime, transport: LocalTransport, grace: float, stopping: Callable[[], None] = lambda: None
    ) -> None:
        self._clock = clock
        self._transport = transport
        self._grace = grace
        self._stopping = stopping
        self.unfinished = False

    def stopService(self) -> Deferred[None]:
        """Wait for running tasks, for the grace period at most."""
        super().stopService()
        self._stopping()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.unfinished = not await self._transport.stop(self._clock, self._grace)
