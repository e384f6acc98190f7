"""API nodes and workers over servers of their own: load to put on them, and what must be true of them afterwards."""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import psutil
import sqlalchemy
from sqlalchemy import func, select
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.task import deferLater

from barbtx.model import models
from tests.support.proxy import Proxy
from tests.support.servers import PATIENCE, PostgreSQL, RabbitMQ
from tests.support.service import Api, Deployment, Process

#: Everything that waits does so for seconds instead of minutes.
QUICK = {
    "retry_scheduler.initial_delay_seconds": 0.2,
    "retry_scheduler.periodic_interval_max_seconds": 0.5,
    "retry_scheduler.first_publish_seconds": 1,
    "retry_scheduler.republish_seconds": 3,
    "queue.lease_seconds": 3,
    "queue.heartbeat_seconds": 1,
    "queue.shutdown_seconds": 5,
}
KEY = {"type": "key", "meta": {"algorithm": "aes", "bit_length": 256}}
PAIR = {"type": "asymmetric", "meta": {"algorithm": "rsa", "bit_length": 1024}}
# By so much processes may grow over a fault; pools of threads and connections fill up to their limits.
_MAY_GROW = {"descriptors": 40, "threads": 25, "megabytes": 80}


def reactor() -> Any:
    from twisted.internet import reactor

    return reactor


async def pause(seconds: float) -> None:
    """A fault lasts for a time, and nothing tells when it has lasted long enough."""
    await deferLater(reactor(), seconds, lambda: None)


@attrs.frozen
class Figures:
    """What became of the orders; see :meth:`Cluster.settle`."""

    accepted: int
    lost: int
    doubled: int
    stuck: int
    orphans: int
    failed: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.accepted} orders accepted, {self.lost} lost, {self.doubled} doubled, {self.stuck} stuck, "
            f"{self.orphans} orphans, {self.failed} failed; settled {self.seconds:.1f} s after the fault"
        )

    @property
    def flawless(self) -> bool:
        return not any((self.lost, self.doubled, self.stuck, self.orphans, self.failed))


class Cluster:
    """Two API nodes and two workers; RabbitMQ is reached through a proxy.

    :ivar accepted: ids of the orders that were answered 202.
    """

    def __init__(self, directory: Path, **settings: object) -> None:
        self.postgresql, self.rabbitmq = PostgreSQL(), RabbitMQ()
        self._directory, self._settings = directory, settings
        self.accepted: set[str] = set()
        self.apis: list[Api] = []
        self.workers: list[Process] = []
        self._turn = itertools.count()

    async def start(self, apis: int = 2, workers: int = 2) -> Cluster:
        self.postgresql.start()
        self.rabbitmq.start()
        self.proxy = Proxy(reactor(), self.rabbitmq.port)
        port = await self.proxy.start()
        self.deployment = Deployment(
            self._directory,
            self.postgresql.new_database("barbtx"),
            f"rabbit://guest:guest@127.0.0.1:{port}/",
            "tasks",
            **{**QUICK, **self._settings},
        )
        for _ in range(apis):
            self.apis.append(await self.start_api())
        for _ in range(workers):
            self.workers.append(await self.start_worker())
        return self

    # Processes are started in threads: they reach the broker through this process's proxy.
    async def start_api(self, **settings: object) -> Api:
        return await in_thread(lambda: self.deployment.api(**settings))

    async def start_worker(self, **settings: object) -> Process:
        return await in_thread(lambda: self.deployment.worker(**settings))

    async def stop(self) -> None:
        if hasattr(self, "deployment"):
            self.deployment.stop()
        if hasattr(self, "proxy"):
            await self.proxy.stop()
        self.postgresql.stop()
        self.rabbitmq.stop()

    @property
    def processes(self) -> list[Process]:
        return [*(api.process for api in self.apis), *self.workers]

    async def place(self, count: int, concurrency: int = 16, pairs: float = 0.1, timeout: float = 60) -> None:
        """Order keys, and pairs among them, of whichever node answers, until so many have been accepted."""
        semaphore = DeferredSemaphore(concurrency)
        await gatherResults(
            [semaphore.run(lambda: Deferred.fromCoroutine(self._order(pairs, timeout))) for _ in range(count)],
            consumeErrors=True,
        )

    async def _order(self, pairs: float, timeout: float) -> None:
        body = PAIR if random.random() < pairs else KEY
        end = reactor().seconds() + timeout
        while reactor().seconds() < end:
            api = self.apis[next(self._turn) % len(self.apis)]
            try:
                reply = await api.post("/v1/orders", body)
            except Exception:
                # The node is gone, or went away in the middle: whether it took the order nobody knows.
                await pause(0.2)
                continue
            if reply.status == 202:
                self.accepted.add(reply.json["order_ref"].rpartition("/")[2])
                return
            assert reply.status == 503, reply
            await pause(0.2)
        raise TimeoutError("nobody accepts orders")

    def engine(self) -> sqlalchemy.Engine:
        url = self.deployment.settings["database.connection"].replace("postgresql://", "postgresql+psycopg://")
        return sqlalchemy.create_engine(url)

    def pending(self) -> int | None:
        """How many orders are PENDING; None if the database is away."""
        engine = self.engine()
        try:
            with engine.connect() as connection:
                return _count(connection, select(models.Order.id).where(models.Order.status == "PENDING"))
        except sqlalchemy.exc.OperationalError:
            return None
        finally:
            engine.dispose()

    async def settle(self, seconds: float = PATIENCE) -> Figures:
        """Wait until no order is PENDING, and count what became of the orders.

        Lost orders were accepted and are not there, or lack what they should have made. Doubled orders made it more
        than once. Orphans belong to no order, or are payloads without secrets and the reverse.
        """
        engine, begin = self.engine(), reactor().seconds()
        order = models.Order

        while True:
            stuck = self.pending()
            if stuck == 0 or reactor().seconds() - begin > seconds:
                break
            await pause(0.2)
        took = reactor().seconds() - begin
        with engine.connect() as connection:
            ended = connection.execute(
                select(order.id, order.status, order.type, order.secret_id, order.container_id)
            ).all()
            tasks = _count(connection, select(models.OrderRetryTask.order_id))
            secrets = set(connection.scalars(select(models.Secret.id)))
            data = set(connection.scalars(select(models.EncryptedDatum.secret_id)))
            containers = set(connection.scalars(select(models.Container.id)))
            links = connection.execute(
                select(models.ContainerSecret.container_id, models.ContainerSecret.secret_id)
            ).all()
        engine.dispose()
        active = [row for row in ended if row.status == "ACTIVE"]
        wanted_secrets = [row.secret_id for row in active if row.type == "key"]
        wanted_containers = [row.container_id for row in active if row.type == "asymmetric"]
        linked = [link.secret_id for link in links if link.container_id in set(wanted_containers)]
        made = [*wanted_secrets, *linked]
        there = {row.id for row in ended}
        incomplete = sum(secret not in data for secret in wanted_secrets) + max(
            0, 2 * len(wanted_containers) - len(linked)
        )
        return Figures(
            accepted=len(self.accepted),
            lost=len(self.accepted - there) + incomplete,
            stuck=max(stuck or 0, tasks),
            doubled=len(made) - len(set(made)) + max(0, len(linked) - 2 * len(wanted_containers)),
            orphans=len(secrets - set(made)) + len(data ^ secrets) + len(containers - set(wanted_containers)),
            failed=sum(row.status == "ERROR" for row in ended),
            seconds=took,
        )

    def resources(self) -> dict[int, dict[str, float]]:
        """What each process holds."""
        held = {}
        for process in self.processes:
            seen = psutil.Process(process.process.pid)
            held[seen.pid] = {
                "descriptors": seen.num_fds(),
                "threads": seen.num_threads(),
                "megabytes": seen.memory_info().rss / 2**20,
            }
        return held

    def leaks(self, before: dict[int, dict[str, float]]) -> list[str]:
        """What processes that were there before hold too much of now."""
        now = self.resources()
        return [
            f"process {pid}: {what} from {held[what]:.0f} to {now[pid][what]:.0f}"
            for pid, held in before.items()
            if pid in now
            for what, more in _MAY_GROW.items()
            if now[pid][what] > held[what] + more
        ]

    def logs(self) -> str:
        return "".join(process.read_log() for process in self.deployment.processes)


def _count(connection: sqlalchemy.Connection, query: Any) -> int:
    return connection.scalar(select(func.count()).select_from(query.subquery()))


async def in_thread(work: Any) -> Any:
    """Run what blocks without holding up the proxy."""
    from twisted.internet.threads import deferToThread

    return await deferToThread(work)


@attrs.frozen
class Faults:
    """What can happen to a cluster; each is over when its method returns."""

    cluster: Cluster

    async def kill_worker(self) -> None:
        index = random.randrange(len(self.cluster.workers))
        self.cluster.workers[index].kill()
        self.cluster.workers[index] = await self.cluster.start_worker()

    async def kill_api(self) -> None:
        index = random.randrange(len(self.cluster.apis))
        self.cluster.apis[index].process.kill()
        self.cluster.apis[index] = await self.cluster.start_api()

    async def restart_worker(self) -> None:
        """As a deployment does: ask it to stop, and start the next release."""
        index = random.randrange(len(self.cluster.workers))
        status = await in_thread(self.cluster.workers[index].stop)
        assert status == 0, self.cluster.workers[index].read_log()[-2000:]
        self.cluster.workers[index] = await self.cluster.start_worker()

    async def restart_api(self) -> None:
        index = random.randrange(len(self.cluster.apis))
        status = await in_thread(self.cluster.apis[index].process.stop)
        assert status == 0, self.cluster.apis[index].process.read_log()[-2000:]
        self.cluster.apis[index] = await self.cluster.start_api()

    async def kill_broker(self) -> None:
        await in_thread(self.cluster.rabbitmq.kill)
        await in_thread(self.cluster.rabbitmq.start)

    async def stop_broker(self, seconds: float = 8) -> None:
        await in_thread(self.cluster.rabbitmq.kill)
        await pause(seconds)
        await in_thread(self.cluster.rabbitmq.start)

    async def freeze_broker(self, seconds: float = 5) -> None:
        self.cluster.rabbitmq.signal(signal.SIGSTOP)
        await pause(seconds)
        self.cluster.rabbitmq.signal(signal.SIGCONT)

    async def cut_connections(self) -> None:
        self.cluster.proxy.cut()

    async def swallow_packets(self, seconds: float = 5) -> None:
        self.cluster.proxy.swallows = True
        await pause(seconds)
        self.cluster.proxy.cut()
        self.cluster.proxy.swallows = False

    async def kill_database(self) -> None:
        await in_thread(self.cluster.postgresql.kill)
        await in_thread(self.cluster.postgresql.start)

    async def freeze_database(self, seconds: float = 3) -> None:
        self.cluster.postgresql.signal(signal.SIGSTOP)
        await pause(seconds)
        self.cluster.postgresql.signal(signal.SIGCONT)

    async def freeze_worker(self, seconds: float = 5) -> None:
        """Longer than its leases hold: others take over, and what it does then must not count."""
        worker = random.choice(self.cluster.workers)
        worker.process.send_signal(signal.SIGSTOP)
        await pause(seconds)
        worker.process.send_signal(signal.SIGCONT)

    @classmethod
    def names(cls) -> Iterable[str]:
        return sorted(
            name
            for name, value in vars(cls).items()
            if not name.startswith("_") and name not in ("cluster", "names") and callable(value)
        )
