"""The service that listens."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from oslo_config import cfg
from twisted.application.service import Service
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from barbtx.api.descriptor_limit import BACKLOG, fit_to_descriptor_limit
from barbtx.api.http import Site
from barbtx.api.options import share

log = Logger()


class ApiListener(Service):
    """Listens, and on stopping finishes what it has begun.

    :param refuse: is told why it cannot listen.
    :param release: called on stopping, to answer those that wait for something.
    """

    def __init__(
        self,
        reactor: Any,
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
        super().startService()
        site = self.site
        site.max_connections = fit_to_descriptor_limit(site.max_connections, site.connections.reserve)
        Deferred.fromCoroutine(self._listen()).addErrback(self._cannot_listen)

    async def _listen(self) -> None:
        host = self._conf.bind_host
        address = await self._address(host)
        if not self.running:
            return
        kind = TCP6ServerEndpoint if ":" in address else TCP4ServerEndpoint
        self._port = await kind(self._reactor, self._conf.bind_port, BACKLOG, address).listen(self.site)
        shown = f"[{host}]" if ":" in host else host
        log.info("barbtx listens on http://{host}:{port}", host=shown, port=self._port.getHost().port)

    async def _address(self, host: str) -> str:
        """What to bind to: the host, or the first address of a name. Binding to a name would look it up in the reactor.

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
        return found[0][4][0]

    def _cannot_listen(self, failure: Failure) -> None:
        problem = failure.value.socketError if failure.check(CannotListenError) else failure.value
        reason = getattr(problem, "strerror", None) or f"{type(problem).__name__}: {problem}"
        host = f"[{self._conf.bind_host}]" if ":" in self._conf.bind_host else self._conf.bind_host
        self._refuse(f"cannot listen on {host}:{self._conf.bind_port} ([api] bind_host, bind_port): {reason}")

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        self._release()
        await self.site.drain(self._conf.shutdown_seconds)
