"""The private parts of twisted.web, and the behavior of klein, on which barbtx relies, are still there.

A failure after an update of Twisted or klein means that barbtx/compat.py must be adapted before the upper bound of that
library in setup.py is raised.
"""

from __future__ import annotations

import inspect
from io import BytesIO
from typing import Any

import pytest
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import NO_BODY_CODES, HTTPChannel
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from barbtx.api.http import Site as BarbtxSite
from barbtx.compat import ChannelBase, RequestBase, SiteBase

ADAPT = "adapt barbtx/compat.py, then the upper bound of {} in setup.py"
HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n"


class Silent(Resource):
    """Never responds; keeps its requests."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def render(self, request: Any) -> int:
        self.requests.append(request)
        return NOT_DONE_YET


def connect(channel_type: type[HTTPChannel], resource: IResource | None = None) -> Any:
    """A channel of twisted.web's own site, connected to a transport in memory."""
    channel = channel_type()
    channel.factory = channel.site = Site(resource or Silent(), reactor=Clock())
    channel.requestFactory = Request
    channel.callLater = channel.site.reactor.callLater
    channel.makeConnection(StringTransport())
    return channel


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("_handlingRequest", bool),
        ("_waitingForTransport", bool),
        ("_dataBuffer", list),
        ("_buffer", bytes),
        ("_networkProducer", object),
        ("_receivedHeaderSize", int),
        ("_receivedHeaderCount", int),
        ("totalHeadersSize", int),
        ("maxHeaders", int),
        ("requests", list),
        ("length", int),
        ("persistent", int),
    ],
)
def test_a_channel_of_twisted_has_the_state_that_is_used(name: str, types: type) -> None:
    found = getattr(connect(HTTPChannel), name, None)
    assert isinstance(found, types), f"HTTPChannel.{name} is {found!r} now: " + ADAPT.format("Twisted")


@pytest.mark.parametrize("name", ["_command", "_path", "_version"])
def test_a_channel_of_twisted_keeps_the_request_line_until_the_body_is_complete(name: str) -> None:
    channel = connect(HTTPChannel)
    channel.dataReceived(HEAD + b"\r\nab")
    found = getattr(channel, name, None)
    assert isinstance(found, bytes), f"HTTPChannel.{name} is {found!r} now: " + ADAPT.format("Twisted")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_send100Continue", []),
        ("_respondToBadRequestAndDisconnect", []),
        ("_maybeChooseTransferDecoder", ["header", "data"]),
        ("_failChooseTransferDecoder", []),
    ],
)
def test_a_channel_of_twisted_has_the_methods_that_are_overridden(name: str, parameters: list[str]) -> None:
    method = getattr(HTTPChannel, name, None)
    assert method is not None, f"HTTPChannel has no {name} any more: " + ADAPT.format("Twisted")
    found = list(inspect.signature(method).parameters)[1:]
    assert found == parameters, f"HTTPChannel.{name} takes {found} now: " + ADAPT.format("Twisted")


@pytest.mark.parametrize(
    ("library", "names"),
    [
        (
            HTTPChannel,
            "setTimeout resetTimeout timeoutConnection getHost getPeer isSecure write "
            "forceAbortClient connectionMade dataReceived lineReceived rawDataReceived allHeadersReceived "
            "allContentReceived requestDone pauseProducing resumeProducing loseConnection connectionLost callLater "
            "lineLengthExceeded",
        ),
        (
            Request,
            "gotLength handleContentChunk requestReceived process processingFailed write finish isSecure "
            "connectionLost",
        ),
        (Site, "buildProtocol log startFactory stopFactory"),
    ],
)
def test_the_methods_that_barbtx_overrides_are_those_that_twisted_calls(library: type, names: str) -> None:
    missing = [name for name in names.split() if not callable(getattr(library, name, None))]
    assert not missing, f"{library.__name__} has no {missing} any more: " + ADAPT.format("Twisted")


def test_the_base_classes_add_nothing_but_names() -> None:
    assert issubclass(ChannelBase, HTTPChannel) and issubclass(RequestBase, Request) and issubclass(SiteBase, Site)
    assert issubclass(HTTPChannel, LineReceiver), ADAPT.format("Twisted")


def test_headers_are_seen_and_set_by_their_canonical_names() -> None:
    channel = connect(HTTPChannel)
    request = RequestBase(channel)
    request.requestHeaders.addRawHeader(b"x-AUTH-token", b"t")
    request.set_response_headers({b"Content-Type": b"a/b", b"Vary": b"x"})
    request.setHeader(b"vary", b"y")
    assert request.received[b"X-Auth-Token"] == [b"t"], ADAPT.format("Twisted")
    request.requestHeaders.removeHeader(b"x-auth-token")
    assert b"X-Auth-Token" not in request.received
    assert request.responseHeaders.getRawHeaders(b"content-type") == [b"a/b"]
    assert request.sent[b"Vary"] == [b"y"]


def cookie(request: Any) -> None:
    request.addCookie(b"name", b"value")


def etag(request: Any) -> None:
    request.setETag(b"tag")


def begun(request: Any) -> None:
    request.setHeader(b"content-length", b"8")
    request.write(b"body")


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
@pytest.mark.parametrize("code", [200, 204, 304, 404])
@pytest.mark.parametrize("prepare", [lambda request: None, cookie, etag, begun])
def test_a_response_in_one_write_is_what_twisted_would_write(
    method: bytes, version: bytes, code: int, prepare: Any
) -> None:
    written = []
    for at_once in (False, True):
        channel = connect(ChannelBase)
        request = RequestBase(channel)
        channel.requests.append(request)
        request.content, request.method, request.clientproto = BytesIO(), method, version
        request.setResponseCode(code)
        request.defaultContentType = None
        request.setHeader(b"x-a", b"1")
        request.responseHeaders.addRawHeader(b"x-a", b"2")
        prepare(request)
        if at_once:
            request.respond(b"body")
        else:
            if code not in NO_BODY_CODES and prepare is not begun:
                request.setHeader(b"content-length", b"4")
            request.write(b"body")
            request.finish()
        assert request.finished and not channel.requests
        written.append((channel.transport.value(), request.sentLength))
    assert written[0] == written[1], ADAPT.format("Twisted")


def test_a_response_to_a_lost_connection_is_dropped() -> None:
    channel = connect(ChannelBase)
    request = RequestBase(channel)
    request.content = BytesIO()
    channel.requests.append(request)
    channel.connectionLost(Failure(ConnectionDone()))
    request.respond(b"body")
    assert channel.transport.value() == b"" and not request.finished


class Recording(ChannelBase):
    """Records the calls of its hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[object] = []

    def send_continue(self) -> None:
        self.called.append("continue")

    def malformed_request_received(self, *, head_too_large: bool) -> None:
        self.called.append(head_too_large)


@pytest.mark.parametrize(
    ("sent", "called"),
    [
        (HEAD + b"Expect: 100-continue\r\n\r\n", ["continue"]),
        (b"nonsense\r\n", [False]),
        (HEAD + b"no colon\r\n\r\n", [False]),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", [False]),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", [False]),
        (b"GET / HTTP/1.1\r\n" + (b"A: " + b"x" * 10000 + b"\r\n") * 2, [True]),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 501 + b"\r\n", [True]),
    ],
)
def test_twisted_calls_the_hooks(sent: bytes, called: list[object]) -> None:
    channel = connect(Recording)
    channel.dataReceived(sent)
    assert channel.called[:1] == called, ADAPT.format("Twisted")


def test_twisted_itself_still_fails_on_a_length_of_very_many_digits() -> None:
    channel = connect(HTTPChannel)
    try:
        channel.dataReceived(b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n")
    except ValueError:
        return
    pytest.fail("Twisted rejects such a length now: remove ChannelBase._maybeChooseTransferDecoder")


def test_the_public_names_show_the_state_of_twisted() -> None:
    resource = Silent()
    channel = connect(ChannelBase, resource)
    assert not channel.handling_request and not channel.has_buffered_input and not channel.waiting_for_transport
    channel.dataReceived(HEAD + b"\r\na")
    channel.process_incomplete_request()
    assert channel.handling_request and [request.content.getvalue() for request in resource.requests] == [b"a"]
    channel.buffer_input(b"GET")
    assert channel.has_buffered_input
    channel.pauseProducing()
    assert channel.waiting_for_transport
    channel.pause_reading()
    assert channel.transport.producerState == "paused"
    channel.unregister_from_transport()
    assert channel.transport.producer is None and channel.transport.disconnecting is False
    channel.setTimeout(None)


# klein


class _Postpath(Resource):
    """Sets what barbtx's root resource sets, then renders klein's resource."""

    isLeaf = True

    def __init__(self, app: Klein) -> None:
        super().__init__()
        self.wrapped = app.resource()

    def render(self, request: Any) -> Any:
        request.prepath, request.postpath = [], [b"v1", b"secrets", b"a"]
        return self.wrapped.render(request)


def _serve(app: Klein) -> tuple[Any, StringTransport]:
    limits: dict[str, Any] = {"max_body": 10, "request_timeout": 30, "idle_timeout": 60, "max_connections": 1}
    transport = StringTransport()
    channel = BarbtxSite(_Postpath(app), Clock(), **limits).buildProtocol(None)
    channel.makeConnection(transport)
    channel.dataReceived(b"GET /other HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    return channel, transport


def test_klein_routes_by_the_postpath() -> None:
    app = Klein()

    @app.route("/v1/secrets/<secret_id>")
    def found(request: Any, secret_id: str) -> bytes:
        return b"found " + secret_id.encode()

    _, transport = _serve(app)
    assert b"found a" in transport.value(), ADAPT.format("klein")


def test_klein_cancels_a_handler_whose_client_disconnects() -> None:
    app, ended = Klein(), []

    @app.route("/<path:rest>")
    def wait(request: Any, rest: str) -> Deferred[bytes]:
        def note(failure: Failure) -> Failure:
            ended.append(failure.type)
            return failure

        waiting: Deferred[bytes] = Deferred()
        return waiting.addErrback(note)

    channel, _ = _serve(app)
    channel.connectionLost(Failure(ConnectionDone()))
    assert ended == [CancelledError], ADAPT.format("klein")


@pytest.mark.parametrize("base", [HTTPChannel, Request])
def test_twisted_web_logs_through_an_attribute_that_can_be_replaced(base: type) -> None:
    assert isinstance(base._log, Logger), ADAPT.format("Twisted")
