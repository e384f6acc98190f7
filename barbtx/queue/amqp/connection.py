"""A connection that comes back: where the broker is, and a service that keeps a client connected to it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs
from twisted.application.internet import ClientService, backoffPolicy
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory
from txamqp.client import Closed
from txamqp.spec import Spec

from barbtx.errors import ConfigurationError
from barbtx.queue.amqp.protocol import Client, load_spec


@attrs.frozen
class Broker:
    """Where a broker is and how to log in."""

    host: str
    port: int
    vhost: str
    user: str
    password: str = attrs.field(repr=False)

    @classmethod
    def from_url(cls, url: str) -> Broker:
        """Read a transport URL: ``rabbit://user:password@host:port/virtual-host``.

        :raises ConfigurationError: it is none.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 5672
        except ValueError:
            raise ConfigurationError("transport_url is no URL") from None
        if parts.scheme not in ("rabbit", "amqp") or not parts.hostname:
            raise ConfigurationError("transport_url must be like rabbit://user:password@host:port/virtual-host")
        return cls(parts.hostname, port, unquote(parts.path[1:]) or "/",
                   unquote(parts.username or "guest"), unquote(parts.password or "guest"))


@attrs.define(eq=False)
class _ClientFactory(Factory):
    broker: Broker
    clock: Any
    name: str
    heartbeat: float
    spec: Spec = attrs.field(factory=load_spec)

    noisy = False

    def buildProtocol(self, addr: object) -> Client:
        return Client(self.spec, self.clock, self.broker.vhost, (self.broker.user, self.broker.password),
                      self.name, self.heartbeat)


def client_service(reactor: Any, broker: Broker, name: str, heartbeat: float,
                   prepare: Callable[[Client], Coroutine[Any, Any, None]]) -> ClientService:
    """A service that stays connected, with capped exponential backoff and jitter between the tries.

    :param heartbeat: seconds; also the longest that a handshake may take.
    :param prepare: run on each new connection, before it counts as one; if it fails, the next try follows.
    """
    async def ready(client: Client) -> None:
        watchdog = reactor.callLater(max(heartbeat, 5.0), client.transport.abortConnection)
        try:
            await client.open()
            await prepare(client)
        except Closed:
            client.transport.abortConnection()
            raise
        finally:
            if watchdog.active():
                watchdog.cancel()

    return ClientService(
        HostnameEndpoint(reactor, broker.host, broker.port, timeout=max(heartbeat, 5.0)),
        _ClientFactory(broker, reactor, name, heartbeat),
        retryPolicy=backoffPolicy(initialDelay=0.2, maxDelay=10.0),
        clock=reactor,
        prepareConnection=lambda client: Deferred.fromCoroutine(ready(client)),
    )
