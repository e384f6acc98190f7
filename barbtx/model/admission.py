"""Admission control: which transaction gets a thread and a connection next, so that no kind of work takes them all.

A transaction belongs to a group of tables, is a read, a list or a write, and may belong to a project. A transaction
that waits for a lock, or that takes long, occupies its thread; the limits below keep threads free for other lanes.
"""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator

import attrs


class Workload(enum.Enum):
    """The kind of work of a transaction. A list may read many rows."""

    READ = "read"
    LIST = "list"
    WRITE = "write"


@attrs.frozen
class Lane:
    """Transactions that may delay each other. Those of one lane start in order of arrival; lanes take turns.

    :ivar tables: the group of tables that they use.
    :ivar project: external id of the project that they serve, if any.
    """

    tables: str
    work: Workload
    project: str | None = None


class QueueFull(Exception):
    """Too many transactions are waiting; this one was not admitted."""


@attrs.define(eq=False)
class AdmissionTicket:
    """A transaction that waits or runs.

    :ivar begin: called when the transaction may start.
    :ivar displaced: called instead if the transaction is dropped from the queue in favour of another lane.
    :ivar joined: whether it runs together with another one.
    """

    lane: Lane
    begin: Callable[[], None]
    displaced: Callable[[], None]
    running: bool = False
    joined: bool = False


@attrs.define(eq=False)
class Admission:
    """Admits transactions. All methods must be called in the reactor's thread.

    One group of tables may use at most half of the connections, its lists and its writes at most a quarter each. All
    lists together may use half, and so may all writes. One project may use half of the connections of its lane. Each
    of these limits is at least one.

    :ivar size: maximum number of transactions that run at the same time.
    :ivar limit: maximum number of transactions that run or wait. If it is reached, the lane with the longest queue
        gives up its last transaction for a lane with a shorter one.
    :ivar writers: maximum number of writes that run at the same time, if the database limits them.
    """

    size: int
    limit: int
    writers: int | None = None
    _admitted: Counter[Hashable] = attrs.field(factory=Counter, init=False)
    _running: int = attrs.field(default=0, init=False)
    _joined: int = attrs.field(default=0, init=False)
    _waiting: int = attrs.field(default=0, init=False)
    _lanes: OrderedDict[Lane, deque[AdmissionTicket]] = attrs.field(factory=OrderedDict, init=False)

    @property
    def running(self) -> int:
        """How many transactions run."""
        return self._running + self._joined

    @property
    def waiting(self) -> int:
        """How many transactions wait."""
        return self._waiting

    def enter(self, lane: Lane, begin: Callable[[], None], displaced: Callable[[], None]) -> AdmissionTicket:
        """Queue a transaction, and start it as soon as the limits allow.

        :raises QueueFull: no other transaction can be displaced for it.
        """
        if self.running + self._waiting >= self.limit:
            self._displace_one(lane)
        ticket = AdmissionTicket(lane, begin, displaced)
        self._lanes.setdefault(lane, deque()).append(ticket)
        self._waiting += 1
        self._start_waiting()
        return ticket

    def leave(self, ticket: AdmissionTicket) -> None:
        """Note that a transaction that was started has ended."""
        if ticket.joined:
            self._joined -= 1
            return
        self._running -= 1
        for share, _ in self._shares(ticket.lane):
            self._admitted[share] -= 1
            if not self._admitted[share]:
                del self._admitted[share]
        self._start_waiting()

    def join(self, most: int) -> None:
        """Start writes that wait, to run together with one that was started. They count towards none of the limits.

        :param most: maximum number of writes. Lanes take turns.
        """
        for _ in range(most):
            lane = next((lane for lane in self._lanes if lane.work is Workload.WRITE), None)
            if lane is None:
                return
            ticket = self._take(lane)
            ticket.joined = True
            self._joined += 1
            ticket.begin()

    def withdraw(self, ticket: AdmissionTicket) -> None:
        """Remove a transaction from the queue. One that was started stays admitted until :meth:`leave`."""
        if not ticket.running and ticket in self._lanes.get(ticket.lane, ()):
            self._dequeue(ticket)

    def _dequeue(self, ticket: AdmissionTicket) -> None:
        queue = self._lanes[ticket.lane]
        queue.remove(ticket)
        if not queue:
            del self._lanes[ticket.lane]
        self._waiting -= 1

    def _displace_one(self, lane: Lane) -> None:
        longest = max(self._lanes.values(), key=len, default=None)
        if longest is None or len(longest) <= len(self._lanes.get(lane, ())) + 1:
            raise QueueFull
        ticket = longest[-1]
        self._dequeue(ticket)
        ticket.displaced()

    def _start_waiting(self) -> None:
        while self._running < self.size:
            lane = next((lane for lane in self._lanes if self._may_begin(lane)), None)
            if lane is None:
                return
            ticket = self._take(lane)
            self._running += 1
            self._admitted.update(share for share, _ in self._shares(lane))
            ticket.begin()

    def _take(self, lane: Lane) -> AdmissionTicket:
        ticket = self._lanes[lane][0]
        self._dequeue(ticket)
        if lane in self._lanes:
            self._lanes.move_to_end(lane)
        ticket.running = True
        return ticket

    def _may_begin(self, lane: Lane) -> bool:
        return all(self._admitted[share] < limit for share, limit in self._shares(lane))

    def _shares(self, lane: Lane) -> Iterator[tuple[Hashable, int]]:
        """The limits that a lane's transactions count towards, with the maximum of each."""
        half = max(1, self.size // 2)
        lane_limit = half
        yield lane.tables, half
        if lane.work is not Workload.READ:
            lane_limit = max(1, self.size // 4)
            yield lane.work, half if lane.work is Workload.LIST or self.writers is None else min(half, self.writers)
            yield (lane.tables, lane.work), lane_limit
        if lane.project is not None:
            yield lane, (lane_limit + 1) // 2
