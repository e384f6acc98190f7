"""Deployments in which messages alone must have orders processed, and whose database may be killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import unique
from tests.support.servers import PostgreSQL, RabbitMQ
from tests.support.service import Deployment

#: Settings under which the retry scheduler sends nothing.
NO_SCHEDULER = {"retry_scheduler.initial_delay_seconds": 10000}


@contextmanager
def deployment_with_own_database(
    directory: Path, rabbitmq: RabbitMQ, **settings: object
) -> Iterator[tuple[Deployment, PostgreSQL]]:
    """A deployment without a retry scheduler, with workers, and the PostgreSQL server that only it uses."""
    database, deployment = PostgreSQL(), None
    try:
        database.start()
        deployment = Deployment(
            directory, database.new_database("b"), rabbitmq.url, unique("tasks."), **{**NO_SCHEDULER, **settings}
        )
        yield deployment, database
    finally:
        if deployment is not None:
            deployment.stop()
        database.stop()
