"""The AMQP transport against a real RabbitMQ, with each defect of txAMQP that it corrects."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.task import deferLater
from txamqp.client import ChannelClosed, Closed
from txamqp.content import Content
from txamqp.message import Message

from barbtx.config import load
from barbtx.errors import ConfigurationError
from barbtx.queue.amqp.channel import Channel
from barbtx.queue.amqp.connection import Brokers, client_service
from barbtx.queue.amqp.consumer import Consumer
from barbtx.queue.amqp.protocol import Client
from barbtx.queue.amqp.publisher import AMQPTransport
from barbtx.queue.amqp.topology import Topology
from barbtx.queue.transport import InvalidMessage, PublishRefused, TaskMessage, decode
from barbtx.tasks.order_task import PROCESS_TYPE_ORDER
from tests.support.certificates import authority, certificate
from tests.support.servers import PATIENCE, RabbitMQ

MESSAGE = TaskMessage(PROCESS_TYPE_ORDER, {"order_id": "o", "project_id": "p", "request_id": None})


def reactor() -> Any:
    from twisted.internet import reactor

    return reactor


@pytest.fixture
def broker(rabbitmq: RabbitMQ) -> Brokers:
    return Brokers.from_url(rabbitmq.url)


@pytest.fixture
def topology() -> Topology:
    name = f"tasks.{uuid.uuid4().hex}"
    return Topology(name, f"{name}.dead", "", delivery_limit=3, max_length=100)


@pytest_twisted.async_yield_fixture
async def client(broker: Brokers) -> AsyncIterator[Client]:
    """An open connection."""

    async def nothing(client: Client) -> None:
        pass

    service = client_service(reactor(), broker, "test", 10, nothing)
    service.startService()
    yield await service.whenConnected(failAfterFailures=1)
    await service.stopService()


@pytest_twisted.async_yield_fixture
async def channel(client: Client, topology: Topology) -> AsyncIterator[Channel]:
    """A channel, with the topology declared."""
    channel = await client.new_channel()
    await topology.declare(channel)
    yield channel
    if not client.closed:
        cleaner = await client.new_channel()
        await cleaner.queue_delete(queue=topology.queue)
        await cleaner.queue_delete(queue=topology.dead_queue)


async def consume(channel: Channel, queue: str) -> DeferredQueue:
    """The messages of a queue, in the order in which they are delivered."""
    messages: DeferredQueue = DeferredQueue()
    channel.on_deliver = messages.put
    await channel.basic_consume(queue=queue, consumer_tag="c")
    return messages


async def within(deferred: Deferred, seconds: float = PATIENCE) -> Any:
    return await deferred.addTimeout(seconds, reactor())


def publish(channel: Channel, queue: str, body: bytes, **properties: object) -> None:
    channel.basic_publish(routing_key=queue, content=Content(body, properties=properties))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        '{"a":"é"}'.encode(),
        b"\xff\xfe\x00",
        bytes(range(256)) * 1200,
        b"a" * 131000 + "é".encode() * 50000,
        "é".encode() * 70000 + b"\xff" * 70000,
    ],
    ids=["empty", "ascii", "utf-8", "binary", "300 KB", "text of several frames", "text, then binary"],
)
@pytest_twisted.ensureDeferred
async def test_bodies_come_back_byte_for_byte(channel: Channel, topology: Topology, body: bytes) -> None:
    messages = await consume(channel, topology.queue)
    publish(channel, topology.queue, body)
    message = await within(messages.get())
    assert message.content.body == body


@pytest_twisted.ensureDeferred
async def test_properties_and_headers_come_back(channel: Channel, topology: Topology) -> None:
    messages = await consume(channel, topology.queue)
    headers = {"text": "é", "number": -5, "nested": {"list": [True, None, 1.5]}}
    publish(channel, topology.queue, b"x", **{"delivery-mode": 2, "message-id": "é", "headers": headers})
    content = (await within(messages.get())).content
    assert content["delivery-mode"] == 2 and content["message-id"] == "é" and content["headers"] == headers


@pytest_twisted.ensureDeferred
async def test_a_redelivery_says_how_often(channel: Channel, topology: Topology) -> None:
    messages = await consume(channel, topology.queue)
    publish(channel, topology.queue, b"x")
    first = await within(messages.get())
    channel.basic_reject(delivery_tag=first.delivery_tag, requeue=True)
    second = await within(messages.get())
    assert second.redelivered and second.content["headers"]["x-delivery-count"] == 1


@pytest_twisted.ensureDeferred
async def test_a_dead_letter_says_why(client: Client, channel: Channel, topology: Topology) -> None:
    messages = await consume(channel, topology.queue)
    dead = await consume(await client.new_channel(), topology.dead_queue)
    publish(channel, topology.queue, b"x")
    channel.basic_reject(delivery_tag=(await within(messages.get())).delivery_tag, requeue=False)
    (death,) = (await within(dead.get())).content["headers"]["x-death"]
    assert (death["reason"], death["queue"], death["count"]) == ("rejected", topology.queue, 1)


@pytest_twisted.ensureDeferred
async def test_a_message_that_always_fails_ends_as_a_dead_letter(
    client: Client, channel: Channel, topology: Topology
) -> None:
    messages = await consume(channel, topology.queue)
    dead = await consume(await client.new_channel(), topology.dead_queue)
    publish(channel, topology.queue, b"x")
    for _ in range(topology.delivery_limit + 1):
        channel.basic_reject(delivery_tag=(await within(messages.get())).delivery_tag, requeue=True)
    (death,) = (await within(dead.get())).content["headers"]["x-death"]
    assert death["reason"] == "delivery_limit"


@pytest_twisted.ensureDeferred
async def test_many_calls_on_one_channel_get_their_own_replies(channel: Channel, topology: Topology) -> None:
    calls = [
        channel.queue_declare(queue=topology.queue, passive=True),
        channel.basic_qos(prefetch_count=1),
        channel.queue_purge(queue=topology.queue),
        channel.confirm_select(),
    ]
    assert [(await within(call)).method.name for call in calls] == ["declare-ok", "qos-ok", "purge-ok", "select-ok"]


@pytest_twisted.ensureDeferred
async def test_a_channel_error_closes_the_channel_only(client: Client, channel: Channel) -> None:
    other = await client.new_channel()
    with pytest.raises(ChannelClosed, match="404"):
        await within(other.queue_declare(queue=f"none.{uuid.uuid4().hex}", passive=True))
    with pytest.raises(ChannelClosed):
        await within(other.basic_qos(prefetch_count=1))
    assert (await within(channel.basic_qos(prefetch_count=1))).method.name == "qos-ok"


@pytest_twisted.ensureDeferred
async def test_a_topology_with_other_arguments_is_an_error(
    client: Client, channel: Channel, topology: Topology
) -> None:
    with pytest.raises(ChannelClosed, match="406"):
        await attrs.evolve(topology, delivery_limit=9).declare(await client.new_channel())


@pytest_twisted.ensureDeferred
async def test_the_broker_knows_our_name_and_capabilities(client: Client, channel: Channel, rabbitmq: RabbitMQ) -> None:
    messages = await consume(channel, await _temporary_queue(channel))
    cancelled: Deferred[Message] = Deferred()
    channel.on_cancel = cancelled.callback
    deleter = await client.new_channel()
    await deleter.queue_delete(queue="temporary")
    assert (await within(cancelled)).consumer_tag == "c"
    assert messages.pending == []


async def _temporary_queue(channel: Channel) -> str:
    await channel.queue_declare(queue="temporary", auto_delete=True)
    return "temporary"


@pytest_twisted.ensureDeferred
async def test_an_unknown_frame_ends_the_connection_instead_of_hanging_it(client: Client) -> None:
    lost = client.disconnected.wait()
    client.dataReceived(b"\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x03\xe7\xce")
    await within(lost)
    with pytest.raises(Closed):
        await client.channels[0].connection_open(virtual_host="/")


@pytest_twisted.ensureDeferred
async def test_a_wrong_password_is_told_as_such(broker: Brokers) -> None:
    async def nothing(client: Client) -> None:
        pass

    service = client_service(
        reactor(), Brokers.from_url(f"rabbit://guest:wrong@127.0.0.1:{broker.members[0].port}/"), "test", 10, nothing
    )
    service.startService()
    with pytest.raises(Closed):
        await within(service.whenConnected(failAfterFailures=1))
    # The service is still in the callback that reports the failure.
    await deferLater(reactor(), 0, lambda: None)
    await service.stopService()


class _Tasks:
    """Tasks with a given outcome, which put the messages that they receive into ``taken``."""

    def __init__(self, outcome: Callable[[], Any] = lambda: None) -> None:
        self.taken: DeferredQueue = DeferredQueue()
        self._outcome = outcome

    async def dispatch(self, message: TaskMessage) -> None:
        self.taken.put(message)
        result = self._outcome()
        if isinstance(result, Deferred):
            await result


def transport(broker: Brokers, topology: Topology, **settings: Any) -> AMQPTransport:
    return AMQPTransport(
        **{
            "reactor": reactor(),
            "brokers": broker,
            "topology": topology,
            "namespace": "barbtx",
            "version": "1.1",
            "heartbeat": 10,
            "max_unconfirmed": 50,
            **settings,
        }
    )


def consumer(broker: Brokers, topology: Topology, tasks: _Tasks, **settings: Any) -> Consumer:
    async def handle(body: bytes) -> None:
        await tasks.dispatch(decode(body, "barbtx", "1.1"))

    return Consumer(
        **{
            "reactor": reactor(),
            "brokers": broker,
            "source": topology,
            "handle": handle,
            "heartbeat": 10,
            "concurrency": 2,
            "grace": 5,
            **settings,
        }
    )


async def ready(sender: AMQPTransport) -> AMQPTransport:
    end = reactor().seconds() + 10
    while not sender.ready:
        assert reactor().seconds() < end, "never ready"
        await deferLater(reactor(), 0.02, lambda: None)
    return sender


@pytest_twisted.async_yield_fixture
async def sender(broker: Brokers, topology: Topology, channel: Channel) -> AsyncIterator[AMQPTransport]:
    service = transport(broker, topology)
    service.startService()
    yield await ready(service)
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_message_is_confirmed_and_taken(sender: AMQPTransport, broker: Brokers, topology: Topology) -> None:
    tasks = _Tasks()
    service = consumer(broker, topology, tasks)
    service.startService()
    await within(sender.send(MESSAGE))
    assert await within(tasks.taken.get()) == MESSAGE
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_no_more_tasks_are_in_hand_than_configured(
    sender: AMQPTransport, broker: Brokers, topology: Topology
) -> None:
    gates: list[Deferred] = []
    closed = True

    def outcome() -> Deferred | None:
        if closed:
            gates.append(Deferred())
            return gates[-1]

    tasks = _Tasks(outcome)
    service = consumer(broker, topology, tasks)
    service.startService()
    for _ in range(4):
        await within(sender.send(MESSAGE))
    for _ in range(2):
        await within(tasks.taken.get())
    third = tasks.taken.get()
    # After a round trip to the broker, further messages would have been delivered.
    await within(sender.send(MESSAGE))
    assert not third.called and len(gates) == 2
    gates[0].callback(None)
    await within(third)
    closed = False
    for gate in gates[1:]:
        gate.callback(None)
    await within(service.stopService())


@pytest_twisted.ensureDeferred
async def test_work_without_messages_and_messages_share_the_configured_number(
    sender: AMQPTransport, broker: Brokers, topology: Topology
) -> None:
    running: list[Deferred] = []
    numbers: list[int] = []
    found: DeferredQueue = DeferredQueue()
    taken: DeferredQueue = DeferredQueue()

    async def work(begun: DeferredQueue) -> bool:
        gate: Deferred = Deferred()
        running.append(gate)
        numbers.append(len(running))
        begun.put(None)
        await gate
        return True

    def end_all() -> None:
        for gate in list(running):
            running.remove(gate)
            gate.callback(None)

    async def look() -> None:
        # The first look finds something, so that as many as are allowed follow.
        end_all()
        await within(found.get())
        end_all()
        for _ in range(2):
            await within(found.get())

    service = consumer(broker, topology, _Tasks(), handle=lambda body: work(taken), process_next=lambda: work(found))
    service.startService()
    await within(sender.send(MESSAGE))
    await within(taken.get())
    await look()
    for _ in range(4):
        await within(sender.send(MESSAGE))
    while service.gauges()["messages in flight"] != 2:
        await deferLater(reactor(), 0.01, lambda: None)
    assert len(running) == 2 and not taken.pending
    for _ in range(4):
        end_all()
        await within(taken.get())
    await look()
    await within(sender.send(MESSAGE))
    while not service.gauges()["messages in flight"]:
        await deferLater(reactor(), 0.01, lambda: None)
    # The message still waits, and is returned.
    stopped = service.stopService()
    end_all()
    await within(stopped)
    assert max(numbers) == 2 and not service.unfinished and not taken.pending
    again = _Tasks()
    service = consumer(broker, topology, again)
    service.startService()
    assert await within(again.taken.get()) == MESSAGE
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_bad_message_is_put_aside_and_the_next_one_taken(
    sender: AMQPTransport, client: Client, channel: Channel, broker: Brokers, topology: Topology
) -> None:
    def outcome() -> None:
        raise InvalidMessage("not for us")

    dead = await consume(await client.new_channel(), topology.dead_queue)
    bodies = [b"", b"{", b"\xff\xfe", '{"a":"é"}'.encode(), b"x" * 300000]
    for body in bodies:
        publish(channel, topology.queue, body)
    good, refusing = _Tasks(), _Tasks(outcome)
    service = consumer(broker, topology, good)
    service.startService()
    letters = [await within(dead.get()) for _ in bodies]
    assert {letter.content.body for letter in letters} == set(bodies)
    for letter in letters:
        headers = letter.content.properties["headers"]
        assert headers["x-barbtx-queue"] == topology.queue and headers["x-barbtx-reason"]
    await within(sender.send(MESSAGE))
    assert await within(good.taken.get()) == MESSAGE
    await service.stopService()
    service = consumer(broker, topology, refusing)
    service.startService()
    await within(sender.send(MESSAGE))
    await within(dead.get())
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_stopping_returns_what_is_not_finished_in_time(
    sender: AMQPTransport, broker: Brokers, topology: Topology
) -> None:
    tasks = _Tasks(lambda: Deferred())
    service = consumer(broker, topology, tasks, grace=0.05)
    service.startService()
    await within(sender.send(MESSAGE))
    await within(tasks.taken.get())
    await within(service.stopService())
    again = _Tasks()
    service = consumer(broker, topology, again)
    service.startService()
    assert await within(again.taken.get()) == MESSAGE
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_consuming_resumes_after_the_queue_was_deleted(
    sender: AMQPTransport, client: Client, broker: Brokers, topology: Topology
) -> None:
    tasks = _Tasks()
    service = consumer(broker, topology, tasks)
    service.startService()
    await within(sender.send(MESSAGE))
    await within(tasks.taken.get())
    deleter = await client.new_channel()
    await deleter.queue_delete(queue=topology.queue)
    taken = tasks.taken.get()
    while not taken.called:
        await ready(sender)
        with contextlib.suppress(PublishRefused):
            await within(sender.send(MESSAGE))
        await deferLater(reactor(), 0.05, lambda: None)
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_message_that_finds_no_queue_is_refused(
    sender: AMQPTransport, client: Client, topology: Topology
) -> None:
    deleter = await client.new_channel()
    await deleter.queue_delete(queue=topology.queue)
    with pytest.raises(PublishRefused, match="no queue"):
        await within(sender.send(MESSAGE))
    # The next connection declares the queue again.
    await within(Deferred.fromCoroutine(ready(sender)))
    await within(sender.send(MESSAGE))


@pytest_twisted.ensureDeferred
async def test_a_full_queue_refuses_messages(broker: Brokers, topology: Topology, channel: Channel) -> None:
    small = attrs.evolve(
        topology, queue=f"{topology.queue}.small", dead_queue=f"{topology.queue}.small.dead", max_length=2
    )
    service = transport(broker, small)
    service.startService()
    await ready(service)
    refusals = 0
    for _ in range(10):
        try:
            await within(service.send(MESSAGE))
        except PublishRefused:
            refusals += 1
    assert refusals
    await service.stopService()
    await channel.queue_delete(queue=small.queue)
    await channel.queue_delete(queue=small.dead_queue)


@pytest_twisted.ensureDeferred
async def test_unconfirmed_messages_are_bounded_and_told_of_a_lost_connection(
    broker: Brokers, topology: Topology, channel: Channel
) -> None:
    service = transport(broker, topology, max_unconfirmed=3)
    service.startService()
    await ready(service)
    waiting = [service.send(MESSAGE) for _ in range(3)]
    assert not service.ready
    with pytest.raises(PublishRefused):
        await service.send(MESSAGE)
    service._client.transport.abortConnection()
    for deferred in waiting:
        with pytest.raises(PublishRefused):
            await within(deferred)
    await within(Deferred.fromCoroutine(ready(service)))
    await within(service.send(MESSAGE))
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_without_a_broker_messages_are_refused_at_once(topology: Topology) -> None:
    service = transport(Brokers.from_url("rabbit://127.0.0.1:1"), topology)
    service.startService()
    with pytest.raises(PublishRefused):
        await service.send(MESSAGE)
    await service.stopService()


def test_a_transport_url_names_one_broker_or_several() -> None:
    several = Brokers.from_url("rabbit://u:p%40@one:1,v:q@[::1],three/v%2Fhost?x=1")
    assert [(b.host, b.port, b.user, b.password) for b in several.members] == [
        ("one", 1, "u", "p@"),
        ("::1", 5672, "v", "q"),
        ("three", 5672, "u", "p@"),
    ]
    assert several.vhost == "v/host" and Brokers.from_url("amqps://h").members[0].port == 5671
    assert "p@" not in repr(several) and Brokers.from_url("rabbit://h/").vhost == "/"
    for bad in ("", "h:5672", "http://h", "rabbit://", "rabbit://h:x/", "rabbit://a,,b/"):
        with pytest.raises(ConfigurationError):
            Brokers.from_url(bad)


@pytest_twisted.ensureDeferred
async def test_when_one_broker_is_away_the_next_is_taken(
    rabbitmq: RabbitMQ, topology: Topology, channel: Channel
) -> None:
    both = Brokers.from_url(f"rabbit://127.0.0.1:1,127.0.0.1:{rabbitmq.port}/")
    service = transport(both, topology)
    service.startService()
    await ready(service)
    await within(service.send(MESSAGE))
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_queue_with_other_arguments_is_a_clear_error(
    broker: Brokers, topology: Topology, channel: Channel
) -> None:
    refused: list[str] = []
    service = transport(broker, attrs.evolve(topology, max_length=7), refuse=refused.append)
    service.startService()
    while not refused:
        await deferLater(reactor(), 0.02, lambda: None)
    await service.stopService()
    assert len(refused) == 1 and "x-max-length" in refused[0] and topology.dead_queue in refused[0]


@pytest_twisted.ensureDeferred
async def test_dead_letters_may_go_through_an_exchange_of_their_own(
    client: Client, broker: Brokers, topology: Topology
) -> None:
    mine = attrs.evolve(
        topology,
        queue=f"{topology.queue}.x",
        dead_queue=f"{topology.queue}.x.dead",
        dead_exchange=f"{topology.queue}.dlx",
    )
    channel = await client.new_channel()
    await mine.declare(channel)
    await mine.declare(channel)
    publish(channel, mine.queue, b"one")
    message = await within((await consume(channel, mine.queue)).get())
    dead = await consume(await client.new_channel(), mine.dead_queue)
    await channel.basic_reject(delivery_tag=message.delivery_tag, requeue=False)
    assert (await within(dead.get())).content.body == b"one"
    for queue in (mine.queue, mine.dead_queue):
        await channel.queue_delete(queue=queue)
    await channel.exchange_delete(exchange=mine.dead_exchange)


@pytest_twisted.ensureDeferred
async def test_tls_with_client_certificates(topology: Topology, tmp_path: Path) -> None:
    ca = authority(tmp_path, "ca")
    server, ours = certificate(tmp_path, ca, "127.0.0.1"), certificate(tmp_path, ca, "client")
    rabbitmq = RabbitMQ(tls=(str(ca.path), *server))
    try:
        rabbitmq.start()
        settings = [
            "oslo_messaging_rabbit.ssl_ca_file=" + str(ca.path),
            "oslo_messaging_rabbit.ssl_cert_file=" + ours[0],
            "oslo_messaging_rabbit.ssl_key_file=" + ours[1],
        ]
        url = f"transport_url=amqps://guest:guest@127.0.0.1:{rabbitmq.tls_port}/"
        service = transport(Brokers.from_config(load([], [url, *settings])), topology)
        service.startService()
        await ready(service)
        await within(service.send(MESSAGE))
        await service.stopService()
        for missing, reason in ((settings[1:], "certificate verify failed"), (settings[:1], "certificate required")):
            service = transport(Brokers.from_config(load([], [url, *missing])), topology)
            service.startService()
            with pytest.raises(Closed, match=reason):
                await within(service._connection.whenConnected(failAfterFailures=2))
            # ClientService is still notifying of the failure.
            await deferLater(reactor(), 0, lambda: None)
            assert not service.ready
            await service.stopService()
    finally:
        rabbitmq.stop()
