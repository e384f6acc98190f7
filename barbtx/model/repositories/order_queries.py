"""Reading and deleting orders, for the repositories that do so. Functions of a session."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import FromClause, bindparam, delete, select
from sqlalchemy.orm import Session

from barbtx.model import models
from barbtx.model.lookups import AnySelect, Lookup, NamedRow
from barbtx.model.records import Order
from barbtx.model.repositories.idempotency import forget_keys
from barbtx.model.repositories.rows import fields

_O = models.Order
#: The columns of an order, labelled with the fields of its record.
ORDER_COLUMNS = (
    _O.id,
    models.Project.external_id.label("project_id"),
    _O.type,
    _O.meta,
    _O.creator_id,
    _O.status,
    _O.created_at.label("created"),
    _O.updated_at.label("updated"),
    _O.sub_status,
    _O.sub_status_message,
    _O.error_status_code,
    _O.error_reason,
    _O.secret_id,
    _O.container_id,
)


def find_order(session: Session, order_id: str, project_id: str) -> Order | None:
    """An order of a project, or None.

    :param project_id: external id.
    """
    return order_in(session.execute(_OF_PROJECT, {"order_id": order_id, "project_id": project_id}).first())


def order_in(row: NamedRow | None) -> Order | None:
    """The order in a row of :data:`ORDER_LOOKUP`."""
    return Order(**fields(row, ORDER_COLUMNS)) if row else None


def read_order(session: Session, order_id: str) -> Order:
    """An order that exists, of any project."""
    return Order(**fields(session.execute(_OF_ANY_PROJECT, {"order_id": order_id}).one(), ORDER_COLUMNS))


def delete_orders(session: Session, ids: Sequence[str]) -> None:
    """Delete orders with their pending tasks and passphrases. The objects that they generated remain."""
    forget_keys(session, ids)
    session.execute(delete(models.OrderRetryTask).where(models.OrderRetryTask.order_id.in_(ids)))
    session.execute(delete(models.OrderPassphrase).where(models.OrderPassphrase.order_id.in_(ids)))
    session.execute(delete(_O).where(_O.id.in_(ids)))


def _select() -> AnySelect:
    return select(*ORDER_COLUMNS).join(models.Project, models.Project.id == _O.project_id)


def _orders_of(keys: FromClause) -> AnySelect:
    return _select().where(_O.id == keys.c.order_id, models.Project.external_id == keys.c.project_id)


# They are made once, because making them takes longer than executing them.
_OF_ANY_PROJECT = _select().where(_O.id == bindparam("order_id"))
_OF_PROJECT = _OF_ANY_PROJECT.where(models.Project.external_id == bindparam("project_id"))

#: The lookup of an order of a project; :func:`order_in` reads its rows.
ORDER_LOOKUP = Lookup(("order_id", "project_id"), _orders_of)
