"""The orders that a process has in hand, and holding on to them."""

from __future__ import annotations

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from barbtx.errors import ServiceUnavailable
from barbtx.model.records import Lease
from barbtx.model.repositories.orders import LeaseLost, OrderRepo

log = Logger()


@attrs.define(eq=False)
class Leases:
    """Renews each lease until it is given up or lost.

    A renewal that fails is tried again, sooner than the next one is due, as long as nobody else has taken the order:
    even when its time is over the lease may still be ours, and whoever stores an outcome is told if it is not.

    :ivar seconds: for how long an order stays in this process's hand without a sign of life.
    """

    orders: OrderRepo
    clock: IReactorTime
    seconds: float = 30.0
    _held: dict[str, tuple[Lease, Deferred[None]]] = attrs.field(factory=dict, init=False)

    def hold(self, lease: Lease) -> None:
        """Begin to renew a lease."""
        renewing = Deferred.fromCoroutine(self._renew(lease))
        renewing.addErrback(lambda failure: failure.trap(CancelledError))
        self._held[lease.token] = (lease, renewing)

    def drop(self, lease: Lease) -> None:
        """Renew a lease no longer."""
        _, renewing = self._held.pop(lease.token, (None, None))
        if renewing is not None:
            renewing.cancel()

    def gauges(self) -> dict[str, object]:
        """Which orders are in hand, for the report to an operator."""
        return {"count": len(self._held), "orders": " ".join(lease.order.id for lease, _ in self._held.values())}

    async def release_all(self) -> None:
        """Let go of all orders, so that others need not wait for the leases to end; the attempts do not count."""
        for lease, _ in list(self._held.values()):
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
        wait = self.seconds / 3
        while True:
            await deferLater(self.clock, wait, lambda: None)
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
