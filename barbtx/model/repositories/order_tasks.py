"""The rows of tasks: which are due, which wait for a worker, and which are leased. Functions of a session.

All processes use one clock, that of the database server, where there is one. Even that clock may be set back, and rows
that were written before must not be delayed by as much: no wait is longer than :data:`LONGEST_WAIT`, each row contains
the time at which it was written, and implausible times count as past.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import ColumnElement, Exists, and_, delete, exists, insert, or_, select, update
from sqlalchemy.orm import Session

from barbtx.model import models
from barbtx.model.records import ASYMMETRIC, PENDING, SYMMETRIC, Lease, Order, StoredPayload, Task, lane_of
from barbtx.model.repositories.projects import closes, find_project
from barbtx.model.repositories.rows import affected_rows

_O = models.Order
_T = models.OrderRetryTask

#: A time, or an SQL expression of one.
Moment: TypeAlias = datetime.datetime | ColumnElement[datetime.datetime]
AnyMoment = TypeVar("AnyMoment", datetime.datetime, ColumnElement[datetime.datetime])

#: Maximum number of seconds until a task is due or its lease expires.
LONGEST_WAIT = 3600.0

# Tolerated difference between the clocks of a database server and of its successor, or of different machines.
_CLOCK_TOLERANCE = datetime.timedelta(seconds=60)

# When a task that needs a message at once is due: in the past by any clock, and overdue by any interval.
_AT_ONCE = datetime.datetime(1970, 1, 1)


class LeaseLost(Exception):
    """The order was deleted, or another worker has claimed it; nothing was stored."""


class WrongLane(Exception):
    """The order must be processed in another lane.

    :ivar lane: that lane.
    """

    def __init__(self, lane: str) -> None:
        super().__init__(lane)
        self.lane = lane


def later(now: AnyMoment, seconds: float) -> AnyMoment:
    """The time some seconds from now, limited to :data:`LONGEST_WAIT`."""
    return now + datetime.timedelta(seconds=min(seconds, LONGEST_WAIT))


def insert_task(
    session: Session, project: str, type_: str, task: Task, now: datetime.datetime, retry_after: float
) -> None:
    """Insert an order's first task, which then waits for a worker.

    :param project: primary key of the order's project.
    :param retry_after: seconds until the scheduler publishes it again.
    """
    session.execute(
        insert(_T).values(
            order_id=task.order_id,
            retry_task=task.method,
            retry_kwargs=json.dumps(dict(task.kwargs)),
            retry_at=later(now, retry_after),
            retry_count=0,
            created_at=now,
            written_at=now,
            project_id=project,
            waits_in=lane_of(type_),
        )
    )


def take_lease(session: Session, order_id: str, token: str, now: datetime.datetime, seconds: float) -> bool:
    """Take the lease of an order, unless another worker holds it.

    :param seconds: time until the lease expires.
    :return: whether the lease was taken.
    """
    until = later(now, seconds)
    taken = (
        update(_T)
        .where(_T.order_id == order_id, is_free(now, seconds), _is_open(now))
        .values(
            lease=token,
            leased_until=until,
            retry_at=until,
            retry_count=_T.retry_count + 1,
            waits_in=None,
            written_at=now,
        )
    )
    return affected_rows(session, taken) == 1


def confirm_lease(session: Session, order_id: str, token: str, now: datetime.datetime, seconds: float) -> bool:
    """Renew the lease that a transaction of unknown outcome may have taken under a token.

    The row's lock makes it wait until that transaction has ended.

    :param seconds: time until the lease expires.
    :return: whether that transaction had taken the lease.
    """
    row = select(_T.lease).where(_T.order_id == order_id).with_for_update()
    if session.scalar(row) != token:
        return False
    until = later(now, seconds)
    session.execute(
        update(_T)
        .where(_T.order_id == order_id)
        .values(leased_until=until, retry_at=until, waits_in=None, written_at=now)
    )
    return True


def read_lease(session: Session, order: Order, token: str, passphrase: StoredPayload | None) -> Lease:
    """The lease of an order that this transaction has taken."""
    row = session.execute(select(_T.retry_count, _T.retry_kwargs, _T.project_id).where(_T.order_id == order.id)).one()
    return Lease(
        order=order,
        token=token,
        attempt=row.retry_count,
        passphrase=passphrase,
        request_id=json.loads(row.retry_kwargs).get("request_id"),
        project_key=row.project_id or "",
    )


def next_waiting(session: Session, lane: str, after: str, now: datetime.datetime, seconds: float) -> str | None:
    """The id of the next order of a lane: the oldest waiting order of the next project, or None.

    Concurrent transactions get different orders.

    :param after: primary key of the project that had its turn last; projects take turns in the order of their keys.
    :param seconds: duration of the lease that the caller is going to take.
    """
    for project in (_T.project_id > after, _T.project_id <= after):
        found = session.scalar(
            select(_T.order_id)
            .where(_T.waits_in == lane, project, is_free(now, seconds), _waits_in_open_project(now))
            .order_by(_T.project_id, _T.created_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        if found is not None:
            return found
    return None


def renew(session: Session, lease: Lease, now: datetime.datetime, seconds: float) -> None:
    """Renew a lease.

    :raises LeaseLost: another worker has claimed the order, or it was deleted.
    """
    until = later(now, seconds)
    _change(session, lease, leased_until=until, retry_at=until, waits_in=None, written_at=now)


def reschedule(
    session: Session, lease: Lease, method: str, now: datetime.datetime, seconds: float, counts: bool
) -> None:
    """End a lease and schedule a task of the order.

    :param method: the queue method of the task.
    :param seconds: time until the task is due.
    :param counts: whether the attempt counts towards the order's maximum number of attempts.
    :raises LeaseLost: another worker has claimed the order, or it was deleted.
    """
    _change(
        session,
        lease,
        lease=None,
        leased_until=None,
        retry_task=method,
        retry_at=later(now, seconds),
        written_at=now,
        retry_count=_T.retry_count - int(not counts),
    )


def release(session: Session, lease: Lease, now: datetime.datetime) -> None:
    """End a lease without counting the attempt. The order is due at once.

    :raises LeaseLost: another worker has claimed the order, or it was deleted.
    """
    _change(
        session,
        lease,
        lease=None,
        leased_until=None,
        retry_at=_AT_ONCE,
        retry_count=_T.retry_count - 1,
        written_at=now,
        waits_in=lane_of(lease.order.type),
    )


def finish(session: Session, lease: Lease) -> None:
    """Delete the task of an order that is finished.

    :raises LeaseLost: another worker has claimed the order, or it was deleted.
    """
    if affected_rows(session, delete(_T).where(_is_held(lease))) != 1:
        raise LeaseLost


def advancing_lanes(session: Session, since: datetime.datetime) -> list[str]:
    """The lanes in which an order has ended since a time, by the clocks of those who ended it."""
    ended = select(_O.id).where(_O.updated_at >= since, _O.status != PENDING)
    is_pair = _O.type == "asymmetric"
    conditions = {ASYMMETRIC: is_pair, SYMMETRIC: ~is_pair}
    return [lane for lane, is_in in conditions.items() if session.scalar(ended.where(is_in).limit(1)) is not None]


def take_due(
    session: Session, now: datetime.datetime, limit: int, republish_after: float, advancing: Sequence[str]
) -> list[Task]:
    """Take the tasks that are due, oldest first, and reschedule them; see :meth:`OrderRepo.take_due`.

    :param advancing: lanes whose waiting tasks are taken only if they are overdue by ``republish_after``.
    """
    has_come = and_(
        _T.retry_at <= now,
        or_(
            _T.waits_in.is_(None),
            _T.waits_in.not_in(advancing),
            _T.retry_at <= now - datetime.timedelta(seconds=republish_after),
        ),
    )
    rows = session.execute(
        select(_T.order_id, _T.retry_task, _T.retry_kwargs, _T.created_at, _T.lease, _O.type, _O.project_id)
        .join(_O, _O.id == _T.order_id)
        .where(or_(has_come, _T.retry_at > later(now, LONGEST_WAIT) + _CLOCK_TOLERANCE, _is_from_the_future(now)))
        .order_by(_T.retry_at)
        .limit(limit)
        .with_for_update(of=_T, skip_locked=True)
    ).all()
    for row in rows:
        age = (now - row.created_at).total_seconds()
        # The lease of a due task has expired, even if its end lies in the future because the clock was set back.
        session.execute(
            update(_T)
            .where(_T.order_id == row.order_id)
            .values(
                retry_at=later(now, max(republish_after, age)),
                leased_until=None if row.lease is None else now,
                waits_in=lane_of(row.type),
                project_id=row.project_id,
                written_at=now,
            )
        )
    return [
        Task(
            order_id=row.order_id,
            method=row.retry_task,
            kwargs=json.loads(row.retry_kwargs),
            lane=lane_of(row.type),
        )
        for row in rows
    ]


def make_due(session: Session, ids: Sequence[str], now: datetime.datetime, republish_after: float) -> None:
    """Make tasks that could not be published due at once, unless a worker has claimed them.

    :param republish_after: see :func:`take_due`.
    """
    # Those that are due for longer are taken first, so that a queue that refuses everything holds up no other for long.
    session.execute(
        update(_T)
        .where(_T.order_id.in_(ids), _T.waits_in.is_not(None))
        .values(retry_at=now - datetime.timedelta(seconds=republish_after), written_at=now)
    )


def make_project_due(session: Session, project_id: str) -> None:
    """Make the waiting tasks of a project due at once, because no worker has claimed them while it was closed.

    :param project_id: external id.
    """
    session.execute(
        update(_T)
        .where(_T.waits_in.is_not(None), _T.project_id == find_project(session, project_id))
        .values(retry_at=_AT_ONCE)
    )


def is_free(now: Moment, seconds: float, task: Any = _T) -> ColumnElement[bool]:
    """Whether no worker holds the lease of a task.

    :param seconds: duration of leases.
    :param task: the model, or the columns of a subquery.
    """
    # A lease that ends later than this was taken before the clock was set back.
    implausible = now + datetime.timedelta(seconds=2 * min(seconds, LONGEST_WAIT)) + _CLOCK_TOLERANCE
    return or_(
        task.leased_until.is_(None),
        task.leased_until <= now,
        task.leased_until > implausible,
        _is_from_the_future(now, task),
    )


def _is_open(now: Moment) -> ColumnElement[bool]:
    """Whether the project of a task's order is open, so that the objects it generates can be stored."""
    # The task of an order that a process of the previous release has created does not say which project it is.
    removal = _removal(now, models.Project.id == _O.project_id)
    return ~removal.where(_O.id == _T.order_id).correlate(_T)


def _waits_in_open_project(now: Moment) -> ColumnElement[bool]:
    """Whether the project of a waiting task is open. It is cheaper than :func:`_is_open`, for many tasks."""
    return ~_removal(now, models.Project.id == _T.project_id).correlate(_T)


def _removal(now: Moment, project: ColumnElement[bool]) -> Exists:
    return exists().where(project, models.ProjectRemoval.project_id == models.Project.external_id, closes(now))


def _is_from_the_future(now: Moment, task: Any = _T) -> ColumnElement[bool]:
    """Whether the clock was set back since a row was written, so that its times are too late by as much."""
    ahead: ColumnElement[bool] = task.written_at > now + _CLOCK_TOLERANCE
    return ahead


def _is_held(lease: Lease) -> ColumnElement[bool]:
    return and_(_T.order_id == lease.order.id, _T.lease == lease.token)


def _change(session: Session, held: Lease, /, **columns: object) -> None:
    if affected_rows(session, update(_T).where(_is_held(held)).values(**columns)) != 1:
        raise LeaseLost
