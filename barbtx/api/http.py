"""The HTTP server: requests, and the site that accepts connections and keeps track of requests in flight.

Differences from twisted.web: a body stays in memory and is bounded while it is received (twisted.web writes a body that
is long or of unknown length to a temporary file, which would put a plaintext secret on the disk), a request has a
deadline, and errors are JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import NO_BODY_CODES
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET

from barbtx import activity
from barbtx.activity import Activity
from barbtx.api.access_log import log_request
from barbtx.api.channel import Channel
from barbtx.api.client import Client
from barbtx.api.connections import HEALTH_CHECK, Connections
from barbtx.api.request_ids import new_request_id
from barbtx.api.request_target import is_authority, parse_request_target
from barbtx.api.responses import ALWAYS_RAW, write_error
from barbtx.compat import RequestBase, SiteBase
from barbtx.errors import ErrorResponse, MethodNotAllowed, ServiceUnavailable, to_error_response
from barbtx.networks import Network, reported_client

if TYPE_CHECKING:
    from twisted.web import http

    from barbtx.identity.context import RequestContext

log = Logger()

_METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


class Request(RequestBase):
    """A request.

    :ivar request_id: ``req-<uuid>``.
    :ivar content: the body, or its beginning if it is ``too_large``.
    :ivar too_large: whether the body exceeds the limit.
    :ivar target_scheme: the scheme of an absolute request target, in lower case.
    :ivar started: when processing began, in seconds of the site's clock.
    :ivar sender: the client; set when processing begins.
    :ivar activity: the activity that the processing is; set when it begins.
    :ivar context: the caller; set by the authentication step of the pipeline.
    :ivar microversion: (major, minor) version of the API; set by the microversion step of the pipeline.
    :ivar error: the error that the response reports.
    :ivar is_health_check: whether it is a health check, which is logged at debug level if it succeeds.
    """

    channel: Channel
    site: Site
    defaultContentType = None
    too_large = False
    target_scheme: bytes | None = None
    started: float
    sender: Client
    activity: Activity
    context: RequestContext | None = None
    microversion: tuple[int, int] | None = None
    error: ErrorResponse | None = None
    is_health_check = False
    _rejection: ErrorResponse | None = None
    _is_processed = False
    _running: Deferred[Any] | None = None

    def __init__(self, channel: Channel, *arguments: Any, **options: Any) -> None:
        super().__init__(channel, *arguments, **options)
        self.request_id = new_request_id()
        self.set_response_headers(ALWAYS_RAW)

    def gotLength(self, length: int | None) -> None:
        """Keep the body in memory, and respond early if it is too large.

        :param length: bytes; None if the body is chunked.
        """
        self.content = BytesIO()
        if length is not None and length > self.channel.site.max_body:
            self._reject_body()

    def handleContentChunk(self, data: bytes) -> None:
        """Append to the body up to its limit, and respond early if it is too large."""
        remaining = self.channel.site.max_body - self.content.tell()
        self.content.write(data[:remaining])
        if len(data) > remaining:
            self._reject_body()

    def _reject_body(self) -> None:
        self.too_large = True
        self.channel.respond_early()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Validate the ``Host`` header and parse the request target.

        The host of an absolute target replaces the ``Host`` header (RFC 9112, section 3.2.2).
        """
        hosts = self.received.get(b"Host", ())
        try:
            if len(hosts) > 1 or (not hosts and version == b"HTTP/1.1"):
                raise ValueError("The request must have one Host header.")
            if hosts and hosts[0] and not is_authority(hosts[0]):
                raise ValueError("The Host header must be a host name or address with an optional port.")
            target = None if path.startswith(b"/") else parse_request_target(command, path)
        except ValueError as problem:
            self._rejection = ErrorResponse(400, str(problem))
            # The path is logged, and an invalid target may contain a password.
            path = path if path.startswith(b"/") else b"*"
        else:
            if target is not None:
                path = target.path
                if target.authority is not None:
                    self.target_scheme = target.scheme
                    self.requestHeaders.setRawHeaders(b"host", [target.authority])
        super().requestReceived(command, path, version)

    def _sender(self) -> Client:
        channel = self.channel
        values = self.received.get(b"X-Forwarded-For")
        if not values or not channel.is_from_proxy:
            return channel.peer
        reported = reported_client([value.decode("latin-1") for value in values], self.site.connections.trusted)
        return Client(reported, False) if reported else channel.peer

    def process(self) -> None:
        """Start processing: render the site's resource, or reject the request before that."""
        site = self.site = self.channel.site
        self.started = site.clock.seconds()
        self.sender = self._sender()
        self.activity = Activity(self.request_id)
        self._is_processed = True
        site.begin(self)
        self.prepath, self.postpath = [], []
        error = self._rejection or self._misdirected()
        if error is not None:
            self.respond(write_error(self, error))
            return
        try:
            activity.run(self.activity, self.render, site.resource)
        except Exception:
            self.processingFailed(Failure())

    def finish(self) -> None:
        """Finish the response, which ends the request."""
        is_first = not self.finished
        super().finish()
        if is_first:
            self.site.end(self, is_disconnected=False)

    def connectionLost(self, reason: Failure) -> None:
        """End the request, and cancel what :meth:`respond_later` waits for, because the client has disconnected.

        A finished request has ended before; the channel keeps it until the next one may start.
        """
        if self._is_processed and not self.finished:
            self.site.end(self, is_disconnected=True)
        super().connectionLost(reason)
        running, self._running = self._running, None
        if running is not None:
            running.cancel()

    def respond_later(self, running: Deferred[bytes]) -> None:
        """Respond with a body when a Deferred fires with it; cancel the Deferred if the client disconnects before."""
        self._running = running
        running.addCallbacks(self._respond, self._failed)

    def _respond(self, body: bytes) -> None:
        self._running = None
        self.respond(body)

    def _failed(self, reason: Failure) -> None:
        if not reason.check(CancelledError):
            self.processingFailed(reason)

    def render(self, resource: IResource) -> None:
        """Render a resource, and respond unless it does so later.

        The base class would log HEAD requests with their query strings and with the representation of the resource.
        """
        body = resource.render(self)
        if body != NOT_DONE_YET:
            if self.code not in NO_BODY_CODES:
                self.set_response_headers({b"Content-Length": b"%d" % len(body)})
            self.respond(body)

    def _misdirected(self) -> ErrorResponse | None:
        """Return the error of a request that no resource may process, if it is one."""
        if self.method == b"CONNECT":
            return to_error_response(MethodNotAllowed((_METHODS,)), "Request")
        if self.channel.reserved and self.path.rstrip(b"/").decode("latin-1") != HEALTH_CHECK:
            return to_error_response(
                ServiceUnavailable("Too many connections are open; close some, or try again later."), "Request"
            )
        if self.target_scheme == b"https" and not self.isSecure() and not self.channel.is_from_proxy:
            return ErrorResponse(421, "An https resource cannot be requested over a connection without TLS.")
        return None

    def processingFailed(self, reason: Failure) -> None:
        """Log an exception that nothing else has handled, and respond with a 500 that does not disclose it."""
        log.failure("request failed", failure=reason, request_id=self.request_id)
        if self.startedWriting:
            self.channel.forceAbortClient()
            return
        self.respond(write_error(self, ErrorResponse(500, None)))


class Site(SiteBase):
    """The factory of connections. It knows all connections and all requests in flight.

    :param clock: for all timeouts.
    :param max_body: maximum length of a request body in bytes.
    :param request_timeout: seconds within which a request must be received completely.
    :param write_timeout: seconds within which a client must read the pending output.
    :param idle_timeout: seconds for which a connection may stay open without receiving anything.
    :param max_connections: maximum number of connections, reserved ones not counted.
    :param max_connections_per_client: maximum number for one client; 0 for no limit.
    :param reserve: number of additional connections on which only the health check is served.
    :param trusted: networks of proxies whose ``X-Forwarded-For`` header is trusted.
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
        self._arriving = False

    @property
    def max_connections(self) -> int:
        """Maximum number of connections, reserved ones not counted. It can be changed while the service listens."""
        return self.connections.limit

    @max_connections.setter
    def max_connections(self, limit: int) -> None:
        self.connections.limit = limit

    def buildProtocol(self, addr: object) -> Channel:  # type: ignore[override]  # HTTPFactory fixes its own wrapper.
        """Return a channel, without twisted.web's wrapper that negotiates HTTP/2."""
        channel = Channel()
        channel.requestFactory = self.requestFactory
        channel.factory = channel.site = self
        channel.timeOut = self.timeOut
        return channel

    def gauges(self) -> dict[str, object]:
        """Return the numbers of open connections and of requests in flight for the status report."""
        return {"connections": len(list(self.connections)), "requests": len(self._requests)}

    def begin(self, request: Request) -> None:
        """Register a request whose processing starts. During shutdown, it is the last one of its connection."""
        self._requests.add(request)
        if self._drained is not None:
            self._close_after(request)

    def end(self, request: Request, *, is_disconnected: bool) -> None:
        """Log a request that has ended.

        :param is_disconnected: whether the client has disconnected before the response was complete.
        """
        self._requests.discard(request)
        log_request(request, self.clock.seconds() - request.started, is_disconnected)
        self._end_drain()

    def drain(self, seconds: float) -> Deferred[None]:
        """Wait for the requests in flight, then close all connections.

        A request may be on its way on a connection that was in use a moment ago, so such connections stay open for the
        time that :class:`Connections` calls ``grace``. Each request is the last one of its connection.

        :param seconds: timeout of the wait.
        """
        drained = self._drained = Deferred()
        for request in self._requests:
            self._close_after(request)
        self._close_idle(self.connections.grace)
        self._arriving = seconds > 0 and any(True for _ in self.connections)
        wait = self.clock.callLater(min(self.connections.grace, seconds), self._nothing_arrives)
        self._end_drain()

        def close(_: object) -> None:
            if wait.active():
                wait.cancel()
            for connection in self.connections:
                connection.loseConnection()

        return drained.addTimeout(seconds, self.clock).addBoth(close)

    def _nothing_arrives(self) -> None:
        self._arriving = False
        self._close_idle(0)
        self._end_drain()

    def _close_idle(self, seconds: float) -> None:
        for connection in self.connections.idle_for(seconds):
            connection.loseConnection()

    def _close_after(self, request: Request) -> None:
        request.channel.persistent = False
        if not request.startedWriting:
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])

    def _end_drain(self) -> None:
        if self._drained is not None and not self._drained.called and not self._requests and not self._arriving:
            self._drained.callback(None)

    def log(self, request: http.Request) -> None:
        """Do nothing: :meth:`end` logs requests. The base class would log query strings, which may name secrets."""

    def startFactory(self) -> None:
        """Do nothing. The base class would open an access log."""

    def stopFactory(self) -> None:
        """Do nothing. The base class would close its access log."""
