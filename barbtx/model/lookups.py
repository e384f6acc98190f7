"""Lookups: queries for the rows of many keys in one statement, so that concurrent callers share a round trip."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import attrs
from sqlalchemy import FromClause, Integer, Select, String, column, text

#: A SELECT of any columns.
AnySelect: TypeAlias = Select[*tuple[Any, ...]]
#: The values of a lookup's key columns.
Key: TypeAlias = tuple[str | None, ...]

# The keys are passed as one JSON array of arrays, so that the statement does not depend on their number. By dialect:
# the query that reads that array, and how it reads a column.
_JSON_TABLE = (
    "SELECT {names} FROM JSON_TABLE(:keys, '$[*]' COLUMNS (n FOR ORDINALITY, {columns})) AS t",
    "{name} VARCHAR(510) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[{index}]'",
)
_KEYS = {
    "postgresql": (
        "SELECT n, {columns} FROM json_array_elements(CAST(:keys AS json)) WITH ORDINALITY AS t(k, n)",
        "k ->> {index} AS {name}",
    ),
    "sqlite": (
        "SELECT key + 1 AS n, {columns} FROM json_each(:keys)",
        "json_extract(value, '$[{index}]') AS {name}",
    ),
    "mysql": _JSON_TABLE,
    "mariadb": _JSON_TABLE,
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

    def statement(self, database: str) -> AnySelect:
        """Return the query. It has the bound parameter ``keys``; its column ``n`` is the key's number, from 1.

        :param database: the name of SQLAlchemy's dialect.
        """
        query, read = _KEYS[database]
        columns = ", ".join(read.format(index=index, name=name) for index, name in enumerate(self.columns))
        keys = (
            text(query.format(columns=columns, names=", ".join(("n", *self.columns))))
            .columns(column("n", Integer), *(column(name, String) for name in self.columns))
            .subquery("keys")
        )
        return self.build(keys).add_columns(keys.c.n)


def write_keys(keys: Sequence[Key]) -> str:
    """Return the value of the parameter ``keys``."""
    return json.dumps(keys)


def in_order(rows: Any, count: int) -> list[NamedRow | None]:
    """Return rows in the order of their keys."""
    found: list[NamedRow | None] = [None] * count
    for row in rows:
        found[row.n - 1] = row
    return found
