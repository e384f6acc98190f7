"""PostgreSQL behind a connection pooler."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from barbtx.cmd.manage import main as manage
from barbtx.config import load
from barbtx.model.database import Database
from barbtx.model.records import NewSecret
from barbtx.model.repositories.secrets import SecretRepo
from barbtx.times import WallClock
from tests.conftest import unique
from tests.support.servers import PgBouncer, PostgreSQL


@pytest.mark.parametrize(("mode", "pipelines"), [("session", True), ("session", False), ("transaction", False)])
@pytest_twisted.ensureDeferred
async def test_pooled_connections_serve_concurrent_writes_and_reads(
    postgresql: PostgreSQL, mode: str, pipelines: bool
) -> None:
    from twisted.internet import reactor

    name = unique()
    assert manage(["db", "upgrade", "-d", postgresql.new_database(name)]) == 0
    pooler = PgBouncer(postgresql, mode)
    pooler.start()
    settings = {"connection": pooler.url(name), "pipelines": pipelines}
    database = Database.from_config(reactor, load([], [f"database.{key}={value}" for key, value in settings.items()]))
    database.start()
    try:
        secrets = SecretRepo(database, WallClock())
        # Enough repetitions for psycopg to prepare statements.
        for batch in range(6):
            ids = [f"{number:08}-000{batch}-4000-8000-000000000000" for number in range(40)]
            await gatherResults([secrets.create(NewSecret(secret_id, "p")) for secret_id in ids])
            found = await gatherResults([secrets.get(secret_id) for secret_id in ids])
            assert [secret.id for secret in found] == ids
    finally:
        database.stop()
        pooler.stop()
