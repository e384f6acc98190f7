"""Fixtures for tests that run parts of barbtx in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from barbtx.cmd.manage import main as manage
from barbtx.config import load
from barbtx.model.database import Database


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database of each kind in turn, with its tables."""
    from twisted.internet import reactor

    assert manage(["db", "upgrade", "-d", database_url]) == 0
    database = Database.from_config(reactor, load([], [f"database.connection={database_url}",
                                                       "database.timeout_seconds=10"]))
    database.start()
    yield database
    database.stop()
