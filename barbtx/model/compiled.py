"""SQLAlchemy statements as libpq takes them: text with numbered parameters, compiled once."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from sqlalchemy import ClauseElement
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.selectable import ReturnsRows

_DIALECT = PGDialect_psycopg(paramstyle="numeric_dollar")

Convert = Callable[[Any], Any]


@attrs.frozen(eq=False)
class CompiledStatement:
    """A statement with named parameters, compiled for PostgreSQL.

    :ivar text: SQL with the parameters ``$1``, ``$2`` and so on.
    """

    text: bytes
    _parameters: tuple[tuple[str, Any, Convert | None], ...]
    _row: Callable[[Sequence[Any]], Any]
    _converted: tuple[tuple[int, Convert], ...]

    @classmethod
    def of(cls, statement: ClauseElement) -> CompiledStatement:
        """Compile a statement. Its columns must have names that are Python identifiers."""
        compiled = statement.compile(dialect=_DIALECT)
        assert isinstance(compiled, SQLCompiler) and isinstance(statement, ReturnsRows)
        binds = [(name, compiled.binds[name]) for name in compiled.positiontup or ()]
        columns = [(column.key, column.type) for column in statement.exported_columns]
        converts = [type_.dialect_impl(_DIALECT).result_processor(_DIALECT, None) for _, type_ in columns]
        return cls(
            str(compiled).encode(),
            tuple(
                (name, bind.value, bind.type.dialect_impl(_DIALECT).bind_processor(_DIALECT)) for name, bind in binds
            ),
            _row_class([name for name, _ in columns]),
            tuple((index, convert) for index, convert in enumerate(converts) if convert is not None),
        )

    def parameters(self, values: Mapping[str, Any]) -> list[Any]:
        """Return the values of ``$1``, ``$2`` and so on, from values by name."""
        return [
            value if convert is None else convert(value)
            for value, convert in ((values.get(name, default), convert) for name, default, convert in self._parameters)
        ]

    def row(self, values: Sequence[Any]) -> Any:
        """Return a row with its columns as attributes."""
        if self._converted:
            values = list(values)
            for index, convert in self._converted:
                values[index] = convert(values[index])
        return self._row(values)


def _row_class(names: Sequence[str]) -> Callable[[Sequence[Any]], Any]:
    # The names are not known here, so that there can be no class statement.
    kind: Any = namedtuple("Row", names)  # type: ignore[misc]
    make: Callable[[Sequence[Any]], Any] = kind._make
    return make
