"""Creating secrets and orders for concurrent callers, each kind with few statements in one transaction.

As in :mod:`~barbtx.model.repositories.creations`, only the common case is done: the project exists, is open and has no
quota.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, insert, null, select, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session

from barbtx.model import models
from barbtx.model.creation import Creation, Values
from barbtx.model.database_time import database_time
from barbtx.model.records import ACTIVE, PENDING
from barbtx.model.repositories.creations import order_creation, secret_creation
from barbtx.model.repositories.order_tasks import later
from barbtx.model.repositories.projects import closes
from barbtx.model.repositories.rows import AnySelect, table_of
from barbtx.model.repositories.secret_queries import INSERT_DATA, INSERT_SECRETS

_P, _Q, _R = models.Project, models.ProjectQuota, models.ProjectRemoval

_INSERT_ORDERS, _INSERT_TASKS = insert(table_of(models.Order)), insert(table_of(models.OrderRetryTask))
# A locked project stays until the transaction ends. One that another transaction removes, or has locked to count its
# objects, is left out, so that no creation waits for it.
_LOCKED = (
    select(_P.id, _P.external_id)
    .where(_P.external_id.in_(bindparam("projects", expanding=True)))
    .with_for_update(read=True, key_share=True, skip_locked=True)
)
_SECRET_VALUES = (
    "id",
    "name",
    "secret_type",
    "expiration",
    "algorithm",
    "bit_length",
    "mode",
    "creator_id",
    "content_type",
    "store_plugin",
    "store_metadata",
)


def _unusual(quota: InstrumentedAttribute[int | None]) -> AnySelect:
    """The query of those of some projects that are closed (by external id) or have a quota (by primary key)."""
    closed = select(_R.project_id, null()).where(
        _R.project_id.in_(bindparam("projects", expanding=True)), closes(bindparam("now", type_=_R.due_at.type))
    )
    limited = select(null(), _Q.project_id).where(_Q.project_id.in_(bindparam("keys", expanding=True)), quota >= 0)
    return select(union_all(closed, limited).subquery())


_FOR_SECRETS, _FOR_ORDERS = _unusual(_Q.secrets), _unusual(_Q.orders)


def _projects(session: Session, group: Sequence[Values], unusual: AnySelect) -> dict[str, str]:
    """The primary keys, by external id, of the projects to which something can be added."""
    names = list({values["project"] for values in group})
    found = {row.external_id: row.id for row in session.execute(_LOCKED, {"projects": names})}
    if not found or group[0]["quota"] >= 0:
        return {}
    # The record of a removed project keeps it closed for a time. The earliest of the times is the safe one.
    now = min(values["now"] for values in group)
    rows = session.execute(unusual, {"projects": names, "keys": list(found.values()), "now": now})
    excluded = {value for row in rows for value in enumerate(row)}
    return {name: key for name, key in found.items() if not excluded & {(0, name), (1, key)}}


def _create_secrets(session: Session, group: Sequence[Values]) -> list[bool]:
    projects = _projects(session, group, _FOR_SECRETS)
    created = [values for values in group if values["project"] in projects]
    if created:
        rows = [
            {name: values.get(name) for name in _SECRET_VALUES}
            | {
                "project_id": projects[values["project"]],
                "status": ACTIVE,
                "created_at": values["now"],
                "updated_at": values["now"],
            }
            for values in created
        ]
        session.execute(INSERT_SECRETS, rows)
    data = [
        {
            "secret_id": values["id"],
            "kek_id": values["kek_id"],
            "cypher_text": values["cypher_text"],
            "kek_meta_extended": values["kek_meta_extended"],
        }
        for values in created
        if values["kek_id"] is not None
    ]
    if data:
        session.execute(INSERT_DATA, data)
    return [values["project"] in projects for values in group]


def _create_orders(session: Session, group: Sequence[Values]) -> list[bool]:
    projects = _projects(session, group, _FOR_ORDERS)
    created = [values for values in group if values["project"] in projects]
    if created:
        now = database_time(session)
        orders = [
            {
                "id": values["id"],
                "project_id": projects[values["project"]],
                "type": values["type"],
                "meta": values["meta"],
                "creator_id": values["creator_id"],
                "status": PENDING,
                "created_at": values["now"],
                "updated_at": values["now"],
            }
            for values in created
        ]
        tasks = [
            {
                "order_id": values["id"],
                "project_id": projects[values["project"]],
                "retry_task": values["retry_task"],
                "retry_kwargs": values["retry_kwargs"],
                "waits_in": values["waits_in"],
                "retry_count": 0,
                "created_at": now,
                "written_at": now,
                "retry_at": later(now, values["retry_after"]),
            }
            for values in created
        ]
        session.execute(_INSERT_ORDERS, orders)
        session.execute(_INSERT_TASKS, tasks)
    return [values["project"] in projects for values in group]


#: Their parameters are those of :func:`~barbtx.model.repositories.creations.secret_values` and ``order_values``.
SECRET_CREATION = Creation(secret_creation, _create_secrets)
ORDER_CREATION = Creation(order_creation, _create_orders)
