"""The task behind POST /v1/orders: make what the order asks for."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from barbtx import activity
from barbtx.errors import ErrorResponse, NotAvailableHere, NotFound, NotSupported, ProjectClosed, ServiceUnavailable
from barbtx.model.database import DatabaseUnavailable
from barbtx.model.records import GeneratedObjects, Lease, NewSecret
from barbtx.model.repositories.keks import KEKGone
from barbtx.model.repositories.orders import Claim, LeaseLost, OrderRepo, WrongLane
from barbtx.plugin import resources
from barbtx.plugin.interface.secret_store import ASYMMETRIC_ALGORITHMS, SYMMETRIC_ALGORITHMS
from barbtx.plugin.manager import StoreManager
from barbtx.tasks.base import BaseTask, NoSuchEntity, TaskNotStarted, TaskSuperseded
from barbtx.tasks.follow_on import FollowOnProcessingStatusDTO, RetryTasks
from barbtx.tasks.lanes import Lane
from barbtx.tasks.leases import Leases
from barbtx.tasks.outage_retry import OutageRetry
from barbtx.times import parse_time, whole_second

log = Logger()

_DEFAULT_CONTENT_TYPE = "application/octet-stream"


@attrs.frozen
class Outcome:
    """What the task made, not stored yet, and what it wants to follow."""

    made: GeneratedObjects
    follow_on: FollowOnProcessingStatusDTO = FollowOnProcessingStatusDTO()


class TooManyAttempts(ServiceUnavailable):
    """The order was begun again and again and never came to an end."""

    is_reason = True


class OrderInWrongLane(TaskNotStarted):
    """The order is to be processed in another lane.

    :ivar lane: its name.
    """

    def __init__(self, lane: str) -> None:
        super().__init__(f"the order is of the lane {lane}")
        self.lane = lane


@attrs.frozen
class BeginTypeOrder(BaseTask[Lease, Outcome]):
    """See the module's text. Delivered twice, it works once: an order in hand, done or gone is left alone.

    An outage of the database is outlasted: before an order is taken in hand, while it is worked on, and when its outcome is
    stored.

    :ivar max_attempts: how often an order is begun before it is given up.
    :ivar retry_seconds: wait before the second attempt; it doubles from there, up to an hour.
    :ivar missing_key_seconds: wait after an attempt that lacked a master key or a plugin, which does not count as one:
        it says something of this worker, not of the order.
    """

    orders: OrderRepo
    stores: StoreManager
    leases: Leases
    outage_retry: OutageRetry
    max_attempts: int = 10
    retry_seconds: float = 5.0
    missing_key_seconds: float = 30.0

    def get_name(self) -> str:
        return "Process TypeOrder"

    async def retrieve_entity(
        self, order_id: str | None, project_id: str | None, lane: Lane | None = None
    ) -> Lease | None:
        """Take an order in hand.

        :param order_id: the order that this process was sent for; None to take whatever waits, if the database answers.
        :param lane: where projects take turns, so that it may be another order; without one it is that order.
        """
        claim = Claim()

        async def take() -> Lease | None:
            return await self._claim(claim, order_id, project_id, lane)

        try:
            if order_id is None:
                try:
                    lease = await take()
                except ServiceUnavailable as problem:
                    if not problem.outcome_unknown:
                        raise
                    # An order may be in hand.
                    lease = await self.outage_retry.run_until_available(take)
            else:
                lease = await self.outage_retry.run_until_available(take)
        except NotFound:
            raise NoSuchEntity("there is no such order") from None
        except WrongLane as problem:
            raise OrderInWrongLane(problem.lane) from None
        if lease is not None:
            if lane is not None:
                lane.took(lease.project_key)
            activity.note(request_id=lease.request_id, order_id=lease.order.id, project_id=lease.order.project_id)
            log.info("processing order {order_id}", order_id=lease.order.id)
            self.leases.hold(lease)
        elif order_id is not None:
            log.info(
                "order {order_id} is done, in another worker's hand, or of a project that is being removed",
                order_id=order_id,
            )
        return lease

    async def _claim(
        self, claim: Claim, order_id: str | None, project_id: str | None, lane: Lane | None
    ) -> Lease | None:
        if lane is None:
            return await self.orders.claim(order_id, project_id, self.leases.seconds, claim)
        return await self.orders.claim_next(lane.name, lane.last, self.leases.seconds, order_id, project_id, claim)

    def leave(self, lease: Lease) -> None:
        self.leases.drop(lease)

    async def handle_processing(self, lease: Lease, *_: object) -> Outcome:
        if lease.attempt > self.max_attempts:
            raise TooManyAttempts(
                f"the order was begun {self.max_attempts} times, and each time the worker died or could "
                "not store the outcome; order again"
            )
        generate = self._generator(lease.order.type)
        # A store that is out of reach is not waited for here: the order would keep others from their turn.
        return await self.outage_retry.run_until_available(lambda: generate(lease), outage=DatabaseUnavailable)

    async def handle_error(self, lease: Lease, fault: ErrorResponse, exception: Exception, *_: object) -> None:
        if isinstance(exception, ProjectClosed):
            await self._wait_for_project(lease)
        elif isinstance(exception, NotAvailableHere):
            await self._record(
                lambda: self.orders.retry(lease, "process_type_order", self.missing_key_seconds, counts=False)
            )
        elif isinstance(exception, ServiceUnavailable) and lease.attempt < self.max_attempts:
            wait = min(self.retry_seconds * 2 ** (lease.attempt - 1), 3600.0)
            await self._record(lambda: self.orders.retry(lease, "process_type_order", wait))
        else:
            await self._record(lambda: self.orders.fail(lease, str(fault.status), fault.description or fault.title))
            await resources.forget_payloads(self.stores, [lease.passphrase])

    async def handle_success(self, lease: Lease, outcome: Outcome, *_: object) -> None:
        follow_on = outcome.follow_on
        if follow_on.retry_task is RetryTasks.INVOKE_SAME_TASK:
            # The next step makes its own.
            await resources.forget_payloads(self.stores, [secret.payload for secret in outcome.made.secrets])
            await self._record(lambda: self.orders.retry(lease, "process_type_order", follow_on.retry_msec / 1000))
            return
        try:
            try:
                await self._complete(lease, outcome)
            except KEKGone:
                self.stores.forget_project(lease.order.project_id)
                await self._complete(lease, await self.handle_processing(lease))
        except ProjectClosed:
            await self._wait_for_project(lease)
            return
        log.info("processed order {order_id}", order_id=lease.order.id)
        # The row of the passphrase is gone with the order's last task; its store may have it still.
        await resources.forget_payloads(self.stores, [lease.passphrase])

    async def _complete(self, lease: Lease, outcome: Outcome) -> None:
        follow_on = outcome.follow_on
        async with resources.forgotten_if_refused(self.stores, *(secret.payload for secret in outcome.made.secrets)):
            await self._record(
                lambda: self.orders.complete(lease, outcome.made, follow_on.status, follow_on.status_message)
            )

    async def _wait_for_project(self, lease: Lease) -> None:
        """Let go of an order whose project is about to be removed: it goes on if that is cancelled."""
        log.info("order {order_id} waits: its project was deleted in Keystone", order_id=lease.order.id)
        await self._record(lambda: self.orders.release(lease))

    async def _record(self, write: Callable[[], Deferred[None]]) -> None:
        """Store an outcome.

        :raises Overtaken: nothing was stored.
        :raises KEKGone, ProjectClosed: nothing was stored.
        :raises ServiceUnavailable: the outage lasts too long; the order is begun again when its lease has ended, unless
            one of the tries was committed after all (``outcome_unknown``, of whatever else is raised too).
        """
        unknown = False

        async def attempt() -> None:
            nonlocal unknown
            try:
                await write()
            except ServiceUnavailable as problem:
                unknown = unknown or problem.outcome_unknown
                raise

        try:
            await self.outage_retry.run_until_available(attempt, unless=KEKGone)
        except LeaseLost:
            raise TaskSuperseded("the order was deleted, or another worker took it over") from None
        except (KEKGone, ProjectClosed):
            # The order was still in hand, so that no try before was committed.
            raise
        except Exception as problem:
            problem.outcome_unknown = unknown or getattr(problem, "outcome_unknown", False)
            raise

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
        return Outcome(GeneratedObjects((secret,)))

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
        id=str(uuid.uuid4()),
        project_id=order.project_id,
        name=meta.get("name"),
        secret_type="symmetric",
        expiration=whole_second(parse_time(expiration)) if expiration else None,
        algorithm=meta["algorithm"],
        bit_length=int(meta["bit_length"]),
        mode=meta.get("mode"),
        creator_id=order.creator_id,
    )
    return secret, meta.get("payload_content_type") or _DEFAULT_CONTENT_TYPE
