"""Which transaction may have a thread and a connection next, so that no kind of work takes them all.

A transaction belongs to a group of tables, is a read, a list or a write, and may belong to a project. What waits for a
locked table, or takes long, holds its thread; the limits below leave threads to everything else.
"""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator

import attrs


class Workload(enum.Enum):
    """What a transaction does. A list reads rows of which there may be many."""

    READ = "read"
    LIST = "list"
    WRITE = "write"


@attrs.frozen
class Lane:
    """Transactions that may hold each other up. Those of one lane begin in the order they came in, lanes take turns.

    :ivar project: external id, if it is done for one.
    """

    tables: str
    work: Workload
    project: str | None = None


class QueueFull(Exception):
    """Too many transactions are waiting."""


@attrs.define(eq=False)
class AdmissionTicket:
    """A transaction that waits or runs.

    :ivar begin: called when it may begin.
    :ivar displaced: called instead if it must make room for another lane.
    """

    lane: Lane
    begin: Callable[[], None]
    displaced: Callable[[], None]
    running: bool = False


@attrs.define(eq=False)
class Admission:
    """Decides, in the reactor's thread.

    Of the connections one group of tables may hold half at most, its lists and its writes a quarter each; all lists
    together half, and so all writes; one project half of what its lane may have. Each of these is at least one.

    :ivar size: transactions that may run at the same time.
    :ivar limit: transactions that may run or wait. If that is reached, the lane with the most that wait makes room for
        those with less.
    :ivar writers: writes that may run at the same time, if the database has a limit of its own.
    """

    size: int
    limit: int
    writers: int | None = None
    _held: Counter[Hashable] = attrs.field(factory=Counter, init=False)
    _running: int = attrs.field(default=0, init=False)
    _waiting: int = attrs.field(default=0, init=False)
    _lanes: OrderedDict[Lane, deque[AdmissionTicket]] = attrs.field(factory=OrderedDict, init=False)

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return self._waiting

    def enter(self, lane: Lane, begin: Callable[[], None], displaced: Callable[[], None]) -> AdmissionTicket:
        """Take a transaction, and begin it as soon as it may.

        :raises Full: there is no room.
        """
        if self._running + self._waiting >= self.limit:
            self._make_room(lane)
        place = AdmissionTicket(lane, begin, displaced)
        self._lanes.setdefault(lane, deque()).append(place)
        self._waiting += 1
        self._advance()
        return place

    def leave(self, place: AdmissionTicket) -> None:
        """A transaction that began has ended."""
        self._running -= 1
        for share, _ in self._shares(place.lane):
            self._held[share] -= 1
            if not self._held[share]:
                del self._held[share]
        self._advance()

    def withdraw(self, place: AdmissionTicket) -> None:
        """Nobody waits any longer for a transaction; if it has begun, it still has to :meth:`leave`."""
        if not place.running and place in self._lanes.get(place.lane, ()):
            self._take_out(place)

    def _take_out(self, place: AdmissionTicket) -> None:
        places = self._lanes[place.lane]
        places.remove(place)
        if not places:
            del self._lanes[place.lane]
        self._waiting -= 1

    def _make_room(self, lane: Lane) -> None:
        longest = max(self._lanes.values(), key=len, default=())
        if len(longest) <= len(self._lanes.get(lane, ())) + 1:
            raise QueueFull
        place = longest[-1]
        self._take_out(place)
        place.displaced()

    def _advance(self) -> None:
        while self._running < self.size:
            lane = next((lane for lane in self._lanes if self._may_begin(lane)), None)
            if lane is None:
                return
            place = self._lanes[lane][0]
            self._take_out(place)
            if lane in self._lanes:
                self._lanes.move_to_end(lane)
            place.running = True
            self._running += 1
            self._held.update(share for share, _ in self._shares(lane))
            place.begin()

    def _may_begin(self, lane: Lane) -> bool:
        return all(self._held[share] < most for share, most in self._shares(lane))

    def _shares(self, lane: Lane) -> Iterator[tuple[Hashable, int]]:
        """What a lane's transactions count towards, and how many may run of each."""
        half = max(1, self.size // 2)
        of_lane = half
        yield lane.tables, half
        if lane.work is not Workload.READ:
            of_lane = max(1, self.size // 4)
            yield lane.work, half if lane.work is Workload.LIST or self.writers is None else min(half, self.writers)
            yield (lane.tables, lane.work), of_lane
        if lane.project is not None:
            yield lane, (of_lane + 1) // 2
