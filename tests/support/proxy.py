"""A TCP proxy that can be told to behave like a bad network."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure


class Half(Protocol):
    """One end of a connection through the proxy.

    :ivar is_client: whether it is the end that was connected to.
    """

    def __init__(self, proxy: Proxy, is_client: bool) -> None:
        self.proxy = proxy
        self.is_client = is_client
        self.peer: Half | None = None
        self._early: list[bytes] = []

    def connectionMade(self) -> None:
        self.proxy.halves.add(self)

    def dataReceived(self, data: bytes) -> None:
        if self.proxy.swallows:
            return
        if self.peer is None:
            self._early.append(data)
        else:
            self.peer.transport.write(data)

    def join(self, peer: Half) -> None:
        self.peer, peer.peer = peer, self
        for data in self._early:
            peer.transport.write(data)

    def connectionLost(self, reason: Failure) -> None:
        self.proxy.halves.discard(self)
        if self.peer is not None and not self.proxy.swallows:
            self.peer.transport.loseConnection()


class _Server(Factory):
    noisy = False

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy

    def buildProtocol(self, addr: object) -> Half:
        half = Half(self.proxy, True)

        def joined(other: Half) -> None:
            half.join(other)

        client = Factory()
        client.noisy = False
        client.buildProtocol = lambda addr: Half(self.proxy, False)
        self.proxy.target.connect(client).addCallbacks(joined, lambda failure: half.transport.abortConnection())
        return half


class Proxy:
    """:ivar swallows: whether everything vanishes, without a word to either side."""

    def __init__(self, reactor: Any, port: int) -> None:
        self.target = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        self.halves: set[Half] = set()
        self.swallows = False
        self._server = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")

    async def start(self) -> int:
        """Listen; the port."""
        self._listening = await self._server.listen(_Server(self))
        return self._listening.getHost().port

    def cut(self) -> None:
        """End every connection there is."""
        for half in list(self.halves):
            half.transport.abortConnection()

    async def stop(self) -> None:
        await self._listening.stopListening()
        self.cut()
