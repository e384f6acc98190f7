"""Turns at a dependency, shared fairly among those who ask.

A question goes to one of three lanes by what is known of who asks it. The slower lanes have few turns, so what comes by
them can neither keep the others waiting nor bring down the dependency; within a lane, clients take turns.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager

import attrs
from cachetools import TTLCache
from twisted.internet.defer import Deferred

from barbtx.errors import ServiceUnavailable

#: Lanes: for clients of whom nothing bad is known; for new connections of clients that sent bad tokens; for connections
#: that sent them, and for tokens that are odd in themselves.
FAST, SLOW, SLOWEST = range(3)

# By how much the turns of each lane are divided.
_DIVISORS = (1, 8, 16)

_FIRST_WINDOW = 4.0
_PENALTY_STEP = 0.1
_MAX_PENALTY = 5.0


@attrs.frozen
class Requester:
    """Who asks.

    :ivar client: what counts as one client.
    :ivar connection: its connection, which no other has at the same time; None if there is none.
    :ivar is_waiting: whether anybody still waits for the answer.
    """

    client: str = ""
    connection: Hashable = None
    is_waiting: Callable[[], bool] = lambda: True


@attrs.define(eq=False)
class SuspectTable:
    """Clients and connections that sent bad tokens lately.

    A client is one after several, since tokens expire; a connection, which seldom has more than one user, after two.
    """

    clock: Callable[[], float]
    seconds: float = 60.0
    client_limit: int = 5
    connection_limit: int = 2
    size: int = 10000
    _bad: TTLCache = attrs.field(init=False)

    @_bad.default
    def _make(self) -> TTLCache:
        return TTLCache(self.size, self.seconds, timer=self.clock)

    def blame(self, asker: Requester) -> None:
        """A token was bad."""
        for key in (asker.client, (asker.client, asker.connection)):
            self._bad[key] = self._bad.get(key, 0) + 1

    def penalty(self, asker: Requester) -> float:
        """Seconds for which to keep a client waiting that was told that a token is bad.

        Most of those who send bad tokens send the next one when they have the answer to the last.
        """
        return min(_MAX_PENALTY, max(0.0, _PENALTY_STEP * (self._bad.get(asker.client, 0) - self.client_limit)))

    def lane_of(self, asker: Requester) -> int:
        """The lane of an asker's next question."""
        if asker.connection is not None and self._bad.get((asker.client, asker.connection), 0) >= self.connection_limit:
            return SLOWEST
        return SLOW if self._bad.get(asker.client, 0) >= self.client_limit else FAST


@attrs.define(eq=False)
class ConcurrencyWindow:
    """How many questions a dependency is asked at a time, as many as it can answer in time.

    It grows with each answer and is halved when an answer does not come, as TCP's congestion window is (RFC 5681).

    :ivar limit: beyond which it does not grow.
    """

    clock: Callable[[], float]
    limit: int
    _size: float = attrs.field(init=False)
    _threshold: float = attrs.field(init=False)
    _halved_at: float = attrs.field(default=float("-inf"), init=False)

    @_size.default
    def _first(self) -> float:
        return min(_FIRST_WINDOW, self.limit)

    @_threshold.default
    def _highest(self) -> float:
        return float(self.limit)

    @property
    def size(self) -> int:
        return int(self._size)

    def answered(self) -> None:
        """An answer came in time."""
        self._size = min(self.limit, self._size + (1 if self._size < self._threshold else 1 / self._size))

    def unanswered(self, begun: float) -> None:
        """None came to a question that was asked at a time; those asked before the last halving do not count again."""
        if begun >= self._halved_at:
            self._halved_at = self.clock()
            self._size = self._threshold = max(1.0, self._size / 2)


@attrs.define(eq=False)
class _PendingCall:
    """One that waits for its turn.

    :ivar lane: the fastest one that it may come by.
    """

    asker: Requester
    lane: int
    turn: Deferred[int]


@attrs.define(eq=False)
class _Lane:
    """The questions of a lane, by client; of each client the oldest comes first.

    :ivar divisor: by which the turns of all lanes are divided for this one.
    """

    divisor: int
    running: int = 0
    waiting: dict[str, deque[_PendingCall]] = attrs.field(factory=dict)

    def add(self, question: _PendingCall) -> None:
        self.waiting.setdefault(question.asker.client, deque()).append(question)

    def take(self, client: str) -> _PendingCall:
        """A client's next question; the client goes behind the others."""
        questions = self.waiting.pop(client)
        question = questions.popleft()
        if questions:
            self.waiting[client] = questions
        return question

    def drop(self) -> _PendingCall:
        """The latest question of the client that has the most."""
        client = max(self.waiting, key=lambda client: len(self.waiting[client]))
        question = self.waiting[client].pop()
        if not self.waiting[client]:
            del self.waiting[client]
        return question

    def remove(self, question: _PendingCall) -> bool:
        """Take a question back; whether it was here."""
        questions = self.waiting.get(question.asker.client, deque())
        if question not in questions:
            return False
        questions.remove(question)
        if not questions:
            del self.waiting[question.asker.client]
        return True


@attrs.define(eq=False)
class FairScheduler:
    """So many turns at a time, and so many that wait for one.

    :ivar window: turns at a time; a client has a quarter of them at most.
    :ivar max_waiting: beyond it the client with the most questions in the slowest lane loses its latest.
    :ivar refusal: makes what that one is told.
    """

    window: ConcurrencyWindow
    max_waiting: int
    suspects: SuspectTable
    refusal: Callable[[], ServiceUnavailable]
    _lanes: tuple[_Lane, ...] = attrs.field(factory=lambda: tuple(map(_Lane, _DIVISORS)), init=False)
    _running_of: Counter[str] = attrs.field(factory=Counter, init=False)
    _waiting: int = attrs.field(default=0, init=False)
    _giving: bool = attrs.field(default=False, init=False)

    @asynccontextmanager
    async def turn(self, asker: Requester, fastest: int = FAST) -> AsyncIterator[int]:
        """Have a turn; its lane.

        :param fastest: the fastest lane for this question.
        :raises ServiceUnavailable: too many wait, or nobody waits for the answer any more.
        """
        number = await self._wait(asker, fastest)
        lane = self._lanes[number]
        try:
            yield number
        finally:
            lane.running -= 1
            self._running_of[asker.client] -= 1
            if not self._running_of[asker.client]:
                del self._running_of[asker.client]
            self._give_turns()

    def _wait(self, asker: Requester, fastest: int) -> Deferred[int]:
        question = _PendingCall(asker, fastest, Deferred(lambda _: self._leave(question)))
        self._lanes[fastest].add(question)
        self._waiting += 1
        self._give_turns()
        if self._waiting > self.max_waiting:
            self._waiting -= 1
            next(lane for lane in reversed(self._lanes) if lane.waiting).drop().turn.errback(self.refusal())
        return question.turn

    def _leave(self, question: _PendingCall) -> None:
        if any(lane.remove(question) for lane in self._lanes):
            self._waiting -= 1

    def _give_turns(self) -> None:
        # Who has a turn may be done with it before this returns.
        if self._giving:
            return
        self._giving = True
        try:
            while self._give_turn():
                pass
        finally:
            self._giving = False

    def _give_turn(self) -> bool:
        """Let the next question through; whether there was one."""
        size = self.window.size
        if sum(lane.running for lane in self._lanes) >= size:
            return False
        share = max(1, size // 4)
        for number, lane in enumerate(self._lanes):
            if lane.running >= max(1, size // lane.divisor):
                continue
            for client in lane.waiting:
                if self._running_of[client] < share:
                    question = lane.take(client)
                    # More may be known of who asks than when the question came.
                    slower = max(question.lane, self.suspects.lane_of(question.asker))
                    if slower > number:
                        self._lanes[slower].add(question)
                        return True
                    self._waiting -= 1
                    if not question.asker.is_waiting():
                        question.turn.errback(self.refusal())
                        return True
                    lane.running += 1
                    self._running_of[client] += 1
                    question.turn.callback(number)
                    return True
        return False
