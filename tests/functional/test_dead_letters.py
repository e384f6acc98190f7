"""Dead letters, and the commands that show and requeue them."""

from __future__ import annotations

import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from txamqp.content import Content

from barbtx.config import load
from barbtx.queue.amqp.connection import Brokers, client_service
from barbtx.queue.amqp.dead_letters import DeadLetters
from barbtx.queue.amqp.one_shot import NoUsableBroker, connect_one_shot
from barbtx.queue.amqp.republishing import dead_letter
from barbtx.queue.amqp.topology import Topology, dead_letter_queues
from barbtx.queue.transport import TaskMessage, encode
from barbtx.tasks.order_task import PROCESS_TYPE_ORDER
from tests.conftest import unique
from tests.support.cluster import in_thread
from tests.support.logs import logged
from tests.support.proxy import Half, Proxy
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


async def nothing(client: object) -> None:
    pass


@pytest_twisted.ensureDeferred
async def test_poison_is_kept_with_its_reason_and_can_be_sent_again(deployment: Deployment, rabbitmq: RabbitMQ) -> None:
    from twisted.internet import reactor

    queue = deployment.settings["queue.topic"]
    order, args = str(uuid.uuid4()), {"project_id": "p", "request_id": None}
    deleted = encode(TaskMessage(PROCESS_TYPE_ORDER, args | {"order_id": order}), "barbtx", "1.1")
    poison = {
        b"{": "not JSON",
        b"\xff": "not JSON",
        encode(TaskMessage("steal_keys", args), "barbtx", "1.1"): "unknown method",
        encode(TaskMessage(PROCESS_TYPE_ORDER, args), "barbtx", "1.1"): "an argument is missing",
        encode(TaskMessage(PROCESS_TYPE_ORDER, args), "barbtx", "2.0"): "unsupported major version",
        encode(
            TaskMessage(PROCESS_TYPE_ORDER, args | {"order_id": "x" * 36}), "barbtx", "1.1"
        ): "order_id is not a UUID",
    }

    service = client_service(reactor, Brokers.from_url(rabbitmq.url), "test", 10, nothing)
    service.startService()
    channel = await (await service.whenConnected(failAfterFailures=1)).new_channel()
    api, worker = deployment.api(), deployment.worker()
    for body in (deleted, *poison):
        channel.basic_publish(routing_key=queue, content=Content(body))
    # Valid messages are processed meanwhile.
    assert (await api.finished(await api.order()))["status"] == "ACTIVE"
    await logged(worker, "moving a message to", len(poison))
    while (await channel.queue_declare(queue=f"{queue}.dead", passive=True)).message_count < len(poison):
        pass
    for _ in range(2):
        *lines, last = await in_thread(lambda: manage(deployment, "queue", "dead-letters"))
        assert last == "6 dead letters"
        assert {tuple(line.split("\t")[:2]) for line in lines} == {(queue, reason) for reason in poison.values()}
    assert (await in_thread(lambda: manage(deployment, "queue", "dead-letters", "--limit", "2")))[
        -1
    ] == "2 dead letters"
    await in_thread(worker.stop)
    assert (await in_thread(lambda: manage(deployment, "queue", "requeue", "--limit", "4")))[
        -1
    ] == "4 dead letters requeued"
    assert (await in_thread(lambda: manage(deployment, "queue", "requeue")))[-1] == "2 dead letters requeued"
    assert (await channel.queue_declare(queue=queue, passive=True)).message_count == 6
    again = deployment.worker()
    await logged(again, "moving a message to", len(poison))
    await service.stopService()


def test_without_a_broker_the_command_says_so(deployment: Deployment) -> None:
    sets = {**deployment.settings, "transport_url": "rabbit://127.0.0.1:1/", "queue.heartbeat_seconds": 1}
    done = subprocess.run(
        [BIN / "barbtx-manage", *[p for k, v in sets.items() for p in ("--set", f"{k}={v}")], "queue", "dead-letters"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and done.stderr.startswith("barbtx-manage: no broker responds"), done


_REFUSALS = [
    ({"transport_url": "rabbit://guest:guest@127.0.0.1:{port}/nowhere"}, "vhost nowhere not found"),
    ({"transport_url": "rabbit://guest:wrong@127.0.0.1:{port}/"}, "refuses the user 'guest' or its password"),
    ({"transport_url": "rabbit://127.0.0.1:1/"}, "connection refused"),
    ({"transport_url": "rabbit://127.0.0.1:1,127.0.0.1:2/"}, "127.0.0.1:2: connection refused"),
    ({"transport_url": "amqps://guest:guest@127.0.0.1:{port}/"}, "TLS with the broker at 127.0.0.1:{port} fails"),
    ({"transport_url": "rabbit://127.0.0.1:{database}/"}, "is it an AMQP broker"),
    ({"transport_url": "rabbit://broker.invalid/"}, "the host name is unknown"),
    ({"transport_url": "rabbit://127.0.0.1:{silent}/"}, "within 2.0 seconds"),
    ({"queue.topic": "mistyped"}, "the broker has no queue mistyped: check [queue] topic"),
    ({"queue.max_length": 7}, "the exchanges or queues at the broker differ from the configuration: 406"),
]


def test_the_command_says_in_one_line_why_it_cannot_look(
    deployment: Deployment, rabbitmq: RabbitMQ, postgresql: PostgreSQL
) -> None:
    deployment.worker()
    begin = time.monotonic()
    subprocess.run([BIN / "barbtx-manage", "--help"], capture_output=True, check=True)
    start = time.monotonic() - begin
    with socket.create_server(("127.0.0.1", 0)) as silent:
        places = {"port": rabbitmq.port, "database": postgresql.port, "silent": silent.getsockname()[1]}
        for settings, said in _REFUSALS:
            sets = {key: str(value).format(**places) for key, value in {**deployment.settings, **settings}.items()}
            begin = time.monotonic()
            done = subprocess.run(
                [
                    BIN / "barbtx-manage",
                    *[p for k, v in sets.items() for p in ("--set", f"{k}={v}")],
                    "queue",
                    "dead-letters",
                ],
                capture_output=True,
                text=True,
                timeout=60,
            )
            # The time that the interpreter takes to start is not counted.
            assert time.monotonic() - begin < 2 + 4 * start + 5, settings
            assert (done.returncode, done.stdout) == (1, ""), done
            *warnings, refusal = done.stderr.splitlines()
            assert ["[DEFAULT] transport_url, a secret, on the command line" in line for line in warnings] == [True] * (
                "@" in sets["transport_url"]
            ), done.stderr
            assert refusal.startswith("barbtx-manage: ") and said.format(**places) in refusal, done.stderr
            assert "wrong" not in done.stderr.replace("wrong version", "")


@pytest.mark.parametrize("silent", [False, True], ids=["lost", "silent"])
@pytest_twisted.ensureDeferred
async def test_a_broker_that_goes_away_while_it_is_asked_is_named_in_one_line(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    from twisted.internet import reactor

    conf = load([], [f"queue.topic={unique('tasks.')}"])
    proxy = Proxy(reactor, rabbitmq.port)
    brokers = Brokers.from_url(f"rabbit://guest:guest@127.0.0.1:{await proxy.start()}/")
    letters = DeadLetters(reactor, brokers, Topology.from_config(conf), dead_letter_queues(conf), 2.0)
    received, left = Half.dataReceived, [0]

    def receive(half: Half, data: bytes) -> None:
        if left[0] > 0 or (left[0] == 0 and not silent):
            left[0] -= 1
            received(half, data)
            if left[0] < 0:
                proxy.cut()

    service = client_service(reactor, Brokers.from_url(rabbitmq.url), "test", 10, nothing)
    service.startService()
    await letters.topology.declare(await (await service.whenConnected(failAfterFailures=1)).new_channel())
    await service.stopService()
    assert await letters.peek(10) == []
    monkeypatch.setattr(Half, "dataReceived", receive)
    # Cut the connection after each chunk of data, in either direction, while the command still waits for a reply.
    for chunks in range(1, 24, 2):
        left[0] = chunks
        begin = reactor.seconds()
        with pytest.raises(NoUsableBroker) as caught:
            await letters.peek(10)
        # The connection was not open yet, or it was lost, or the broker fell silent.
        assert "\n" not in str(caught.value) and "broker" in str(caught.value), chunks
        assert reactor.seconds() - begin < 30
    await proxy.stop()


@pytest_twisted.ensureDeferred
async def test_dead_letters_of_notifications_are_shown_beside_those_of_tasks_and_each_goes_back_to_its_queue(
    deployment: Deployment, rabbitmq: RabbitMQ
) -> None:
    from twisted.internet import reactor

    topic, pool = deployment.settings["queue.topic"], unique("pool.")
    deployment.settings |= {"keystone_notifications.pool_name": pool}
    client = await connect_one_shot(reactor, Brokers.from_url(rabbitmq.url), "test", 30)
    channel = await client.new_channel()
    await Topology.from_config(load([], [f"queue.topic={topic}"])).declare(channel)
    for queue in (pool, f"{pool}.dead"):
        await channel.queue_declare(queue=queue, durable=True)
    odd = Content(b"line\nbreak\t\x1b[31m\xff", properties={"headers": {"x-barbtx-reason": "a\nb\x1b"}})
    sent = [(topic, f"{topic}.dead"), (f"{topic}.asymmetric", f"{topic}.dead"), (pool, f"{pool}.dead")]
    for origin, dead in sent:
        await channel.basic_publish(routing_key=dead, content=dead_letter(Content(origin.encode()), "reason", origin))
    await channel.basic_publish(routing_key=f"{pool}.dead", content=odd)
    lines = await in_thread(lambda: manage(deployment, "queue", "dead-letters"))
    assert lines[-1] == "4 dead letters" and len(lines) == 5
    assert [line.split("\t")[0] for line in lines[:3]] == [origin for origin, _ in sent]
    assert lines[3] == "unknown\ta\\nb\\x1b\tline\\nbreak\\t\\x1b[31m\\xff" or lines[3].split("\t")[1] == "a\\nb\\x1b"
    assert (await in_thread(lambda: manage(deployment, "queue", "requeue")))[-1] == "4 dead letters requeued"
    for queue, count in ((topic, 1), (f"{topic}.asymmetric", 1), (pool, 2)):
        message = await channel.basic_get(queue=queue, no_ack=True)
        assert message.method.name == "get-ok" and message.message_count == count - 1
    client.transport.loseConnection()
    await client.disconnected.wait()
