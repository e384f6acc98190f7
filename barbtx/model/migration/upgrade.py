"""The upgrade of a database schema, for ``barbtx-manage db upgrade``."""

from __future__ import annotations

from alembic import command
from alembic.util import CommandError

from barbtx.errors import ConfigurationError
from barbtx.model.engine import parse_url
from barbtx.model.migration import alembic_config, known_revisions
from barbtx.model.migration.ownership import current_version


def upgrade(url: str, version: str, wait_seconds: float) -> None:
    """Upgrade the schema of a database to a version. Concurrent upgrades run one after the other.

    :param url: a SQLAlchemy URL.
    :param version: the version, or ``head`` for this release's.
    :param wait_seconds: timeout for another upgrade of the same database to end.
    :raises ConfigurationError: the database belongs to another program or a later release, there is no such version, or
        another upgrade did not end in time.
    """
    if parse_url(url).get_backend_name() == "sqlite":
        # Opening the file for the upgrade changes it. On servers, env.py checks this while it holds the lock, because
        # MariaDB exposes a half-finished upgrade to other connections.
        current_version(url, known_revisions())
    try:
        command.upgrade(alembic_config(url, wait_seconds), version)
    except CommandError as problem:
        raise ConfigurationError(f"db upgrade: {' '.join(str(problem).split())}") from None
