"""What an error of a database driver means, whichever driver raised it.

PostgreSQL's errors are told apart by SQLSTATE, MariaDB's by number, SQLite's by result code. The class that a driver
chooses does not serve: psycopg makes an ``InternalError`` of a read-only transaction, and PyMySQL one of a full disk.

Sources: PostgreSQL 17, appendix A; MariaDB's error code reference; SQLite's result codes.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs


class ErrorKind(enum.Enum):
    """What to do about an error."""

    #: The transaction was rolled back in favour of another one; it can be run again.
    CONFLICT = "conflict"
    #: The connection is of no further use; others of its age are likely to be lost as well.
    LOST = "connection lost"
    #: The server takes no writes, as a demoted primary does; new connections may lead to its successor.
    READ_ONLY = "read-only"
    #: The server cannot do it at the moment: locks, time-outs, memory, disk, connections.
    BUSY = "unavailable"
    #: The server refuses barbtx: login, rights, a missing table or a damaged file. An operator has to mend it.
    REFUSED = "refused"
    #: A value cannot be kept.
    BAD_VALUE = "bad value"
    #: A constraint does not hold.
    INTEGRITY = "constraint"
    #: A mistake in barbtx.
    UNEXPECTED = "unexpected"


#: After these a transaction has to be tried later (503); nothing is wrong with it.
UNAVAILABLE = frozenset({ErrorKind.CONFLICT, ErrorKind.LOST, ErrorKind.READ_ONLY, ErrorKind.BUSY, ErrorKind.REFUSED})
#: After these no connection of the same age is used again.
STALE = frozenset({ErrorKind.LOST, ErrorKind.READ_ONLY})


def _table(rows: dict[ErrorKind, Iterable]) -> dict:
    return {code: kind for kind, codes in rows.items() for code in codes}


# By whole SQLSTATE, and by its class (the first two characters) where that settles it. 0A000 and 26000 are statements
# prepared before a migration or on another server behind a pooler: a new connection has none.
_SQLSTATES = _table(
    {
        ErrorKind.LOST: ("08", "0A000", "25", "26000", "40003", "57P01", "57P02", "57P03", "57P04", "57P05", "XX"),
        ErrorKind.READ_ONLY: ("25006",),
        ErrorKind.CONFLICT: ("40",),
        ErrorKind.BUSY: ("53", "55", "57", "58", "F0", "HV"),
        ErrorKind.REFUSED: ("28", "3D", "3F", "42501", "42P01", "42703", "42704", "42883", "XX001", "XX002"),
        ErrorKind.BAD_VALUE: ("22", "54"),
        ErrorKind.INTEGRITY: ("23", "44"),
    }
)

_MARIADB_CODES = _table(
    {
        ErrorKind.LOST: (
            0,
            1047,
            1053,
            1077,
            1079,
            1152,
            1158,
            1159,
            1160,
            1161,
            1184,
            1927,
            2002,
            2003,
            2005,
            2006,
            2013,
            2014,
            2026,
            2027,
            2055,
            4031,
        ),
        ErrorKind.READ_ONLY: (1290, 1792, 1836),
        ErrorKind.CONFLICT: (1020, 1205, 1213, 1412, 1614, 1615, 3101),
        ErrorKind.BUSY: (
            3,
            5,
            9,
            11,
            12,
            23,
            28,
            29,
            1004,
            1015,
            1021,
            1023,
            1026,
            1028,
            1030,
            1037,
            1038,
            1040,
            1041,
            1114,
            1129,
            1135,
            1197,
            1203,
            1206,
            1223,
            1226,
            1317,
            1637,
            1815,
            1969,
            3024,
        ),
        ErrorKind.REFUSED: (
            1016,
            1017,
            1033,
            1034,
            1035,
            1044,
            1045,
            1049,
            1051,
            1054,
            1130,
            1142,
            1143,
            1146,
            1194,
            1195,
            1227,
            1524,
            1698,
            1712,
            1820,
            1862,
            1877,
            1932,
            1982,
            4151,
        ),
        ErrorKind.BAD_VALUE: (1071, 1118, 1153, 1264, 1265, 1292, 1300, 1301, 1366, 1406, 1411, 1690, 3988),
        ErrorKind.INTEGRITY: (1022, 1048, 1062, 1169, 1216, 1217, 1364, 1451, 1452, 1557, 1586, 3819, 4025),
    }
)

# By primary result code. A connection to a file that was read-only stays so when the file no longer is.
_SQLITE_CODES = _table(
    {
        ErrorKind.LOST: (10, 21),  # IOERR, MISUSE
        ErrorKind.READ_ONLY: (8,),  # READONLY
        ErrorKind.BUSY: (4, 5, 6, 7, 9, 13, 15, 17),  # ABORT, BUSY, LOCKED, NOMEM, INTERRUPT, FULL, PROTOCOL, SCHEMA
        ErrorKind.REFUSED: (
            1,
            3,
            11,
            14,
            22,
            23,
            26,
        ),  # ERROR (no such table), PERM, CORRUPT, CANTOPEN, NOLFS, AUTH, NOTADB
        ErrorKind.BAD_VALUE: (18, 20, 25),  # TOOBIG, MISMATCH, RANGE
        ErrorKind.INTEGRITY: (19,),  # CONSTRAINT
    }
)

# What PEP 249's classes mean if the code says nothing, the first that fits.
_CLASSES = {
    "DataError": ErrorKind.BAD_VALUE,
    "IntegrityError": ErrorKind.INTEGRITY,
    "OperationalError": ErrorKind.BUSY,
    "InterfaceError": ErrorKind.LOST,
    "InternalError": ErrorKind.LOST,
}

# SQLSTATE classes whose messages may quote a value: data exceptions, and what functions raise.
_QUOTING = frozenset({"22", "P0"})
_LONGEST_TEXT = 300


@attrs.frozen
class DatabaseProblem:
    """An error of the database, in terms that are safe to log.

    :ivar code: SQLSTATE, MariaDB's number or SQLite's name of the error, if there is one.
    :ivar text: the driver's message as one line, without values; empty if it may quote one.
    """

    kind: ErrorKind
    driver_class: str
    code: str | None = None
    text: str = ""

    def outcome_unknown(self, committing: bool) -> bool:
        """Whether the transaction may have been committed all the same.

        :param committing: whether COMMIT had been sent. A server that answers it with an error has rolled back; one
            that does not answer may have committed. Class 25 is an answer: the session was ended before the COMMIT.
        """
        return committing and self.kind is ErrorKind.LOST and not (self.code or "").startswith("SQLSTATE 25")

    def __str__(self) -> str:
        return " ".join(filter(None, (self.text or self.driver_class, self.code and f"({self.code})")))


def classify(error: BaseException | None) -> DatabaseProblem:
    """Tell what an error of a driver (``DBAPIError.orig``) means."""
    name = type(error).__name__
    if hasattr(error, "diag"):
        return _of_postgresql(error, name)
    number = getattr(error, "sqlite_errorcode", None)
    if number is not None:
        kind = _SQLITE_CODES.get(number & 0xFF) or _by_class(error)
        return DatabaseProblem(kind, name, f"{error.sqlite_errorname}", _one_line(str(error)))
    number = next(iter(getattr(error, "args", ())), None)
    if isinstance(number, int):
        kind = _MARIADB_CODES.get(number)
        # PyMySQL puts values into the statements, which the server then quotes. What is about the server does not.
        text = _one_line(str(error.args[-1])) if kind in UNAVAILABLE and len(error.args) > 1 else ""
        return DatabaseProblem(kind or _by_class(error), name, f"error {number}", text)
    return DatabaseProblem(_by_class(error), name)


def _of_postgresql(error: BaseException, name: str) -> DatabaseProblem:
    state: str | None = error.sqlstate
    if state is None:
        # psycopg's own: the connection cannot be made or was lost, unless it is about a value.
        kind = _by_class(error)
        kind = ErrorKind.LOST if kind is ErrorKind.BUSY else kind
        return DatabaseProblem(kind, name, None, _one_line(str(error)) if kind is ErrorKind.LOST else "")
    kind = _SQLSTATES.get(state) or _SQLSTATES.get(state[:2]) or _by_class(error)
    text = "" if state[:2] in _QUOTING else _one_line(error.diag.message_primary or "")
    return DatabaseProblem(kind, name, f"SQLSTATE {state}", text)


def _by_class(error: BaseException | None) -> ErrorKind:
    names = {cls.__name__ for cls in type(error).__mro__}
    return next((kind for name, kind in _CLASSES.items() if name in names), ErrorKind.UNEXPECTED)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_TEXT]
