"""A scheduler that limits the requests in flight to a dependency and divides them fairly among clients.

A request goes through one of three lanes, depending on earlier requests of its sender. The slower lanes have few slots,
so that requests of suspects can neither delay those of others nor overload the dependency. Within a lane, clients take
turns.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable, MutableMapping
from contextlib import asynccontextmanager

import attrs
from cachetools import TTLCache
from twisted.internet.defer import Deferred

from barbtx.errors import ServiceUnavailable

#: Lanes: FAST for clients that are not suspect; SLOW for new connections of clients that sent invalid tokens; SLOWEST
#: for connections that sent them, and for tokens that have an unusual form.
FAST, SLOW, SLOWEST = range(3)

# The share of each lane: the number of slots is divided by these numbers.
_DIVISORS = (1, 8, 16)

_INITIAL_WINDOW = 4.0
_PENALTY_STEP = 0.1
_MAX_PENALTY = 5.0


@attrs.frozen
class Requester:
    """The sender of a request.

    :ivar client: the key by which limits count a client.
    :ivar connection: identifies its connection, among the open ones of the client; None if there is none.
    :ivar is_waiting: returns whether a caller still waits for the response.
    """

    client: str = ""
    connection: Hashable = None
    is_waiting: Callable[[], bool] = lambda: True


#: The sender of requests that barbtx makes for itself.
ANONYMOUS = Requester()


@attrs.define(eq=False)
class SuspectTable:
    """The clients and connections that sent invalid tokens recently.

    A client is suspect after several of them, because tokens expire; a connection, which seldom serves more than one
    user, after two.

    :ivar clock: returns monotonic seconds.
    :ivar seconds: how long an entry lasts after the latest invalid token.
    :ivar client_limit: invalid tokens after which a client is suspect.
    :ivar connection_limit: invalid tokens after which a connection is suspect.
    :ivar size: entries at most.
    """

    clock: Callable[[], float]
    seconds: float = 60.0
    client_limit: int = 5
    connection_limit: int = 2
    size: int = 10000
    _counts: MutableMapping[Hashable, int] = attrs.field(init=False)

    @_counts.default
    def _make_counts(self) -> MutableMapping[Hashable, int]:
        return TTLCache(self.size, self.seconds, timer=self.clock)

    def record_invalid_token(self, requester: Requester) -> None:
        """Count an invalid token against its sender's client and connection."""
        for key in (requester.client, (requester.client, requester.connection)):
            self._counts[key] = self._counts.get(key, 0) + 1

    def penalty(self, requester: Requester) -> float:
        """Return the seconds by which to delay the response about an invalid token.

        Most clients that send invalid tokens send the next one only after the response to the last.
        """
        excess = self._counts.get(requester.client, 0) - self.client_limit
        return min(_MAX_PENALTY, max(0.0, _PENALTY_STEP * excess))

    def lane_of(self, requester: Requester) -> int:
        """Return the lane for the next request of a sender."""
        connection = (requester.client, requester.connection)
        if requester.connection is not None and self._counts.get(connection, 0) >= self.connection_limit:
            return SLOWEST
        return SLOW if self._counts.get(requester.client, 0) >= self.client_limit else FAST


@attrs.define(eq=False)
class ConcurrencyWindow:
    """The number of requests that may be in flight: as many as the dependency responds to in time.

    It grows with each response and is halved after a timeout, as TCP's congestion window is (RFC 5681).

    :ivar clock: returns monotonic seconds.
    :ivar limit: its greatest size.
    """

    clock: Callable[[], float]
    limit: int
    _size: float = attrs.field(init=False)
    _threshold: float = attrs.field(init=False)
    _halved_at: float = attrs.field(default=float("-inf"), init=False)

    @_size.default
    def _initial_size(self) -> float:
        return min(_INITIAL_WINDOW, self.limit)

    @_threshold.default
    def _initial_threshold(self) -> float:
        return float(self.limit)

    @property
    def size(self) -> int:
        """The number of requests that may be in flight now; at least 1."""
        return int(self._size)

    def record_response(self) -> None:
        """Grow: a response came in time."""
        self._size = min(self.limit, self._size + (1 if self._size < self._threshold else 1 / self._size))

    def record_timeout(self, started_at: float) -> None:
        """Halve: no response came in time. A request that started before the last halving does not count again.

        :param started_at: when the request started, by the clock.
        """
        if started_at >= self._halved_at:
            self._halved_at = self.clock()
            self._size = self._threshold = max(1.0, self._size / 2)


@attrs.define(eq=False)
class _Waiter:
    """A request that waits for a slot.

    :ivar lane: the fastest lane that it may use.
    :ivar slot: fires with the lane whose slot it has.
    """

    requester: Requester
    lane: int
    slot: Deferred[int]


@attrs.define(eq=False)
class _Lane:
    """The requests of a lane.

    :ivar divisor: the number of all slots is divided by it for this lane.
    :ivar running: slots in use.
    :ivar waiting: waiting requests by client, the oldest of each client first; the next client's turn comes first.
    """

    divisor: int
    running: int = 0
    waiting: dict[str, deque[_Waiter]] = attrs.field(factory=dict)

    def add(self, waiter: _Waiter) -> None:
        """Add a request behind the others of its client."""
        self.waiting.setdefault(waiter.requester.client, deque()).append(waiter)

    def take(self, client: str) -> _Waiter:
        """Remove and return the next request of a client; the client's next turn comes after those of the others."""
        waiters = self.waiting.pop(client)
        waiter = waiters.popleft()
        if waiters:
            self.waiting[client] = waiters
        return waiter

    def drop_latest(self) -> _Waiter:
        """Remove and return the latest request of the client with the most requests."""
        client = max(self.waiting, key=lambda client: len(self.waiting[client]))
        waiter = self.waiting[client].pop()
        if not self.waiting[client]:
            del self.waiting[client]
        return waiter

    def remove(self, waiter: _Waiter) -> bool:
        """Remove a request; return whether it was in this lane."""
        waiters = self.waiting.get(waiter.requester.client, deque())
        if waiter not in waiters:
            return False
        waiters.remove(waiter)
        if not waiters:
            del self.waiting[waiter.requester.client]
        return True


def _make_lanes() -> tuple[_Lane, ...]:
    return tuple(map(_Lane, _DIVISORS))


@attrs.define(eq=False)
class FairScheduler:
    """Gives slots to requests, as many as the window allows.

    :ivar window: the number of slots; one client has at most a quarter of them.
    :ivar max_waiting: waiting requests; beyond it, the client with the most requests in the slowest lane loses its
        latest.
    :ivar refusal: makes the error for a request that loses its place.
    """

    window: ConcurrencyWindow
    max_waiting: int
    suspects: SuspectTable
    refusal: Callable[[], ServiceUnavailable]
    _lanes: tuple[_Lane, ...] = attrs.field(factory=_make_lanes, init=False)
    _running_of: Counter[str] = attrs.field(factory=Counter, init=False)
    _waiting: int = attrs.field(default=0, init=False)
    _assigning: bool = attrs.field(default=False, init=False)

    @asynccontextmanager
    async def slot(self, requester: Requester, fastest: int = FAST) -> AsyncIterator[int]:
        """Wait for a slot, hold it within the context, and return the lane that it is in.

        :param fastest: the fastest lane that this request may use.
        :raises ServiceUnavailable: too many requests wait, or nobody waits for the response any more.
        """
        number = await self._wait(requester, fastest)
        lane = self._lanes[number]
        try:
            yield number
        finally:
            lane.running -= 1
            self._running_of[requester.client] -= 1
            if not self._running_of[requester.client]:
                del self._running_of[requester.client]
            self._assign_slots()

    def _wait(self, requester: Requester, fastest: int) -> Deferred[int]:
        waiter = _Waiter(requester, fastest, Deferred(lambda _: self._leave(waiter)))
        self._lanes[fastest].add(waiter)
        self._waiting += 1
        self._assign_slots()
        if self._waiting > self.max_waiting:
            self._waiting -= 1
            next(lane for lane in reversed(self._lanes) if lane.waiting).drop_latest().slot.errback(self.refusal())
        return waiter.slot

    def _leave(self, waiter: _Waiter) -> None:
        if any(lane.remove(waiter) for lane in self._lanes):
            self._waiting -= 1

    def _assign_slots(self) -> None:
        # A request that gets a slot may finish, and come back here, before its Deferred's callback returns.
        if self._assigning:
            return
        self._assigning = True
        try:
            while self._assign_slot():
                pass
        finally:
            self._assigning = False

    def _assign_slot(self) -> bool:
        """Process the next waiting request; return False if there is none or no slot is free."""
        size = self.window.size
        if sum(lane.running for lane in self._lanes) >= size:
            return False
        share = max(1, size // 4)
        for number, lane in enumerate(self._lanes):
            if lane.running >= max(1, size // lane.divisor):
                continue
            for client in lane.waiting:
                if self._running_of[client] < share:
                    self._start(number, lane, client)
                    return True
        return False

    def _start(self, number: int, lane: _Lane, client: str) -> None:
        """Take a client's next request and give it a slot, move it to a slower lane or refuse it."""
        waiter = lane.take(client)
        # The client may have become suspect while the request waited.
        slower = max(waiter.lane, self.suspects.lane_of(waiter.requester))
        if slower > number:
            self._lanes[slower].add(waiter)
            return
        self._waiting -= 1
        if not waiter.requester.is_waiting():
            waiter.slot.errback(self.refusal())
            return
        lane.running += 1
        self._running_of[client] += 1
        waiter.slot.callback(number)
