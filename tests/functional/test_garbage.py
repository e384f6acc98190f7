"""Whatever comes in over the broker ends in the dead letters, and costs neither the consumer nor its connection."""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import attrs
import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import blockingCallFromThread, deferToThread
from txamqp.connection import Body, Frame, Method

from barbtx.queue.amqp.channel import Channel
from barbtx.queue.amqp.connection import Brokers, client_service
from barbtx.queue.amqp.consumer import Consumer
from barbtx.queue.amqp.frames import pack
from barbtx.queue.amqp.protocol import Client, load_spec
from barbtx.queue.amqp.republishing import ORIGIN, REASON
from barbtx.queue.amqp.topology import Topology
from barbtx.queue.server import Tasks
from barbtx.queue.transport import InvalidMessage, TaskMessage, decode, encode
from tests.support.servers import RabbitMQ
from workers.keystone_notifications import deleted_project

BASIC = load_spec().classes.byname["basic"]
GOOD_ID = "0e2bd3bf-6c1e-4dbb-9c74-5d2f9f1b2c0a"
_PROPERTIES = {
    "content-type": 15,
    "content-encoding": 14,
    "headers": 13,
    "correlation-id": 10,
    "reply-to": 9,
    "timestamp": 6,
    "type": 5,
    "app-id": 3,
}


def reactor() -> Any:
    from twisted.internet import reactor

    return reactor


async def within(deferred: Deferred, seconds: float = 60) -> Any:
    return await deferred.addTimeout(seconds, reactor())


# Bodies.
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_odd = st.sampled_from(
    [
        "",
        "\0",
        "\ud800",
        "a\0b",
        "x\udfff",
        "x" * 36,
        "x" * 300,
        GOOD_ID.upper(),
        GOOD_ID + " ",
        "é" * 36,
        "self",
        None,
        5,
        [],
        {},
        True,
    ]
)


def envelope(**changes: object) -> dict[str, object]:
    return {
        "version": "1.1",
        "namespace": "barbtx",
        "method": "process_type_order",
        "args": {"order_id": GOOD_ID, "project_id": "p", "request_id": None},
    } | changes


def task(**args: object) -> bytes:
    return json.dumps(envelope(args=envelope()["args"] | args)).encode()


_almost = st.one_of(
    st.builds(
        lambda key, value: json.dumps(envelope(**{key: value})).encode(),
        st.sampled_from(["version", "namespace", "method", "args"]),
        _json,
    ),
    st.builds(lambda value: task(order_id=value), _odd | _json),
    st.builds(
        lambda value: task(project_id=value), st.sampled_from(["", "\0", "a\0", "\ud800", "x" * 256, None, 5, [], {}])
    ),
    st.builds(lambda value: task(request_id=value), st.sampled_from(["", "\0", "\udfff", "x" * 256, 5, [], {}])),
)


def _is_bad(body: bytes) -> bool:
    """Whether it is not, by chance, a message in order."""
    try:
        args = decode(body, "barbtx", "1.1").args
        return str(uuid.UUID(args["order_id"])) != args["order_id"] or args["order_id"] != GOOD_ID
    except Exception:
        return True


bodies = (
    st.binary(max_size=200)
    | st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))
    | _json.map(lambda value: json.dumps(value).encode())
    | _almost
)


# Properties, as bytes on the wire: more than our own codec would write.
def short(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def long(data: bytes) -> bytes:
    return struct.pack("!L", len(data)) + data


_names = st.binary(min_size=1, max_size=128).map(short)
_scalars = st.one_of(
    st.binary(min_size=8, max_size=8).map(lambda data: b"l" + data),
    st.binary(max_size=40).map(lambda data: b"S" + long(data)),
    st.integers(0, 2**64 - 1).map(lambda n: b"T" + struct.pack("!Q", n)),
    st.just(b"V"),
    st.just(b"t\x01"),
    st.integers(0, 255).map(lambda n: b"b" + bytes([n])),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: b"d" + struct.pack("!d", value)),
    st.binary(min_size=5, max_size=5).map(lambda data: b"D" + data),
    st.binary(max_size=20).map(lambda data: b"x" + long(data)),
)
_table = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: b"A" + long(b"".join(items)))
        | st.lists(st.tuples(_names, inner), max_size=3).map(
            lambda pairs: b"F" + long(b"".join(n + v for n, v in pairs))
        )
    ),
)
_headers = st.lists(st.tuples(_names, _table), max_size=4).map(lambda pairs: long(b"".join(n + v for n, v in pairs)))
_shorts = st.binary(max_size=255).map(short)
properties = st.fixed_dictionaries(
    {},
    optional={
        "headers": _headers,
        "timestamp": st.binary(min_size=8, max_size=8),
        **dict.fromkeys(("content-type", "content-encoding", "correlation-id", "reply-to", "type", "app-id"), _shorts),
    },
)


def nested(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        value = b"F" + long(short(b"k") + value)
    return long(short(b"deep") + value)


def send_raw(channel: Channel, queue: str, body: bytes, wire: dict[str, bytes]) -> None:
    """Publish a message with properties that are given as bytes."""
    flags = sum(1 << _PROPERTIES[name] for name in wire)
    data = b"".join(wire[name] for name in sorted(wire, key=lambda name: -_PROPERTIES[name]))
    header = struct.pack("!HHQH", 60, 0, len(body), flags) + data
    chunk = channel.client.frame_max - 8
    method = Method(BASIC.methods.byname["publish"], 0, "", queue, False, False)
    channel.client.transport.write(
        b"".join(
            [
                pack(Frame(channel.id, method)),
                struct.pack("!BHL", 2, channel.id, len(header)) + header + b"\xce",
                *(pack(Frame(channel.id, Body(body[at : at + chunk]))) for at in range(0, len(body), chunk)),
            ]
        )
    )


@attrs.define
class Line:
    """A consumer on queues of its own, and a channel to publish and look with."""

    topology: Topology
    service: Consumer
    channel: Channel
    dead: int = 0

    async def expect_dead(self, more: int) -> None:
        """Wait until so many more dead letters are there."""
        self.dead += more
        end = reactor().seconds() + 60
        while (there := await self.count(self.topology.dead_queue)) < self.dead:
            assert reactor().seconds() < end, f"{there} of {self.dead} dead letters"
            await deferLater(reactor(), 0.02, lambda: None)
        assert there == self.dead

    async def count(self, queue: str) -> int:
        return (await self.channel.queue_declare(queue=queue, passive=True)).message_count

    async def letters(self, count: int) -> list[Any]:
        """Take dead letters."""
        taken = [await self.channel.basic_get(queue=self.topology.dead_queue, no_ack=True) for _ in range(count)]
        self.dead -= count
        return [message.content for message in taken]


async def _line(rabbitmq: RabbitMQ, handle: Any, made: list) -> Line:
    name = f"tasks.{uuid.uuid4().hex}"
    topology = Topology(name, f"{name}.dead", "", delivery_limit=3, max_length=100000)
    brokers = Brokers.from_url(rabbitmq.url)

    async def nothing(client: Client) -> None:
        pass

    publisher = client_service(reactor(), brokers, "test", 60, nothing)
    service = Consumer(reactor(), brokers, topology, handle, 60, 8, 5)
    made += [service, publisher]
    publisher.startService()
    channel = await (await publisher.whenConnected(failAfterFailures=1)).new_channel()
    await topology.declare(channel)
    service.startService()
    await within(service._connection.whenConnected())
    return Line(topology, service, channel)


@pytest_twisted.async_yield_fixture
async def made() -> AsyncIterator[list]:
    services: list = []
    yield services
    for service in services:
        await service.stopService()


class Never:
    """What must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked of")


async def _task_handle(body: bytes) -> None:
    tasks = Tasks(Never(), Never(), Never())
    await tasks.dispatch(decode(body, "barbtx", "1.1"))


async def _notification_handle(body: bytes) -> None:
    if deleted_project(body) is None:
        raise InvalidMessage("of no interest here")


@pytest.mark.parametrize("handle", [_task_handle, _notification_handle], ids=["tasks", "notifications"])
@pytest_twisted.ensureDeferred
async def test_garbage_of_every_form_becomes_dead_letters(rabbitmq: RabbitMQ, made: list, handle: Any) -> None:
    line = await _line(rabbitmq, handle, made)
    before = line.service._session.client

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(bodies.filter(_is_bad), properties), min_size=1, max_size=20))
    def deliver(batch: list[tuple[bytes, dict[str, bytes]]]) -> None:
        blockingCallFromThread(reactor(), lambda: Deferred.fromCoroutine(_deliver(line, batch)))

    # Hypothesis calls and waits, which only a thread may do.
    await deferToThread(deliver)
    assert line.service._session.client is before and not before.closed
    assert await line.count(line.topology.queue) == 0


async def _deliver(line: Line, batch: list[tuple[bytes, dict[str, bytes]]]) -> None:
    for body, wire in batch:
        send_raw(line.channel, line.topology.queue, body, wire)
    await line.expect_dead(len(batch))
    letters = await line.letters(len(batch))
    assert sorted(letter.body for letter in letters) == sorted(body for body, _ in batch)
    for letter in letters:
        assert letter.properties["headers"][REASON] and letter.properties["headers"][ORIGIN] == line.topology.queue


@pytest.mark.parametrize(
    "wire",
    [
        {"headers": nested(60)},
        {"headers": nested(5000)},
        {"headers": long(short(b"\xff" * 255) + b"S" + long(b"x" * 120000))},
        {"content-type": short(b"\xff" * 255), "type": short(b"\0" * 255)},
        {"headers": long(short(b"k") + b"T" + b"\xff" * 8)},
        {"timestamp": b"\xff" * 8},
        {"headers": long(b"".join(short(b"%d" % n) + b"V" for n in range(15000)))},
        {
            "headers": long(
                short(b"x-death")
                + b"S"
                + long(b"forged")
                + short(REASON.encode())
                + b"V"
                + short(b"x-delivery-count")
                + b"S"
                + long(b"a\nb\tc\x1b")
            )
        },
    ],
    ids=["nested", "nested too deeply", "long", "not UTF-8", "large time", "large timestamp", "many", "forged"],
)
@pytest_twisted.ensureDeferred
async def test_odd_properties_cost_nothing(rabbitmq: RabbitMQ, made: list, wire: dict[str, bytes]) -> None:
    line = await _line(rabbitmq, _task_handle, made)
    before = line.service._session.client
    await _deliver(line, [(b"garbage", wire), (b"more", {})])
    assert line.service._session.client is before and not before.closed


@pytest_twisted.ensureDeferred
async def test_a_body_that_is_too_long_is_put_aside_with_its_beginning(rabbitmq: RabbitMQ, made: list) -> None:
    line = await _line(rabbitmq, _task_handle, made)
    before = line.service._session.client
    whole, beyond = b"[" * (1 << 20), b"{" * (3 << 20)
    for body in (whole, beyond):
        send_raw(line.channel, line.topology.queue, body, {})
    await line.expect_dead(2)
    letters = await line.letters(2)
    assert {letter.body for letter in letters} == {whole, beyond[: 1 << 20]}
    (reason,) = [letter.properties["headers"][REASON] for letter in letters if letter.body[:1] == b"{"]
    assert "longer than 1048576 bytes" in reason
    assert line.service._session.client is before


@pytest_twisted.ensureDeferred
async def test_what_was_delivered_on_a_connection_that_is_lost_does_not_cost_the_next_one(
    rabbitmq: RabbitMQ, made: list
) -> None:
    for failure in (InvalidMessage("bad"), RuntimeError("unexpected"), None):
        gates: list[Deferred[None]] = []

        async def handle(body: bytes, gates: list[Deferred[None]] = gates) -> None:
            gates.append(Deferred())
            await gates[-1]

        line = await _line(rabbitmq, handle, made)
        send_raw(line.channel, line.topology.queue, encode(TaskMessage("x", {}), "barbtx", "1.1"), {})
        await _until(partial(len, gates))
        first = line.service._session
        first.client.transport.abortConnection()
        await _until(partial(_is_redelivered, line, first, gates))
        second = line.service._session
        gates[0].errback(failure) if failure else gates[0].callback(None)
        # Longer than a message is kept that could not be sent on.
        await deferLater(reactor(), 1.5, lambda: None)
        assert line.service._session is second and not second.client.closed
        gates[1].errback(InvalidMessage("bad"))
        await line.expect_dead(1)
        assert line.service._session is second


def _is_redelivered(line: Any, first: Any, gates: list[Deferred[None]]) -> bool:
    return line.service._session not in (None, first) and len(gates) == 2


async def _until(condition: Any) -> None:
    end = reactor().seconds() + 60
    while not condition():
        assert reactor().seconds() < end
        await deferLater(reactor(), 0.02, lambda: None)
