"""Waiting for orders: ``Prefer: wait=30`` (RFC 7240, section 4.3)."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from typing import Any

import attrs
from oslo_config import cfg
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from barbtx.api.options import share
from barbtx.errors import ServiceUnavailable
from barbtx.model.repositories.orders import OrderRepo
from barbtx.times import Clock, utcnow

log = Logger()

OPTIONS = {
    "api": [
        cfg.IntOpt(
            "max_wait_seconds",
            default=60,
            min=0,
            help="How long a request that prefers to wait for an order may wait, at most; 0 for not at all.",
        ),
        cfg.IntOpt(
            "max_waiters",
            min=0,
            help="Requests that may wait for orders at the same time; further ones are answered at once. Each "
            "has a connection. A quarter of max_connections (at least 10) if not set.",
        ),
        cfg.IntOpt(
            "max_waiters_per_project",
            min=0,
            help="Those that may wait for orders of one project. A quarter of max_waiters (at least 10) if not set.",
        ),
        cfg.IntOpt(
            "max_waiters_per_client",
            min=0,
            help="Those that may wait for one client: an IPv4 address or an IPv6 /64 network, by the word of "
            "trusted_proxies. A quarter of max_waiters (at least 10) if not set.",
        ),
        cfg.FloatOpt(
            "wait_poll_seconds",
            default=0.2,
            min=0.01,
            help="How often the database is asked, while anybody waits, which orders have ended.",
        ),
    ],
}

# Preferences are separated by commas, but for those in quoted strings, of which the last may lack its end.
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?$)|[^",]+|,')
_WAIT = re.compile(r'\s*wait\s*=\s*("?)([0-9]{1,9})\1\s*(?:;.*)?', re.IGNORECASE)
# Orders are stamped when they begin to be stored, by the clocks of other machines, and seen when they are stored.
_LOOK_BACK = datetime.timedelta(seconds=10)
_SEEN_AT_ONCE = 1000


def preferred_wait(header: str | None) -> int | None:
    """The seconds that a ``Prefer`` header asks to wait, if it does; the first time counts.

    What cannot be read is passed over, as preferences are that are not known.

    :param header: the values of all such headers, with commas between them.
    """
    preferences = [""]
    for piece in _PIECE.findall(header or ""):
        if piece == ",":
            preferences.append("")
        else:
            preferences[-1] += piece
    matches = (_WAIT.fullmatch(preference) for preference in preferences)
    return next((int(match[2]) for match in matches if match), None)


@attrs.frozen
class Waiter:
    """Whom a request waits for.

    :ivar project_id: whose order it is.
    :ivar client: what counts as one client; None if that is not known.
    """

    project_id: str | None = None
    client: str | None = None


@attrs.define(eq=False)
class OrderWatch:
    """Tells those who wait when their orders have ended. However many wait, one question to the database serves them.

    :ivar limit: how many may wait.
    :ivar interval: seconds between two questions.
    :ivar project_limit: how many may wait for one project's orders; None for no limit.
    :ivar client_limit: how many may wait for one client; None for no limit.
    """

    reactor: Any
    clock: Clock
    orders: OrderRepo
    limit: int
    interval: float
    project_limit: int | None = None
    client_limit: int | None = None
    _waiting: dict[str, set[Deferred[bool]]] = attrs.field(factory=dict, init=False)
    _count: int = attrs.field(default=0, init=False)
    _counts: Counter[tuple[str, str]] = attrs.field(factory=Counter, init=False)
    _asking: LoopingCall | None = attrs.field(default=None, init=False)

    @classmethod
    def from_config(cls, reactor: Any, clock: Clock, orders: OrderRepo, conf: cfg.ConfigOpts) -> OrderWatch:
        """Make one with the limits that ``[api]`` sets."""
        api = conf.api
        limit = share(api.max_waiters, api.max_connections)
        return cls(
            reactor,
            clock,
            orders,
            limit,
            api.wait_poll_seconds,
            share(api.max_waiters_per_project, limit),
            share(api.max_waiters_per_client, limit),
        )

    async def wait(self, order_id: str, seconds: float, waiter: Waiter = Waiter()) -> bool:
        """Return when an order has ended, when the time is over, or at once if too many wait.

        :return: whether it was waited for as long as was asked.
        """
        shares = self._shares(waiter)
        if self._count >= self.limit or any(self._counts[share] >= limit for share, limit in shares.items()):
            return False
        ended: Deferred[bool] = Deferred()
        self._waiting.setdefault(order_id, set()).add(ended)
        self._count += 1
        self._counts.update(shares.keys())
        self._ask_while_needed()
        try:
            return await ended.addTimeout(seconds, self.reactor, lambda *_: True)
        finally:
            self._count -= 1
            for share in shares:
                self._counts[share] -= 1
                if not self._counts[share]:
                    del self._counts[share]
            waiting = self._waiting.get(order_id, set())
            waiting.discard(ended)
            if not waiting:
                self._waiting.pop(order_id, None)

    def gauges(self) -> dict[str, object]:
        """What is going on, for the report to an operator."""
        return {"requests that wait for orders": self._count}

    def _shares(self, waiter: Waiter) -> dict[tuple[str, str], int]:
        limits = (("project", waiter.project_id, self.project_limit), ("client", waiter.client, self.client_limit))
        return {(kind, name): limit for kind, name, limit in limits if name is not None and limit is not None}

    def release(self) -> None:
        """Let nobody wait any longer, now or later: the service stops."""
        self.limit = 0
        for order_id in list(self._waiting):
            self._tell(order_id, False)

    def _tell(self, order_id: str, ended: bool) -> None:
        for waiting in list(self._waiting.get(order_id, ())):
            if not waiting.called:
                waiting.callback(ended)

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
            self._tell(order_id, True)
