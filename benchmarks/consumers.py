"""Benchmark of objects with very many consumers.

    python -m benchmarks.consumers postgresql://postgres@127.0.0.1/some_empty_database [number of consumers]

Registers 20,000 consumers of each of two containers, past the limits, and measures reading one, listing both, a page of
consumers at either end, a refused registration, and each transaction of a deletion.
"""

from __future__ import annotations

import datetime
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from barbtx.cmd.manage import main as manage
from barbtx.config import load
from barbtx.errors import LimitReached
from barbtx.model.database import Database
from barbtx.model.models import ContainerConsumer, Project
from barbtx.model.records import NewContainer
from barbtx.model.repositories.consumers import CONTAINER_CONSUMERS, ConsumerRepo
from barbtx.model.repositories.containers import ContainerRepo
from barbtx.times import WallClock

START = datetime.datetime(2026, 1, 1)


def fill(session: Session, container_id: str, count: int) -> None:
    project = session.scalar(select(Project.id))
    for start in range(0, count, 1000):
        session.execute(
            insert(ContainerConsumer),
            [
                {
                    "id": str(uuid.uuid4()),
                    "object_id": container_id,
                    "project_id": project,
                    "digest": uuid.uuid4().hex,
                    "status": "ACTIVE",
                    "created_at": START + datetime.timedelta(seconds=n),
                    "updated_at": START,
                    "name": f"name {n}",
                    "URL": f"http://example.com/{n}",
                }
                for n in range(start, min(start + 1000, count))
            ],
        )


async def measure(what: str, call: Callable[[], Deferred[Any]]) -> Any:
    start, outcome = time.perf_counter(), None
    try:
        outcome = await call()
    except LimitReached:
        what += " (refused)"
    print(f"    {what}: {(time.perf_counter() - start) * 1000:.1f} ms")
    return outcome


async def run(reactor: Any, url: str, count: int) -> None:
    assert manage(["db", "upgrade", "-d", url]) == 0
    database = Database.from_config(reactor, load([], [f"database.connection={url}", "database.timeout_seconds=120"]))
    database.start()
    containers = ContainerRepo(database, WallClock(), -1)
    consumers = ConsumerRepo(database, WallClock(), CONTAINER_CONSUMERS, -1)
    ids = [str(uuid.uuid4()) for _ in range(2)]
    for container_id in ids:
        await containers.create(NewContainer(container_id, "p", "generic", "box", "u"))
        await database.interact(partial(fill, container_id=container_id, count=count))
    print(f"two containers with {count} consumers each:")
    for _ in range(3):
        await measure("one container", lambda: containers.get(ids[0], "u"))
        await measure("list of both", lambda: containers.list_page("p", [], 10, 0))
        await measure("first page of consumers", lambda: consumers.list_page(ids[0], 10, 0))
        await measure("last page of consumers", lambda: consumers.list_page(ids[0], 10, count - 10))
        await measure("registration", lambda: consumers.add(ids[0], "p", {"name": "new", "URL": "u"}))
    while not await measure("a transaction of a deletion", lambda: containers.delete(ids[0])):
        pass
    database.stop()


if __name__ == "__main__":
    react(
        lambda reactor: Deferred.fromCoroutine(
            run(reactor, sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20000)
        )
    )
