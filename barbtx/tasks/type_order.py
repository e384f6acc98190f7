"""The task that processes an order: it generates the secrets that POST /v1/orders requested."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from barbtx import activity
from barbtx.errors import ErrorResponse, NotAvailableHere, NotFound, NotSupported, ProjectClosed, ServiceUnavailable
from barbtx.model.database_failures import DatabaseUnavailable
from barbtx.model.records import GeneratedObjects, Lease, NewSecret
from barbtx.model.repositories.keks import KEKGone
from barbtx.model.repositories.order_tasks import LeaseLost, WrongLane
from barbtx.model.repositories.orders import Claim, OrderRepo
from barbtx.plugin import resources
from barbtx.plugin.interface.secret_store import ASYMMETRIC_ALGORITHMS, SYMMETRIC_ALGORITHMS
from barbtx.plugin.manager import StoreManager
from barbtx.tasks.base import BaseTask, NoSuchEntity, TaskNotStarted, TaskSuperseded
from barbtx.tasks.lanes import Lane
from barbtx.tasks.leases import Leases
from barbtx.tasks.order_task import PROCESS_TYPE_ORDER
from barbtx.tasks.outage_retry import OutageRetry
from barbtx.times import parse_time, whole_second

log = Logger()

_DEFAULT_CONTENT_TYPE = "application/octet-stream"
# Sub-status and its message of every order that was processed.
_SUB_STATUS = "Unknown"


class TooManyAttempts(ServiceUnavailable):
    """The order was attempted too often without reaching an outcome."""

    is_reason = True


class OrderInWrongLane(TaskNotStarted):
    """The order must be processed in another lane.

    :ivar lane: name of that lane.
    """

    def __init__(self, lane: str) -> None:
        super().__init__(f"the order belongs to the lane {lane}")
        self.lane = lane


@attrs.frozen
class BeginTypeOrder(BaseTask[Lease, GeneratedObjects]):
    """Processes one order at least once and records its outcome once.

    A task that is delivered twice ignores an order that another worker is processing, or that has ended. Database
    work is retried during an outage: when an order is claimed, while it is processed, and when its outcome is stored.

    :ivar max_attempts: number of attempts after which an order fails.
    :ivar retry_seconds: seconds before the second attempt; they double with each attempt, up to an hour.
    :ivar missing_key_seconds: seconds before the next attempt if this worker lacks the master key or the plugin that
        the order needs. Such an attempt is not counted, because another worker may have them.
    """

    orders: OrderRepo
    stores: StoreManager
    leases: Leases
    outage_retry: OutageRetry
    max_attempts: int = 10
    retry_seconds: float = 5.0
    missing_key_seconds: float = 30.0

    def get_name(self) -> str:
        """Return the name of the task in the error reasons of orders."""
        return "Process TypeOrder"

    async def retrieve_entity(
        self, order_id: str | None, project_id: str | None, lane: Lane | None = None
    ) -> Lease | None:
        """Claim an order and start to renew its lease.

        :param order_id: the order that a message named; None to claim any waiting order, without retries.
        :param project_id: external ID of its project; None if ``order_id`` is None.
        :param lane: if given, the projects in it take turns, so that another order may be claimed; required if
            ``order_id`` is None.
        :return: None if the order has ended, or is processed by another worker, or nothing waits.
        :raises NoSuchEntity: the order does not exist.
        :raises OrderInWrongLane: the order must be processed in another lane.
        :raises ServiceUnavailable: the outage lasts too long.
        """
        claim = Claim()

        async def attempt() -> Lease | None:
            return await self._claim(claim, order_id, project_id, lane)

        try:
            if order_id is None:
                try:
                    lease = await attempt()
                except ServiceUnavailable as problem:
                    if not problem.outcome_unknown:
                        raise
                    # The claim may have been committed, so that an order would wait for its lease to expire.
                    lease = await self.outage_retry.run_until_available(attempt)
            else:
                lease = await self.outage_retry.run_until_available(attempt)
        except NotFound:
            raise NoSuchEntity("there is no such order") from None
        except WrongLane as problem:
            raise OrderInWrongLane(problem.lane) from None
        if lease is not None:
            if lane is not None:
                lane.record_turn(lease.project_key)
            activity.note(request_id=lease.request_id, order_id=lease.order.id, project_id=lease.order.project_id)
            log.info("processing order {order_id}", order_id=lease.order.id)
            self.leases.hold(lease)
        elif order_id is not None:
            log.info(
                "order {order_id} has ended, is processed by another worker, or its project is being removed",
                order_id=order_id,
            )
        return lease

    async def _claim(
        self, claim: Claim, order_id: str | None, project_id: str | None, lane: Lane | None
    ) -> Lease | None:
        if lane is not None:
            return await self.orders.claim_next(lane.name, lane.last, self.leases.seconds, order_id, project_id, claim)
        if order_id is None or project_id is None:
            raise ValueError("without a lane an order must be named")
        return await self.orders.claim(order_id, project_id, self.leases.seconds, claim)

    def release_entity(self, lease: Lease) -> None:
        """Stop renewing the lease."""
        self.leases.drop(lease)

    async def handle_processing(self, lease: Lease, *_: object) -> GeneratedObjects:
        """Generate the secrets, whose rows :meth:`handle_success` writes.

        :raises TooManyAttempts: the order reached no outcome in :attr:`max_attempts` attempts.
        """
        if lease.attempt > self.max_attempts:
            raise TooManyAttempts(
                f"the order was attempted {self.max_attempts} times, but each time the worker died or could "
                "not store the outcome; create a new order"
            )
        generate = self._generator(lease.order.type)
        # During an outage of a store the order goes back to the queue, because it would delay other projects here.
        return await self.outage_retry.run_until_available(lambda: generate(lease), outage=DatabaseUnavailable)

    async def handle_error(self, lease: Lease, error: ErrorResponse, exception: Exception, *_: object) -> None:
        """Schedule another attempt if the failure is temporary; otherwise store the error as the order's outcome."""
        if isinstance(exception, ProjectClosed):
            await self._wait_for_project(lease)
        elif isinstance(exception, NotAvailableHere):
            await self._record(
                lambda: self.orders.retry(lease, PROCESS_TYPE_ORDER, self.missing_key_seconds, counts=False)
            )
        elif isinstance(exception, ServiceUnavailable) and lease.attempt < self.max_attempts:
            wait = min(self.retry_seconds * 2 ** (lease.attempt - 1), 3600.0)
            await self._record(lambda: self.orders.retry(lease, PROCESS_TYPE_ORDER, wait))
        else:
            await self._record(lambda: self.orders.fail(lease, str(error.status), error.description or error.title))
            await resources.delete_orphans(self.stores, [lease.passphrase])

    async def handle_success(self, lease: Lease, generated: GeneratedObjects, *_: object) -> None:
        """Store the generated secrets, and that the order is ACTIVE, in one transaction."""
        try:
            try:
                await self._complete(lease, generated)
            except KEKGone:
                self.stores.forget_project(lease.order.project_id)
                await self._complete(lease, await self.handle_processing(lease))
        except ProjectClosed:
            await self._wait_for_project(lease)
            return
        log.info("processed order {order_id}", order_id=lease.order.id)
        # The row of the passphrase was deleted with the task; its store may still have the payload.
        await resources.delete_orphans(self.stores, [lease.passphrase])

    async def _complete(self, lease: Lease, generated: GeneratedObjects) -> None:
        async with resources.delete_orphans_on_error(self.stores, *(secret.payload for secret in generated.secrets)):
            await self._record(lambda: self.orders.complete(lease, generated, _SUB_STATUS, _SUB_STATUS))

    async def _wait_for_project(self, lease: Lease) -> None:
        """Release an order whose project is about to be removed. It is processed if the removal is cancelled."""
        log.info("order {order_id} is suspended: its project was deleted in Keystone", order_id=lease.order.id)
        await self._record(lambda: self.orders.release(lease))

    async def _record(self, write: Callable[[], Deferred[None]]) -> None:
        """Store an outcome, with retries during an outage of the database.

        Every exception but the first three has the attribute ``outcome_unknown``: whether one of the attempts may have
        been committed.

        :raises TaskSuperseded: nothing was stored, because the lease is lost.
        :raises KEKGone, ProjectClosed: nothing was stored.
        :raises ServiceUnavailable: the outage lasts too long. The order is claimed again when its lease has expired,
            unless the outcome was stored.
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
            # The lease was still valid, so that no earlier attempt was committed.
            raise
        except Exception as problem:
            # Exceptions of other libraries do not declare the attribute.
            problem.outcome_unknown = unknown or getattr(problem, "outcome_unknown", False)  # type: ignore[attr-defined]
            raise

    def _generator(self, order_type: str) -> Callable[[Lease], Awaitable[GeneratedObjects]]:
        generators = {"key": self._generate_key, "asymmetric": self._generate_key_pair}
        if order_type not in generators:
            raise NotSupported(f"Order type '{order_type}' is not supported")
        return generators[order_type]

    async def _generate_key(self, lease: Lease) -> GeneratedObjects:
        requested, content_type = _requested_secret(lease)
        if (requested.algorithm or "").lower() in ASYMMETRIC_ALGORITHMS:
            raise NotSupported(f"A key order cannot be of the asymmetric algorithm '{requested.algorithm}'")
        secret = await resources.generate_secret(self.stores, requested, content_type)
        return GeneratedObjects((secret,))

    async def _generate_key_pair(self, lease: Lease) -> GeneratedObjects:
        requested, content_type = _requested_secret(lease)
        if (requested.algorithm or "").lower() in SYMMETRIC_ALGORITHMS:
            raise NotSupported(f"An asymmetric order cannot be of the symmetric algorithm '{requested.algorithm}'")
        order, passphrase = lease.order, None
        if lease.passphrase is not None:
            passphrase = await resources.get_passphrase(self.stores, order.id, order.project_id, lease.passphrase)
        return await resources.generate_asymmetric_secret(self.stores, requested, passphrase, content_type)


def _requested_secret(lease: Lease) -> tuple[NewSecret, str]:
    """Return the secret that an order requests, without its payload, and the payload's media type.

    The creator is that of the order; the order's meta cannot override it.
    """
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
