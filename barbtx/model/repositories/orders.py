"""Orders, and the tasks that process them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence

import attrs
from sqlalchemy import insert, select
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import NotFound
from barbtx.model import models
from barbtx.model.database_time import database_time
from barbtx.model.records import (
    PENDING,
    Order,
    Page,
    StoredPayload,
    Task,
)
from barbtx.model.repositories import order_tasks
from barbtx.model.repositories.creations import order_values
from barbtx.model.repositories.idempotency import IdempotencyRecord, remember_key
from barbtx.model.repositories.listing import Condition, apply_conditions, count
from barbtx.model.repositories.order_claims import Claim
from barbtx.model.repositories.order_passphrases import find_passphrase, insert_passphrase
from barbtx.model.repositories.order_queries import (
    ORDER_COLUMNS,
    ORDER_LOOKUP,
    delete_orders,
    find_order,
    order_in,
)
from barbtx.model.repositories.order_tasks import LeaseLost, WrongLane
from barbtx.model.repositories.order_work import OrderWork
from barbtx.model.repositories.projects import find_project, project_key
from barbtx.model.repositories.quotas import count_of, enforce_quota
from barbtx.model.repositories.rows import fields
from barbtx.model.repositories.shared_creations import ORDER_CREATION
from barbtx.times import utcnow

__all__ = ["Claim", "LeaseLost", "OrderRepo", "WrongLane"]

_O = models.Order


@attrs.frozen
class OrderRepo(OrderWork):
    """The orders of all projects.

    :ivar quota: orders that a project without its own quota may have; negative is unlimited.
    """

    quota: int = -1

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
