"""Claiming and completing orders in PostgreSQL by one statement each, so that concurrent calls share a transaction.

The statements do the common case. If they return no row, they have changed nothing, and the general way, a transaction
with several statements, does the rest or raises the error.
"""

from __future__ import annotations

import datetime
import json
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    bindparam,
    case,
    delete,
    exists,
    literal,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.orm import aliased

from barbtx.model import models
from barbtx.model.compiled import CompiledStatement
from barbtx.model.database_time import DATABASE_TIME
from barbtx.model.lookups import NamedRow
from barbtx.model.records import ACTIVE, ASYMMETRIC, SYMMETRIC, Lease, NewSecret, Order
from barbtx.model.repositories.creations import IN_TIME, open_project, secret_insertion, secret_values
from barbtx.model.repositories.order_queries import ORDER_COLUMNS
from barbtx.model.repositories.order_tasks import is_free, is_open, later
from barbtx.model.repositories.rows import fields

_O, _T, _P = models.Order, models.OrderRetryTask, models.Project


@lru_cache(maxsize=16)
def claim_statement(seconds: float) -> CompiledStatement:
    """The statement that claims the next order of a lane; see :meth:`OrderRepo.claim_next`.

    It claims nothing if the order that a message names belongs to another lane, or is to be claimed itself because it
    does not wait in a lane. Its parameters are ``lane``, ``after``, ``token`` and ``order_id``, which may be None;
    :func:`read_lease` reads its row.

    :param seconds: the lease expires after this time.
    """
    now: ColumnElement[datetime.datetime] = select(DATABASE_TIME.label("now")).cte("clock").c.now
    now = select(now).scalar_subquery()
    lane, after = bindparam("lane", type_=_T.waits_in.type), bindparam("after", type_=_T.project_id.type)
    named = aliased(_T)
    is_special = exists().where(
        named.order_id == bindparam("order_id", type_=_T.order_id.type),
        _O.id == named.order_id,
        or_(
            case((_O.type == "asymmetric", ASYMMETRIC), else_=SYMMETRIC) != lane,
            and_(named.waits_in.is_(None), is_free(now, seconds, named)),
        ),
    )

    def next_of(projects: ColumnElement[bool], *conditions: ColumnElement[bool]) -> Any:
        return (
            select(_T.order_id)
            .where(
                _T.waits_in == lane, projects, is_free(now, seconds), is_open(now), ~is_special, IN_TIME, *conditions
            )
            .order_by(_T.project_id, _T.created_at)
            .limit(1)
            .with_for_update(of=_T, skip_locked=True)
        )

    later_project = next_of(_T.project_id > after).cte("later_project")
    first_project = next_of(_T.project_id <= after, ~exists(select(later_project.c.order_id))).cte("first_project")
    picked = union_all(select(later_project.c.order_id), select(first_project.c.order_id)).cte("picked")
    until = later(now, seconds)
    taken = (
        update(_T)
        .where(_T.order_id == picked.c.order_id)
        .values(
            lease=bindparam("token", type_=_T.lease.type),
            leased_until=until,
            retry_at=until,
            retry_count=_T.retry_count + 1,
            waits_in=None,
            written_at=now,
        )
        .returning(_T.order_id, _T.retry_count, _T.retry_kwargs, _T.project_id)
        .cte("taken")
    )
    return CompiledStatement.of(
        select(
            *ORDER_COLUMNS,
            taken.c.retry_count.label("attempt"),
            taken.c.retry_kwargs,
            taken.c.project_id.label("project_key"),
        )
        .select_from(taken)
        .join(_O, _O.id == taken.c.order_id)
        .join(_P, _P.id == _O.project_id)
    )


def read_lease(row: NamedRow, token: str) -> Lease:
    """The lease in a row of :func:`claim_statement`."""
    return Lease(
        order=Order(**fields(row, ORDER_COLUMNS)),
        token=token,
        attempt=row.attempt,
        request_id=json.loads(row.retry_kwargs).get("request_id"),
        project_key=row.project_key or "",
    )


@lru_cache
def completion() -> CompiledStatement:
    """The statement that stores the only secret of an order and sets it to ACTIVE; see :meth:`OrderRepo.complete`."""
    project = open_project().cte("project")
    held = (
        delete(_T)
        .where(
            _T.order_id == bindparam("order_id", type_=_T.order_id.type),
            _T.lease == bindparam("token", type_=_T.lease.type),
            exists(select(project.c.id)),
        )
        .returning(_T.order_id)
        .cte("held")
    )
    source = select(project.c.id).select_from(project.join(held, true())).cte("source")
    secret, datum = secret_insertion(source, source.c.id)
    ended = (
        update(_O)
        .where(_O.id == held.c.order_id)
        .values(
            status=literal(ACTIVE),
            sub_status=bindparam("sub_status", type_=_O.sub_status.type),
            sub_status_message=bindparam("sub_status_message", type_=_O.sub_status_message.type),
            secret_id=secret.c.id,
            updated_at=bindparam("now", type_=_O.updated_at.type),
        )
        .cte("ended")
    )
    passphrase = delete(models.OrderPassphrase).where(models.OrderPassphrase.order_id == held.c.order_id)
    return CompiledStatement.of(select(secret.c.id).add_cte(datum, ended, passphrase.cte("passphrase")))


def completion_values(
    lease: Lease, secret: NewSecret, sub_status: str, sub_status_message: str, now: datetime.datetime
) -> dict[str, Any]:
    """The parameters of :func:`completion`."""
    return {
        **secret_values(secret, now),
        "project": lease.order.project_id,
        "order_id": lease.order.id,
        "token": lease.token,
        "sub_status": sub_status,
        "sub_status_message": sub_status_message,
    }
