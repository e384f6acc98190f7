"""What workers and retry schedulers do with orders: claiming, renewing, completing, and finding due tasks."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Sequence

import attrs
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.model import models
from barbtx.model.database_time import database_time
from barbtx.model.records import ACTIVE, ASYMMETRIC, ERROR, GeneratedObjects, Lease, Task
from barbtx.model.repositories import order_tasks
from barbtx.model.repositories.base import Repository
from barbtx.model.repositories.claim_groups import LaneClaims, Undecided
from barbtx.model.repositories.containers import insert_container
from barbtx.model.repositories.order_claims import Claim, claim_next_order, claim_order
from barbtx.model.repositories.order_completion import completion, completion_values
from barbtx.model.repositories.order_tasks import LeaseLost, WrongLane
from barbtx.model.repositories.projects import project_key
from barbtx.model.repositories.secret_queries import insert_secret
from barbtx.times import utcnow

__all__ = ["Claim", "LeaseLost", "OrderWork", "WrongLane"]

_O = models.Order

# A lane in which no order has ended for so long may have lost its messages.
_LATELY = datetime.timedelta(seconds=5)


@attrs.frozen
class OrderWork(Repository):
    """The orders of all projects, and their tasks.

    :ivar task_time: returns, in a transaction, the time that retries and leases are measured by. All processes must
        agree on it. The repository's clock is used if it is None.
    """

    tables = "orders"

    task_time: Callable[[Session], datetime.datetime] | None = None
    _claims: dict[tuple[str, float], LaneClaims] = attrs.field(factory=dict, init=False, repr=False, eq=False)

    def _now(self, session: Session) -> datetime.datetime:
        return utcnow(self.clock) if self.task_time is None else self.task_time(session)

    @property
    def _has_statements(self) -> bool:
        """Whether single statements replace transactions. They use the database's clock."""
        return self.database.statements.enabled and self.task_time is database_time

    def claim(
        self, order_id: str, project_id: str, seconds: float, claim: Claim | None = None
    ) -> Deferred[Lease | None]:
        """Claim an order, unless it is finished or another worker holds its lease: then the result is None.

        The result is also None while the order's project is closed. If the removal of the project is cancelled, the
        order is processed later.

        :param project_id: external id.
        :param seconds: the lease expires after this time unless it is renewed.
        :param claim: the claim of the earlier attempt, if this is a retry.
        :raises NotFound: the order does not exist.
        """
        claim = claim or Claim()
        return self._interact(
            lambda session: claim_order(session, claim, order_id, project_id, self._now(session), seconds)
        )

    def claim_next(
        self,
        lane: str,
        after: str,
        seconds: float,
        order_id: str | None = None,
        project_id: str | None = None,
        claim: Claim | None = None,
    ) -> Deferred[Lease | None]:
        """Claim the next order of a lane. The result is None if none is waiting.

        The projects that have orders waiting in a lane take turns, so that no project waits for all orders of another.
        A worker that a queue message sends for one order claims the next one instead; since there is a message for each
        order, all orders are claimed in the end. An order that does not wait in a lane is claimed itself: a retry that
        is not due yet, or an order that a process of the previous release has created.

        :param after: internal id of the project whose order was claimed last.
        :param seconds: the lease expires after this time unless it is renewed.
        :param order_id: the order that the message names, if there is one.
        :param project_id: external id of that order's project.
        :param claim: the claim of the earlier attempt, if this is a retry.
        :raises WrongLane: the named order belongs to another lane.
        :raises NotFound: the named order does not exist, and no order is waiting.
        """
        claim = claim or Claim()

        def work(session: Session) -> Lease | None:
            return claim_next_order(session, claim, lane, after, order_id, project_id, self._now(session), seconds)

        if lane == ASYMMETRIC or claim.is_retry or not self._has_statements:
            # The orders of that lane may have passphrases.
            return self._interact(work)
        return Deferred.fromCoroutine(self._claim_with_others(claim, lane, after, seconds, order_id, work))

    async def _claim_with_others(
        self,
        claim: Claim,
        lane: str,
        after: str,
        seconds: float,
        order_id: str | None,
        general: Callable[[Session], Lease | None],
    ) -> Lease | None:
        claims = self._claims.get((lane, seconds))
        if claims is None:
            claims = LaneClaims(self.database.statements, self.tables, lane, seconds)
            self._claims[lane, seconds] = claims
        try:
            return await claims.claim(claim, after, order_id)
        except Undecided:
            return await self._interact(general)

    def renew(self, lease: Lease, seconds: float) -> Deferred[None]:
        """Renew a lease.

        :param seconds: the lease expires after this time unless it is renewed again.
        :raises LeaseLost: another worker has claimed the order, or it was deleted.
        """
        return self._interact(lambda session: order_tasks.renew(session, lease, self._now(session), seconds))

    def complete(
        self, lease: Lease, made: GeneratedObjects, sub_status: str, sub_status_message: str
    ) -> Deferred[None]:
        """Store the objects that an order generated and set it to ACTIVE, in one transaction.

        The call is idempotent: it may be retried if its outcome is unknown.

        :raises LeaseLost: another worker has claimed the order, or it was deleted; nothing was stored.
        :raises ProjectClosed: the order's project was deleted in Keystone; nothing was stored.
        :raises KEKGone: the project key that encrypted an object no longer exists; nothing was stored.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            shown = {"container_id": made.container.id} if made.container else {"secret_id": made.secrets[0].id}
            try:
                _finish(
                    session,
                    lease,
                    now,
                    status=ACTIVE,
                    sub_status=sub_status[:36],
                    sub_status_message=sub_status_message[:255],
                    **shown,
                )
            except LeaseLost:
                # An earlier attempt may have stored them. Their owner may have deleted some since.
                ids = [secret.id for secret in made.secrets]
                if session.scalar(select(models.Secret.id).where(models.Secret.id.in_(ids)).limit(1)) is None:
                    raise
                return
            project = project_key(session, lease.order.project_id, now)
            for secret in made.secrets:
                insert_secret(session, project, secret, now)
            if made.container:
                insert_container(session, project, made.container, now)

        if made.container or len(made.secrets) != 1 or not self._has_statements:
            return self._interact(work)
        values = completion_values(lease, made.secrets[0], sub_status[:36], sub_status_message[:255], now)
        return Deferred.fromCoroutine(self._execute_or(completion(), values, work))

    def fail(self, lease: Lease, status_code: str, reason: str) -> Deferred[None]:
        """Set an order to ERROR. The call is idempotent: it may be retried if its outcome is unknown.

        :raises LeaseLost: another worker has claimed the order, or it was deleted, and it is not in ERROR.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            try:
                _finish(
                    session, lease, now, status=ERROR, error_status_code=status_code[:16], error_reason=reason[:255]
                )
            except LeaseLost:
                if session.scalar(select(_O.status).where(_O.id == lease.order.id)) != ERROR:
                    raise

        return self._interact(work)

    def retry(self, lease: Lease, method: str, seconds: float, *, counts: bool = True) -> Deferred[None]:
        """End a lease and schedule a retry of the order.

        :param method: the queue method of the task.
        :param seconds: time until the retry, at most an hour.
        :param counts: whether the attempt counts towards the order's maximum number of attempts.
        :raises LeaseLost: another worker has claimed the order, or it was deleted.
        """
        return self._interact(
            lambda session: order_tasks.reschedule(session, lease, method, self._now(session), seconds, counts)
        )

    def release(self, lease: Lease) -> Deferred[None]:
        """End a lease before the order is finished, for instance at shutdown. The order is due at once.

        The attempt does not count. A lease that is lost already is ignored.
        """

        def work(session: Session) -> None:
            with contextlib.suppress(LeaseLost):
                order_tasks.release(session, lease, self._now(session))

        return self._interact(work)

    def take_due(
        self, limit: int, republish_after: float, seen: set[str] | None = None, *, permits: bool = False
    ) -> Deferred[list[Task]]:
        """Take the tasks that are due, oldest first, and reschedule them. Concurrent callers get different tasks.

        The interval doubles: a task is due again after as long as it has been pending, but at most an hour, so that a
        long queue does not fill with duplicates.

        :param limit: maximum number of tasks.
        :param republish_after: minimum of the interval in seconds.
        :param seen: receives the ids of the orders, so that the caller can make them due again if the outcome is
            unknown.
        :param permits: whether the message of a task is a permit for the order whose turn it is, so that a task that
            waits in a lane needs no further message as long as orders of that lane are completed. It is taken then only
            if it is overdue by ``republish_after``.
        """
        lately = utcnow(self.clock) - _LATELY

        def work(session: Session) -> list[Task]:
            advancing = order_tasks.advancing_lanes(session, lately) if permits else ()
            tasks = order_tasks.take_due(session, self._now(session), limit, republish_after, advancing)
            if seen is not None:
                seen.update(task.order_id for task in tasks)
            return tasks

        return self._interact(work)

    def make_due(self, ids: Sequence[str], republish_after: float) -> Deferred[None]:
        """Make tasks that :meth:`take_due` returned, but that could not be published, due again at once.

        :param republish_after: see :meth:`take_due`.
        """
        return self._interact(lambda session: order_tasks.make_due(session, ids, self._now(session), republish_after))


def _finish(session: Session, lease: Lease, now: datetime.datetime, **columns: object) -> None:
    order_tasks.finish(session, lease)
    session.execute(delete(models.OrderPassphrase).where(models.OrderPassphrase.order_id == lease.order.id))
    session.execute(update(_O).where(_O.id == lease.order.id).values(updated_at=now, **columns))
