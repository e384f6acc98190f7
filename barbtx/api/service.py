"""The service that listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oslo_config import cfg
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from barbtx.api.descriptors import BACKLOG, fit_connections
from barbtx.api.http import Site
from barbtx.api.options import share

log = Logger()


class ApiService(Service):
    """Listens, and on stopping finishes what it has begun.

    :param release: called on stopping, to answer those that wait for something.

    :ivar listening: fires with the port once it is bound; fails if it cannot be.
    """

    def __init__(self, reactor: Any, conf: cfg.ConfigOpts, resource: IResource,
                 release: Callable[[], None] = lambda: None) -> None:
        api = conf.api
        self.site = Site(
            resource, reactor,
            max_body=max(conf.max_allowed_request_size_in_bytes, conf.max_allowed_secret_in_bytes + 1),
            request_timeout=api.request_timeout_seconds, idle_timeout=api.idle_timeout_seconds,
            write_timeout=api.write_timeout_seconds, max_connections=api.max_connections,
            max_connections_per_client=share(api.max_connections_per_client, api.max_connections),
            reserve=api.reserved_connections, trusted=api.trusted_proxies,
        )
        self._release = release
        self._reactor = reactor
        self._conf = api
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        super().startService()
        site = self.site
        site.max_connections = fit_connections(site.max_connections, site.connections.reserve)
        kind = TCP6ServerEndpoint if ":" in self._conf.bind_host else TCP4ServerEndpoint
        endpoint = kind(self._reactor, self._conf.bind_port, BACKLOG, self._conf.bind_host)
        endpoint.listen(self.site).addCallbacks(self._listening, self._cannot_listen)

    def _listening(self, port: IListeningPort) -> None:
        self._port = port
        host = self._conf.bind_host
        shown = f"[{host}]" if ":" in host else host
        log.info("barbtx listens on http://{host}:{port}", host=shown, port=port.getHost().port)

    def _cannot_listen(self, failure: Failure) -> None:
        log.critical("barbtx: {reason}", reason=failure.getErrorMessage())
        self._reactor.stop()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        self._release()
        await self.site.drain(self._conf.shutdown_seconds)
