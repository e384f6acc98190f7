"""Classification of database errors, independent of the driver.

PostgreSQL's errors are classified by SQLSTATE, MariaDB's by number, SQLite's by result code. The drivers' exception
classes are not reliable: psycopg raises ``InternalError`` in a read-only transaction, PyMySQL when the disk is full.
"""

from __future__ import annotations

import attrs

from barbtx.errors import joined_lines, one_line
from barbtx.model.database_error_codes import CLASSES, MARIADB_CODES, SQLITE_CODES, SQLSTATES, ErrorKind

__all__ = ["STALE", "UNAVAILABLE", "DatabaseProblem", "ErrorKind", "classify"]

#: The transaction may succeed later (503).
UNAVAILABLE = frozenset({ErrorKind.CONFLICT, ErrorKind.LOST, ErrorKind.READ_ONLY, ErrorKind.BUSY, ErrorKind.REFUSED})
#: No connection of the same age is used again.
STALE = frozenset({ErrorKind.LOST, ErrorKind.READ_ONLY})

# SQLSTATE classes whose messages may quote a value: data exceptions, and errors that functions raise.
_QUOTING = frozenset({"22", "P0"})
_LONGEST_TEXT = 300


@attrs.frozen
class DatabaseProblem:
    """A database error, without any values, so that it can be logged.

    :ivar driver_class: the class name of the driver's exception.
    :ivar code: SQLSTATE, MariaDB's error number or the name of SQLite's result code, if there is one.
    :ivar text: the driver's message as one line; empty if it may quote a value.
    """

    kind: ErrorKind
    driver_class: str
    code: str | None = None
    text: str = ""

    def outcome_unknown(self, committing: bool) -> bool:
        """Whether the transaction may have been committed.

        A server that responds to COMMIT with an error has rolled back; one that does not respond may have committed. An
        error of SQLSTATE class 25 is a response: the server had ended the session before the COMMIT.

        :param committing: whether COMMIT had been sent.
        """
        return committing and self.kind is ErrorKind.LOST and not (self.code or "").startswith("SQLSTATE 25")

    def __str__(self) -> str:
        return (self.text or self.driver_class) + (f" ({self.code})" if self.code else "")


def classify(error: BaseException | None) -> DatabaseProblem:
    """Classify a driver's error (``DBAPIError.orig``)."""
    name = type(error).__name__
    if error is None:
        return DatabaseProblem(ErrorKind.UNEXPECTED, name)
    if hasattr(error, "diag") and hasattr(error, "sqlstate"):
        message = error.diag.message_primary or ""
        return _of_postgresql(error, name, error.sqlstate, message)
    if hasattr(error, "sqlite_errorcode") and hasattr(error, "sqlite_errorname"):
        kind = SQLITE_CODES.get(error.sqlite_errorcode & 0xFF) or _by_class(error)
        return DatabaseProblem(kind, name, f"{error.sqlite_errorname}", one_line(error, _LONGEST_TEXT))
    if error.args and isinstance(error.args[0], int):
        number = error.args[0]
        known = MARIADB_CODES.get(number)
        # PyMySQL inserts values into statements, which the server quotes. Errors about the server quote no statement.
        text = one_line(error.args[-1], _LONGEST_TEXT) if known in UNAVAILABLE and len(error.args) > 1 else ""
        return DatabaseProblem(known or _by_class(error), name, f"error {number}", text)
    return DatabaseProblem(_by_class(error), name)


def _of_postgresql(error: BaseException, name: str, state: str | None, message: str) -> DatabaseProblem:
    if state is None:
        # An error of psycopg itself: a connection failed, unless the class says that it is about a value.
        kind = _by_class(error)
        kind = ErrorKind.LOST if kind is ErrorKind.BUSY else kind
        return DatabaseProblem(kind, name, None, joined_lines(error, _LONGEST_TEXT) if kind is ErrorKind.LOST else "")
    kind = SQLSTATES.get(state) or SQLSTATES.get(state[:2]) or _by_class(error)
    return DatabaseProblem(
        kind, name, f"SQLSTATE {state}", "" if state[:2] in _QUOTING else one_line(message, _LONGEST_TEXT)
    )


def _by_class(error: BaseException) -> ErrorKind:
    names = {cls.__name__ for cls in type(error).__mro__}
    return next((kind for name, kind in CLASSES.items() if name in names), ErrorKind.UNEXPECTED)
