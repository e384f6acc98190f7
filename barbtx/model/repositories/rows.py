"""Reading rows by the names of their columns, and counting them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeAlias, cast

from sqlalchemy import CursorResult, Label, Table
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session
from sqlalchemy.sql.dml import UpdateBase

from barbtx.model.lookups import AnySelect, NamedRow

__all__ = ["AnySelect", "Column", "affected_rows", "fields", "table_of"]

#: A column of a model, or one with a label.
Column: TypeAlias = InstrumentedAttribute[Any] | Label[Any]


def fields(row: NamedRow, columns: tuple[Column, ...], prefix: str = "") -> dict[str, Any]:
    """The values of some of a row's columns, by the columns' names or labels.

    Repositories label columns with the field names of a record and pass the result to the record's constructor. A
    column without a field, or a required field without a column, thus raises :class:`TypeError`.

    :param prefix: removed from the names.
    """
    names, read = _reader(columns, prefix)
    return dict(zip(names, read(row), strict=True))


@lru_cache(maxsize=100)
def _reader(columns: tuple[Column, ...], prefix: str) -> tuple[list[str], Callable[[NamedRow], tuple[Any, ...]]]:
    """The fields of columns, and a function that returns the values of these columns in a row."""
    keys = [column.key for column in columns]
    return [key.removeprefix(prefix) for key in keys], attrgetter(*keys)


def table_of(model: type[DeclarativeBase]) -> Table:
    """The table of a model, for statements that do without the ORM."""
    return cast(Table, model.__table__)


def affected_rows(session: Session, statement: UpdateBase) -> int:
    """Execute an UPDATE or DELETE and return how many rows it matched."""
    return cast("CursorResult[Any]", session.execute(statement)).rowcount
