"""A site of barbtx's own kind in this process, and requests as they are on the wire."""

from __future__ import annotations

import json
import socket
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from barbtx.api.http import Site

CLOSE = b"Connection: close\r\n"


class Echo(Resource):
    """Answers with what it got.

    :ivar rendered: how many requests it was asked to answer.
    :ivar hold: requests for ``/hold``, which a test answers.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.rendered = 0
        self.hold: list[Any] = []
        self.arrived: Deferred[None] | None = None

    def render(self, request: Any) -> bytes | int:
        self.rendered += 1
        if request.path == b"/hold":
            self.hold.append(request)
            if self.arrived is not None and not self.arrived.called:
                self.arrived.callback(None)
            return NOT_DONE_YET
        if request.path == b"/fail":
            raise RuntimeError("a payload")
        if request.path.startswith(b"/big/"):
            return b"%s:%s" % (request.path, b"x" * int(request.path.rpartition(b"/")[2]))
        request.setHeader(b"content-type", b"application/json")
        return json.dumps({"length": len(request.content.getvalue()), "too_large": request.too_large}).encode()


class Listening:
    """An :class:`Echo` behind a listening site with small limits."""

    def __init__(self, reactor: Any, **limits: Any) -> None:
        self.echo = Echo()
        self.site = Site(
            self.echo,
            reactor,
            **{"max_body": 1000, "request_timeout": 0.3, "idle_timeout": 0.5, "max_connections": 20, **limits},
        )
        self.port = reactor.listenTCP(0, self.site, backlog=1024, interface="127.0.0.1")
        self.number = self.port.getHost().port

    def exchange(self, *pieces: bytes, source: str = "127.0.0.1") -> bytes:
        """See :func:`exchange`."""
        return exchange(self.number, *pieces, source=source)

    async def stop(self) -> None:
        for request in self.echo.hold:
            if not request._disconnected and not request.finished:
                request.finish()
        await self.port.stopListening()
        await self.site.drain(0.1)


def exchange(port: int, *pieces: bytes, source: str = "127.0.0.1") -> bytes:
    """Send pieces over a socket and return all that comes until the other side closes. Blocks.

    :param source: the address to come from.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0)) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
        except OSError:
            pass
        received = b""
        while data := client.recv(65536):
            received += data
        return received


@attrs.frozen
class Raw:
    """An answer as it came.

    :ivar headers: by names in lower case, each with all of its values.
    """

    status: int
    headers: dict[str, list[str]]
    body: bytes

    @classmethod
    def of(cls, received: bytes) -> Raw:
        head, _, body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers.setdefault(name.lower(), []).append(value.strip())
        return cls(int(first.split(" ")[1]), headers, body)

    def header(self, name: str) -> str | None:
        return ", ".join(self.headers.get(name, [])) or None
