"""The service that listens for API clients."""

from __future__ import annotations

import socket
from collections.abc import Callable

from oslo_config import cfg
from twisted.application.service import Service
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from barbtx.api.descriptor_limit import BACKLOG, fit_to_descriptor_limit
from barbtx.api.http import Site
from barbtx.api.options import share
from barbtx.reactor import IReactor

log = Logger()


class ApiListener(Service):
    """Listens for clients; at shutdown, completes the requests in flight.

    :param resource: the root resource.
    :param refuse: called with the reason if the service cannot listen.
    :param release: called at shutdown to end the waits of long-polling requests.
    """

    def __init__(
        self,
        reactor: IReactor,
        conf: cfg.ConfigOpts,
        resource: IResource,
        refuse: Callable[[str], None],
        release: Callable[[], None] = lambda: None,
    ) -> None:
        api = conf.api
        self.site = Site(
            resource,
            reactor,
            max_body=max(conf.max_allowed_request_size_in_bytes, conf.max_allowed_secret_in_bytes + 1),
            request_timeout=api.request_timeout_seconds,
            idle_timeout=api.idle_timeout_seconds,
            write_timeout=api.write_timeout_seconds,
            max_connections=api.max_connections,
            max_connections_per_client=share(api.max_connections_per_client, api.max_connections),
            reserve=api.reserved_connections,
            trusted=api.trusted_proxies,
        )
        self._refuse = refuse
        self._release = release
        self._reactor = reactor
        self._conf = api
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """Raise the limit of open files as far as needed, and start listening."""
        super().startService()
        site = self.site
        site.max_connections = fit_to_descriptor_limit(site.max_connections, site.connections.reserve)
        Deferred.fromCoroutine(self._listen()).addErrback(self._cannot_listen)

    async def _listen(self) -> None:
        host = self._conf.bind_host
        address = await self._address(host)
        if not self.running:
            return
        endpoint_type = TCP6ServerEndpoint if ":" in address else TCP4ServerEndpoint
        endpoint: IStreamServerEndpoint = endpoint_type(self._reactor, self._conf.bind_port, BACKLOG, address)
        port: IListeningPort = await endpoint.listen(self.site)
        self._port = port
        bound = port.getHost()
        assert isinstance(bound, IPv4Address | IPv6Address)
        log.info("barbtx listens on http://{host}:{port}", host=_in_url(host), port=bound.port)

    async def _address(self, host: str) -> str:
        """Return an address, or the first address of a name, which is looked up in a thread.

        If Twisted were given a name to bind to, the lookup would block the reactor.

        :raises OSError: the name has no address.
        """
        if not host or isIPAddress(host) or isIPv6Address(host):
            return host
        found = await deferToThreadPool(
            self._reactor,
            self._reactor.getThreadPool(),
            socket.getaddrinfo,
            host,
            None,
            socket.AF_UNSPEC,
            socket.SOCK_STREAM,
        )
        return str(found[0][4][0])

    def _cannot_listen(self, failure: Failure) -> None:
        problem = failure.value
        if isinstance(problem, CannotListenError):
            problem = problem.socketError
        reason = getattr(problem, "strerror", None) or f"{type(problem).__name__}: {problem}"
        where = f"{_in_url(self._conf.bind_host)}:{self._conf.bind_port}"
        self._refuse(f"cannot listen on {where} ([api] bind_host, bind_port): {reason}")

    def stopService(self) -> Deferred[None]:
        """Stop listening, complete the requests in flight within ``[api] shutdown_seconds``, and close connections."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        self._release()
        await self.site.drain(self._conf.shutdown_seconds)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
