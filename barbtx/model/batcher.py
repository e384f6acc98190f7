"""Collecting requests that arrive at the same time into groups, so that they share a round trip."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from barbtx import activity

# A request that is sent at the last moment.
_LEAST_SECONDS = 0.01

K = TypeVar("K")
R = TypeVar("R")


@attrs.define(eq=False)
class _Item(Generic[K, R]):
    """A request.

    :ivar key: what is requested.
    :ivar since: when it arrived, in seconds of the reactor's clock.
    """

    key: K
    since: float
    answered: Deferred[R] = attrs.field(factory=Deferred)


@attrs.define(eq=False)
class Batcher(Generic[K, R]):
    """Sends requests in groups: those of one turn of the reactor, and those that arrive while groups are in flight.

    No request waits for others to arrive. Projects take turns if more requests wait than fit into a group.

    :ivar send: sends a group, which may take some seconds; its Deferred fires with the answers in the order of the
        requests.
    :ivar timeout: seconds that a request may take, including the time that it waits to be sent.
    :ivar max_waiting: maximum number of requests that wait to be sent. If it is reached, the project with the most
        waiting loses its last one.
    :ivar refusal: makes the exception for a request that is not sent, from the reason.
    :ivar common: exceptions of ``send`` that concern the whole group. After any other one, which one request may have
        caused, each request is sent again alone.
    :ivar size: maximum number of requests in a group.
    :ivar depth: maximum number of groups in flight.
    """

    reactor: IReactorTime
    send: Callable[[Sequence[K], float], Deferred[Sequence[R]]]
    timeout: float
    max_waiting: int
    refusal: Callable[[str], Exception]
    common: tuple[type[Exception], ...] = ()
    size: int = 64
    depth: int = 2
    _projects: OrderedDict[str | None, deque[_Item[K, R]]] = attrs.field(factory=OrderedDict, init=False)
    _waiting: int = attrs.field(default=0, init=False)
    _in_flight: int = attrs.field(default=0, init=False)
    _scheduled: bool = attrs.field(default=False, init=False)

    @property
    def waiting(self) -> int:
        """How many requests wait to be sent."""
        return self._waiting

    def request(self, key: K) -> Deferred[R]:
        """Request something. Canceling the Deferred drops the request if it was not sent.

        :return: fires with the answer.
        :raises Exception: (asynchronously) what ``send`` failed with, or a refusal, because too many requests are
            waiting or it was not sent in time.
        """
        project = activity.current().project_id
        item: _Item[K, R] = _Item(key, self.reactor.seconds())
        self._projects.setdefault(project, deque()).append(item)
        self._waiting += 1
        if self._waiting > self.max_waiting:
            self._drop_one()
        if not self._scheduled and self._in_flight < self.depth:
            self._scheduled = True
            self.reactor.callLater(0, self._send_waiting)
        return item.answered

    def _drop_one(self) -> None:
        project, longest = max(self._projects.items(), key=lambda entry: len(entry[1]))
        item = longest.pop()
        if not longest:
            del self._projects[project]
        self._waiting -= 1
        if not item.answered.called:
            item.answered.errback(self.refusal("too many transactions are waiting"))

    def _send_waiting(self) -> None:
        self._scheduled = False
        while self._waiting and self._in_flight < self.depth:
            group = self._next_group()
            if group:
                self._send(group)

    def _next_group(self) -> list[_Item[K, R]]:
        group: list[_Item[K, R]] = []
        # One that has waited for most of its time would leave too little of it to the group.
        oldest = self.reactor.seconds() - self.timeout / 2
        while self._projects and len(group) < self.size:
            project, items = self._projects.popitem(last=False)
            item = items.popleft()
            if items:
                self._projects[project] = items
            self._waiting -= 1
            if item.answered.called:
                # Its caller does not wait any more.
                continue
            if item.since < oldest:
                item.answered.errback(self.refusal("timed out waiting for other transactions"))
            else:
                group.append(item)
        return group

    def _send(self, group: Sequence[_Item[K, R]]) -> None:
        self._in_flight += 1
        seconds = min(item.since for item in group) + self.timeout - self.reactor.seconds()
        keys = [item.key for item in group]
        maybeDeferred(self.send, keys, max(seconds, _LEAST_SECONDS)).addCallbacks(
            self._answer, self._fail, callbackArgs=(group,), errbackArgs=(group,)
        )

    def _answer(self, answers: Sequence[R], group: Sequence[_Item[K, R]]) -> None:
        self._end()
        for item, answer in zip(group, answers, strict=True):
            if not item.answered.called:
                item.answered.callback(answer)

    def _fail(self, failure: Failure, group: Sequence[_Item[K, R]]) -> None:
        self._end()
        if len(group) > 1 and not failure.check(*self.common):
            for item in group:
                self._send([item])
            return
        for item in group:
            if not item.answered.called:
                item.answered.errback(failure.value)

    def _end(self) -> None:
        self._in_flight -= 1
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self.reactor.callLater(0, self._send_waiting)
