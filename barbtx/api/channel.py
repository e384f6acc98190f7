"""A client's connection: what it may send before its answers are read, how long it may take, and how it is refused.

What twisted.web would do otherwise: begin the next pipelined request although nobody reads the answers, answer all of
them before it looks at any other connection, keep what was received meanwhile in memory without a limit, and wait
without an end for a client to read the last answer.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

from barbtx.api.responses import ALWAYS, render_error
from barbtx.errors import TITLES, ErrorResponse
from barbtx.networks import Address, parse_address

if TYPE_CHECKING:
    from barbtx.api.http import Request, Site

log = Logger()

# A client that is refused in the middle of its request is still read for a while, so that the answer reaches it:
# closing at once would make the client's system discard what it has not read.
_LINGER_BYTES = 4 << 20
_LINGER_SECONDS = 2.0
# A connection of the reserve is there for one short request.
_RESERVE_SECONDS = 5.0
# How long a connection that gives way may take to close.
_GIVE_WAY_SECONDS = 1.0
# What is received of further requests while one is being answered.
_READ_AHEAD = 16384


def new_request_id() -> str:
    """Always a new one; what a client sends is theirs, and not trusted to be unique."""
    return f"req-{uuid.uuid4()}"


class Channel(HTTPChannel):
    """A client's connection.

    :ivar reserved: whether it is beyond the limits; see :mod:`barbtx.api.connections`.
    """

    site: Site
    address: Address | None = None
    reserved = False
    _deadline: Any = None
    _early: Any = None
    _lingering = 0
    _write_deadline: Any = None
    # A request that has been answered, as long as the next one is not to be begun.
    _finished: Request | None = None
    _turn: Any = None
    _read_ahead = 0

    def connectionMade(self) -> None:
        super().connectionMade()
        self.address = parse_address(getattr(self.transport.getPeer(), "host", ""))
        self.site.connections.admit(self)
        if self.reserved:
            self.setTimeout(min(self.timeOut, _RESERVE_SECONDS))

    @property
    def client(self) -> str:
        """The address on the other side, for the log."""
        return str(self.address or "-")

    # Input

    def dataReceived(self, data: bytes) -> None:
        if self._lingering:
            self._lingering -= len(data)
            if self._lingering <= 0:
                self.forceAbortClient()
            return
        self._start_deadline()
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        if self._lingering:
            return
        # A pipelined request comes out of the buffer, not from the network.
        self._start_deadline()
        super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        if not self._handlingRequest:
            super().rawDataReceived(data)
            return
        # The base class stops reading only while the transport takes what is written.
        self._dataBuffer.append(data)
        self._read_ahead += len(data)
        if self._read_ahead > _READ_AHEAD:
            self._networkProducer.pauseProducing()

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        try:
            return super()._maybeChooseTransferDecoder(header, data)
        except ValueError:
            # A length of more digits than Python makes a number of.
            return self._failChooseTransferDecoder()

    def allHeadersReceived(self) -> None:
        super().allHeadersReceived()
        if self.reserved:
            self.persistent = False
            self.requests[-1].responseHeaders.setRawHeaders(b"connection", [b"close"])
            if self.length != 0:
                self.respond_early()

    def _send100Continue(self) -> None:
        if not self._lingering:
            super()._send100Continue()

    def allContentReceived(self) -> None:
        self._arrived()
        if self._early is not None and self._early.active():
            self._early.cancel()
        super().allContentReceived()

    # Answers

    def respond_early(self) -> None:
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

    def requestDone(self, request: Request) -> None:
        """Go on to the next request, once the transport has room for its answer and other connections had their turn.

        Until then the channel goes on as if the request were still being answered.
        """
        if self.persistent and self._waitingForTransport:
            self._finished = request
            self._networkProducer.pauseProducing()
        elif self.persistent and (self._buffer or any(self._dataBuffer)):
            # What is answered at once would otherwise keep the reactor for as long as more of it has been received.
            self._finished = request
            if self._turn is None:
                self._turn = self.site.clock.callLater(0, self._take_turn)
        else:
            self._go_on(request)

    def _take_turn(self) -> None:
        self._turn = None
        request, self._finished = self._finished, None
        if request is None or self.transport.disconnecting:
            return
        if self._waitingForTransport:
            self.requestDone(request)
        else:
            self._go_on(request)

    def _go_on(self, request: Request) -> None:
        self._read_ahead = 0
        super().requestDone(request)
        if self.persistent and self._deadline is None and not self._handlingRequest:
            self.site.connections.idle(self)

    def pauseProducing(self) -> None:
        super().pauseProducing()
        self._start_write_deadline(self.site.write_timeout)

    def resumeProducing(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None
        super().resumeProducing()
        request, self._finished = self._finished, None
        if request is not None:
            self.requestDone(request)

    # The end

    def loseConnection(self) -> None:
        if not self._lingering:
            self._start_write_deadline(self.site.write_timeout)
            super().loseConnection()
            return
        self._networkProducer.unregisterProducer()
        getattr(self.transport, "loseWriteConnection", self.transport.loseConnection)()
        self._start_write_deadline(_LINGER_SECONDS)

    def make_room(self) -> None:
        """Close; the place of this connection is taken by another one."""
        self._start_write_deadline(_GIVE_WAY_SECONDS)
        super().loseConnection()

    def connectionLost(self, reason: Failure) -> None:
        self._arrived()
        for call in (self._early, self._write_deadline, self._turn):
            if call is not None and call.active():
                call.cancel()
        self._finished = None
        self.site.connections.dismiss(self)
        super().connectionLost(reason)

    def _start_write_deadline(self, seconds: float) -> None:
        """Have the client read what is written within some seconds; an earlier deadline stays."""
        if self._write_deadline is not None:
            if self._write_deadline.getTime() <= self.site.clock.seconds() + seconds:
                return
            self._write_deadline.cancel()
        self._write_deadline = self.site.clock.callLater(seconds, self._not_read)

    def _not_read(self) -> None:
        self._write_deadline = None
        if not self._lingering:
            log.info("the client at {client} does not read its answers; its connection is closed", client=self.client)
        self.transport.abortConnection()

    def _start_deadline(self) -> None:
        if self._deadline is None and not self._handlingRequest:
            self.site.connections.busy(self)
            seconds = self.site.request_timeout
            self._deadline = self.site.clock.callLater(
                min(seconds, _RESERVE_SECONDS) if self.reserved else seconds, self._too_slow
            )

    def _arrived(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    # Refusals of what is no request, or none that will be read to its end

    def _too_slow(self) -> None:
        self._deadline = None
        self._refuse(408, "The request took too long to arrive.")

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders:
            self._refuse(431, "The request's head is too long.")
        else:
            self._refuse(400, "This is not an HTTP request that can be understood.")

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse(431, "A line of the request's head is too long.")

    def _refuse(self, status: int, description: str) -> None:
        if self._lingering:
            return
        request_id = new_request_id()
        log.info(
            "refused what the client at {client} sent: {status} {description}",
            client=self.client,
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
        self._arrived()
        self.setTimeout(None)
        self._lingering = _LINGER_BYTES
        self.loseConnection()
