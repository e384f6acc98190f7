"""Faults of what barbtx depends on, against private servers that may be killed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol

from tests.conftest import unique
from tests.support.servers import PATIENCE, PostgreSQL, RabbitMQ, wait_until
from tests.support.service import Api, Deployment

QUICK = {
    "retry_scheduler.initial_delay_seconds": 0.2,
    "retry_scheduler.periodic_interval_max_seconds": 0.5,
    "retry_scheduler.first_publish_seconds": 1,
    "retry_scheduler.republish_seconds": 3,
    "queue.lease_seconds": 3,
    "queue.heartbeat_seconds": 1,
}
# Seconds, on a machine that is busy. What a frozen or dead server would be waited for is longer, or has no end.
_AT_ONCE = 30.0


def reactor():
    from twisted.internet import reactor

    return reactor


@pytest.fixture
def own_postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL for one test to mistreat."""
    server = PostgreSQL()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_rabbitmq() -> Iterator[RabbitMQ]:
    """A RabbitMQ for one test to mistreat."""
    server = RabbitMQ()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def deployments() -> Iterator[list[Deployment]]:
    """Deployments that end with the test."""
    running: list[Deployment] = []
    yield running
    for deployment in running:
        deployment.stop()


async def until(condition, seconds: float = PATIENCE) -> None:
    """Wait until a coroutine function says yes."""
    from twisted.internet.task import deferLater

    end = reactor().seconds() + seconds
    while not await condition():
        assert reactor().seconds() < end, "it did not happen in time"
        await deferLater(reactor(), 0.1, lambda: None)


async def timed(waiting: Deferred) -> tuple[float, object]:
    start = reactor().seconds()
    result = await waiting
    return reactor().seconds() - start, result


@pytest.mark.parametrize("fault", ["kill", "freeze"])
@pytest_twisted.ensureDeferred
async def test_a_database_that_is_down_gives_503_and_service_resumes(
    own_postgresql: PostgreSQL, deployments: list, tmp_path: Path, fault: str
) -> None:
    deployments.append(Deployment(tmp_path, own_postgresql.new_database("barbtx")))
    api = deployments[0].api()
    ref = await api.store("kept")
    own_postgresql.kill() if fault == "kill" else own_postgresql.signal(signal.SIGSTOP)
    for request in (
        lambda: api.get(ref),
        lambda: api.get(f"{ref}/payload"),
        lambda: api.get("/v1/orders"),
        lambda: api.post("/v1/secrets", {"payload": "lost?", "payload_content_type": "text/plain"}),
        lambda: api.delete(ref),
    ):
        seconds, reply = await timed(Deferred.fromCoroutine(request()))
        assert reply.status == 503 and seconds < 2, (reply, seconds)
        assert reply.json["code"] == 503 and int(reply.headers["retry-after"]) > 0
    assert (await api.get("/healthcheck")).status == 200
    own_postgresql.start() if fault == "kill" else own_postgresql.signal(signal.SIGCONT)

    async def served() -> bool:
        return (await api.get(f"{ref}/payload")).content == b"kept"

    await until(served)
    # What was answered with 503 was not done, not even later.
    assert (await api.get("/v1/secrets")).json["total"] == 1
    assert "Traceback" not in api.process.read_log()


@pytest_twisted.ensureDeferred
async def test_a_restarted_database_is_not_noticed_by_the_next_request(
    own_postgresql: PostgreSQL, deployments: list, tmp_path: Path
) -> None:
    deployments.append(Deployment(tmp_path, own_postgresql.new_database("barbtx")))
    api = deployments[0].api()
    await gatherResults([Deferred.fromCoroutine(api.store(str(n))) for n in range(20)])
    own_postgresql.kill()
    own_postgresql.start()
    replies = await gatherResults([Deferred.fromCoroutine(api.get("/v1/secrets?limit=1")) for _ in range(20)])
    assert [reply.status for reply in replies] == [200] * 20


@pytest_twisted.ensureDeferred
async def test_a_start_while_the_database_is_down_serves_once_it_is_up(
    own_postgresql: PostgreSQL, deployments: list, tmp_path: Path
) -> None:
    deployments.append(Deployment(tmp_path, own_postgresql.new_database("barbtx")))
    own_postgresql.kill()
    api = deployments[0].api()
    assert (await api.get("/v1/secrets")).status == 503
    own_postgresql.start()

    async def served() -> bool:
        return (await api.get("/v1/secrets")).status == 200

    await until(served)
    assert (await api.get(await api.store())).status == 200


@pytest_twisted.ensureDeferred
async def test_too_many_slow_queries_give_503_and_the_healthcheck_lives(
    own_postgresql: PostgreSQL, deployments: list, tmp_path: Path
) -> None:
    deployments.append(
        Deployment(
            tmp_path, own_postgresql.new_database("barbtx"), **{"database.max_pool_size": 2, "database.max_waiting": 5}
        )
    )
    api = deployments[0].api()
    ref = await api.store()
    own_postgresql.signal(signal.SIGSTOP)
    waiting = [Deferred.fromCoroutine(api.get(ref)) for _ in range(20)]
    assert (await api.get("/healthcheck")).status == 200
    replies = await gatherResults(waiting)
    assert {reply.status for reply in replies} == {503}
    own_postgresql.signal(signal.SIGCONT)

    async def served() -> bool:
        return (await api.get(ref)).status == 200

    await until(served)


@pytest_twisted.ensureDeferred
async def test_a_broker_that_is_down_loses_no_order(
    own_rabbitmq: RabbitMQ, postgresql: PostgreSQL, deployments: list, tmp_path: Path
) -> None:
    deployment = Deployment(tmp_path, postgresql.new_database(unique()), own_rabbitmq.url, "tasks", **QUICK)
    deployments.append(deployment)
    deployment.worker()
    api = deployment.api()
    assert (await api.finished(await api.order()))["status"] == "ACTIVE"
    own_rabbitmq.kill()
    refs = []
    for _ in range(5):
        seconds, ref = await timed(Deferred.fromCoroutine(api.order()))
        assert seconds < _AT_ONCE
        refs.append(ref)
    assert (await api.get(refs[0])).json["status"] == "PENDING"
    own_rabbitmq.start()
    orders = [await api.finished(ref) for ref in refs]
    assert {order["status"] for order in orders} == {"ACTIVE"}
    assert (await api.get("/v1/secrets?limit=1")).json["total"] == 6


@pytest_twisted.ensureDeferred
async def test_a_frozen_broker_is_given_up_and_no_order_waits_for_it(
    own_rabbitmq: RabbitMQ, postgresql: PostgreSQL, deployments: list, tmp_path: Path
) -> None:
    deployment = Deployment(tmp_path, postgresql.new_database(unique()), own_rabbitmq.url, "tasks", **QUICK)
    deployments.append(deployment)
    worker = deployment.worker()
    api = deployment.api()
    wait_until(lambda: "connected to the broker" in api.process.read_log(), PATIENCE, "the API did not connect")
    own_rabbitmq.signal(signal.SIGSTOP)
    seconds, ref = await timed(Deferred.fromCoroutine(api.order()))
    assert seconds < _AT_ONCE
    wait_until(lambda: "no heartbeat from the broker" in worker.read_log(), PATIENCE, "the worker did not notice")
    wait_until(lambda: "no heartbeat from the broker" in api.process.read_log(), PATIENCE, "the API did not notice")
    own_rabbitmq.signal(signal.SIGCONT)
    assert (await api.finished(ref))["status"] == "ACTIVE"
    assert (await api.get("/v1/secrets?limit=1")).json["total"] == 1


@pytest_twisted.ensureDeferred
async def test_orders_posted_before_any_worker_are_done_when_one_comes(
    rabbitmq: RabbitMQ, postgresql: PostgreSQL, deployments: list, tmp_path: Path
) -> None:
    deployment = Deployment(tmp_path, postgresql.new_database(unique()), rabbitmq.url, unique("tasks."), **QUICK)
    deployments.append(deployment)
    api = deployment.api()
    refs = [await api.order() for _ in range(5)]
    deployment.worker()
    orders = [await api.finished(ref) for ref in refs]
    assert {order["status"] for order in orders} == {"ACTIVE"}


@pytest_twisted.ensureDeferred
async def test_a_killed_worker_leaves_its_orders_to_the_others(
    rabbitmq: RabbitMQ, postgresql: PostgreSQL, deployments: list, tmp_path: Path
) -> None:
    deployment = Deployment(tmp_path, postgresql.new_database(unique()), rabbitmq.url, unique("tasks."), **QUICK)
    deployments.append(deployment)
    api = deployment.api()
    victim = deployment.worker()
    placing = [Deferred.fromCoroutine(api.order()) for _ in range(60)]
    refs = await gatherResults(placing[:10])
    victim.kill()
    deployment.worker()
    refs += await gatherResults(placing[10:])
    orders = [await api.finished(ref) for ref in refs]
    assert {order["status"] for order in orders} == {"ACTIVE"}
    assert len({order["secret_ref"] for order in orders}) == 60
    assert (await api.get("/v1/secrets?limit=1")).json["total"] == 60


@pytest_twisted.ensureDeferred
async def test_an_order_accepted_by_a_process_that_was_killed_is_done_by_the_next(
    deployments: list, tmp_path: Path
) -> None:
    # Nothing runs in the first process: it dies between the commit and the task, as far as the order can tell.
    deployment = Deployment(
        tmp_path, f"sqlite:///{tmp_path}/barbtx.sqlite", **QUICK | {"queue.local_wait_seconds": 0.01}
    )
    deployments.append(deployment)
    first = deployment.api(**{"queue.enable": "true", "transport_url": "rabbit://127.0.0.1:1/"})
    ref = (await first.order()).rpartition("/v1/")[2]
    first.process.kill()
    second = deployment.api()
    assert (await second.finished(f"/v1/{ref}"))["status"] == "ACTIVE"
    assert (await second.get("/v1/secrets?limit=1")).json["total"] == 1


class _Sender(Protocol):
    """Sends a request and leaves without waiting for the answer."""

    def connectionMade(self) -> None:
        self.transport.write(self.factory.request)
        self.transport.loseConnection()

    def connectionLost(self, reason: object) -> None:
        self.factory.gone.callback(None)


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_in_the_middle_leaves_no_half_secret(service: Api) -> None:
    api = service.of(unique())
    body = b'{"payload": "p", "payload_content_type": "text/plain"}'
    host, port = service.url.removeprefix("http://").split(":")
    for _ in range(30):
        factory = Factory.forProtocol(_Sender)
        factory.noisy = False
        factory.gone = Deferred()
        factory.request = (
            b"POST /v1/secrets HTTP/1.1\r\nHost: h\r\nX-Project-Id: %s\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % (api.project.encode(), len(body))
        ) + body
        from twisted.internet.endpoints import TCP4ClientEndpoint

        await TCP4ClientEndpoint(reactor(), host, int(port)).connect(factory)
        await factory.gone

    async def all_readable() -> bool:
        page = (await api.get("/v1/secrets?limit=100")).json
        payloads = [await api.get(f"{secret['secret_ref']}/payload") for secret in page["secrets"]]
        return all(payload.content == b"p" for payload in payloads)

    assert await all_readable()
    assert "Traceback" not in service.process.read_log()
