"""Filters and orders of lists, the same on every database."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping

import attrs
from sqlalchemy import ColumnElement, Select, String, TypeDecorator, func
from sqlalchemy.orm import Session

# A character that is special in no database's string literals, unlike the backslash.
_ESCAPE = "!"
_WILDCARDS = re.compile("[%_!]")

_COMPARISONS = {"eq": operator.eq, "gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


@attrs.frozen
class Condition:
    """A comparison of a column with a value.

    :ivar column: name of the column, as the API calls it.
    :ivar comparison: ``eq``, ``gt``, ``gte``, ``lt``, ``lte``, or ``like`` (SQL LIKE without regard to case: ``%`` and
        ``_`` are wildcards and nothing escapes them; a backslash stands for itself).
    """

    column: str
    comparison: str
    value: object


def apply_conditions(query: Select, conditions: Iterable[Condition], columns: Mapping[str, ColumnElement]) -> Select:
    for condition in conditions:
        column = columns[condition.column]
        if condition.comparison == "like":
            query = query.where(column.ilike(_without_escapes(condition.value), escape=_ESCAPE))
            continue
        value = without_nul(condition.value)
        query = query.where(_COMPARISONS[condition.comparison](column, value))
        if isinstance(value, str):
            # MariaDB leaves trailing spaces out of account when it compares, but not in LIKE.
            query = query.where(column.like(_WILDCARDS.sub(rf"{_ESCAPE}\g<0>", value), escape=_ESCAPE))
    return query


def without_nul(value: object) -> object:
    """A value to compare with columns that never hold a NUL; PostgreSQL refuses to be asked for one."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _without_escapes(pattern: str) -> str:
    """A pattern in which no character escapes another.

    Databases differ in what escapes without an ESCAPE clause, and in whether the clause may be empty.
    """
    return pattern.replace(_ESCAPE, _ESCAPE * 2)


def count(session: Session, query: Select, key: ColumnElement) -> int:
    """How many rows a query finds, without the tables that only its columns are from.

    :param key: the primary key of what is listed.
    """
    return session.scalar(query.with_only_columns(func.count(key), maintain_column_froms=False))


def ordering(
    session: Session, sort: Iterable[tuple[ColumnElement, bool]], ties: Iterable[ColumnElement]
) -> list[ColumnElement]:
    """ORDER BY terms: nulls are smallest, text compares by code point, and what is equal is told apart by ``ties``."""
    on_postgresql = session.get_bind().dialect.name == "postgresql"
    terms = []
    for column, descending in sort:
        nullable = getattr(column, "nullable", True)
        if on_postgresql and isinstance(column.type, (String, TypeDecorator)):
            column = column.collate("C")
        term = column.desc() if descending else column.asc()
        if on_postgresql and nullable:
            term = term.nulls_last() if descending else term.nulls_first()
        terms.append(term)
    return [*terms, *(column.asc() for column in ties)]
