"""The task behind POST /v1/orders: make what the order asks for."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from barbtx.errors import Fault, NotFound, NotSupported, ProjectClosed, ServiceUnavailable
from barbtx.model.records import Lease, Made, NewSecret
from barbtx.model.repositories.keks import KEKGone
from barbtx.model.repositories.orders import LeaseLost, OrderRepo
from barbtx.plugin import resources
from barbtx.plugin.interface.secret_store import ASYMMETRIC_ALGORITHMS, SYMMETRIC_ALGORITHMS
from barbtx.plugin.manager import StoreManager
from barbtx.tasks.base import BaseTask, NoSuchEntity
from barbtx.tasks.follow_on import FollowOnProcessingStatusDTO, RetryTasks
from barbtx.times import parse_time

log = Logger()

_DEFAULT_CONTENT_TYPE = "application/octet-stream"


@attrs.frozen
class Outcome:
    """What the task made, not stored yet, and what it wants to follow."""

    made: Made
    follow_on: FollowOnProcessingStatusDTO = FollowOnProcessingStatusDTO()


class TooManyAttempts(ServiceUnavailable):
    """The order was begun again and again and never came to an end."""

    is_reason = True


@attrs.define
class Leases:
    """The orders that this process has in hand."""

    orders: OrderRepo
    _held: dict[str, Lease] = attrs.field(factory=dict, init=False)

    def add(self, lease: Lease) -> None:
        self._held[lease.token] = lease

    def discard(self, lease: Lease) -> None:
        self._held.pop(lease.token, None)

    async def release_all(self) -> None:
        """Let go of all of them, so that others need not wait for the leases to end; the attempts do not count."""
        for lease in list(self._held.values()):
            await self.orders.release(lease)


@attrs.frozen
class BeginTypeOrder(BaseTask[Lease, Outcome]):
    """See the module's text. Delivered twice, it works once: an order in hand, done or gone is left alone.

    :ivar lease_seconds: how long an order stays in this worker's hand without a sign of life.
    :ivar max_attempts: how often an order is begun before it is given up.
    :ivar retry_seconds: wait before the second attempt; it doubles from there, up to an hour.
    """

    orders: OrderRepo
    stores: StoreManager
    clock: IReactorTime
    leases: Leases
    lease_seconds: float = 30.0
    max_attempts: int = 10
    retry_seconds: float = 5.0

    def get_name(self) -> str:
        return "Process TypeOrder"

    async def retrieve_entity(self, order_id: str, project_id: str) -> Lease | None:
        try:
            lease = await self.orders.claim(order_id, project_id, self.lease_seconds)
        except NotFound:
            raise NoSuchEntity("there is no such order") from None
        if lease is None:
            log.info("order {order_id} is done, in another worker's hand, or of a project that is being removed",
                     order_id=order_id)
        return lease

    async def handle_processing(self, lease: Lease, order_id: str, project_id: str) -> Outcome:
        if lease.attempt > self.max_attempts:
            raise TooManyAttempts(f"the order was begun {self.max_attempts} times, and each time the worker died or could "
                                  "not store the outcome; order again")
        renewal = LoopingCall(self._renew, lease)
        renewal.clock = self.clock
        renewing = renewal.start(self.lease_seconds / 3, now=False)
        self.leases.add(lease)
        try:
            return await self._generator(lease.order.type)(lease)
        finally:
            if renewal.running:
                renewal.stop()
            self.leases.discard(lease)
            renewing.addErrback(lambda failure: failure.trap(LeaseLost, ServiceUnavailable))

    async def handle_error(self, lease: Lease, fault: Fault, exception: Exception,
                           order_id: str, project_id: str) -> None:
        if isinstance(exception, ProjectClosed):
            await self._wait_for_project(lease)
        elif isinstance(exception, ServiceUnavailable) and lease.attempt < self.max_attempts:
            wait = min(self.retry_seconds * 2 ** (lease.attempt - 1), 3600.0)
            await self.orders.retry(lease, "process_type_order", wait)
        else:
            await self.orders.fail(lease, str(fault.status), fault.description or fault.title)
            await self._forget_passphrase(lease)

    async def handle_success(self, lease: Lease, outcome: Outcome, order_id: str, project_id: str) -> None:
        follow_on = outcome.follow_on
        if follow_on.retry_task is RetryTasks.INVOKE_SAME_TASK:
            await self.orders.retry(lease, "process_type_order", follow_on.retry_msec / 1000)
        else:
            try:
                await self._complete(lease, outcome)
            except KEKGone:
                self.stores.forget_project(project_id)
                await self._complete(lease, await self.handle_processing(lease, order_id, project_id))
            except ProjectClosed:
                await self._wait_for_project(lease)
                return
            await self._forget_passphrase(lease)

    async def _complete(self, lease: Lease, outcome: Outcome) -> None:
        follow_on = outcome.follow_on
        try:
            await self.orders.complete(lease, outcome.made, follow_on.status, follow_on.status_message)
        except (LeaseLost, ProjectClosed):
            for secret in outcome.made.secrets:
                await resources.delete_secret(self.stores, secret)
            raise

    async def _wait_for_project(self, lease: Lease) -> None:
        """Let go of an order whose project is about to be removed: it goes on if that is cancelled."""
        log.info("order {order_id} waits: its project was deleted in Keystone", order_id=lease.order.id)
        await self.orders.release(lease)

    async def _forget_passphrase(self, lease: Lease) -> None:
        """Its row is gone with the order's last task; a store of its own may have it still."""
        if lease.passphrase is not None:
            await resources.delete_payload(self.stores, lease.passphrase)

    async def _renew(self, lease: Lease) -> None:
        await self.orders.renew(lease, self.lease_seconds)

    def _generator(self, order_type: str) -> Callable[[Lease], Coroutine[Any, Any, Outcome]]:
        generators = {"key": self._make_key, "asymmetric": self._make_pair}
        if order_type not in generators:
            raise NotSupported(f"Order type '{order_type}' is not supported")
        return generators[order_type]

    async def _make_key(self, lease: Lease) -> Outcome:
        wanted, content_type = _wanted(lease)
        if (wanted.algorithm or "").lower() in ASYMMETRIC_ALGORITHMS:
            raise NotSupported(f"A key order cannot be of the asymmetric algorithm '{wanted.algorithm}'")
        secret = await resources.generate_secret(self.stores, wanted, content_type)
        return Outcome(Made((secret,)))

    async def _make_pair(self, lease: Lease) -> Outcome:
        wanted, content_type = _wanted(lease)
        if (wanted.algorithm or "").lower() in SYMMETRIC_ALGORITHMS:
            raise NotSupported(f"An asymmetric order cannot be of the symmetric algorithm '{wanted.algorithm}'")
        order, passphrase = lease.order, None
        if lease.passphrase is not None:
            passphrase = await resources.get_passphrase(self.stores, order.id, order.project_id, lease.passphrase)
        return Outcome(await resources.generate_asymmetric_secret(self.stores, wanted, passphrase, content_type))


def _wanted(lease: Lease) -> tuple[NewSecret, str]:
    """What an order asks for, and the media type of it. The creator is the order's, whatever its meta may say."""
    order = lease.order
    meta = json.loads(order.meta)
    expiration = meta.get("expiration")
    secret = NewSecret(
        id=str(uuid.uuid4()), project_id=order.project_id, name=meta.get("name"), secret_type="symmetric",
        expiration=parse_time(expiration) if expiration else None, algorithm=meta["algorithm"],
        bit_length=int(meta["bit_length"]), mode=meta.get("mode"), creator_id=order.creator_id,
    )
    return secret, meta.get("payload_content_type") or _DEFAULT_CONTENT_TYPE
