"""Completing orders in PostgreSQL by one statement each, so that concurrent calls share a transaction.

The statement does the common case. If it returns no row, it has changed nothing, and the general way, a transaction
with several statements, does the rest or raises the error.
"""

from __future__ import annotations

import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    bindparam,
    delete,
    exists,
    literal,
    select,
    true,
    update,
)

from barbtx.model import models
from barbtx.model.compiled import CompiledStatement
from barbtx.model.records import ACTIVE, Lease, NewSecret
from barbtx.model.repositories.creations import open_project, secret_insertion, secret_values

_O, _T, _P = models.Order, models.OrderRetryTask, models.Project


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
