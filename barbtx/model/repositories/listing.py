"""Filtering, counting and sorting of lists, with the same results on every database."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import attrs
from sqlalchemy import SQLColumnExpression, String, TypeDecorator, UnaryExpression, func
from sqlalchemy.orm import InstrumentedAttribute, Session

from barbtx.model.repositories.rows import AnySelect

# Unlike the backslash, this character has no special meaning in the string literals of any database.
_ESCAPE = "!"
_WILDCARDS = re.compile("[%_!]")

_COMPARISONS = {"eq": operator.eq, "gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}

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
