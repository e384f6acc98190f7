"""Long polling of orders: requests with ``Prefer: wait=30`` (RFC 7240, section 4.3)."""

from __future__ import annotations

import datetime
import re
from collections import Counter

import attrs
from oslo_config import cfg
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from barbtx.api.options import for_one_worker, share
from barbtx.errors import ServiceUnavailable
from barbtx.model.repositories.orders import OrderRepo
from barbtx.times import Clock, utcnow
from barbtx.validators import provides

log = Logger()

OPTIONS = {
    "api": [
        cfg.IntOpt(
            "max_wait_seconds",
            default=60,
            min=0,
            help="Maximum time in seconds for which a request that prefers to wait for an order (Prefer: wait) "
            "waits. With 0 such requests get a response at once.",
        ),
        cfg.IntOpt(
            "max_waiters",
            min=0,
            help="Maximum number of requests that wait for orders at the same time, each of which keeps a connection "
            "open; further ones get a response at once. With 0 no request waits; if unset, the limit is a "
            "quarter of max_connections, but at least 10.",
        ),
        cfg.IntOpt(
            "max_waiters_per_project",
            min=0,
            help="Maximum number of requests that wait for orders of one project. With 0 no request waits; if unset, "
            "the limit is a quarter of max_waiters, but at least 10.",
        ),
        cfg.IntOpt(
            "max_waiters_per_client",
            min=0,
            help="Maximum number of waiting requests of one client, which is an IPv4 address or an IPv6 /64 network; "
            "trusted_proxies tell the address. With 0 no request waits; if unset, the limit is a quarter of "
            "max_waiters, but at least 10.",
        ),
        cfg.FloatOpt(
            "wait_poll_seconds",
            default=0.2,
            min=0.01,
            help="Interval in seconds at which the database is queried for ended orders while requests wait. A "
            "longer interval means fewer queries and later responses.",
        ),
    ],
}

# Commas separate preferences, except inside quoted strings; the last string may be unterminated.
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?$)|[^",]+|,')
_WAIT = re.compile(r'\s*wait\s*=\s*("?)([0-9]{1,9})\1\s*(?:;.*)?', re.IGNORECASE)
# An order's time of update is set before its transaction commits, by the wall clock of another machine.
_LOOK_BACK = datetime.timedelta(seconds=10)
# Up to this number of orders is queried by id; above it, all orders that ended recently are queried.
_QUERY_BY_ID_MAX = 1000


def preferred_wait(header: str | None) -> int | None:
    """Return the seconds of the first ``wait`` preference, or None if there is none.

    Unknown and malformed preferences are ignored.

    :param header: the values of all ``Prefer`` headers, joined by commas.
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
    """The keys by which the limits count a waiting request.

    :ivar project_id: project of the order; None for no limit.
    :ivar client: the client's group (see :func:`barbtx.networks.client_group`); None for no limit.
    """

    project_id: str | None = None
    client: str | None = None


@attrs.define(eq=False)
class OrderWatch:
    """Wakes waiting requests when their orders end. One periodic database query serves all of them.

    :ivar limit: maximum number of waiting requests.
    :ivar interval: seconds between two queries.
    :ivar project_limit: maximum number for orders of one project; None for no limit.
    :ivar client_limit: maximum number for one client; None for no limit.
    """

    reactor: IReactorTime = attrs.field(validator=provides(IReactorTime))
    clock: Clock
    orders: OrderRepo
    limit: int
    interval: float
    project_limit: int | None = None
    client_limit: int | None = None
    _waiting: dict[str, set[Deferred[bool]]] = attrs.field(factory=dict, init=False)
    _count: int = attrs.field(default=0, init=False)
    _counts: Counter[tuple[str, str]] = attrs.field(factory=Counter, init=False)
    _poller: LoopingCall = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._poller = LoopingCall(lambda: Deferred.fromCoroutine(self._poll()))
        self._poller.clock = self.reactor

    @classmethod
    def from_config(cls, reactor: IReactorTime, clock: Clock, orders: OrderRepo, conf: cfg.ConfigOpts) -> OrderWatch:
        """Create an instance with the limits of ``[api]``."""
        api = conf.api
        limit = share(api.max_waiters, api.max_connections)
        per_project, per_client = share(api.max_waiters_per_project, limit), share(api.max_waiters_per_client, limit)
        return cls(
            reactor,
            clock,
            orders,
            for_one_worker(limit, api.workers),
            api.wait_poll_seconds,
            for_one_worker(per_project, api.workers),
            for_one_worker(per_client, api.workers),
        )

    async def wait(self, order_id: str, seconds: float, waiter: Waiter = Waiter()) -> bool:
        """Return when an order has ended, when the time has passed, or at once if a limit is reached.

        :param seconds: how long to wait at most.
        :return: False if a limit or the shutdown cut the wait short.
        """
        shares = self._shares(waiter)
        if self._count >= self.limit or any(self._counts[share] >= limit for share, limit in shares.items()):
            return False
        ended: Deferred[bool] = Deferred()
        self._waiting.setdefault(order_id, set()).add(ended)
        self._count += 1
        self._counts.update(shares.keys())
        if not self._poller.running:
            self._poller.start(self.interval)
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
        """Return the number of waiting requests for the status report."""
        return {"requests that wait for orders": self._count}

    def _shares(self, waiter: Waiter) -> dict[tuple[str, str], int]:
        limits = (("project", waiter.project_id, self.project_limit), ("client", waiter.client, self.client_limit))
        return {(kind, name): limit for kind, name, limit in limits if name is not None and limit is not None}

    def release(self) -> None:
        """End all waits, and do not start any more. Called at shutdown."""
        self.limit = 0
        for order_id in list(self._waiting):
            self._notify(order_id, False)

    def _notify(self, order_id: str, ended: bool) -> None:
        for waiting in list(self._waiting.get(order_id, ())):
            if not waiting.called:
                waiting.callback(ended)

    async def _poll(self) -> None:
        if not self._waiting:
            self._poller.stop()
            return
        try:
            if len(self._waiting) <= _QUERY_BY_ID_MAX:
                ended = await self.orders.ended_of(list(self._waiting))
            else:
                ended = await self.orders.ended_since(utcnow(self.clock) - _LOOK_BACK)
        except ServiceUnavailable:
            return
        except Exception:
            log.failure("the query for orders that have ended failed")
            return
        for order_id in ended:
            self._notify(order_id, True)
