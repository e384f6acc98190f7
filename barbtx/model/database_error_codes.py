"""The kinds of database errors, and the error codes of each database that belong to them.

Sources: PostgreSQL 17, appendix A; MariaDB's error code reference; SQLite's result codes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class ErrorKind(enum.Enum):
    """The consequences of an error for the transaction, the connection and the operator."""

    #: The transaction was rolled back because of a concurrent one, for instance in a deadlock; it can be retried.
    CONFLICT = "conflict"
    #: The connection is unusable; other connections of its age are probably lost as well.
    LOST = "connection lost"
    #: The server is read-only, as a demoted primary is; new connections may lead to the new primary.
    READ_ONLY = "read-only"
    #: The server lacks a resource at the moment: locks, time, memory, disk space, connections.
    BUSY = "unavailable"
    #: The server refuses access: login, privileges, a missing table or a damaged file. An operator has to act.
    REFUSED = "refused"
    #: The database cannot store a value.
    BAD_VALUE = "bad value"
    #: A constraint is violated.
    INTEGRITY = "constraint"
    #: A bug in barbtx.
    UNEXPECTED = "unexpected"


def _kinds(codes: Mapping[ErrorKind, str]) -> dict[str, ErrorKind]:
    """The kind of each code, from lists of codes that are separated by spaces."""
    return {code: kind for kind, listed in codes.items() for code in listed.split()}


def _numbered_kinds(codes: Mapping[ErrorKind, str]) -> dict[int, ErrorKind]:
    return {int(code): kind for code, kind in _kinds(codes).items()}


#: PostgreSQL: by SQLSTATE, or by its class (the first two characters). 0A000 and 26000 are raised for statements that
#: were prepared before a migration, or on another server behind a connection pooler; a new connection has none.
SQLSTATES = _kinds(
    {
        ErrorKind.LOST: "08 0A000 25 26000 40003 57P01 57P02 57P03 57P04 57P05 XX",
        ErrorKind.READ_ONLY: "25006",
        ErrorKind.CONFLICT: "40",
        ErrorKind.BUSY: "53 55 57 58 F0 HV",
        ErrorKind.REFUSED: "28 3D 3F 42501 42P01 42703 42704 42883 XX001 XX002",
        ErrorKind.BAD_VALUE: "22 54",
        ErrorKind.INTEGRITY: "23 44",
    }
)

#: MariaDB: by error number.
MARIADB_CODES = _numbered_kinds(
    {
        ErrorKind.LOST: (
            "0 1047 1053 1077 1079 1152 1158 1159 1160 1161 1184 1927 2002 2003 2005 2006 2013 2014 2026 2027 2055 4031"
        ),
        ErrorKind.READ_ONLY: "1290 1792 1836",
        ErrorKind.CONFLICT: "1020 1205 1213 1412 1614 1615 3101",
        ErrorKind.BUSY: (
            "3 5 9 11 12 23 28 29 1004 1015 1021 1023 1026 1028 1030 1037 1038 1040 1041 1114 1129 1135 1197 "
            "1203 1206 1223 1226 1317 1637 1815 1969 3024"
        ),
        ErrorKind.REFUSED: (
            "1016 1017 1033 1034 1035 1044 1045 1049 1051 1054 1130 1142 1143 1146 1194 1195 1227 1524 1698 "
            "1712 1820 1862 1877 1932 1982 4151"
        ),
        ErrorKind.BAD_VALUE: "1071 1118 1153 1264 1265 1292 1300 1301 1366 1406 1411 1690 3988",
        ErrorKind.INTEGRITY: "1022 1048 1062 1169 1216 1217 1364 1451 1452 1557 1586 3819 4025",
    }
)

#: SQLite: by primary result code. A connection that was opened while its file was read-only remains read-only.
SQLITE_CODES = _numbered_kinds(
    {
        ErrorKind.LOST: "10 21",  # IOERR, MISUSE
        ErrorKind.READ_ONLY: "8",  # READONLY
        ErrorKind.BUSY: "4 5 6 7 9 13 15 17",  # ABORT, BUSY, LOCKED, NOMEM, INTERRUPT, FULL, PROTOCOL, SCHEMA
        ErrorKind.REFUSED: "1 3 11 14 22 23 26",  # ERROR (no such table), PERM, CORRUPT, CANTOPEN, NOLFS, AUTH, NOTADB
        ErrorKind.BAD_VALUE: "18 20 25",  # TOOBIG, MISMATCH, RANGE
        ErrorKind.INTEGRITY: "19",  # CONSTRAINT
    }
)

#: By the name of the exception class in PEP 249, for errors whose code is not listed; the first match counts.
CLASSES = {
    "DataError": ErrorKind.BAD_VALUE,
    "IntegrityError": ErrorKind.INTEGRITY,
    "OperationalError": ErrorKind.BUSY,
    "InterfaceError": ErrorKind.LOST,
    "InternalError": ErrorKind.LOST,
}
