"""Everything that is measured, on private servers: databases, RabbitMQ, Keystone, hello, and barbtx with its data."""

from __future__ import annotations

import collections
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import psutil
import sqlalchemy
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from barbtx.api.options import OPTIONS
from barbtx.model import models
from barbtx.model.engine import parse_url
from benchmarks.listing import fill
from benchmarks.speed import meter
from benchmarks.speed.operations import LARGE, PROJECTS, SECRET, SIZES, SMALL, Operation
from tests.support.cluster import in_thread, pause
from tests.support.servers import MariaDB, PostgreSQL, RabbitMQ, Server, free_port
from tests.support.service import ROOT, Api, Deployment
from tests.support.stub_keystone import StubKeystone

S = TypeVar("S", bound=Server)

NOAUTH, KEYSTONE = "noauth", "keystone"
_SERVERS: Mapping[str, type[PostgreSQL | MariaDB] | None] = {
    "postgresql": PostgreSQL,
    "mariadb": MariaDB,
    "sqlite": None,
}
#: Kinds of databases.
DATABASES = tuple(_SERVERS)
_ROLE = "member"
_COMPLAINT = re.compile(r" [45]\d\d [\d.]+ ms|#(warn|error|critical)\]")


class Hello(Server):
    """The bare Klein application in a process of its own.

    :param log: whether it writes an access log.
    """

    def __init__(self, log: bool = True) -> None:
        self._options = [] if log else ["--no-log"]
        super().__init__()

    def command(self) -> list[str]:
        return [sys.executable, "-m", "benchmarks.speed.hello", str(self.port), *self._options]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def is_ready(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=10).close()
        except OSError:
            return False
        return True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


def knows_workers() -> bool:
    """Return whether this barbtx has the option ``[api] workers``."""
    return any(option.dest == "workers" for option in OPTIONS["api"])


class Testbed:
    """The servers, and barbtx on them.

    :param database: one of :data:`DATABASES`. On SQLite there are neither RabbitMQ nor workers: the API process
        processes the orders, as it does where nothing else is installed.
    :ivar engine: commits each statement at once.
    :ivar ids: of the secrets in the small project.
    """

    __test__ = False

    def __init__(self, database: str) -> None:
        self.kind = database
        self.database: PostgreSQL | MariaDB | None = None
        self.broker: RabbitMQ | None = None
        self.keystone = StubKeystone()
        self.ids: list[str] = []
        self._directory = Path(tempfile.mkdtemp(prefix="barbtx-speed-"))
        self._tokens: dict[str, str] = {}
        self._servers: list[Server] = []

    async def start(self, workers: int = 2) -> None:
        """Start the servers and workers, and insert the data."""
        await in_thread(self._start_servers)
        self.keystone.listen()
        user = self.keystone.add_user("benchmark", "benchmark")
        for project in PROJECTS:
            self.keystone.grant(user, _ROLE, self.keystone.add_project(project, project))
            self._tokens[project] = self.keystone.issue_token(user, project)
        if self.broker is None:
            self._workers = []
        else:
            self._workers = [await in_thread(self.deployment.worker) for _ in range(workers)]
        api = await self.start_api(NOAUTH)
        await self._insert(self.client(api, NOAUTH, SMALL))
        await in_thread(api.process.stop)

    def _start_servers(self) -> None:
        self.hello, self.silent_hello = self._started(Hello()), self._started(Hello(log=False))
        url = f"sqlite:///{self._directory}/barbtx.sqlite"
        server = _SERVERS[self.kind]
        if server is not None:
            self.broker, self.database = self._started(RabbitMQ()), self._started(server())
            url = self.database.new_database("barbtx")
        self.deployment = Deployment(
            self._directory,
            url,
            self.broker.url if self.broker else None,
            "tasks",
            **{"oslo_policy.enforce_new_defaults": "true"},
        )
        self._engine = sqlalchemy.create_engine(parse_url(url))
        self.engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    def _started(self, server: S) -> S:
        self._servers.append(server)
        server.start()
        return server

    async def _insert(self, api: Api) -> None:
        for _ in range(SIZES[SMALL]):
            reply = await api.post("/v1/secrets", SECRET, roles=_ROLE)
            assert reply.status == 201, reply
            self.ids.append(reply.json["secret_ref"].rpartition("/")[2])

        def fill_large() -> None:
            with Session(self._engine) as session:
                fill(session, LARGE, SIZES[LARGE], 0)
                session.commit()
            if self.kind != "sqlite":
                with self.engine.connect() as connection:
                    connection.exec_driver_sql("ANALYZE" if self.kind == "postgresql" else "ANALYZE TABLE secrets")

        await in_thread(fill_large)

    async def start_api(self, auth: str, workers: int = 1) -> Api:
        """Start an API process, or several on one port.

        :param auth: :data:`NOAUTH` or :data:`KEYSTONE`.
        """
        settings: dict[str, object] = {}
        if auth == KEYSTONE:
            settings = {"api.auth_strategy": "keystone", **self.keystone.settings}
        if workers > 1:
            settings |= {"api.workers": workers, "api.bind_port": free_port()}
        return await in_thread(lambda: self.deployment.api(**settings))

    def identity(self, auth: str, project: str) -> Mapping[str, str]:
        """Return the headers that say who the caller is."""
        if auth == KEYSTONE:
            return {"X-Auth-Token": self._tokens[project]}
        return {"X-Project-Id": project, "X-User-Id": "benchmark", "X-Roles": _ROLE}

    def client(self, api: Api, auth: str, project: str) -> Api:
        """Return a client for single requests in a project."""
        return api.by(self._tokens[project]) if auth == KEYSTONE else api.of(project)

    async def check(self, api: Api, auth: str, operation: Operation) -> None:
        """Send one request and check the response.

        :raises RuntimeError: it is not what it should be.
        """
        load = operation.load(self.ids, self.identity(auth, operation.project))
        client = self.client(api, auth, operation.project)
        arguments: dict[str, Any] = {} if load.body is None else {"data": load.body.encode()}
        reply = await client.request(operation.method, load.paths[0], headers=dict(load.headers), **arguments)
        if reply.status != operation.status or not operation.is_right(reply.content):
            raise RuntimeError(f"{operation.title} ({auth}): {reply}")

    def used(self, api: Api) -> dict[str, float]:
        """Return the processor time that the API, the workers and the servers have used so far, in seconds."""
        groups = {"api": [api.process.process.pid], "workers": [worker.process.pid for worker in self._workers]}
        for name, server in (("database", self.database), ("broker", self.broker)):
            if server is not None:
                groups[name] = [server.process.pid]
        return meter.used({name: numbers for name, numbers in groups.items() if numbers})

    def count(self, query: Any) -> int:
        """Return how many rows a query finds. Blocks."""
        with self.engine.connect() as connection:
            return connection.scalar(select(func.count()).select_from(query.subquery()))

    def pending(self) -> int:
        """Return how many orders have not been processed yet. Blocks."""
        return self.count(select(models.OrderRetryTask.order_id))

    async def drain(self, seconds: float = 600) -> None:
        """Wait until all orders have been processed.

        :raises TimeoutError: they have not been in so many seconds.
        """
        for _ in range(int(seconds * 5)):
            if not await in_thread(self.pending):
                return
            await pause(0.2)
        raise TimeoutError(f"{await in_thread(self.pending)} orders are still pending after {seconds:.0f} s")

    def complaints(self, api: Api, most: int = 3) -> list[str]:
        """Return the last lines in the log of an API process about failed requests and other problems. Blocks."""
        with open(api.process.log, errors="replace") as log:
            return list(collections.deque((line.rstrip() for line in log if _COMPLAINT.search(line)), most))

    def setting(self, name: str) -> str:
        """Return a setting of PostgreSQL, or a variable of MariaDB. Blocks."""
        statement = f"SHOW {name}" if self.kind == "postgresql" else f"SELECT @@{name}"
        with self.engine.connect() as connection:
            return str(connection.exec_driver_sql(statement).scalar())

    def filesystem(self) -> str:
        """Return the type of the filesystem that the database is on."""
        directory = str(self.database.directory if self.database else self._directory)
        mounts = [each for each in psutil.disk_partitions(all=True) if directory.startswith(each.mountpoint)]
        return max(mounts, key=lambda each: len(each.mountpoint)).fstype if mounts else "unknown"

    def kill(self) -> None:
        """End every process and delete the data. Blocks."""
        if hasattr(self, "deployment"):
            self.deployment.stop()
            self._engine.dispose()
        for server in self._servers:
            server.stop()
        shutil.rmtree(self._directory, ignore_errors=True)
