"""Filtering, counting and sorting of lists, with the same results on every database."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    SQLColumnExpression,
    String,
    TypeDecorator,
    UnaryExpression,
    bindparam,
    func,
    select,
    true,
)
from sqlalchemy.orm import InstrumentedAttribute, Session

from barbtx.model import models
from barbtx.model.lookups import NamedRow, Query
from barbtx.model.records import Page
from barbtx.model.repositories.rows import AnySelect, Column

# Unlike the backslash, this character has no special meaning in the string literals of any database.
_ESCAPE = "!"
_WILDCARDS = re.compile("[%_!]")

_COMPARISONS = {"eq": operator.eq, "gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}

T = TypeVar("T")
Q = TypeVar("Q", bound=AnySelect)


@attrs.frozen
class Condition:
    """A comparison of a column with a value.

    :ivar column: the API's name of the column.
    :ivar comparison: ``eq``, ``gt``, ``gte``, ``lt``, ``lte``, or ``like`` (case-insensitive SQL LIKE of a string:
        ``%`` and ``_`` are wildcards and nothing escapes them; a backslash stands for itself).
    """

    column: str
    comparison: str
    value: object


def apply_conditions(query: Q, conditions: Iterable[Condition], columns: Mapping[str, InstrumentedAttribute[Any]]) -> Q:
    """Restrict a query to the rows that meet all conditions.

    :param columns: the columns by the API's names.
    """
    for condition in conditions:
        column = columns[condition.column]
        if condition.comparison == "like":
            query = query.where(column.ilike(_without_escapes(str(condition.value)), escape=_ESCAPE))
            continue
        value = without_nul(condition.value)
        query = query.where(_COMPARISONS[condition.comparison](column, value))
        if isinstance(value, str):
            # MariaDB ignores trailing spaces in comparisons, but not in LIKE.
            query = query.where(column.like(_WILDCARDS.sub(rf"{_ESCAPE}\g<0>", value), escape=_ESCAPE))
    return query


def without_nul(value: Any) -> Any:
    """A value to compare with columns that never contain NUL. PostgreSQL rejects parameters that do."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _without_escapes(pattern: str) -> str:
    """A pattern in which no character escapes another.

    Databases differ in their default escape character, and in whether ESCAPE may be empty.
    """
    return pattern.replace(_ESCAPE, _ESCAPE * 2)


def count(session: Session, query: AnySelect, key: InstrumentedAttribute[Any]) -> int:
    """How many rows a query finds. Tables that only its columns refer to are left out.

    :param key: the primary key of the listed table.
    """
    return session.execute(query.with_only_columns(func.count(key), maintain_column_froms=False)).scalar_one()


def page_query(
    owner: type[models.Secret] | type[models.Order],
    columns: Sequence[Column],
    where: Sequence[ColumnElement[bool]] = (),
) -> Query:
    """The query of a page of a project's objects, oldest first; :func:`read_page` reads its rows.

    Its parameters are ``project``, an external id, ``limit`` and ``offset``, and those of ``where``.

    :param owner: the objects' model.
    :param columns: columns of this model and of the project, which have different names.
    :param where: further conditions.
    """
    project = select(models.Project.id).where(models.Project.external_id == bindparam("project")).scalar_subquery()
    scope = [owner.project_id == project, *where]
    page = (
        select(*columns)
        .join(models.Project, models.Project.id == owner.project_id)
        .where(*scope)
        .order_by(owner.created_at, owner.id)
        .limit(bindparam("limit", type_=BigInteger))
        .offset(bindparam("offset", type_=BigInteger))
        .subquery("page")
    )
    total = select(func.count().label("total")).select_from(owner).where(*scope).subquery("all_of_them")
    # The join returns the total even if the page is empty.
    return Query(
        select(total.c.total, *page.c).select_from(total.outerjoin(page, true())).order_by(page.c.created, page.c.id)
    )


def read_page(rows: Sequence[NamedRow], make: Callable[[NamedRow], T]) -> Page[T]:
    """The page in the rows of a :func:`page_query`.

    :param make: makes a record from a row.
    """
    return Page(tuple(make(row) for row in rows if row.id is not None), rows[0].total)


def ordering(
    session: Session,
    sort: Iterable[tuple[InstrumentedAttribute[Any], bool]],
    ties: Iterable[InstrumentedAttribute[Any]],
) -> list[UnaryExpression[Any]]:
    """ORDER BY terms. Nulls sort first in ascending order, and text by code point.

    :param sort: columns, each with True for descending order.
    :param ties: columns that order equal rows, ascending.
    """
    on_postgresql = session.get_bind().dialect.name == "postgresql"
    terms = []
    for column, descending in sort:
        nullable = getattr(column, "nullable", True)
        key: SQLColumnExpression[Any] = column
        if on_postgresql and isinstance(column.type, (String, TypeDecorator)):
            key = column.collate("C")
        term = key.desc() if descending else key.asc()
        if on_postgresql and nullable:
            term = term.nulls_last() if descending else term.nulls_first()
        terms.append(term)
    return [*terms, *(column.asc() for column in ties)]
