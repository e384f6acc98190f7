"""Requests as barbtx takes them: bodies in memory only and bounded while they arrive, a deadline, no HTML.

What twisted.web would do otherwise: write a body of 100,000 bytes or of unknown length to a temporary file (a secret in
clear on the disk), read it whole however long it is, and let a client that sends a byte now and then stay for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from twisted.web.server import Request as TwistedRequest
from twisted.web.server import Site as TwistedSite

from barbtx import activity
from barbtx.activity import Activity
from barbtx.api.access_log import log_request
from barbtx.api.channel import Channel, new_request_id
from barbtx.api.connections import HEALTH_CHECK, Connections
from barbtx.api.request_target import is_authority, parse_request_target
from barbtx.api.responses import ALWAYS, write_error
from barbtx.errors import ErrorResponse, MethodNotAllowed, ServiceUnavailable, describe
from barbtx.networks import Address, Network, client_group, is_within, reported_client

log = Logger()

_METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


@attrs.frozen
class Client:
    """Who sent a request.

    :ivar address: its address, or that of the trusted proxy before it if that does not name any.
    :ivar is_proxy: whether it is the proxy's, which stands for any number of clients.
    """

    address: Address | None
    is_proxy: bool

    def __str__(self) -> str:
        return str(self.address or "-")

    @property
    def group(self) -> str:
        """What counts as one client when clients are limited."""
        return client_group(self.address) if self.address else "-"


class Request(TwistedRequest):
    """A request.

    :ivar too_large: the body is longer than the limit; ``content`` holds its beginning.
    :ivar request_id: ``req-<uuid>``.
    :ivar target_scheme: of an absolute request target.
    :ivar sender: who sent it, once all of it is there.
    :ivar context: the caller, once the pipeline knows.
    :ivar microversion: of the API, once the pipeline knows.
    :ivar fault: what the client is told of a failure, if it is told of one.
    :ivar probe: whether it only asks whether the service is up.
    """

    defaultContentType = None
    too_large = False
    target_scheme: bytes | None = None
    context: Any = None
    microversion: Any = None
    fault: ErrorResponse | None = None
    probe = False
    _refused: ErrorResponse | None = None

    def __init__(self, channel: Channel, *arguments: Any) -> None:
        super().__init__(channel, *arguments)
        self.request_id = new_request_id()
        for name, value in ALWAYS.items():
            self.responseHeaders.setRawHeaders(name.encode(), [value.encode()])

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
        self.channel.respond_early()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Read the target, whose host counts instead of the ``Host`` header if it has one (RFC 9112, section 3.2.2)."""
        hosts = self.requestHeaders.getRawHeaders(b"host", [])
        try:
            if len(hosts) > 1 or (not hosts and version == b"HTTP/1.1"):
                raise ValueError("The request needs one Host header.")
            if hosts and hosts[0] and not is_authority(hosts[0]):
                raise ValueError("The Host header must be a host name or address, and perhaps a port.")
            target = parse_request_target(command, path)
        except ValueError as problem:
            self._refused = ErrorResponse(400, str(problem))
            # It goes to the log, and may have a password in it.
            path = path if path.startswith(b"/") else b"*"
        else:
            path = target.path
            if target.authority is not None:
                self.target_scheme = target.scheme
                self.requestHeaders.setRawHeaders(b"host", [target.authority])
        super().requestReceived(command, path, version)

    def _sender(self) -> Client:
        trusted = self.site.connections.trusted
        address = self.channel.address
        if not is_within(address, trusted):
            return Client(address, False)
        values = self.requestHeaders.getRawHeaders(b"x-forwarded-for", [])
        reported = reported_client([value.decode("latin-1") for value in values], trusted)
        return Client(reported or address, reported is None)

    def process(self) -> None:
        site = self.site = self.channel.site
        self.started = site.clock.seconds()
        self.sender = self._sender()
        site.begin(self)
        hand = Activity(request_id=self.request_id)
        self.notifyFinish().addBoth(lambda outcome: activity.run(hand, site.end, self, outcome))
        self.prepath, self.postpath = [], []
        fault = self._refused or self._misdirected()
        if fault is not None:
            self.write(write_error(self, fault))
            self.finish()
            return
        try:
            activity.run(hand, self.render, site.resource)
        except Exception:
            self.processingFailed(Failure())

    def _misdirected(self) -> ErrorResponse | None:
        """Why the request goes no further, whatever it asks for."""
        if self.method == b"CONNECT":
            return describe(MethodNotAllowed((_METHODS,)), "Request")
        if self.channel.reserved and self.path.rstrip(b"/").decode("latin-1") != HEALTH_CHECK:
            return describe(
                ServiceUnavailable("Too many connections are open; close some, or try again later."), "Request"
            )
        if (
            self.target_scheme == b"https"
            and not self.isSecure()
            and not is_within(self.channel.address, self.site.connections.trusted)
        ):
            return ErrorResponse(421, "An https resource cannot be had over a connection without TLS.")
        return None

    def processingFailed(self, reason: Failure) -> None:
        """Whatever escaped every other handler: logged, and answered without a word of it."""
        log.failure("request failed", failure=reason, request_id=self.request_id)
        if self.startedWriting:
            self.channel.forceAbortClient()
            return
        self.write(write_error(self, ErrorResponse(500, None)))
        self.finish()


class Site(TwistedSite):
    """The listening service's factory; it knows every connection and every request under way.

    :param max_body: bytes of a body that are read.
    :param request_timeout: seconds in which a request must have arrived.
    :param write_timeout: seconds in which a client must have read the answers that wait for it.
    :param idle_timeout: seconds for which a connection may stay open without a request.
    :param max_connections: connections that clients may hold, the reserve not counted.
    :param max_connections_per_client: those that one client may hold; 0 for no limit of its own.
    :param reserve: further connections, on which only the health check is answered.
    :param trusted: proxies whose word is taken for who their clients are.
    """

    requestFactory = Request
    displayTracebacks = False
    noisy = False

    def __init__(
        self,
        resource: IResource,
        clock: IReactorTime,
        *,
        max_body: int,
        request_timeout: float,
        idle_timeout: float,
        max_connections: int,
        write_timeout: float = 60.0,
        max_connections_per_client: int = 0,
        reserve: int = 10,
        trusted: Iterable[Network] = (),
    ) -> None:
        super().__init__(resource, timeout=idle_timeout, reactor=clock, parsePOSTFormSubmission=False)
        self.clock = clock
        self.max_body = max_body
        self.request_timeout = request_timeout
        self.write_timeout = write_timeout
        self.connections = Connections(clock, max_connections, max_connections_per_client, reserve, tuple(trusted))
        self._requests: set[Request] = set()
        self._drained: Deferred[None] | None = None

    @property
    def max_connections(self) -> int:
        """Connections that clients may hold; it may change while the service listens."""
        return self.connections.limit

    @max_connections.setter
    def max_connections(self, limit: int) -> None:
        self.connections.limit = limit

    def buildProtocol(self, addr: object) -> Channel:
        channel = Channel()
        channel.requestFactory = self.requestFactory
        channel.factory = channel.site = self
        channel.timeOut = self.timeOut
        channel.callLater = self.clock.callLater
        return channel

    def gauges(self) -> dict[str, object]:
        """What is going on, for the report to an operator."""
        return {"connections": len(list(self.connections)), "requests": len(self._requests)}

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
            for channel in self.connections:
                channel.loseConnection()

        return self._drained.addTimeout(seconds, self.clock).addBoth(close)

    def log(self, request: Request) -> None:
        """Requests are logged when they end, by :meth:`end`; a query string may name a secret, so it is left out."""

    def startFactory(self) -> None:
        """Nothing of the access log in a file that the base class would open."""

    def stopFactory(self) -> None:
        """See :meth:`startFactory`."""
