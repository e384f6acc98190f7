"""Dead letters, as an operator sees them."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from txamqp.content import Content

from barbtx.queue.amqp.connection import Brokers, client_service
from barbtx.queue.transport import TaskMessage, encode
from tests.conftest import unique
from tests.functional.test_project_removal import logged
from tests.support.cluster import in_thread
from tests.support.servers import PostgreSQL, RabbitMQ
from tests.support.service import BIN, Deployment


@pytest.fixture
def deployment(postgresql: PostgreSQL, rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path, postgresql.new_database(unique()), rabbitmq.url, unique("tasks."))
    yield deployment
    deployment.stop()


def manage(deployment: Deployment, *command: str) -> list[str]:
    sets = [part for key, value in deployment.settings.items() for part in ("--set", f"{key}={value}")]
    done = subprocess.run([BIN / "barbtx-manage", *sets, *command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest_twisted.ensureDeferred
async def test_poison_is_kept_with_its_reason_and_can_be_sent_again(deployment: Deployment, rabbitmq: RabbitMQ) -> None:
    from twisted.internet import reactor

    queue = deployment.settings["queue.topic"]
    order, args = str(uuid.uuid4()), {"project_id": "p", "request_id": None}
    deleted = encode(TaskMessage("process_type_order", args | {"order_id": order}), "barbtx", "1.1")
    poison = {
        b"{": "not JSON", b"\xff": "not JSON", encode(TaskMessage("steal_keys", args), "barbtx", "1.1"): "unknown method",
        encode(TaskMessage("process_type_order", args), "barbtx", "1.1"): "an argument is missing",
        encode(TaskMessage("process_type_order", args), "barbtx", "2.0"): "another major version",
        encode(TaskMessage("process_type_order", args | {"order_id": "x" * 36}), "barbtx", "1.1"): "the order's id is no id",
    }

    async def nothing(client: object) -> None:
        pass

    service = client_service(reactor, Brokers.from_url(rabbitmq.url), "test", 10, nothing)
    service.startService()
    channel = await (await service.whenConnected(failAfterFailures=1)).new_channel()
    api, worker = deployment.api(), deployment.worker()
    for body in (deleted, *poison):
        channel.basic_publish(routing_key=queue, content=Content(body))
    # What is in order is processed beside it.
    assert (await api.finished(await api.order()))["status"] == "ACTIVE"
    await logged(worker, "a message goes to", len(poison))
    while (await channel.queue_declare(queue=f"{queue}.dead", passive=True)).message_count < len(poison):
        pass
    for _ in range(2):
        *lines, last = await in_thread(lambda: manage(deployment, "queue", "dead-letters"))
        assert last == "6 dead letters"
        assert {tuple(line.split("\t")[:2]) for line in lines} == {(queue, reason) for reason in poison.values()}
    assert (await in_thread(lambda: manage(deployment, "queue", "dead-letters", "--limit", "2")))[-1] == "2 dead letters"
    await in_thread(worker.stop)
    assert (await in_thread(lambda: manage(deployment, "queue", "requeue", "--limit", "4")))[-1] == "4 dead letters sent again"
    assert (await in_thread(lambda: manage(deployment, "queue", "requeue")))[-1] == "2 dead letters sent again"
    assert (await channel.queue_declare(queue=queue, passive=True)).message_count == 6
    again = deployment.worker()
    await logged(again, "a message goes to", len(poison))
    await service.stopService()


def test_without_a_broker_the_command_says_so(deployment: Deployment) -> None:
    sets = {**deployment.settings, "transport_url": "rabbit://127.0.0.1:1/", "queue.heartbeat_seconds": 1}
    done = subprocess.run([BIN / "barbtx-manage", *[p for k, v in sets.items() for p in ("--set", f"{k}={v}")], "queue",
                           "dead-letters"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith("barbtx-manage: no broker answers"), done
