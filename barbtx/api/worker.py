"""A worker: one of several API processes on a port, started by :mod:`barbtx.api.workers`."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

import attrs
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from barbtx.api.descriptor_limit import BACKLOG
from barbtx.lifecycle import Stack, stop_reactor
from barbtx.reactor import IReactor
from barbtx.signals import Signals
from barbtx.worker_process import CHANNEL, CLOSED, LISTENING, OPEN, OPENING, RELOAD, RELOADED, REPORT, SOCKET, number

log = Logger()

# The parent reads the log in intervals; a busy worker must not fill the pipe meanwhile. This is what Linux permits.
_PIPE_BYTES = 1 << 20


class Channel(LineOnlyReceiver):
    """One end of the connection between a worker and its parent.

    :param received: called with each word that arrives.
    :param lost: called when the other process has ended.
    """

    delimiter = b"\n"

    def __init__(self, received: Callable[[bytes], object], lost: Callable[[], object] = lambda: None) -> None:
        self._received = received
        self._lost = lost

    def lineReceived(self, line: bytes) -> None:
        """Pass a word on."""
        self._received(line)

    def adopt(self, reactor: IReactor, descriptor: int) -> None:
        """Use a connected socket, and close its descriptor: the reactor has a duplicate."""
        os.set_blocking(descriptor, False)
        factory = ServerFactory()
        factory.noisy = False
        factory.protocol = lambda: self
        reactor.adoptStreamConnection(descriptor, socket.AF_UNIX, factory)
        os.close(descriptor)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Report that the other process has ended."""
        self._lost()


@implementer(IStreamServerEndpoint)
@attrs.frozen
class _BoundSocket:
    """Listens on the socket that the parent has bound."""

    reactor: IReactor

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Begin to listen."""
        with socket.socket(fileno=os.dup(SOCKET)) as bound:
            bound.listen(BACKLOG)
            family = bound.family
        port: Deferred[IListeningPort] = AdoptedStreamServerEndpoint(self.reactor, SOCKET, family).listen(
            protocolFactory
        )
        return port


class Worker(Service):
    """What distinguishes a worker from an API process without a parent: its port, and who controls it.

    SIGHUP and SIGUSR1 have no effect on a worker. Whoever sends them to a process group or a control group means the
    parent, which passes them on. If the parent ends, the worker shuts down.
    """

    def __init__(self, reactor: IReactor) -> None:
        self._reactor = reactor
        self._channel = Channel(self._received, self._lost)
        self._reload: Callable[[], Deferred[None]]
        self._report: Callable[[], object]
        self._may_listen: Deferred[None] = Deferred()

    @classmethod
    def of_this_process(cls, reactor: IReactor) -> Worker | None:
        """Return the worker that this process is, if it is one."""
        return None if number() is None else cls(reactor)

    def control(self, reload: Callable[[], Deferred[None]], report: Callable[[], object]) -> IService:
        """Return the service that handles signals and what the parent requests.

        :param reload: called when the parent requests a reload.
        :param report: called when it requests a status report.
        """
        self._reload, self._report = reload, report
        return Stack.of(Signals(self._reactor, lambda: None, lambda: None), self)

    def startService(self) -> None:
        """Connect to the parent."""
        super().startService()
        # A terminal sends SIGINT to the parent's process group, and the parent stops the workers.
        with suppress(OSError):
            os.setpgid(0, 0)
        with suppress(AttributeError, OSError):
            fcntl.fcntl(sys.__stdout__.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)  # type: ignore[union-attr]
        self._reactor.callWhenRunning(self._channel.adopt, self._reactor, CHANNEL)

    async def endpoint(self) -> IStreamServerEndpoint:
        """Return the endpoint of the socket that the parent has bound, as soon as the parent knows that it is used."""
        self._channel.sendLine(OPENING)
        await self._may_listen
        return _BoundSocket(self._reactor)

    def listening(self, port: IListeningPort) -> None:
        """Tell the parent."""
        log.info("API process {number} accepts connections", number=number())
        self._channel.sendLine(LISTENING)

    def closed(self) -> None:
        """Tell the parent, which still has the socket: it refuses connections unless another process listens on it."""
        self._channel.sendLine(CLOSED)

    def _received(self, word: bytes) -> None:
        if word == OPEN:
            self._may_listen.callback(None)
        elif word == RELOAD:
            self._reload().addBoth(lambda _: self._channel.sendLine(RELOADED))
        elif word == REPORT:
            self._report()

    def _lost(self) -> None:
        if self.running:
            log.warn("the parent process has ended; shutting down")
        stop_reactor(self._reactor)
