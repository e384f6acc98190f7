"""The schema and its versions, with alembic."""

from __future__ import annotations

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import exc, false, inspect, literal, select
from sqlalchemy.orm import Session

from barbtx.errors import ConfigurationError
from barbtx.model.models import Base
from barbtx.model.sqlite_file import check_file

# PostgreSQL: insufficient_privilege. MariaDB: denied to the database, a command, a table, a column, an operation.
_DENIED = {"42501", 1044, 1142, 1143, 1227}


def alembic_config(url: str) -> Config:
    """alembic's configuration for a database.

    :param url: a SQLAlchemy URL.
    """
    config = Config()
    config.set_main_option("script_location", "barbtx:model/migration")
    config.attributes["url"] = url
    return config


def head_revision() -> str:
    """The version of the schema that this release needs."""
    return ScriptDirectory.from_config(alembic_config("")).get_current_head()


def check_schema(session: Session) -> None:
    """Make sure that the database has the schema that this release needs, and lets this user read it.

    :raises ConfigurationError: it has another, or is none; the text says what to do.
    """
    check_file(session.get_bind().url)
    try:
        connection = session.connection()
        current = MigrationContext.configure(connection).get_current_revision()
        head = head_revision()
        if current != head:
            raise ConfigurationError(
                f"the database schema is at version {current or 'none'}, this release needs {head}: "
                "run 'barbtx-manage db upgrade'"
            )
        missing = sorted(Base.metadata.tables.keys() - set(inspect(connection).get_table_names()))
        if missing:
            raise ConfigurationError(
                f"the database has no table {', '.join(missing)}, although its schema is at version {current}: "
                "restore it from a backup")
        for table in Base.metadata.sorted_tables:
            connection.execute(select(literal(1)).select_from(table).where(false())).all()
    except exc.DBAPIError as problem:
        original = problem.orig
        if getattr(original, "sqlstate", None) in _DENIED or original.args and original.args[0] in _DENIED:
            raise ConfigurationError("the database user has not the rights to read barbtx's tables: "
                                     f"{' '.join(str(original.args[-1]).split())}") from None
        raise
