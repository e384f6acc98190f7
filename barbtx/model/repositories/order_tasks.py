"""The rows of tasks: which are due, which wait for a worker, and who has them in hand. Functions of a session.

Times are those of one clock that all processes share, where there is one. A clock may be set all the same, and what was
written by it before must not hold anything up: no wait is longer than :data:`LONGEST_WAIT`, each row says when it was
written, and a time that cannot be right counts as past.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence

from sqlalchemy import ColumnElement, delete, exists, insert, or_, select, update
from sqlalchemy.orm import Session

from barbtx.model import models
from barbtx.model.records import Lease, Order, StoredPayload, Task, lane_of
from barbtx.model.repositories.projects import closes, find_project

_O = models.Order
_T = models.OrderRetryTask

#: Seconds that a task may have to wait for, at most.
LONGEST_WAIT = 3600.0

# By so much the clocks of a database and of its successor, or of different machines, may differ.
_CLOCKS_DIFFER = datetime.timedelta(seconds=60)


class LeaseLost(Exception):
    """The order was deleted, or another worker took it over; nothing was stored."""


class WrongLane(Exception):
    """The order is to be processed in another lane.

    :ivar lane: which one.
    """

    def __init__(self, lane: str) -> None:
        super().__init__(lane)
        self.lane = lane


def later(now: datetime.datetime, seconds: float) -> datetime.datetime:
    """A time so many seconds from now, :data:`LONGEST_WAIT` at most."""
    return now + datetime.timedelta(seconds=min(seconds, LONGEST_WAIT))


def insert_task(
    session: Session, project: str, type_: str, task: Task, now: datetime.datetime, retry_after: float
) -> None:
    """Write the row of an order's first task, which waits for a worker from now on.

    :param project: internal id.
    :param retry_after: seconds after which it is due to be published again.
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


def take(session: Session, order_id: str, token: str, now: datetime.datetime, seconds: float) -> bool:
    """Take an order in hand; whether it was free.

    :param seconds: for how long the claim holds unless it is renewed.
    """
    until = later(now, seconds)
    taken = session.execute(
        update(_T)
        .where(_T.order_id == order_id, _is_free(now, seconds), _is_open(now))
        .values(
            lease=token,
            leased_until=until,
            retry_at=until,
            retry_count=_T.retry_count + 1,
            waits_in=None,
            written_at=now,
        )
    )
    return taken.rowcount == 1


def took(session: Session, order_id: str, token: str, now: datetime.datetime, seconds: float) -> bool:
    """Whether an order was taken in hand under a token, by a transaction whose outcome was not known; it then stays so.

    It waits until that transaction has come to its end.

    :param seconds: for how long the claim holds from now on.
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
    """The lease on an order that was taken in hand in this transaction."""
    attempt, kwargs, project = session.execute(
        select(_T.retry_count, _T.retry_kwargs, _T.project_id).where(_T.order_id == order.id)
    ).one()
    return Lease(order, token, attempt, passphrase, json.loads(kwargs).get("request_id"), project or "")


def next_waiting(session: Session, lane: str, after: str, now: datetime.datetime, seconds: float) -> str | None:
    """The id of the order whose turn it is in a lane: the oldest one of the next project.

    Another transaction that asks at the same time gets another one.

    :param after: internal id of the project whose turn it was last; projects take turns by their ids.
    """
    for project in (_T.project_id > after, _T.project_id <= after):
        found = session.scalar(
            select(_T.order_id)
            .where(_T.waits_in == lane, project, _is_free(now, seconds), _is_open(now))
            .order_by(_T.project_id, _T.created_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        if found is not None:
            return found
    return None


def renew(session: Session, lease: Lease, now: datetime.datetime, seconds: float) -> None:
    """:raises LeaseLost: the order is in another's hand now, or gone."""
    until = later(now, seconds)
    _change(session, lease, leased_until=until, retry_at=until, waits_in=None, written_at=now)


def reschedule(
    session: Session, lease: Lease, method: str, now: datetime.datetime, seconds: float, counts: bool
) -> None:
    """Let go of an order and have a task of it run later.

    :param counts: whether this was an attempt, of which an order has only so many.
    :raises LeaseLost: it was not changed.
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
    """Let go of an order that is due at once; the attempt does not count.

    :raises LeaseLost: it was not changed.
    """
    _change(
        session,
        lease,
        lease=None,
        leased_until=None,
        retry_at=now,
        retry_count=_T.retry_count - 1,
        written_at=now,
        waits_in=lane_of(lease.order.type),
    )


def finish(session: Session, lease: Lease) -> None:
    """Delete the row of an order that has come to its end.

    :raises LeaseLost: it is not there, or not in our hand.
    """
    if session.execute(_held(delete(_T), lease)).rowcount != 1:
        raise LeaseLost


def take_due(session: Session, now: datetime.datetime, limit: int, republish_after: float) -> list[Task]:
    """The tasks that are due, oldest first, each for one transaction only; they are due again later."""
    rows = session.execute(
        select(_T.order_id, _T.retry_task, _T.retry_kwargs, _T.created_at, _T.lease, _O.type, _O.project_id)
        .join(_O, _O.id == _T.order_id)
        .where(
            or_(_T.retry_at <= now, _T.retry_at > later(now, LONGEST_WAIT) + _CLOCKS_DIFFER, _is_from_the_future(now))
        )
        .order_by(_T.retry_at)
        .limit(limit)
        .with_for_update(of=_T, skip_locked=True)
    ).all()
    for row in rows:
        age = (now - row.created_at).total_seconds()
        # What is due is in nobody's hand any more, even if the clock was set back since the lease was written.
        session.execute(
            update(_T)
            .where(_T.order_id == row.order_id)
            .values(
                retry_at=later(now, max(republish_after, age)),
                leased_until=row.lease and now,
                waits_in=lane_of(row.type),
                project_id=row.project_id,
                written_at=now,
            )
        )
    return [Task(row.order_id, row.retry_task, json.loads(row.retry_kwargs), lane_of(row.type)) for row in rows]


def make_due(session: Session, ids: Sequence[str], now: datetime.datetime, seconds: float) -> None:
    """Have tasks that could not be published become due again soon, unless a worker has them in hand."""
    session.execute(
        update(_T)
        .where(_T.order_id.in_(ids), _T.waits_in.is_not(None))
        .values(retry_at=later(now, seconds), written_at=now)
    )


def make_project_due(session: Session, project_id: str) -> None:
    """Have the tasks of a project that wait for a worker become due at once: while it was closed, nobody took them.

    :param project_id: external id.
    """
    # A time that has passed by whatever clock the tasks live by.
    session.execute(
        update(_T)
        .where(_T.waits_in.is_not(None), _T.project_id == find_project(session, project_id))
        .values(retry_at=_T.created_at)
    )


def _is_free(now: datetime.datetime, seconds: float) -> ColumnElement[bool]:
    # No lease ends so much later than now, unless the clock was set since it was given.
    never = now + datetime.timedelta(seconds=2 * min(seconds, LONGEST_WAIT)) + _CLOCKS_DIFFER
    return or_(_T.leased_until.is_(None), _T.leased_until <= now, _T.leased_until > never, _is_from_the_future(now))


def _is_open(now: datetime.datetime) -> ColumnElement[bool]:
    """Whether the project of a task's order takes anything new: what it would make could not be stored."""
    return ~exists().where(
        _O.id == _T.order_id,
        models.Project.id == _O.project_id,
        models.ProjectRemoval.project_id == models.Project.external_id,
        closes(now),
    ).correlate(_T)


def _is_from_the_future(now: datetime.datetime) -> ColumnElement[bool]:
    """Whether the clock was set back since a row was written: its times would hold it up for as long again."""
    return _T.written_at > now + _CLOCKS_DIFFER


def _held(statement, lease: Lease):
    return statement.where(_T.order_id == lease.order.id, _T.lease == lease.token)


def _change(session: Session, lease: Lease, /, **columns: object) -> None:
    if session.execute(_held(update(_T), lease).values(**columns)).rowcount != 1:
        raise LeaseLost
