"""Orders for keys do not wait for key pairs, and projects take turns, with a broker and without one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from txamqp.content import Content

from barbtx.queue.amqp.connection import Brokers
from barbtx.queue.amqp.one_shot import connect_one_shot
from barbtx.queue.transport import TaskMessage, encode
from barbtx.tasks.order_task import PROCESS_TYPE_ORDER
from tests.conftest import unique
from tests.support.cluster import in_thread, pause
from tests.support.logs import logged
from tests.support.own_database import NO_SCHEDULER, deployment_with_own_database
from tests.support.servers import PostgreSQL, RabbitMQ
from tests.support.service import Api, Deployment, Process


def reactor() -> Any:
    from twisted.internet import reactor

    return reactor


@pytest.fixture(params=["embedded", "distributed"])
def api(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Api]:
    """An API process, and a worker if there is a broker, with no other load."""
    if request.param == "embedded":
        deployment = Deployment(
            tmp_path, f"sqlite:///{tmp_path}/b.sqlite", **{"queue.local_wait_seconds": 0}, **NO_SCHEDULER
        )
    else:
        deployment = Deployment(
            tmp_path,
            request.getfixturevalue("postgresql").new_database(unique()),
            request.getfixturevalue("rabbitmq").url,
            unique("tasks."),
            **NO_SCHEDULER,
        )
        deployment.worker()
    yield deployment.api()
    deployment.stop()


async def pair(api: Api, algorithm: str = "rsa", bits: int = 2048, **meta: object) -> str:
    reply = await api.post(
        "/v1/orders", {"type": "asymmetric", "meta": {"algorithm": algorithm, "bit_length": bits, **meta}}
    )
    assert reply.status == 202, reply
    return reply.json["order_ref"]


async def active(api: Api, refs: list[str]) -> int:
    return sum([(await api.get(ref)).json["status"] == "ACTIVE" for ref in refs])


@pytest_twisted.ensureDeferred
async def test_a_key_does_not_wait_for_anybodys_pairs(api: Api) -> None:
    slow = [await pair(api.of("a"), "dsa", 4096) for _ in range(8)]
    other, begin = api.of("b"), reactor().seconds()
    assert (await other.finished(await other.order()))["status"] == "ACTIVE"
    assert await active(api.of("a"), slow) < len(slow) / 2, "the pairs were too quick to tell"
    assert reactor().seconds() - begin < 10


async def many(api: Api, count: int, order: Any) -> list[str]:
    turns = DeferredSemaphore(8)
    return await gatherResults([turns.run(lambda: Deferred.fromCoroutine(order(api))) for _ in range(count)])


@pytest_twisted.ensureDeferred
async def test_a_project_waits_only_for_its_share_of_a_processs_own_tasks(api: Api) -> None:
    much, little = api.of("much"), api.of("little")
    last = (await many(much, 40, pair))[-12:]
    before = await active(much, last)
    assert (await little.finished(await pair(little), 120))["status"] == "ACTIVE"
    # In the order of their creation, little's pair would have been made after all of these.
    assert before or await active(much, last) < 8


@pytest.fixture
def deployment(postgresql: PostgreSQL, rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path, postgresql.new_database(unique()), rabbitmq.url, unique("tasks."), **NO_SCHEDULER)
    yield deployment
    deployment.stop()


def order_message(order_id: str, project_id: str, **more: str) -> TaskMessage:
    arguments = {"order_id": order_id, "project_id": project_id, "request_id": None, **more}
    return TaskMessage(PROCESS_TYPE_ORDER, arguments)


async def messages(deployment: Deployment, rabbitmq: RabbitMQ, send: tuple[TaskMessage, ...] = ()) -> dict[str, int]:
    """Send messages to the queue that older releases know; return how many messages wait in each queue."""
    client = await connect_one_shot(reactor(), Brokers.from_url(rabbitmq.url), "test", 30)
    channel, topic = await client.new_channel(), deployment.settings["queue.topic"]
    for message in send:
        await channel.basic_publish(routing_key=topic, content=Content(encode(message, "barbtx", "1.1")))
    counts = {
        name: (await channel.queue_declare(queue=f"{topic}{name}", passive=True)).message_count
        for name in ("", ".asymmetric", ".dead")
    }
    client.transport.loseConnection()
    await client.disconnected.wait()
    return counts


@pytest.mark.parametrize(("order", "count"), [(pair, 40), (Api.order, 150)], ids=["pairs", "keys"])
@pytest_twisted.ensureDeferred
async def test_a_project_waits_only_for_its_share_of_the_queue(deployment: Deployment, order: Any, count: int) -> None:
    api = deployment.api()
    much, little = api.of("much"), api.of("little")
    refs = await many(much, count, order)
    other = await order(little)
    deployment.worker()
    order = await little.finished(other, 120)
    assert order["status"] == "ACTIVE"
    ended = [
        document["updated"]
        for document in [(await much.get(ref)).json for ref in refs]
        if document["status"] == "ACTIVE"
    ]
    # Orders in flight before the projects took turns may end first.
    assert sum(updated < order["updated"] for updated in ended) <= 10
    for ref in refs:
        assert (await much.finished(ref, 240))["status"] == "ACTIVE"


@pytest_twisted.ensureDeferred
async def test_a_message_of_an_older_release_finds_its_lane(deployment: Deployment, rabbitmq: RabbitMQ) -> None:
    api = deployment.api()
    await logged(api.process, "publisher: connected")
    ref = await pair(api)
    assert (await messages(deployment, rabbitmq))[".asymmetric"] == 1
    client = await connect_one_shot(reactor(), Brokers.from_url(rabbitmq.url), "test", 30)
    await (await client.new_channel()).queue_purge(queue=f"{deployment.settings['queue.topic']}.asymmetric")
    client.transport.loseConnection()
    await client.disconnected.wait()
    message = order_message(ref.rpartition("/")[2], api.project, later="é")
    await messages(deployment, rabbitmq, (message,))
    worker = deployment.worker()
    assert (await api.finished(ref))["status"] == "ACTIVE"
    await logged(worker, "to the end of")


@pytest_twisted.ensureDeferred
async def test_an_order_that_no_message_came_for_is_done_when_nothing_else_is(
    deployment: Deployment, rabbitmq: RabbitMQ
) -> None:
    api = deployment.api()
    mute = deployment.api(transport_url="rabbit://127.0.0.1:1/")
    mute = Api(mute.process, mute.url, api.project)
    refs = [await mute.order() for _ in range(5)]
    deployment.worker()
    refs.append(await api.order())
    for ref in refs:
        assert (await api.finished(ref))["status"] == "ACTIVE"


@pytest_twisted.ensureDeferred
async def test_a_client_may_delete_an_order_at_any_time_and_nobody_is_alarmed(
    deployment: Deployment, rabbitmq: RabbitMQ
) -> None:
    api = deployment.api()
    await logged(api.process, "publisher: connected")
    for ref in [await api.order(), await pair(api, passphrase="p"), await api.order()]:
        assert (await api.delete(ref)).status == 204
    worker: Process = deployment.worker()
    await logged(worker, "no longer exists", 3)
    running = await pair(api, "dsa", 4096)
    await logged(worker, "processing order")
    assert (await api.delete(running)).status == 204
    await logged(worker, "nothing is recorded")
    gone = order_message(str(uuid.uuid4()), "p")
    await messages(deployment, rabbitmq, (gone,))
    await logged(worker, "no longer exists", 4)
    assert (await messages(deployment, rabbitmq)) == {"": 0, ".asymmetric": 0, ".dead": 0}
    log = worker.read_log()
    assert "Traceback" not in log and "#critical" not in log and "#error" not in log, log
    assert (await api.get("/v1/secrets")).json["total"] == 0


@pytest_twisted.ensureDeferred
async def test_a_worker_that_stops_while_the_database_is_away_does_so_at_once_and_loses_nothing(
    tmp_path: Path, rabbitmq: RabbitMQ
) -> None:
    with deployment_with_own_database(tmp_path, rabbitmq) as (deployment, database):
        api, worker = deployment.api(), deployment.worker()
        await in_thread(database.kill)
        await messages(
            deployment,
            rabbitmq,
            tuple(order_message(str(uuid.uuid4()), "p") for _ in range(3)),
        )
        await logged(worker, "database unavailable", 3)
        begin = reactor().seconds()
        assert await in_thread(worker.stop) == 0
        assert reactor().seconds() - begin < 20
        while sum((await messages(deployment, rabbitmq)).values()) < 3:
            await pause(0.1)
        assert (await messages(deployment, rabbitmq))[".dead"] == 0
        api.process.kill()
