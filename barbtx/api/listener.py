"""The service that listens for API clients."""

from __future__ import annotations

import select
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

import attrs
from oslo_config import cfg
from twisted.application.service import Service
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReadDescriptor, IStreamServerEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from barbtx.api.descriptor_limit import BACKLOG, fit_to_descriptor_limit
from barbtx.api.http import Site
from barbtx.api.options import for_one_worker, share
from barbtx.reactor import IReactor

log = Logger()


class Opening(Protocol):
    """How a process opens the port of the API."""

    def endpoint(self) -> Awaitable[IStreamServerEndpoint]:
        """Return the endpoint to listen on.

        :raises OSError: the configured host has no address.
        """

    def listening(self, port: IListeningPort) -> None:
        """Report that the process listens."""

    def closed(self) -> None:
        """Report that it no longer does."""


@attrs.frozen
class OwnPort:
    """Opens a port that no other process uses."""

    reactor: IReactor
    host: str
    port: int

    async def endpoint(self) -> IStreamServerEndpoint:
        """Return an endpoint on the configured address."""
        address = await resolve(self.reactor, self.host)
        endpoint_type = TCP6ServerEndpoint if ":" in address else TCP4ServerEndpoint
        return endpoint_type(self.reactor, self.port, BACKLOG, address)

    def listening(self, port: IListeningPort) -> None:
        """Log the URL of the service."""
        bound = port.getHost()
        assert isinstance(bound, IPv4Address | IPv6Address)
        log_listening(self.host, bound.port)

    def closed(self) -> None:
        """Do nothing: the system refuses connections to a port that no process has."""


class ApiListener(Service):
    """Listens for clients; at shutdown, completes the requests in flight.

    :param resource: the root resource.
    :param refuse: called with the reason if the service cannot listen.
    :param release: called at shutdown to end the waits of long-polling requests.
    :param opening: opens the port; by default a port that no other process uses.
    """

    def __init__(
        self,
        reactor: IReactor,
        conf: cfg.ConfigOpts,
        resource: IResource,
        refuse: Callable[[str], None],
        release: Callable[[], None] = lambda: None,
        opening: Opening | None = None,
    ) -> None:
        api = conf.api
        per_client = share(api.max_connections_per_client, api.max_connections)
        self.site = Site(
            resource,
            reactor,
            max_body=max(conf.max_allowed_request_size_in_bytes, conf.max_allowed_secret_in_bytes + 1),
            request_timeout=api.request_timeout_seconds,
            idle_timeout=api.idle_timeout_seconds,
            write_timeout=api.write_timeout_seconds,
            max_connections=for_one_worker(api.max_connections, api.workers),
            max_connections_per_client=for_one_worker(per_client, api.workers),
            reserve=for_one_worker(api.reserved_connections, api.workers),
            trusted=api.trusted_proxies,
        )
        self._refuse = refuse
        self._release = release
        self._conf = api
        self._opening = opening or OwnPort(reactor, api.bind_host, api.bind_port)
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """Raise the limit of open files as far as needed, and start listening."""
        super().startService()
        site = self.site
        site.max_connections = fit_to_descriptor_limit(site.max_connections, site.connections.reserve)
        Deferred.fromCoroutine(self._listen()).addErrback(self._cannot_listen)

    async def _listen(self) -> None:
        endpoint = await self._opening.endpoint()
        if not self.running:
            return
        port: IListeningPort = await endpoint.listen(self.site)
        self._port = port
        self._opening.listening(port)

    def _cannot_listen(self, failure: Failure) -> None:
        self._refuse(cannot_listen(self._conf, failure.value))

    def stopService(self) -> Deferred[None]:
        """Stop listening, complete the requests in flight within ``[api] shutdown_seconds``, and close connections."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._port is not None:
            # Twisted closes the socket in the next turn of the reactor: just after this call, so that hardly any
            # connection arrives in between.
            self.site.clock.callLater(0, _accept_waiting, self._port)
            await maybeDeferred(self._port.stopListening)
            self._opening.closed()
        self._release()
        await self.site.drain(self._conf.shutdown_seconds)


def _accept_waiting(port: IListeningPort) -> None:
    """Accept the connections that wait in the queue, because closing the socket would reset them."""
    if not IReadDescriptor.providedBy(port) or port.fileno() < 0:
        return
    waiting = select.poll()
    waiting.register(port.fileno(), select.POLLIN)
    for _ in range(BACKLOG):
        if not waiting.poll(0):
            return
        port.doRead()


async def resolve(reactor: IReactor, host: str) -> str:
    """Return an address, or the first address of a name, which is looked up in a thread.

    If Twisted were given a name to bind to, the lookup would block the reactor.

    :raises OSError: the name has no address.
    """
    if not host or isIPAddress(host) or isIPv6Address(host):
        return host
    found = await deferToThreadPool(
        reactor,
        reactor.getThreadPool(),
        socket.getaddrinfo,
        host,
        None,
        socket.AF_UNSPEC,
        socket.SOCK_STREAM,
    )
    return str(found[0][4][0])


def log_listening(host: str, port: int) -> None:
    """Log the URL at which the service listens."""
    log.info("barbtx listens on http://{host}:{port}", host=_in_url(host), port=port)


def cannot_listen(api: cfg.ConfigOpts.GroupAttr, problem: BaseException | None) -> str:
    """Return why the service cannot listen, for the log."""
    if isinstance(problem, CannotListenError):
        problem = problem.socketError
    reason = getattr(problem, "strerror", None) or f"{type(problem).__name__}: {problem}"
    return f"cannot listen on {_in_url(api.bind_host)}:{api.bind_port} ([api] bind_host, bind_port): {reason}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
