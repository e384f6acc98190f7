"""The upgrade of a database schema, for ``barbtx-manage db upgrade``."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from barbtx.errors import ConfigurationError, one_line
from barbtx.model.engine import parse_url
from barbtx.model.migration import known_revisions
from barbtx.model.migration.ownership import current_version


def alembic_config(url: str, wait_seconds: float = 600.0) -> Config:
    """alembic's configuration for a database.

    :param url: a SQLAlchemy URL.
    :param wait_seconds: timeout for a concurrent upgrade of the same database to end.
    """
    config = Config()
    config.set_main_option("script_location", "barbtx:model/migration")
    config.attributes["url"] = url
    config.attributes["wait_seconds"] = wait_seconds
    return config


def upgrade(url: str, version: str, wait_seconds: float) -> None:
    """Upgrade the schema of a database to a version. Concurrent upgrades run one after the other.

    :param url: a SQLAlchemy URL.
    :param version: the version, or ``head`` for this release's.
    :param wait_seconds: timeout for another upgrade of the same database to end.
    :raises ConfigurationError: the database belongs to another program or a later release, there is no such version,
        the schema has a newer version already, or another upgrade did not end in time.
    """
    if parse_url(url).get_backend_name() == "sqlite":
        # Opening the file for the upgrade changes it. On servers, env.py checks this while it holds the lock, because
        # MariaDB exposes a half-finished upgrade to other connections.
        current_version(url, known_revisions())
    config = alembic_config(url, wait_seconds)
    try:
        command.upgrade(config, version)
        # A relative version, such as +1, is never older than the schema.
        wanted = None if version.startswith("+") else ScriptDirectory.from_config(config).get_revision(version)
    except CommandError as problem:
        raise ConfigurationError(f"db upgrade: {one_line(problem)}") from None
    known = known_revisions()
    current = current_version(url, known)
    # alembic succeeds without doing anything if the schema is newer.
    if current is not None and wanted is not None and known.index(current) < known.index(wanted.revision):
        raise ConfigurationError(
            f"db upgrade: the database schema is at version {current}, newer than {wanted.revision}: nothing was "
            "changed, because a schema is never downgraded"
        )
