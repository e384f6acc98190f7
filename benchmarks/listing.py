"""Benchmark of a page of secrets, without and with many secrets of other projects.

    python -m benchmarks.listing postgresql://postgres@127.0.0.1/some_empty_database

Fills the database with 200 secrets of one project, measures the first page of ten; then with 200,000 secrets of 200
projects, and measures again: the first page, one far behind, one filtered and one sorted. Prints the medians, their
ratio, and PostgreSQL's plans.
"""

from __future__ import annotations

import datetime
import statistics
import sys
import time
import uuid
from functools import partial
from typing import Any

from sqlalchemy import event, insert, text
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from barbtx.cmd.manage import main as manage
from barbtx.config import load
from barbtx.model.database import Database
from barbtx.model.models import Project, Secret
from barbtx.model.repositories.listing import Condition
from barbtx.model.repositories.secrets import SecretRepo

PROJECTS, EACH, ROUNDS = 200, 1000, 200
START = datetime.datetime(2026, 1, 1)


def fill(session: Session, project: str, count: int, offset: int) -> None:
    key = str(uuid.uuid4())
    session.execute(insert(Project).values(id=key, external_id=project, created_at=START))
    rows = []
    for n in range(count):
        created = START + datetime.timedelta(seconds=offset + n * 7)
        rows.append(
            {
                "id": str(uuid.uuid4()),
                "project_id": key,
                "name": f"secret {n}",
                "secret_type": "opaque",
                "algorithm": "aes" if n % 2 else None,
                "status": "ACTIVE",
                "created_at": created,
                "updated_at": created,
            }
        )
    session.execute(insert(Secret), rows)


async def measure(repo: SecretRepo, project: str, conditions=(), sort=(), offset: int = 0) -> float:
    """Median milliseconds of a page of ten."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        await repo.list_page(project, conditions, sort, 10, offset)
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def plans(database: Database, statements: list[tuple[str, Any]]) -> None:
    with database.engine.connect() as connection:
        for statement, parameters in statements:
            print(f"\n{' '.join(statement.split())[:160]}")
            for (line,) in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters):
                print(f"    {line}")


async def run(reactor: Any, url: str) -> None:
    assert manage(["db", "upgrade", "-d", url]) == 0
    database = Database.from_config(reactor, load([], [f"database.connection={url}", "database.timeout_seconds=120"]))
    database.start()
    repo = SecretRepo(database, reactor)
    await database.interact(lambda session: fill(session, "project 0", 200, 0))
    alone = await measure(repo, "project 0")
    print(f"200 secrets in all: page of 10 in {alone:.2f} ms")
    for n in range(1, PROJECTS + 1):
        await database.interact(partial(fill, project=f"project {n}", count=EACH, offset=n))
    if database.engine.dialect.name == "postgresql":
        await database.interact(lambda session: session.execute(text("ANALYZE")))
    print(f"then {PROJECTS * EACH} more secrets in {PROJECTS} other projects:")
    named = (Condition("name", "like", "secret 7"),)
    for what, project, arguments in (
        ("the same page", "project 0", {}),
        ("of 1000", "project 77", {}),
        ("of 1000, offset 900", "project 77", {"offset": 900}),
        ("of 1000, by name", "project 77", {"conditions": named}),
        ("of 1000, sorted by name", "project 77", {"sort": (("name", False),)}),
    ):
        took = await measure(repo, project, **arguments)
        print(f"    {what}: {took:.2f} ms ({took / alone:.2f} times)")
    if database.engine.dialect.name == "postgresql":
        seen: list[tuple[str, Any]] = []

        def listener(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
            seen.append((statement, parameters))

        event.listen(database.engine, "before_cursor_execute", listener)
        await repo.list_page("project 77", (), (), 10, 0)
        event.remove(database.engine, "before_cursor_execute", listener)
        plans(database, [(statement, parameters) for statement, parameters in seen if statement.startswith("SELECT")])
    database.stop()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(run(reactor, sys.argv[1])))
