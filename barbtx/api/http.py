"""Requests as barbtx takes them: bodies in memory only and bounded while they arrive, a deadline, no HTML.

What twisted.web would do otherwise: write a body of 100,000 bytes or of unknown length to a temporary file (a secret in
clear on the disk), read it whole however long it is, and let a client that sends a byte now and then stay for ever.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request as TwistedRequest, Site as TwistedSite

from barbtx import activity
from barbtx.activity import Activity
from barbtx.api.answers import apply_fault, render_fault
from barbtx.api.access_log import log_request
from barbtx.errors import TITLES, Fault

log = Logger()

# A client that is refused in the middle of its body is still read for a while, so that the answer reaches it: closing
# at once would make the client's system discard what it has not read.
_LINGER_BYTES = 4 << 20
_LINGER_SECONDS = 2.0


class Request(TwistedRequest):
    """A request.

    :ivar too_large: the body is longer than the limit; ``content`` holds its beginning.
    :ivar request_id: ``req-<uuid>``, once the pipeline has given it one.
    :ivar context: the caller, once the pipeline knows.
    :ivar microversion: of the API, once the pipeline knows.
    :ivar client_address: the client's address, once the pipeline knows.
    :ivar fault: what the client is told of a failure, if it is told of one.
    :ivar probe: whether it only asks whether the service is up.
    """

    defaultContentType = None
    too_large = False
    request_id: str | None = None
    context: Any = None
    microversion: Any = None
    client_address: str | None = None
    fault: Fault | None = None
    probe = False

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()
        if length is not None and length > self.channel.site.max_body:
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:
        room = self.channel.site.max_body - self.content.tell()
        self.content.write(data[:room])
        if len(data) > room:
            self._refuse_body()

    def _refuse_body(self) -> None:
        self.too_large = True
        self.channel.answer_early()

    def process(self) -> None:
        site = self.site = self.channel.site
        self.started = site.clock.seconds()
        site.begin(self)
        hand = Activity()
        self.notifyFinish().addBoth(lambda outcome: activity.run(hand, site.end, self, outcome))
        self.prepath, self.postpath = [], []
        try:
            activity.run(hand, self.render, site.resource)
        except Exception:
            self.processingFailed(Failure())

    def processingFailed(self, reason: Failure) -> None:
        """Whatever escaped every other handler: logged, and answered without a word of it."""
        log.failure("request failed", failure=reason, request_id=self.request_id)
        if self.startedWriting:
            self.channel.forceAbortClient()
            return
        self.write(apply_fault(self, Fault(500, None)))
        self.finish()


class Channel(HTTPChannel):
    """A client's connection."""

    site: Site
    _deadline: Any = None
    _early: Any = None
    _lingering = 0

    def connectionMade(self) -> None:
        super().connectionMade()
        if not self.site.admit(self):
            self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        if self._lingering:
            self._lingering -= len(data)
            if self._lingering <= 0:
                self.forceAbortClient()
            return
        self._start_deadline()
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        # A pipelined request comes out of the buffer, not from the network.
        self._start_deadline()
        super().lineReceived(line)

    def allContentReceived(self) -> None:
        self._arrived()
        if self._early is not None and self._early.active():
            self._early.cancel()
        super().allContentReceived()

    def answer_early(self) -> None:
        """Process the request now, with the part of its body that is there, and close the connection after it."""
        if self._lingering:
            return
        self._lingering = _LINGER_BYTES
        self.persistent = False
        self.requests[-1].responseHeaders.setRawHeaders(b"connection", [b"close"])
        self._arrived()
        # Not from within the parser, which has not seen the end of what it is parsing.
        self._early = self.site.clock.callLater(0, self._process_early)

    def _process_early(self) -> None:
        self.setTimeout(None)
        self._handlingRequest = True
        self.requests[-1].requestReceived(self._command, self._path, self._version)

    def loseConnection(self) -> None:
        if not self._lingering:
            super().loseConnection()
            return
        self._networkProducer.unregisterProducer()
        getattr(self.transport, "loseWriteConnection", self.transport.loseConnection)()
        self._deadline = self.site.clock.callLater(_LINGER_SECONDS, self.forceAbortClient)

    def connectionLost(self, reason: Failure) -> None:
        self._arrived()
        if self._early is not None and self._early.active():
            self._early.cancel()
        self.site.dismiss(self)
        super().connectionLost(reason)

    def _start_deadline(self) -> None:
        if self._deadline is None and not self._handlingRequest:
            self._deadline = self.site.clock.callLater(self.site.request_timeout, self._too_slow)

    def _arrived(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        self._refuse(408, "The request took too long to arrive.")

    def _respondToBadRequestAndDisconnect(self) -> None:
        self._refuse(400, "This is not an HTTP request that can be understood.")

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse(431, "A line of the request's head is too long.")

    def _refuse(self, status: int, description: str) -> None:
        body = render_fault(Fault(status, description))
        self.transport.write(
            b"HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (status, TITLES[status].encode(), len(body), body)
        )
        super().loseConnection()


class Site(TwistedSite):
    """The listening service's factory; it knows every connection and every request under way.

    :param max_body: bytes of a body that are read.
    :param request_timeout: seconds in which a request must have arrived.
    """

    requestFactory = Request
    displayTracebacks = False
    noisy = False

    def __init__(self, resource: IResource, clock: IReactorTime, *, max_body: int, request_timeout: float,
                 idle_timeout: float, max_connections: int) -> None:
        super().__init__(resource, timeout=idle_timeout, reactor=clock, parsePOSTFormSubmission=False)
        self.clock = clock
        self.max_body = max_body
        self.request_timeout = request_timeout
        self.max_connections = max_connections
        self._connections: set[Channel] = set()
        self._requests: set[Request] = set()
        self._drained: Deferred[None] | None = None

    def buildProtocol(self, addr: object) -> Channel:
        channel = Channel()
        channel.requestFactory = self.requestFactory
        channel.factory = channel.site = self
        channel.timeOut = self.timeOut
        channel.callLater = self.clock.callLater
        return channel

    def admit(self, channel: Channel) -> bool:
        self._connections.add(channel)
        return len(self._connections) <= self.max_connections

    def dismiss(self, channel: Channel) -> None:
        self._connections.discard(channel)

    def gauges(self) -> dict[str, object]:
        """What is going on, for the report to an operator."""
        return {"connections": len(self._connections), "requests": len(self._requests)}

    def begin(self, request: Request) -> None:
        self._requests.add(request)
        if self._drained is not None:
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
            request.channel.persistent = False

    def end(self, request: Request, outcome: object) -> None:
        self._requests.discard(request)
        log_request(request, self.clock.seconds() - request.started, isinstance(outcome, Failure))
        if self._drained is not None and not self._requests and not self._drained.called:
            self._drained.callback(None)

    def drain(self, seconds: float) -> Deferred[None]:
        """Wait for the requests under way, for at most so long, then close every connection."""
        self._drained = Deferred()
        for request in self._requests:
            request.channel.persistent = False
        if not self._requests:
            self._drained.callback(None)

        def close(_: object) -> None:
            for channel in list(self._connections):
                channel.transport.loseConnection()

        return self._drained.addTimeout(seconds, self.clock).addBoth(close)

    def log(self, request: Request) -> None:
        """Requests are logged when they end, by :meth:`end`; a query string may name a secret, so it is left out."""

    def startFactory(self) -> None:
        """Nothing of the access log in a file that the base class would open."""

    def stopFactory(self) -> None:
        """See :meth:`startFactory`."""
