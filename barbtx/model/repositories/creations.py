"""Creating secrets and orders in PostgreSQL by one statement each, so that concurrent creations share a transaction.

The statements do the common case: the project exists, is open and has no quota. Otherwise they insert nothing and
return no row, and the general way, a transaction with several statements, does the rest or raises the error.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    DateTime,
    Double,
    Integer,
    LargeBinary,
    Select,
    bindparam,
    cast,
    func,
    insert,
    literal,
    select,
    true,
)
from sqlalchemy.orm import InstrumentedAttribute

from barbtx.model import models
from barbtx.model.compiled import CompiledStatement
from barbtx.model.database_time import DATABASE_TIME
from barbtx.model.records import ACTIVE, PENDING, NewSecret, Task, lane_of
from barbtx.model.repositories.order_tasks import LONGEST_WAIT
from barbtx.model.repositories.projects import closes
from barbtx.model.repositories.secret_queries import new_values

_S, _D, _O, _T = models.Secret, models.EncryptedDatum, models.Order, models.OrderRetryTask
_P, _Q, _R = models.Project, models.ProjectQuota, models.ProjectRemoval

#: Whether a statement is executed in time. One that is late, because the server did not run, must change nothing: its
#: caller has been told that it failed. See :class:`barbtx.model.writers.PipelineWriter`.
IN_TIME = bindparam("deadline", type_=DateTime) > DATABASE_TIME


def _value(column: InstrumentedAttribute[Any], name: str | None = None) -> Any:
    """A parameter with a column's type, and with its name unless another one is given."""
    value: ColumnElement[Any] = bindparam(name or column.key, type_=column.type)
    if isinstance(column.type, LargeBinary):
        # Only for this type does SQLAlchemy not add a cast, without which the server would take it for text.
        value = cast(value, column.type)
    return value.label(column.key)


def open_project() -> Select[str]:
    """The primary key of the project ``project``, to which something is added, if it exists, is open and in time."""
    return (
        select(_P.id)
        .outerjoin(_R, (_R.project_id == _P.external_id) & closes(bindparam("now", type_=_R.due_at.type)))
        .where(_P.external_id == bindparam("project"), _R.project_id.is_(None), IN_TIME)
    )


def _project(quota: InstrumentedAttribute[int | None]) -> CTE:
    """The project to which something is added, if it exists, is open and has no quota for it."""
    unlimited = func.coalesce(quota, bindparam("quota", type_=Integer)) < 0
    return open_project().outerjoin(_Q, _Q.project_id == _P.id).where(unlimited).cte("project")


def _insert(model: Any, source: CTE, columns: Mapping[str, Any]) -> Any:
    """Insert a row if another CTE has one. Columns are SQL expressions by name."""
    return insert(model).from_select(list(columns), select(*columns.values()).select_from(source))


def secret_insertion(source: CTE, project: ColumnElement[str]) -> tuple[CTE, CTE]:
    """Insert a secret and, if it has one, its ciphertext, if another CTE has a row.

    :param project: the primary key of the project, in that CTE.
    :return: the secret's id, and the insertion of the ciphertext.
    """
    parameters = (
        _S.id,
        _S.name,
        _S.secret_type,
        _S.expiration,
        _S.algorithm,
        _S.bit_length,
        _S.mode,
        _S.creator_id,
        _S.content_type,
        _S.store_plugin,
        _S.store_metadata,
    )
    columns = {column.key: _value(column) for column in parameters}
    columns |= {"project_id": project, "status": literal(ACTIVE)}
    columns |= {"created_at": _value(_S.created_at, "now"), "updated_at": _value(_S.updated_at, "now")}
    secret = _insert(_S, source, columns).returning(_S.id).cte("secret")
    datum = insert(_D).from_select(
        ["secret_id", "kek_id", "cypher_text", "kek_meta_extended"],
        select(secret.c.id, _value(_D.kek_id), _value(_D.cypher_text), _value(_D.kek_meta_extended)).where(
            bindparam("kek_id", type_=_D.kek_id.type).is_not(None)
        ),
    )
    return secret, datum.cte("datum")


@lru_cache
def secret_creation() -> CompiledStatement:
    """The statement that creates a secret; :func:`secret_values` returns its parameters."""
    project = _project(_Q.secrets)
    secret, datum = secret_insertion(project, project.c.id)
    return CompiledStatement.of(select(secret.c.id).add_cte(datum))


@lru_cache
def order_creation() -> CompiledStatement:
    """The statement that creates an order and its task; :func:`order_values` returns its parameters."""
    project = _project(_Q.orders)
    columns = {column.key: _value(column) for column in (_O.id, _O.type, _O.meta, _O.creator_id)}
    columns |= {"project_id": project.c.id, "status": literal(PENDING)}
    columns |= {"created_at": _value(_O.created_at, "now"), "updated_at": _value(_O.updated_at, "now")}
    order = _insert(_O, project, columns).returning(_O.id, _O.project_id).cte("order_")
    clock = select(DATABASE_TIME.label("now")).cte("clock")
    task = insert(_T).from_select(
        [
            "order_id",
            "project_id",
            "retry_task",
            "retry_kwargs",
            "waits_in",
            "retry_count",
            "created_at",
            "written_at",
            "retry_at",
        ],
        select(
            order.c.id,
            order.c.project_id,
            _value(_T.retry_task),
            _value(_T.retry_kwargs),
            _value(_T.waits_in),
            literal(0),
            clock.c.now,
            clock.c.now,
            clock.c.now + func.make_interval(0, 0, 0, 0, 0, 0, bindparam("retry_after", type_=Double)),
        ).select_from(order.join(clock, true())),
    )
    return CompiledStatement.of(select(order.c.id).add_cte(task.cte("task")))


def secret_values(new: NewSecret, now: datetime.datetime, quota: int = -1) -> dict[str, Any]:
    """The parameters of :func:`secret_creation`, and of :func:`secret_insertion`.

    :param quota: secrets that a project without its own quota may have; negative is unlimited.
    """
    datum = new.payload.datum if new.payload is not None else None
    return {
        **new_values(new),
        "project": new.project_id,
        "kek_id": datum.kek.id if datum else None,
        "cypher_text": datum.cypher_text if datum else None,
        "kek_meta_extended": datum.kek_meta_extended if datum else None,
        "now": now,
        "quota": quota,
    }


def order_values(
    order_id: str,
    project_id: str,
    type_: str,
    meta: str,
    creator_id: str | None,
    task: Task,
    retry_after: float,
    now: datetime.datetime,
    quota: int,
) -> dict[str, Any]:
    """The parameters of :func:`order_creation`; see :meth:`OrderRepo.create`.

    :param quota: orders that a project without its own quota may have; negative is unlimited.
    """
    return {
        "id": order_id,
        "project": project_id,
        "type": type_,
        "meta": meta,
        "creator_id": creator_id,
        "retry_task": task.method,
        "retry_kwargs": json.dumps(dict(task.kwargs)),
        "waits_in": lane_of(type_),
        "retry_after": min(retry_after, LONGEST_WAIT),
        "now": now,
        "quota": quota,
    }
