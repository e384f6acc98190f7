"""A client's connection: limits on the time and memory that it can use, and the responses to malformed requests.

Differences from twisted.web's channel, which has none of these limits:

* The next pipelined request starts only when the client reads the responses to earlier ones.
* Other connections get their turn between two pipelined requests.
* The memory for data that is received during a request is bounded.
* A client that does not read a response is disconnected when the write timeout expires.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from barbtx.api.client import Client
from barbtx.api.deadline import Deadline
from barbtx.api.request_ids import new_request_id
from barbtx.api.responses import ALWAYS, render_error
from barbtx.compat import ChannelBase
from barbtx.errors import TITLES, ErrorResponse
from barbtx.networks import Address, is_within, parse_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.web import http

    from barbtx.api.http import Request, Site

log = Logger()

# After a response that ends a request early, this much is still read and discarded. If the connection were closed at
# once, the client's system would reset it and could discard the response before the client reads it.
_LINGER_BYTES = 4 << 20
_LINGER_SECONDS = 2.0
# Idle and request timeout of a reserved connection, which serves one short request.
_RESERVED_SECONDS = 5.0
# Time for an evicted connection to close.
_EVICTION_SECONDS = 1.0
# Bytes of further requests that are received during a request.
_READ_AHEAD = 16384


class Channel(ChannelBase):
    """A client's connection.

    :ivar address: the peer's address; None for a UNIX socket.
    :ivar is_from_proxy: whether the peer is a trusted proxy.
    :ivar peer: the peer as the client that sends the requests, unless a trusted proxy reports another.
    :ivar reserved: whether the connection exceeds the limits; see :mod:`barbtx.api.connections`.
    """

    site: Site
    requests: list[Request]
    address: Address | None = None
    is_from_proxy = False
    peer: Client
    reserved = False
    _host: IAddress | None = None
    _peer: IAddress | None = None
    _secure: bool | None = None
    _write_deadline: IDelayedCall | None = None
    _early_response: IDelayedCall | None = None
    _next_turn: IDelayedCall | None = None
    # An answered request after which the next one must not start yet.
    _finished: http.Request | None = None
    # Bytes that are still read and discarded; 0 unless the connection lingers.
    _lingering = 0
    _read_ahead = 0

    def callLater(self, period: float, func: Callable[[], object]) -> IDelayedCall:
        """Schedule timeouts of the base class with the site's clock instead of the global reactor."""
        return self.site.clock.callLater(period, func)

    def connectionMade(self) -> None:
        """Register the connection, which sets ``reserved``."""
        self._idle_deadline = Deadline(self.site.clock, self.timeoutConnection)
        self._request_deadline = Deadline(self.site.clock, self._request_timed_out)
        super().connectionMade()
        self.address = parse_address(getattr(self.getPeer(), "host", ""))
        self.is_from_proxy = is_within(self.address, self.site.connections.trusted)
        self.peer = Client(self.address, self.is_from_proxy)
        self.site.connections.admit(self)
        if self.reserved:
            self.setTimeout(_RESERVED_SECONDS if self.timeOut is None else min(self.timeOut, _RESERVED_SECONDS))

    def getHost(self) -> IAddress:
        """Return the address that the client has connected to, for which the transport is asked once."""
        if self._host is None:
            self._host = self.transport.getHost()
        return self._host

    def getPeer(self) -> IAddress:
        """Return the peer's address, for which the transport is asked once."""
        if self._peer is None:
            self._peer = self.transport.getPeer()
        return self._peer

    def isSecure(self) -> bool:
        """Return whether the connection uses TLS."""
        if self._secure is None:
            self._secure = super().isSecure()
        return self._secure

    # Input

    def dataReceived(self, data: bytes) -> None:
        """Start the request deadline and parse the data, or discard it while the connection lingers."""
        if self._lingering:
            self._lingering -= len(data)
            if self._lingering <= 0:
                self.forceAbortClient()
            return
        if self._request_deadline.time is None:
            self._start_request_deadline()
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """Start the request deadline, also for a pipelined request, which comes out of the buffer."""
        if self._lingering:
            return
        if self._request_deadline.time is None:
            self._start_request_deadline()
        super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        """Stop reading when too much is received during a request.

        The base class does so only while the transport accepts output.
        """
        if not self.handling_request:
            super().rawDataReceived(data)
            return
        self.buffer_input(data)
        self._read_ahead += len(data)
        if self._read_ahead > _READ_AHEAD:
            self.pause_reading()

    def allHeadersReceived(self) -> None:
        """Respond early to a request with a body on a reserved connection."""
        super().allHeadersReceived()
        if self.reserved:
            self._close_after_response()
            if self.length != 0:
                self.respond_early()

    def send_continue(self) -> None:
        """Do not request a body that will not be read."""
        if not self._lingering:
            super().send_continue()

    def allContentReceived(self) -> None:
        """Process the complete request, which makes a scheduled early response superfluous."""
        self._request_deadline.clear()
        if self._early_response is not None and self._early_response.active():
            self._early_response.cancel()
        super().allContentReceived()

    # Responses

    def respond_early(self) -> None:
        """Process the request now, with the part of its body that was received, and close the connection after it."""
        if self._lingering:
            return
        self._lingering = _LINGER_BYTES
        self._close_after_response()
        self._request_deadline.clear()
        # The parser is still in the middle of the data that it has received, so the response has to wait for it.
        self._early_response = self.site.clock.callLater(0, self._process_early)

    def _process_early(self) -> None:
        self.setTimeout(None)
        self.process_incomplete_request()

    def _close_after_response(self) -> None:
        self.persistent = False
        self.requests[-1].responseHeaders.setRawHeaders(b"connection", [b"close"])

    def requestDone(self, request: http.Request) -> None:
        """Start the next request when the transport accepts output and other connections have had their turn.

        Until then, the channel stays in the state in which a request is being answered.
        """
        if self.persistent and self.waiting_for_transport:
            self._finished = request
            self.pause_reading()
        elif self.persistent and self.has_buffered_input:
            # If each request were started at once, the buffered ones would block the reactor.
            self._finished = request
            if self._next_turn is None:
                self._next_turn = self.site.clock.callLater(0, self._take_turn)
        else:
            self._start_next_request(request)

    def _take_turn(self) -> None:
        self._next_turn = None
        request, self._finished = self._finished, None
        if request is None or self.transport.disconnecting:
            return
        if self.waiting_for_transport:
            self.requestDone(request)
        else:
            self._start_next_request(request)

    def _start_next_request(self, answered: http.Request) -> None:
        self._read_ahead = 0
        super().requestDone(answered)
        if self.persistent and self._request_deadline.time is None and not self.handling_request:
            self.site.connections.mark_idle(self)

    def pauseProducing(self) -> None:
        """Start the write timeout: the transport's write buffer is full."""
        super().pauseProducing()
        self._start_write_deadline(self.site.write_timeout)

    def resumeProducing(self) -> None:
        """Cancel the write timeout, and start the next request if it has been waiting for the transport."""
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None
        super().resumeProducing()
        request, self._finished = self._finished, None
        if request is not None:
            self.requestDone(request)

    # Closing

    def loseConnection(self) -> None:
        """Close the connection after the pending output; if it lingers, close only the output at first."""
        if not self._lingering:
            self._start_write_deadline(self.site.write_timeout)
            super().loseConnection()
            return
        self.unregister_from_transport()
        getattr(self.transport, "loseWriteConnection", self.transport.loseConnection)()
        self._start_write_deadline(_LINGER_SECONDS)

    def evict(self) -> None:
        """Close the connection soon, in favor of a new one."""
        self._start_write_deadline(_EVICTION_SECONDS)
        super().loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Cancel all timeouts and unregister the connection."""
        self._request_deadline.close()
        for call in (self._early_response, self._write_deadline, self._next_turn):
            if call is not None and call.active():
                call.cancel()
        self._finished = None
        self.site.connections.remove(self)
        super().connectionLost(reason)
        self._idle_deadline.close()

    # Timeouts

    def setTimeout(self, period: float | None) -> float | None:
        """Set the idle timeout to some seconds from now, or cancel it; return its previous duration."""
        previous, self.timeOut = self.timeOut, period
        if period is None:
            self._idle_deadline.clear()
        else:
            self._idle_deadline.set(period)
        return previous

    def resetTimeout(self) -> None:
        """Let the idle timeout start again, unless it is canceled or has expired."""
        if self._idle_deadline.time is not None and self.timeOut is not None:
            self._idle_deadline.set(self.timeOut)

    def _start_write_deadline(self, seconds: float) -> None:
        """Abort the connection unless the output is read within some seconds; an earlier deadline stays."""
        if self._write_deadline is not None:
            if self._write_deadline.getTime() <= self.site.clock.seconds() + seconds:
                return
            self._write_deadline.cancel()
        self._write_deadline = self.site.clock.callLater(seconds, self._write_timed_out)

    def _write_timed_out(self) -> None:
        self._write_deadline = None
        if not self._lingering:
            log.info("write timeout: closing the connection of the client at {client}", client=self.peer.text)
        self.transport.abortConnection()

    def _start_request_deadline(self) -> None:
        if not self.handling_request:
            self.site.connections.mark_busy(self)
            seconds = self.site.request_timeout
            self._request_deadline.set(min(seconds, _RESERVED_SECONDS) if self.reserved else seconds)

    def _request_timed_out(self) -> None:
        self._reject(408, "The request took too long to arrive.")

    # Malformed requests

    def malformed_request_received(self, *, head_too_large: bool) -> None:
        """Respond with 431 or 400."""
        if head_too_large:
            self._reject(431, "The request line and headers are too long.")
        else:
            self._reject(400, "The request is not a valid HTTP request.")

    def lineLengthExceeded(self, line: bytes) -> None:
        """Respond with 431."""
        self._reject(431, "A header line, or the request line, is too long.")

    def _reject(self, status: int, description: str) -> None:
        if self._lingering:
            return
        request_id = new_request_id()
        log.info(
            "rejected a request of the client at {client}: {status} {description}",
            client=self.peer.text,
            status=status,
            description=description,
            request_id=request_id,
        )
        body = render_error(ErrorResponse(status, description))
        headers = {
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "X-Openstack-Request-Id": request_id,
            **ALWAYS,
        }
        head = [f"HTTP/1.1 {status} {TITLES[status]}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self.transport.write("\r\n".join(head).encode() + body)
        self._request_deadline.clear()
        self.setTimeout(None)
        self._lingering = _LINGER_BYTES
        self.loseConnection()
