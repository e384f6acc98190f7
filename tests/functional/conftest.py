"""Fixtures for tests that run parts of barbtx in this process."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import pytest
from twisted.internet.task import Clock

from barbtx.cmd.manage import main as manage
from barbtx.config import load
from barbtx.model.database import Database
from barbtx.model.repositories.secrets import SecretRepo

NOW = datetime.datetime(2026, 11, 23, 6, 1, 2, 345678)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database of each kind in turn, with its tables."""
    from twisted.internet import reactor

    assert manage(["db", "upgrade", "-d", database_url]) == 0
    database = Database.from_config(
        reactor, load([], [f"database.connection={database_url}", "database.timeout_seconds=10"])
    )
    database.start()
    yield database
    database.stop()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands at :data:`NOW` until a test moves it."""
    clock = Clock()
    clock.advance(NOW.replace(tzinfo=datetime.UTC).timestamp())
    return clock


@pytest.fixture
def secrets(database: Database, clock: Clock) -> SecretRepo:
    return SecretRepo(database, clock)
