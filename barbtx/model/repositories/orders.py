"""Orders, and the tasks that process them."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import NotFound
from barbtx.model import models
from barbtx.model.compiled import CompiledStatement
from barbtx.model.database_failures import DatabaseUnavailable
from barbtx.model.database_time import database_time
from barbtx.model.lookups import NamedRow
from barbtx.model.records import (
    ACTIVE,
    ASYMMETRIC,
    ERROR,
    PENDING,
    GeneratedObjects,
    Lease,
    Order,
    Page,
    StoredPayload,
    Task,
)
from barbtx.model.repositories import order_tasks
from barbtx.model.repositories.base import Repository
from barbtx.model.repositories.containers import insert_container
from barbtx.model.repositories.creations import order_values
from barbtx.model.repositories.idempotency import IdempotencyRecord, remember_key
from barbtx.model.repositories.listing import Condition, apply_conditions, count
from barbtx.model.repositories.order_claims import Claim, claim_next_order, claim_order
from barbtx.model.repositories.order_passphrases import find_passphrase, insert_passphrase
from barbtx.model.repositories.order_processing import claim_statement, completion, completion_values, read_lease
from barbtx.model.repositories.order_queries import (
    ORDER_COLUMNS,
    ORDER_LOOKUP,
    delete_orders,
    find_order,
    order_in,
)
from barbtx.model.repositories.order_tasks import LeaseLost, WrongLane
from barbtx.model.repositories.projects import find_project, project_key
from barbtx.model.repositories.quotas import count_of, enforce_quota
from barbtx.model.repositories.rows import fields
from barbtx.model.repositories.secret_queries import insert_secret
from barbtx.model.repositories.shared_creations import ORDER_CREATION
from barbtx.times import utcnow

__all__ = ["Claim", "LeaseLost", "OrderRepo", "WrongLane"]

_O = models.Order


@attrs.frozen
class OrderRepo(Repository):
    """The orders of all projects.

    :ivar quota: orders that a project without its own quota may have; negative is unlimited.
    :ivar task_time: returns, in a transaction, the time that retries and leases are measured by. All processes must
        agree on it. The repository's clock is used if it is None.
    """

    tables = "orders"

    quota: int = -1
    task_time: Callable[[Session], datetime.datetime] | None = None

    def _now(self, session: Session) -> datetime.datetime:
        return utcnow(self.clock) if self.task_time is None else self.task_time(session)

    @property
    def _has_statements(self) -> bool:
        """Whether single statements replace transactions. They use the database's clock."""
        return self.database.statements.enabled and self.task_time is database_time

    def create(
        self,
        order_id: str,
        project_id: str,
        type_: str,
        meta: str,
        creator_id: str | None,
        task: Task,
        retry_after: float,
        passphrase: StoredPayload | None = None,
        idempotency: IdempotencyRecord | None = None,
    ) -> Deferred[None]:
        """Create a PENDING order and the row of its first task, in one transaction.

        :param project_id: external id.
        :param meta: the order's meta as JSON.
        :param retry_after: seconds after which the scheduler publishes the task again if it is still pending.
        :param passphrase: the stored passphrase that the task needs.
        :param idempotency: see :func:`remember_key`.
        :raises QuotaReached: the project may have no more orders.
        :raises ProjectClosed: the project was deleted in Keystone.
        :raises KEKGone: the project key that encrypted the passphrase no longer exists.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            project = project_key(session, project_id, now)
            remember_key(session, project, idempotency, now)
            enforce_quota(session, project, "orders", self.quota, count_of(_O))
            session.execute(
                insert(_O).values(
                    id=order_id,
                    project_id=project,
                    type=type_,
                    meta=meta,
                    creator_id=creator_id,
                    status=PENDING,
                    created_at=now,
                    updated_at=now,
                )
            )
            if passphrase is not None:
                insert_passphrase(session, order_id, passphrase)
            order_tasks.insert_task(session, project, type_, task, self._now(session), retry_after)

        if idempotency is not None or passphrase is not None or self.task_time is not database_time:
            return self._interact(work)
        values = order_values(order_id, project_id, type_, meta, creator_id, task, retry_after, now, self.quota)
        return Deferred.fromCoroutine(self._create_or(ORDER_CREATION, values, work))

    def get(self, order_id: str, project_id: str) -> Deferred[Order | None]:
        """An order of a project, or None.

        :param project_id: external id.
        """
        found = self.database.statements.find(ORDER_LOOKUP, (order_id, project_id), tables=self.tables)
        return found.addCallback(order_in)

    def ended_of(self, ids: Sequence[str]) -> Deferred[Sequence[str]]:
        """The ids of those of some orders that are no longer PENDING, or no longer exist."""

        def work(session: Session) -> Sequence[str]:
            pending = set(session.scalars(select(_O.id).where(_O.id.in_(ids), _O.status == PENDING)))
            return [order_id for order_id in ids if order_id not in pending]

        return self._interact(work, write=False)

    def ended_since(self, moment: datetime.datetime) -> Deferred[Sequence[str]]:
        """The ids of the orders of all projects that are not PENDING and were changed at a time or later.

        :param moment: a naive datetime in UTC.
        """

        def work(session: Session) -> Sequence[str]:
            return session.scalars(select(_O.id).where(_O.updated_at >= moment, _O.status != PENDING)).all()

        return self._interact(work, write=False)

    def list_page(self, project_id: str, meta: str | None, limit: int, offset: int) -> Deferred[Page[Order]]:
        """A page of a project's orders, oldest first.

        :param project_id: external id.
        :param meta: lists only orders whose meta has this key or string value; ``%`` and ``_`` are wildcards.
        """

        def work(session: Session) -> Page[Order]:
            query = select(*ORDER_COLUMNS).where(_O.project_id == find_project(session, project_id))
            if meta:
                pattern = f"%{json.dumps(meta, ensure_ascii=False)}%"
                query = apply_conditions(query, [Condition("meta", "like", pattern)], {"meta": _O.meta})
            total = count(session, query, _O.id)
            if offset >= total:
                return Page((), total)
            rows = session.execute(
                query.join(models.Project, models.Project.id == _O.project_id)
                .order_by(_O.created_at, _O.id)
                .limit(limit)
                .offset(offset)
            )
            return Page(tuple(Order(**fields(row, ORDER_COLUMNS)) for row in rows), total)

        return self._interact(work, write=False, listing=True)

    def delete(self, order_id: str, project_id: str) -> Deferred[StoredPayload | None]:
        """Delete an order and its pending task. The objects that it generated remain.

        :param project_id: external id.
        :return: the passphrase of a pending order, which the caller must delete from its secret store.
        :raises NotFound: the order does not exist.
        """

        def work(session: Session) -> StoredPayload | None:
            if find_order(session, order_id, project_id) is None:
                raise NotFound("Order not found.")
            passphrase = find_passphrase(session, order_id)
            delete_orders(session, [order_id])
            return passphrase

        return self._interact(work)

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
        values = {"lane": lane, "after": after, "token": claim.token, "order_id": order_id}
        return Deferred.fromCoroutine(self._claim_next(claim, claim_statement(seconds), values, work))

    async def _claim_next(
        self,
        claim: Claim,
        statement: CompiledStatement,
        values: dict[str, Any],
        general: Callable[[Session], Lease | None],
    ) -> Lease | None:
        rows: Sequence[NamedRow] = ()
        try:
            rows = await self._execute(statement, values)
        except DatabaseUnavailable as problem:
            claim.may_be_taken = problem.outcome_unknown
            raise
        if not rows:
            return await self._interact(general)
        claim.taken = rows[0].id
        return read_lease(rows[0], claim.token)

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

    def take_due(self, limit: int, republish_after: float, seen: set[str] | None = None) -> Deferred[list[Task]]:
        """Take the tasks that are due, oldest first, and reschedule them. Concurrent callers get different tasks.

        The interval doubles: a task is due again after as long as it has been pending, but at most an hour, so that a
        long queue does not fill with duplicates.

        :param limit: maximum number of tasks.
        :param republish_after: minimum of the interval in seconds.
        :param seen: receives the ids of the orders, so that the caller can make them due again if the outcome is
            unknown.
        """

        def work(session: Session) -> list[Task]:
            tasks = order_tasks.take_due(session, self._now(session), limit, republish_after)
            if seen is not None:
                seen.update(task.order_id for task in tasks)
            return tasks

        return self._interact(work)

    def make_due(self, ids: Sequence[str], seconds: float) -> Deferred[None]:
        """Make tasks that :meth:`take_due` returned, but that could not be published, due again.

        :param seconds: time until they are due.
        """
        return self._interact(lambda session: order_tasks.make_due(session, ids, self._now(session), seconds))


def _finish(session: Session, lease: Lease, now: datetime.datetime, **columns: object) -> None:
    order_tasks.finish(session, lease)
    session.execute(delete(models.OrderPassphrase).where(models.OrderPassphrase.order_id == lease.order.id))
    session.execute(update(_O).where(_O.id == lease.order.id).values(updated_at=now, **columns))
