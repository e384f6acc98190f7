"""What errors of the three drivers mean."""

from __future__ import annotations

import re
import sqlite3
from typing import NoReturn

import psycopg
import pymysql
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.engine import make_url

from barbtx.errors import ConfigurationError
from barbtx.model.database_errors import UNAVAILABLE, ErrorKind, classify
from barbtx.model.engine import _spread_hosts, make_engine


def postgresql(state: str) -> psycopg.Error:
    try:
        return psycopg.errors.lookup(state)("text")
    except KeyError:
        error = psycopg.InternalError("text")
        error.sqlstate = state
        return error


def mariadb(number: int, text: str = "text") -> Exception:
    with pytest.raises(pymysql.MySQLError) as caught:
        pymysql.err.raise_mysql_exception(b"\xff" + number.to_bytes(2, "little") + b"#HY000" + text.encode())
    return caught.value


@pytest.mark.parametrize(
    ("states", "kind"),
    [
        ("08000 08006 08P01 25000 25P03 57P01 57P02 57P03 57P05 40003 0A000 26000 XX000", ErrorKind.LOST),
        ("25006", ErrorKind.READ_ONLY),
        ("40000 40001 40P01", ErrorKind.CONFLICT),
        ("53000 53100 53200 53300 55P03 55006 57014 58000 58030", ErrorKind.BUSY),
        ("28000 28P01 3D000 3F000 42501 42P01 42703 XX001 XX002", ErrorKind.REFUSED),
        ("22001 22P02 22021 54000", ErrorKind.BAD_VALUE),
        ("23502 23503 23505 23514 44000", ErrorKind.INTEGRITY),
        ("42601 42804", ErrorKind.UNEXPECTED),
    ],
)
def test_postgresql_s_errors_are_told_apart_by_sqlstate(states: str, kind: ErrorKind) -> None:
    assert {state: classify(postgresql(state)).kind for state in states.split()} == dict.fromkeys(states.split(), kind)


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        ("1053 1927 2006 2013", ErrorKind.LOST),
        ("1290 1792 1836", ErrorKind.READ_ONLY),
        ("1020 1205 1213", ErrorKind.CONFLICT),
        ("3 28 1021 1040 1114 1203 1317 1969", ErrorKind.BUSY),
        ("1044 1045 1049 1142 1146 1932", ErrorKind.REFUSED),
        ("1264 1366 1406", ErrorKind.BAD_VALUE),
        ("1048 1062 1451 1452", ErrorKind.INTEGRITY),
        ("1064", ErrorKind.UNEXPECTED),
    ],
)
def test_mariadb_s_errors_are_told_apart_by_number(numbers: str, kind: ErrorKind) -> None:
    expected = dict.fromkeys(map(int, numbers.split()), kind)
    assert {number: classify(mariadb(number)).kind for number in expected} == expected


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_IOERR, ErrorKind.LOST),
        (sqlite3.SQLITE_IOERR | 12 << 8, ErrorKind.LOST),
        (sqlite3.SQLITE_READONLY, ErrorKind.READ_ONLY),
        (sqlite3.SQLITE_FULL, ErrorKind.BUSY),
        (sqlite3.SQLITE_BUSY, ErrorKind.BUSY),
        (sqlite3.SQLITE_CORRUPT, ErrorKind.REFUSED),
        (sqlite3.SQLITE_NOTADB, ErrorKind.REFUSED),
        (sqlite3.SQLITE_CANTOPEN, ErrorKind.REFUSED),
        (sqlite3.SQLITE_CONSTRAINT | 8 << 8, ErrorKind.INTEGRITY),
        (sqlite3.SQLITE_TOOBIG, ErrorKind.BAD_VALUE),
    ],
)
def test_sqlite_s_errors_are_told_apart_by_result_code(code: int, kind: ErrorKind) -> None:
    error = sqlite3.DatabaseError("text")
    error.sqlite_errorcode, error.sqlite_errorname = code, "SQLITE_SOMETHING"
    assert classify(error).kind is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.OperationalError("connection failed:\n refused"), ErrorKind.LOST),
        (psycopg.DataError("cannot contain NUL"), ErrorKind.BAD_VALUE),
        (psycopg.ProgrammingError("1 placeholder"), ErrorKind.UNEXPECTED),
        (pymysql.InterfaceError(0, ""), ErrorKind.LOST),
        (pymysql.InternalError("Packet sequence number wrong"), ErrorKind.LOST),
        (sqlite3.InterfaceError("closed"), ErrorKind.LOST),
        (None, ErrorKind.UNEXPECTED),
        (RuntimeError("x"), ErrorKind.UNEXPECTED),
    ],
)
def test_an_error_without_a_code_goes_by_its_class(error: Exception | None, kind: ErrorKind) -> None:
    assert classify(error).kind is kind


@given(st.integers(1, 32767))
def test_a_text_that_may_quote_a_value_is_not_shown(number: int) -> None:
    problem = classify(mariadb(number, "'my-secret-value' is no good"))
    assert str(number) in str(problem)
    assert problem.kind in UNAVAILABLE or "my-secret-value" not in str(problem)


def test_a_cause_is_one_short_line() -> None:
    assert str(classify(psycopg.OperationalError("connection failed:\n\trefused" + " x" * 1000))).startswith(
        "connection failed: refused x"
    )
    text = "server at ::1 failed: refused\n\tIs it running?\nAll failures were:\n- refused\n"
    assert str(classify(psycopg.OperationalError(text))).startswith(
        "server at ::1 failed: refused; Is it running? All failures were: - refused"
    )
    assert "\n" not in str(classify(mariadb(1290, "read\nonly")))
    assert len(str(classify(mariadb(1290, "y" * 5000)))) < 400


@pytest.mark.parametrize(
    ("kind", "error", "unknown"),
    [
        ("no answer", psycopg.OperationalError("server closed the connection unexpectedly"), True),
        ("ended", postgresql("57P01"), True),
        ("idle", postgresql("25P03"), False),
        ("read-only", postgresql("25006"), False),
        ("conflict", postgresql("40001"), False),
        ("cancelled", postgresql("57014"), False),
        ("no answer", mariadb(2013), True),
        ("full", postgresql("53100"), False),
    ],
)
def test_the_outcome_is_unknown_only_if_a_commit_got_no_answer(kind: str, error: Exception, unknown: bool) -> None:
    problem = classify(error)
    assert problem.outcome_unknown(True) is unknown and not problem.outcome_unknown(False)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p%40,@a:1,b:2/db?target_session_attrs=read-write", ["a:1", "b:2"]),
        ("postgresql://a,b,c/db", ["a", "b", "c"]),
    ],
)
def test_several_hosts_may_be_written_as_libpq_takes_them(url: str, hosts: list[str]) -> None:
    parsed = make_url(_spread_hosts(url))
    assert list(parsed.query["host"]) == hosts and parsed.database == "db"
    assert parsed.query.get("target_session_attrs") == ("read-write" if "target" in url else None)


@pytest.mark.parametrize("url", ["sqlite:///a,b.sqlite", "postgresql://u@h:1/db?x=a,b", "mysql://u:a,b@h/db"])
def test_other_urls_stay_as_they_are(url: str) -> None:
    assert _spread_hosts(url) == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u@h/d?foo=bar", "unknown argument 'foo'"),
        ("postgresql://a,b/d?target_session_attrs=any&sslmod=require", "unknown argument 'sslmod'"),
        ("mysql://u@h/d?foo=bar", "unknown argument 'foo'"),
        ("mysql://u@h/d?connect_timeout=abc", "not valid"),
        ("mysql://u@h/d?charset=latin1", "the charset must be utf8mb4"),
        ("mysql://u@h/d?init_command=SELECT", "barbtx sets init_command itself"),
        ("mysql://u@h/d?ssl_ca=/none.pem", "the file /none.pem (ssl_ca)"),
        ("sqlite:////none/d?timeout=5", "SQLite takes arguments only with"),
        ("sqlite:////none/d?cache=private&uri=true", "SQLite takes arguments only with"),
        ("sqlite:///file:/none/d?mode=ro", "SQLite takes arguments only with"),
    ],
)
def test_arguments_of_a_url_that_would_have_no_effect_are_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)) as refused:
        make_engine(url, 1, 1.0)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "name", "value"),
    [
        ("postgresql://u@h/d?options=-csearch_path%3Dkeys", "options", " -csearch_path=keys"),
        ("postgresql://u@h/d?connect_timeout=7", "connect_timeout", "7"),
        ("postgresql://u@h/d", "connect_timeout", "2"),
        ("mysql://u@h/d?charset=utf8&connect_timeout=7", "connect_timeout", "7"),
        ("mysql://u@h/d?charset=utf8", "charset", "utf8mb4"),
    ],
)
def test_arguments_of_a_url_have_an_effect(url: str, name: str, value: str) -> None:
    engine = make_engine(url, 1, 1.0)
    taken: dict[str, object] = {}

    @event.listens_for(engine, "do_connect")
    def take(_dialect: object, _record: object, _arguments: object, keywords: dict[str, object]) -> NoReturn:
        taken.update(keywords)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        engine.connect()
    assert str(taken[name]).endswith(value)
    assert name != "options" or "lock_timeout" in str(taken[name])
