"""The uses of private interfaces of libraries: this module contains those of twisted.web.

``compat_policy`` contains those of oslo.policy and ``compat_config`` those of oslo.config, so that workers import
neither twisted.web's server nor oslo.policy.

The tests in ``tests/unit/test_compat*.py`` fail with a clear message if a release of a library no longer supports these
uses. ``pyproject.toml`` sets an upper bound for each of these libraries. Before you raise a bound, run these tests and
read the release notes of the library.
"""
# ruff: noqa: D102  # Declarations for type checkers repeat methods that the libraries document.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IAddress, ITCPTransport
from twisted.logger import Logger
from twisted.web.http import NO_BODY_CODES, HTTPChannel
from twisted.web.server import Request, Site
from zope.interface import Attribute

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from io import BytesIO

    from twisted.python.failure import Failure
    from twisted.web import http


class IConnectionTransport(ITCPTransport):
    """A client's connection as Twisted's TCP and TLS transports provide it."""

    disconnecting: bool = Attribute("Whether ``loseConnection`` was called. No interface of Twisted names it.")


class ChannelBase(HTTPChannel):
    """twisted.web's HTTP/1.1 channel, with public names for the private state and hooks that barbtx uses.

    :ivar requests: the requests that are not yet answered, oldest first.
    :ivar length: length of the current request's body in bytes; None if it is chunked.
    :ivar persistent: whether the connection stays open after the current request.
    """

    # twisted.web logs under the name of the subclass otherwise, so that the log could not tell its lines from barbtx's.
    _log = Logger("twisted.web.http")

    if TYPE_CHECKING:
        # Types of attributes that twisted.web does not annotate.
        transport: IConnectionTransport
        timeOut: float | None  # type: ignore[assignment]  # TimeoutMixin only names int, but takes fractions as well.
        persistent: bool
        requests: list[Any]
        requestFactory: Any

        def __init__(self) -> None: ...
        def setTimeout(self, period: float | None) -> float | None: ...
        def resetTimeout(self) -> None: ...
        def timeoutConnection(self) -> None: ...
        def getHost(self) -> IAddress: ...
        def getPeer(self) -> IAddress: ...
        def isSecure(self) -> bool: ...
        def forceAbortClient(self) -> None: ...
        def connectionMade(self) -> None: ...
        def dataReceived(self, data: bytes) -> None: ...
        def lineReceived(self, line: bytes) -> None: ...
        def rawDataReceived(self, data: bytes) -> None: ...
        def allHeadersReceived(self) -> None: ...
        def allContentReceived(self) -> None: ...
        def requestDone(self, request: http.Request) -> None: ...
        def pauseProducing(self) -> None: ...
        def resumeProducing(self) -> None: ...
        def loseConnection(self) -> None: ...
        def connectionLost(self, reason: Failure = ...) -> None: ...

    @property
    def handling_request(self) -> bool:
        """Whether a request has been received completely and is not yet answered."""
        return self._handlingRequest

    @property
    def waiting_for_transport(self) -> bool:
        """Whether the transport's write buffer is full."""
        return self._waitingForTransport

    @property
    def has_buffered_input(self) -> bool:
        """Whether data of further requests has been received already."""
        return bool(self._buffer) or any(self._dataBuffer)

    def buffer_input(self, data: bytes) -> None:
        """Keep data of further requests until the current request is answered."""
        self._dataBuffer.append(data)

    def pause_reading(self) -> None:
        """Stop reading from the network."""
        self._networkProducer.pauseProducing()

    def unregister_from_transport(self) -> None:
        """Stop telling the transport when to pause; it can then be closed."""
        # The attribute's annotation lacks the second interface of the transport, IConsumer.
        producer: Any = self._networkProducer
        producer.unregisterProducer()

    def process_incomplete_request(self) -> None:
        """Process the current request although its body has not been received completely."""
        self._handlingRequest = True
        self.requests[-1].requestReceived(self._command, self._path, self._version)

    def send_continue(self) -> None:
        """Send ``100 Continue``, which the client has requested before it sends the body."""
        HTTPChannel._send100Continue(self)

    def malformed_request_received(self, *, head_too_large: bool) -> None:
        """Respond to data that is not a valid HTTP request, and close the connection.

        :param head_too_large: whether the request line and headers exceed twisted.web's limits.
        """
        HTTPChannel._respondToBadRequestAndDisconnect(self)

    def _send100Continue(self) -> None:
        self.send_continue()

    def _respondToBadRequestAndDisconnect(self) -> None:
        too_large = self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders
        self.malformed_request_received(head_too_large=too_large)

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        try:
            accepted: bool = HTTPChannel._maybeChooseTransferDecoder(self, header, data)
        except ValueError:
            # Content-Length has more digits than Python converts to an integer; twisted.web does not catch the error.
            return self._failChooseTransferDecoder()
        return accepted


class RequestBase(Request):
    """twisted.web's request, with types for attributes that twisted.web does not annotate, and direct ways to headers.

    :ivar received: the values of each request header by its name in canonical form, such as ``X-Auth-Token``. This is
        a view of ``requestHeaders``, which would convert each name that it is asked for.
    :ivar sent: the same of ``responseHeaders``.
    """

    _log = Logger("twisted.web.server")

    if TYPE_CHECKING:
        content: BytesIO
        path: bytes
        prepath: list[bytes]
        postpath: list[bytes]

        def __init__(self, channel: HTTPChannel, *arguments: Any, **options: Any) -> None: ...
        def gotLength(self, length: int | None) -> None: ...
        def handleContentChunk(self, data: bytes) -> None: ...
        def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None: ...
        def process(self) -> None: ...
        def processingFailed(self, reason: Failure) -> None: ...
        def write(self, data: bytes) -> None: ...
        def finish(self) -> None: ...
        def isSecure(self) -> bool: ...
        def setHeader(self, name: bytes, value: bytes) -> None: ...
        def connectionLost(self, reason: Failure) -> None: ...

        received: Mapping[bytes, Sequence[bytes]]
        sent: Mapping[bytes, Sequence[bytes]]
    else:

        def __init__(self, channel, *arguments, **options):
            super().__init__(channel, *arguments, **options)
            self.received = self.requestHeaders._rawHeaders
            self.sent = self.responseHeaders._rawHeaders

    def set_response_headers(self, headers: Mapping[bytes, bytes]) -> None:
        """Set headers of the response without the conversion and the checks of ``setHeader``.

        :param headers: values by names in canonical form. No value may contain an end of a line.
        """
        raw = self.responseHeaders._rawHeaders
        for name, value in headers.items():
            raw[name] = [value]

    def respond(self, body: bytes) -> None:
        """Send the whole response and finish the request. A response to a lost connection is dropped.

        Head and body are passed to the transport together. ``write`` would pass the parts of the head, then the body,
        after it has looked for headers that are not set.

        :param body: it is not sent if the request or the status does not allow it.
        """
        if self._disconnected:
            return
        has_body = self.code not in NO_BODY_CODES
        if has_body and b"Content-Length" not in self.sent:
            self.set_response_headers({b"Content-Length": b"%d" % len(body)})
        if self.startedWriting or self.cookies or self.etag is not None or self.lastModified is not None:
            self.write(body)
        else:
            self.startedWriting = 1
            parts = [b"%b %d %b\r\n" % (self.clientproto, self.code, self.code_message)]
            for name, values in self.sent.items():
                for value in values:
                    parts.append(b"%b: %b\r\n" % (name, value))
            parts.append(b"\r\n")
            if has_body and self.method != b"HEAD":
                parts.append(body)
                self.sentLength += len(body)
            self.channel.write(b"".join(parts))
        self.finish()


class SiteBase(Site):
    """twisted.web's site, with types for parameters that twisted.web does not annotate."""

    if TYPE_CHECKING:

        def __init__(
            self, resource: Any, *, timeout: float, reactor: Any, parsePOSTFormSubmission: bool = True
        ) -> None: ...
