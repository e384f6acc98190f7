"""Waiting for orders: ``Prefer: wait=30`` (RFC 7240, section 4.3)."""

from __future__ import annotations

import datetime
import re
from typing import Any

import attrs
from oslo_config import cfg
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from barbtx.errors import ServiceUnavailable
from barbtx.model.repositories.orders import OrderRepo
from barbtx.times import Clock, utcnow

log = Logger()

OPTIONS = {
    "api": [
        cfg.IntOpt("max_wait_seconds", default=60, min=0,
                   help="How long a request that prefers to wait for an order may wait, at most; 0 for not at all."),
        cfg.IntOpt("max_waiters", default=10000, min=0,
                   help="Requests that may wait for orders at the same time; further ones are answered at once."),
        cfg.FloatOpt("wait_poll_seconds", default=0.2, min=0.01,
                     help="How often the database is asked, while anybody waits, which orders have ended."),
    ],
}

_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?', re.IGNORECASE)
# Orders are stamped when they begin to be stored, by the clocks of other machines, and seen when they are stored.
_LOOK_BACK = datetime.timedelta(seconds=10)
_SEEN_AT_ONCE = 1000


def preferred_wait(header: str | None) -> int | None:
    """The seconds that a ``Prefer`` header asks to wait, if it does; the first time counts."""
    for preference in (header or "").split(","):
        match = _WAIT.fullmatch(preference)
        if match:
            return int(match[1])
    return None


@attrs.define(eq=False)
class OrderWatch:
    """Tells those who wait when their orders have ended. However many wait, one question to the database serves them.

    :ivar limit: how many may wait.
    :ivar interval: seconds between two questions.
    """

    reactor: Any
    clock: Clock
    orders: OrderRepo
    limit: int
    interval: float
    _waiting: dict[str, set[Deferred[None]]] = attrs.field(factory=dict, init=False)
    _count: int = attrs.field(default=0, init=False)
    _asking: LoopingCall | None = attrs.field(default=None, init=False)

    async def wait(self, order_id: str, seconds: float) -> None:
        """Return when an order has ended, when the time is over, or at once if too many wait."""
        if self._count >= self.limit:
            return
        ended: Deferred[None] = Deferred()
        self._waiting.setdefault(order_id, set()).add(ended)
        self._count += 1
        self._ask_while_needed()
        try:
            await ended.addTimeout(seconds, self.reactor, lambda *_: None)
        finally:
            self._count -= 1
            waiting = self._waiting.get(order_id, set())
            waiting.discard(ended)
            if not waiting:
                self._waiting.pop(order_id, None)

    def gauges(self) -> dict[str, object]:
        """What is going on, for the report to an operator."""
        return {"requests that wait for orders": self._count}

    def release(self) -> None:
        """Let nobody wait any longer, now or later: the service stops."""
        self.limit = 0
        for order_id in list(self._waiting):
            self._tell(order_id)

    def _tell(self, order_id: str) -> None:
        for waiting in list(self._waiting.get(order_id, ())):
            if not waiting.called:
                waiting.callback(None)

    def _ask_while_needed(self) -> None:
        if self._asking is None:
            self._asking = LoopingCall(lambda: Deferred.fromCoroutine(self._ask()))
            self._asking.clock = self.reactor
            self._asking.start(self.interval)

    async def _ask(self) -> None:
        if not self._waiting:
            asking, self._asking = self._asking, None
            asking.stop()
            return
        try:
            if len(self._waiting) <= _SEEN_AT_ONCE:
                ended = await self.orders.ended_of(list(self._waiting))
            else:
                ended = await self.orders.ended_since(utcnow(self.clock) - _LOOK_BACK)
        except ServiceUnavailable:
            return
        except Exception:
            log.failure("looking for orders that have ended failed")
            return
        for order_id in ended:
            self._tell(order_id)
