"""The arguments in a database URL: those of libpq and of PyMySQL are accepted, unless they cannot take effect."""

from __future__ import annotations

import inspect
import os
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import URL

from barbtx.errors import ConfigurationError

# barbtx sets these itself; the value in a URL would have no effect.
_FIXED = frozenset({"init_command", "read_timeout", "write_timeout"})
_CHARSETS = frozenset({"utf8", "utf8mb3", "utf8mb4"})
# PyMySQL's ssl dictionary as SQLAlchemy's dialect takes it apart.
_FILES = ("ssl_ca", "ssl_cert", "ssl_key", "ssl_capath")
_FROM_SQLALCHEMY = frozenset({*_FILES, "ssl_cipher", "ssl_check_hostname", "use_unicode"})


def check_arguments(url: URL) -> None:
    """Check the arguments of a database URL.

    :raises ConfigurationError: an argument is unknown, is not valid, or cannot take effect.
    """
    problem = {"postgresql": _postgresql, "sqlite": _sqlite}.get(url.get_backend_name(), _mariadb)(url)
    if problem is None:
        try:
            url.get_dialect()().create_connect_args(url)
        except (ValueError, TypeError):
            problem = "an argument after ? is not valid"
    if problem is not None:
        raise ConfigurationError(f"[database] connection: {problem}")


def _postgresql(url: URL) -> str | None:
    try:
        make_conninfo("", **{name: value if isinstance(value, str) else value[0] for name, value in url.query.items()})
    except psycopg.ProgrammingError:
        return _unknown([name for name in url.query if not _is_known_to_libpq(name)])
    return None


def _is_known_to_libpq(name: str) -> bool:
    try:
        make_conninfo("", **{name: "1"})
    except psycopg.ProgrammingError:
        return False
    return True


def _mariadb(url: URL) -> str | None:
    fixed = sorted(_FIXED & url.query.keys())
    if fixed:
        return f"barbtx sets {fixed[0]} itself"
    pymysql: Any = url.get_dialect().import_dbapi()
    known = inspect.signature(pymysql.Connection.__init__).parameters.keys() - {"self"} | _FROM_SQLALCHEMY
    unknown = [name for name in url.query if name not in known]
    if unknown:
        return _unknown(unknown)
    if url.query.get("charset", "utf8mb4") not in _CHARSETS:
        return "the charset must be utf8mb4"
    for name in _FILES:
        path = url.query.get(name)
        if isinstance(path, str) and not os.access(path, os.R_OK):
            return f"the file {path} ({name}) does not exist or cannot be read"
    return None


def _sqlite(url: URL) -> str | None:
    is_uri = (url.database or "").startswith("file:") and url.query.get("uri") == "true"
    if url.query and not is_uri:
        # SQLite would take the arguments as a part of the file's name, or the driver would ignore them.
        return "SQLite takes arguments only with a path of the form file:/path and with uri=true"
    return None


def _unknown(names: list[str]) -> str:
    return f"unknown argument {names[0]!r}" if names else "an argument after ? is not valid"
