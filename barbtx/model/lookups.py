"""Queries that concurrent callers send together, so that they share a round trip.

A lookup finds the rows of many keys in one statement. Other queries are sent as one statement for each caller.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

import attrs
from sqlalchemy import FromClause, Integer, Select, String, column, text
from sqlalchemy.orm import Session

#: A SELECT of any columns.
AnySelect: TypeAlias = Select[*tuple[Any, ...]]
#: The values of a lookup's key columns.
Key: TypeAlias = tuple[str | None, ...]

# The keys are passed as one JSON array of arrays, so that the statement does not depend on their number.
_KEYS = {
    "postgresql": "SELECT n, {columns} FROM json_array_elements(CAST(:keys AS json)) WITH ORDINALITY AS t(k, n)",
    "sqlite": "SELECT key + 1 AS n, {columns} FROM json_each(:keys)",
    "mysql": "SELECT n, {names} FROM JSON_TABLE(:keys, '$[*]' COLUMNS (n FOR ORDINALITY, {columns})) AS t",
}
_COLUMNS = {
    "postgresql": "k ->> {index} AS {name}",
    "sqlite": "json_extract(value, '$[{index}]') AS {name}",
    "mysql": "{name} VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[{index}]'",
}


class NamedRow(Protocol):
    """A row whose columns are attributes: SQLAlchemy's, or a named tuple."""

    def __getattr__(self, name: str) -> Any: ...

    def _asdict(self) -> dict[str, Any]: ...


@attrs.frozen(eq=False)
class Lookup:
    """A query that finds at most one row for each of any number of keys.

    :ivar columns: the names of the key's columns.
    :ivar build: makes the query from a FROM clause that has a row for each key, with these columns. It may use the
        bound parameter ``now``, the time of the lookup.
    """

    columns: tuple[str, ...]
    build: Callable[[FromClause], AnySelect]
    _statements: dict[str, AnySelect] = attrs.field(factory=dict, init=False, repr=False)

    def statement(self, dialect: str) -> AnySelect:
        """Return the query for a dialect. It has the bound parameter ``keys``; its column ``n`` is the key's number."""
        statement = self._statements.get(dialect)
        if statement is None:
            family = "mysql" if dialect == "mariadb" else dialect
            columns = ", ".join(
                _COLUMNS[family].format(index=index, name=name) for index, name in enumerate(self.columns)
            )
            keys = (
                text(_KEYS[family].format(columns=columns, names=", ".join(self.columns)))
                .columns(column("n", Integer), *(column(name, String) for name in self.columns))
                .subquery("keys")
            )
            statement = self._statements[dialect] = self.build(keys).add_columns(keys.c.n)
        return statement

    def find(
        self, session: Session, keys: Sequence[Key], now: datetime.datetime | None = None
    ) -> list[NamedRow | None]:
        """Find the rows of keys in a transaction; None for a key that has none.

        :param now: the time of the lookup, if the query uses it.
        """
        statement = self.statement(session.get_bind().dialect.name)
        return in_order(session.execute(statement, {"keys": write_keys(keys), "now": now}), len(keys))


@attrs.frozen(eq=False)
class Query:
    """A query with named parameters.

    :ivar statement: must be the same each time, so that databases need to prepare it only once.
    """

    statement: AnySelect

    def select(self, session: Session, values: Mapping[str, Any]) -> Sequence[NamedRow]:
        """Return the rows for some parameters, in a transaction."""
        return cast("Sequence[NamedRow]", session.execute(self.statement, values).all())


def write_keys(keys: Sequence[Key]) -> str:
    """Return the value of the parameter ``keys``."""
    return json.dumps(keys)


def in_order(rows: Any, count: int) -> list[NamedRow | None]:
    """Return rows in the order of their keys."""
    found: list[NamedRow | None] = [None] * count
    for row in rows:
        found[row.n - 1] = row
    return found
