"""A connection whose client does not read, or sends more than it is asked for."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from barbtx.api.channel import Channel
from barbtx.api.http import Site
from tests.support.listening import Echo


class Transport(StringTransport):
    """A transport in memory, since a real one is above its high-water mark only when the system says so.

    A test says with :meth:`fill` and :meth:`drain` when it is.
    """

    full = aborted = False

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.1", 5000))

    def fill(self) -> None:
        if not self.full and self.producer is not None:
            self.full = True
            self.producer.pauseProducing()

    def drain(self) -> None:
        if self.full:
            self.full = False
            if self.producer is not None:
                self.producer.resumeProducing()

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()


class Connected:
    """A channel of a site, connected to a transport in memory."""

    def __init__(self, **limits: Any) -> None:
        self.clock, self.echo = Clock(), Echo()
        self.site = Site(
            self.echo,
            self.clock,
            **{
                "max_body": 1000,
                "request_timeout": 30,
                "idle_timeout": 60,
                "write_timeout": 20,
                "max_connections": 20,
                **limits,
            },
        )
        self.channel, self.transport = self.connect()

    def connect(self) -> tuple[Channel, Transport]:
        """A connection of the site."""
        channel, transport = self.site.buildProtocol(None), Transport()
        channel.makeConnection(transport)
        return channel, transport


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


ANSWERED = re.compile(rb"/big/\d+")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([1, 300]), min_size=1, max_size=12),
    st.integers(1, 200),
    st.lists(st.sampled_from(["receive", "receive", "fill", "drain", "answer"]), max_size=60),
)
def test_requests_are_answered_in_order_and_none_is_taken_from_a_client_that_does_not_read(
    sizes: list[int], piece: int, actions: list[str]
) -> None:
    made = Connected()
    paths = [f"/big/{size + n}" if n % 3 else "/hold" for n, size in enumerate(sizes)]
    incoming = b"".join(map(get, paths))

    def act(action: str) -> None:
        nonlocal incoming
        if action == "receive" and made.transport.producerState == "producing" and not made.transport.full:
            made.channel.dataReceived(incoming[:piece])
            incoming = incoming[piece:]
        elif action == "fill":
            made.transport.fill()
        elif action == "drain":
            made.transport.drain()
        elif action == "answer" and made.echo.hold:
            request = made.echo.hold.pop()
            request.write(b"/big/0")
            request.finish()
        made.clock.advance(0)

    for action in actions:
        before = made.echo.rendered
        full = made.transport.full
        act(action)
        assert not full or action == "drain" or made.echo.rendered == before, "a request was begun"
    for _ in range(len(incoming) + 100):
        for action in ("drain", "receive", "answer"):
            act(action)
    assert made.echo.rendered == len(paths)
    expected = [b"/big/0" if path == "/hold" else path.encode() for path in paths]
    assert ANSWERED.findall(made.transport.value()) == expected


@pytest.mark.parametrize(
    "request_",
    [
        get("/big/1"),
        b"POST /big/1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /big/1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ],
)
def test_pipelined_requests_leave_other_connections_their_turn(request_: bytes) -> None:
    made = Connected()
    made.channel.dataReceived(request_ * 50)
    assert made.echo.rendered == 1
    other, answers = made.connect()
    other.dataReceived(request_)
    assert len(ANSWERED.findall(answers.value())) == 1 and made.echo.rendered == 2
    made.clock.advance(0)
    assert len(ANSWERED.findall(made.transport.value())) == 50


@pytest.mark.parametrize("end", ["lost", "drained"])
def test_a_connection_that_ends_begins_no_further_request(end: str) -> None:
    made = Connected()
    made.channel.dataReceived(get("/big/1") * 3)
    if end == "lost":
        made.channel.connectionLost(Failure(ConnectionDone()))
    else:
        made.site.drain(0)
    made.clock.advance(1)
    assert made.echo.rendered == 1


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each line of the access log, whether the client had disconnected."""
    lines: list[bool] = []
    monkeypatch.setattr(
        "barbtx.api.http.log_request", lambda request, seconds, disconnected: lines.append(disconnected)
    )
    return lines


@pytest.mark.parametrize("held_by", ["transport", "pipelined request"])
@pytest.mark.parametrize("end", ["disconnect", "write timeout"])
def test_a_finished_request_that_the_channel_keeps_is_logged_once(held_by: str, end: str, logged: list[bool]) -> None:
    made = Connected()
    made.channel.dataReceived(get("/hold") + (get("/big/1") if held_by == "pipelined request" else b""))
    if held_by == "transport" or end == "write timeout":
        made.transport.fill()
    made.echo.hold[0].finish()
    assert logged == [False] and made.channel.requests == made.echo.hold, "the channel does not keep it"
    if end == "write timeout":
        made.clock.advance(20)
        assert made.transport.aborted
    made.channel.connectionLost(Failure(ConnectionDone()))
    assert logged == [False] and made.site.gauges()["requests"] == 0


def test_an_unfinished_request_is_logged_when_the_client_disconnects(logged: list[bool]) -> None:
    made = Connected()
    made.channel.dataReceived(get("/hold"))
    made.channel.connectionLost(Failure(ConnectionDone()))
    assert logged == [True]


@pytest.mark.parametrize("full", [False, True])
def test_what_is_received_ahead_is_bounded(full: bool) -> None:
    made = Connected()
    made.channel.dataReceived(get("/hold"))
    if full:
        made.transport.fill()
    received = 0
    while made.transport.producerState == "producing" and received < 1 << 20:
        made.channel.dataReceived(b"GET / HTTP/1.1\r\n")
        received += 16
    assert received <= 17000


def test_a_client_that_does_not_read_is_dropped_in_time() -> None:
    made = Connected()
    made.channel.dataReceived(get("/big/10"))
    made.transport.fill()
    made.clock.advance(19)
    made.transport.drain()
    made.clock.advance(30)
    assert not made.transport.aborted, "it did read"
    made.channel.dataReceived(get("/big/10"))
    made.transport.fill()
    made.clock.advance(20)
    assert made.transport.aborted


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /big/10 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"GET /big/10 HTTP/1.0\r\n\r\n",
        b"nonsense\r\n",
    ],
)
def test_so_is_one_that_does_not_read_the_last_answer(sent: bytes) -> None:
    made = Connected()
    made.channel.dataReceived(sent)
    assert made.transport.disconnecting and not made.transport.aborted
    made.clock.advance(20)
    assert made.transport.aborted


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nno colon\r\n" + get("/hold"),
        b"GET / HTTP/1.1\r\nContent-Length: x\r\nA: b\r\n\r\n" + get("/hold"),
        b"GET / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n" + get("/hold"),
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + get("/hold"),
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n" + get("/hold"),
    ],
)
def test_nothing_is_taken_for_a_request_after_something_that_was_none(sent: bytes) -> None:
    made = Connected()
    made.channel.dataReceived(sent)
    made.channel.dataReceived(get("/hold"))
    assert made.echo.rendered == 0
    assert made.transport.value().startswith(b"HTTP/1.1 400 ") and made.transport.value().count(b"HTTP/1.1") == 1


def test_no_body_is_asked_for_that_is_too_large() -> None:
    made = Connected()
    made.channel.dataReceived(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n")
    made.clock.advance(0)
    assert b"100 Continue" not in made.transport.value() and b'"too_large": true' in made.transport.value()


def test_an_https_resource_is_not_had_without_tls() -> None:
    made = Connected()
    made.channel.dataReceived(b"GET https://h/ HTTP/1.1\r\nHost: h\r\n\r\n")
    assert made.transport.value().startswith(b"HTTP/1.1 421 Misdirected Request\r\n") and made.echo.rendered == 0


def test_a_stop_answers_the_request_that_is_on_its_way_and_closes_idle_connections() -> None:
    made = Connected()
    idle = made.transport
    made.clock.advance(1)
    used, transport = made.connect()
    used.dataReceived(get("/"))
    assert b"200 OK" in transport.value()
    transport.clear()
    drained = made.site.drain(15)
    assert idle.disconnecting and not transport.disconnecting and not drained.called
    made.channel.connectionLost(Failure(ConnectionDone()))
    made.clock.advance(0.3)
    used.dataReceived(get("/"))
    assert b"200 OK" in transport.value() and b"connection: close" in transport.value().lower()
    assert transport.disconnecting
    used.connectionLost(Failure(ConnectionDone()))
    made.clock.advance(0.3)
    assert drained.called


def test_a_stop_does_not_wait_for_connections_on_which_nothing_arrives() -> None:
    made = Connected()
    held, transport = made.connect()
    held.dataReceived(get("/hold"))
    drained = made.site.drain(15)
    made.clock.advance(0.6)
    # The one that is silent is closed; the request in flight is answered, and its client knows that it was the last.
    assert made.transport.disconnecting and not transport.disconnecting and not drained.called
    made.channel.connectionLost(Failure(ConnectionDone()))
    made.echo.hold[0].finish()
    assert b"connection: close" in transport.value().lower() and drained.called
    without_wait = Connected()
    assert without_wait.site.drain(0).called and without_wait.transport.disconnecting
