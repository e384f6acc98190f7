"""The schema and its versions, with alembic."""

from __future__ import annotations

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.orm import Session

from barbtx.errors import ConfigurationError
from barbtx.model.migration.ownership import check_ownership, current_version


def alembic_config(url: str, wait_seconds: float = 600.0) -> Config:
    """alembic's configuration for a database.

    :param url: a SQLAlchemy URL.
    :param wait_seconds: longest wait for another upgrade of the same database to end.
    """
    config = Config()
    config.set_main_option("script_location", "barbtx:model/migration")
    config.attributes["url"] = url
    config.attributes["wait_seconds"] = wait_seconds
    return config


def head_revision() -> str:
    """The version of the schema that this release needs."""
    return ScriptDirectory.from_config(alembic_config("")).get_current_head()


def known_revisions() -> tuple[str, ...]:
    """The versions that this release knows, its own first."""
    return tuple(script.revision for script in ScriptDirectory.from_config(alembic_config("")).walk_revisions())


def check_schema(session: Session) -> None:
    """Make sure that the database has the schema that this release needs.

    :raises ConfigurationError: it has another; the text says what to do.
    """
    head, url = head_revision(), session.get_bind().url
    if url.get_backend_name() == "sqlite":
        # Looked at apart: to connect as usual changes the file, which may be another program's.
        current_version(url.render_as_string(hide_password=False), known_revisions())
    current = check_ownership(session.connection(), known_revisions())
    if current != head:
        raise ConfigurationError(
            f"the database schema is at version {current or 'none'}, this release needs {head}: "
            "run 'barbtx-manage db upgrade'"
        )
