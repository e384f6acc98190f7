"""Collecting requests that arrive at the same time into groups, so that they share a round trip."""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from barbtx import activity
from barbtx.activity import Activity

# A request that is sent at the last moment.
_LEAST_SECONDS = 0.01

K = TypeVar("K")
R = TypeVar("R")


class RequestFailed(Exception):
    """One request of a group has failed, and nothing was done for the others.

    :ivar index: the number of the request in the group.
    :ivar reason: the exception for it.
    """

    def __init__(self, index: int, reason: Exception) -> None:
        super().__init__(index)
        self.index = index
        self.reason = reason


class _Item(Generic[K, R]):
    """A request.

    :param key: what is requested.
    :param since: when it arrived, in seconds of the reactor's clock.
    :param current: the activity that it is part of.
    :param abandoned: makes the exception for its cancellation after it was sent.
    """

    __slots__ = ("abandoned", "answered", "current", "key", "sent", "since")

    def __init__(self, key: K, since: float, current: Activity, abandoned: Callable[[], Exception]) -> None:
        self.key = key
        self.since = since
        self.current = current
        self.abandoned = abandoned
        self.sent = False
        self.answered: Deferred[R] = Deferred(self._cancel)

    def _cancel(self, answered: Deferred[R]) -> None:
        answered.errback(self.abandoned() if self.sent else CancelledError())

    def fail(self, make: Callable[[], Exception]) -> None:
        """Fail with an exception that is made, and so logged, as part of the request's activity."""
        if not self.answered.called:
            activity.run(self.current, lambda: self.answered.errback(make()))


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
    :ivar common: exceptions of ``send`` that concern the whole group. After :class:`RequestFailed`, the other requests
        are sent again; after any other exception, which one request may have caused, each is sent again alone.
    :ivar renew: makes the exception for one of several requests from that of their group.
    :ivar abandoned: makes the exception for the cancellation of a request that was sent.
    :ivar size: maximum number of requests in a group.
    :ivar depth: maximum number of groups in flight.
    :ivar least: seconds that a request must have left to be sent again after another one of its group has failed.
    """

    reactor: IReactorTime
    send: Callable[[Sequence[K], float], Deferred[Sequence[R]]]
    timeout: float
    max_waiting: int
    refusal: Callable[[str], Exception]
    common: tuple[type[Exception], ...] = ()
    renew: Callable[[Exception], Exception] = copy.copy
    abandoned: Callable[[], Exception] = CancelledError
    size: int = 64
    depth: int = 2
    least: float = 0.0
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
        current = activity.current()
        item: _Item[K, R] = _Item(key, self.reactor.seconds(), current, self.abandoned)
        self._projects.setdefault(current.project_id, deque()).append(item)
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
        item.fail(lambda: self.refusal("too many transactions are waiting"))

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
                item.fail(lambda: self.refusal("timed out waiting for other transactions"))
            else:
                group.append(item)
        return group

    def _send(self, group: Sequence[_Item[K, R]]) -> None:
        self._in_flight += 1
        for item in group:
            item.sent = True
        keys = [item.key for item in group]
        maybeDeferred(self.send, keys, max(self._seconds_left(group), _LEAST_SECONDS)).addCallbacks(
            self._answer, self._fail, callbackArgs=(group,), errbackArgs=(group,)
        )

    def _seconds_left(self, group: Sequence[_Item[K, R]]) -> float:
        return min(item.since for item in group) + self.timeout - self.reactor.seconds()

    def _answer(self, answers: Sequence[R], group: Sequence[_Item[K, R]]) -> None:
        self._end()
        for item, answer in zip(group, answers, strict=True):
            if not item.answered.called:
                item.answered.callback(answer)

    def _fail(self, failure: Failure, group: Sequence[_Item[K, R]]) -> None:
        self._end()
        error = failure.value
        assert isinstance(error, Exception)
        failed, again = list(group), list[list[_Item[K, R]]]()
        if isinstance(error, RequestFailed):
            failed = [group[error.index]]
            others = [item for item in group if item is not failed[0]]
            error = error.reason
            if self._seconds_left(group) < self.least:
                for item in others:
                    item.fail(lambda: self.refusal("timed out waiting for other transactions"))
            else:
                again = [others]
        elif len(group) > 1 and not isinstance(error, self.common):
            failed, again = [], [[item] for item in group]
        for item in failed:
            item.fail(partial(self.renew, error))
        for items in again:
            wanted = [item for item in items if not item.answered.called]
            if wanted:
                self._send(wanted)

    def _end(self) -> None:
        self._in_flight -= 1
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self.reactor.callLater(0, self._send_waiting)
