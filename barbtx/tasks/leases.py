"""Leases on the orders that a process is processing, and their renewal."""

from __future__ import annotations

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from barbtx import activity
from barbtx.errors import ServiceUnavailable
from barbtx.model.records import Lease
from barbtx.model.repositories.order_tasks import LeaseLost
from barbtx.model.repositories.orders import OrderRepo

log = Logger()


@attrs.define(eq=False)
class _Held:
    """A lease and its renewal.

    :ivar begin: the call that begins to renew it. Most orders are finished before that.
    """

    lease: Lease
    begin: IDelayedCall
    renewing: Deferred[None] | None = None


@attrs.define(eq=False)
class Leases:
    """Renews each lease until it is dropped or lost.

    A failed renewal is retried at shorter intervals until another worker has claimed the order. An expired lease is
    still valid as long as no other worker has claimed the order, which is checked when an outcome is stored.

    :ivar seconds: duration of a lease; it is renewed at a third of that.
    """

    orders: OrderRepo
    clock: IReactorTime
    seconds: float = 30.0
    _held: dict[str, _Held] = attrs.field(factory=dict, init=False)

    def hold(self, lease: Lease) -> None:
        """Start to renew a lease."""
        begin = self.clock.callLater(self.seconds / 3, activity.bind(self._begin), lease)
        self._held[lease.token] = _Held(lease, begin)

    def _begin(self, lease: Lease) -> None:
        held = self._held[lease.token]
        held.renewing = Deferred.fromCoroutine(self._renew(lease))
        held.renewing.addErrback(lambda failure: failure.trap(CancelledError))

    def drop(self, lease: Lease) -> None:
        """Stop renewing a lease. A lease that is not held is ignored."""
        held = self._held.pop(lease.token, None)
        if held is None:
            return
        if held.begin.active():
            held.begin.cancel()
        if held.renewing is not None:
            held.renewing.cancel()

    def gauges(self) -> dict[str, object]:
        """Return the number and IDs of the orders in process, for the status report."""
        return {"count": len(self._held), "orders": " ".join(held.lease.order.id for held in self._held.values())}

    async def release_all(self) -> None:
        """Release all orders, so that others need not wait for the leases to expire. The attempts are not counted."""
        for held in list(self._held.values()):
            lease = held.lease
            self.drop(lease)
            try:
                await self.orders.release(lease)
            except ServiceUnavailable:
                log.warn(
                    "order {order_id} could not be released; its lease ends in {seconds} seconds at the latest",
                    order_id=lease.order.id,
                    seconds=self.seconds,
                )

    async def _renew(self, lease: Lease) -> None:
        while True:
            wait = self.seconds / 12
            try:
                await self.orders.renew(lease, self.seconds)
                wait = self.seconds / 3
            except LeaseLost:
                log.info(
                    "the lease of order {order_id} is lost: it was deleted, or another worker took it over",
                    order_id=lease.order.id,
                )
                return
            except ServiceUnavailable as problem:
                log.warn(
                    "the lease of order {order_id} could not be renewed; trying again: {cause}",
                    order_id=lease.order.id,
                    cause=str(problem.debug.get("cause", problem.description)),
                    log_outage=True,
                )
            except CancelledError:
                raise
            except Exception:
                log.failure("renewing the lease of order {order_id} failed; trying again", order_id=lease.order.id)
            await deferLater(self.clock, wait, lambda: None)
