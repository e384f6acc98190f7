"""Orders, and the tasks that they are a promise of."""

from __future__ import annotations

import datetime
import json
import uuid

import attrs
from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from barbtx.errors import NotFound
from barbtx.model import models
from barbtx.model.database import Database
from barbtx.model.records import ACTIVE, ERROR, PENDING, Lease, NewSecret, Order, Page, Task
from barbtx.model.repositories.listing import Condition, apply_conditions
from barbtx.model.repositories.projects import project_key
from barbtx.model.repositories.secrets import insert_secret
from barbtx.times import utcnow

_O = models.Order
_T = models.OrderRetryTask
_COLUMNS = (
    _O.id, models.Project.external_id, _O.type, _O.meta, _O.creator_id, _O.status, _O.created_at, _O.updated_at,
    _O.sub_status, _O.sub_status_message, _O.error_status_code, _O.error_reason, _O.secret_id,
)


class LeaseLost(Exception):
    """The order was deleted, or another worker took it over; nothing was stored."""


@attrs.frozen
class OrderRepo:
    database: Database
    clock: IReactorTime

    def create(self, order_id: str, project_id: str, type_: str, meta: str, creator_id: str | None,
               task: Task, retry_after: float) -> Deferred[None]:
        """Create a PENDING order and the row of its first task, in one transaction.

        :param retry_after: seconds after which the scheduler shall publish the task again if it is still undone.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            session.execute(insert(_O).values(
                id=order_id, project_id=project_key(session, project_id, now), type=type_, meta=meta,
                creator_id=creator_id, status=PENDING, created_at=now, updated_at=now,
            ))
            session.execute(insert(_T).values(
                order_id=order_id, retry_task=task.method, retry_kwargs=json.dumps(dict(task.kwargs)),
                retry_at=now + datetime.timedelta(seconds=retry_after), retry_count=0, created_at=now,
            ))

        return self.database.interact(work)

    def get(self, order_id: str, project_id: str) -> Deferred[Order | None]:
        """An order of a project (external id)."""
        return self.database.interact(lambda session: _find(session, order_id, project_id), write=False)

    def list(self, project_id: str, meta: str | None, limit: int, offset: int) -> Deferred[Page[Order]]:
        """A page of a project's orders, oldest first.

        :param meta: text to find, as a whole key or string value, in the orders' meta; ``%`` and ``_`` are wildcards.
        """
        def work(session: Session) -> Page[Order]:
            query = _select().where(models.Project.external_id == project_id)
            if meta:
                query = apply_conditions(query, [Condition("meta", "like", f"%{_like_quoted(meta)}%")],
                                         {"meta": _O.meta})
            total = session.scalar(query.with_only_columns(func.count(), maintain_column_froms=True))
            rows = session.execute(query.order_by(_O.created_at, _O.id).limit(limit).offset(offset))
            return Page(tuple(Order(*row) for row in rows), total)

        return self.database.interact(work, write=False)

    def delete(self, order_id: str, project_id: str) -> Deferred[None]:
        """Delete an order and what is still to be done for it; what it made stays.

        :raises NotFound: it is gone already.
        """
        def work(session: Session) -> None:
            if _find(session, order_id, project_id) is None:
                raise NotFound("Order not found.")
            session.execute(delete(_T).where(_T.order_id == order_id))
            session.execute(delete(_O).where(_O.id == order_id))

        return self.database.interact(work)

    def claim(self, order_id: str, project_id: str, seconds: float) -> Deferred[Lease | None]:
        """Take an order in hand, unless it is done, gone or in another's hand: then the answer is None.

        :param seconds: for how long the claim holds unless it is renewed.
        """
        token = str(uuid.uuid4())

        def work(session: Session) -> Lease | None:
            now = utcnow(self.clock)
            until = now + datetime.timedelta(seconds=seconds)
            claimed = session.execute(
                update(_T).where(_T.order_id == order_id, or_(_T.leased_until.is_(None), _T.leased_until <= now))
                .values(lease=token, leased_until=until, retry_at=until, retry_count=_T.retry_count + 1)
            )
            order = _find(session, order_id, project_id) if claimed.rowcount == 1 else None
            if order is None:
                return None
            return Lease(order, token, session.scalar(select(_T.retry_count).where(_T.order_id == order_id)))

        return self.database.interact(work)

    def renew(self, lease: Lease, seconds: float) -> Deferred[None]:
        """Hold on to an order that takes long.

        :raises LeaseLost: it is in another's hand now, or gone.
        """
        until = utcnow(self.clock) + datetime.timedelta(seconds=seconds)

        def work(session: Session) -> None:
            renewed = session.execute(_held(update(_T), lease).values(leased_until=until, retry_at=until))
            if renewed.rowcount != 1:
                raise LeaseLost

        return self.database.interact(work)

    def complete(self, lease: Lease, made: NewSecret, sub_status: str, sub_status_message: str) -> Deferred[None]:
        """Store what an order made and turn it ACTIVE, in one transaction.

        :raises LeaseLost: nothing was stored.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            _finish(session, lease, now, status=ACTIVE, secret_id=made.id, sub_status=sub_status[:36],
                    sub_status_message=sub_status_message[:255])
            insert_secret(session, made, now)

        return self.database.interact(work)

    def fail(self, lease: Lease, status_code: str, reason: str) -> Deferred[None]:
        """Turn an order to ERROR.

        :raises LeaseLost: it was not changed.
        """
        now = utcnow(self.clock)
        return self.database.interact(lambda session: _finish(
            session, lease, now, status=ERROR, error_status_code=status_code[:16], error_reason=reason[:255]))

    def retry(self, lease: Lease, method: str, seconds: float) -> Deferred[None]:
        """Let go of an order and have a task of it run later.

        :param method: the task's queue method.
        :param seconds: from now.
        :raises LeaseLost: it was not changed.
        """
        retry_at = utcnow(self.clock) + datetime.timedelta(seconds=seconds)

        def work(session: Session) -> None:
            released = session.execute(_held(update(_T), lease).values(
                lease=None, leased_until=None, retry_task=method, retry_at=retry_at))
            if released.rowcount != 1:
                raise LeaseLost

        return self.database.interact(work)

    def take_due(self, limit: int, republish_after: float) -> Deferred[list[Task]]:
        """The tasks that are due, oldest first, each for one caller only; they are due again later.

        A task that stays undone comes back after ever longer times, the age it has reached but at most an hour, so
        that a long queue is not filled with its own echoes.

        :param republish_after: seconds until it is due again, at least.
        """
        def work(session: Session) -> list[Task]:
            now = utcnow(self.clock)
            rows = session.execute(
                select(_T.order_id, _T.retry_task, _T.retry_kwargs, _T.created_at).where(_T.retry_at <= now)
                .order_by(_T.retry_at).limit(limit).with_for_update(skip_locked=True)
            ).all()
            for order_id, _, _, created in rows:
                wait = min(max(republish_after, (now - created).total_seconds()), max(republish_after, 3600.0))
                session.execute(update(_T).where(_T.order_id == order_id)
                                .values(retry_at=now + datetime.timedelta(seconds=wait)))
            return [Task(order_id, method, json.loads(kwargs)) for order_id, method, kwargs, _ in rows]

        return self.database.interact(work)


def _select():
    return select(*_COLUMNS).join(models.Project, models.Project.id == _O.project_id)


def _find(session: Session, order_id: str, project_id: str) -> Order | None:
    row = session.execute(_select().where(_O.id == order_id, models.Project.external_id == project_id)).first()
    return Order(*row) if row else None


def _held(statement, lease: Lease):
    return statement.where(_T.order_id == lease.order.id, _T.lease == lease.token)


def _finish(session: Session, lease: Lease, now: datetime.datetime, **columns: object) -> None:
    if session.execute(_held(delete(_T), lease)).rowcount != 1:
        raise LeaseLost
    session.execute(update(_O).where(_O.id == lease.order.id).values(updated_at=now, **columns))


def _like_quoted(text: str) -> str:
    """A text as it stands in the stored JSON, with the backslashes that LIKE would take for its own escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\\", "\\\\")
