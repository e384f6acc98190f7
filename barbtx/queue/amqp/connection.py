"""The addresses of the brokers, and a service that keeps a connection to one of them and reconnects when it is lost."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import cast
from urllib.parse import unquote, urlsplit

import attrs
from oslo_config import cfg
from twisted.application.internet import ClientService, backoffPolicy
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from txamqp.client import ChannelClosed, Closed
from txamqp.spec import Spec
from zope.interface import implementer

from barbtx.errors import ConfigurationError
from barbtx.queue.amqp.channel import close_reason
from barbtx.queue.amqp.protocol import Client, load_spec
from barbtx.reactor import IReactor
from barbtx.tls import client_tls

log = Logger()

_PORTS = {"rabbit": 5672, "amqp": 5672, "amqps": 5671}
_PRECONDITION_FAILED = "406"


@attrs.frozen
class Broker:
    """Address and credentials of a broker."""

    host: str
    port: int
    user: str
    password: str = attrs.field(repr=False)


@attrs.frozen
class Brokers:
    """The members of a RabbitMQ cluster, which are interchangeable.

    :ivar tls: makes the TLS settings for a host; None to connect without TLS.
    """

    members: tuple[Broker, ...]
    vhost: str
    tls: Callable[[str], IOpenSSLClientConnectionCreator] | None = None

    @classmethod
    def from_url(cls, url: str, tls: Callable[[str], IOpenSSLClientConnectionCreator] | None = None) -> Brokers:
        """Parse a transport URL: ``rabbit://user:password@host:port,user:password@host:port/virtual-host``.

        The first member's credentials are used for members without a user. The scheme ``amqps`` selects port 5671.

        :param tls: see :attr:`tls`.
        :raises ConfigurationError: the URL is invalid.
        """
        scheme, _, rest = url.partition("://")
        hosts, _, path = rest.partition("/")
        members: list[Broker] = []
        try:
            for part in hosts.split(","):
                parts = urlsplit(f"//{part}")
                first = members[0] if members else Broker("", 0, "guest", "guest")
                user = first.user if parts.username is None else unquote(parts.username)
                password = first.password if parts.password is None else unquote(parts.password)
                if not parts.hostname:
                    raise ValueError
                members.append(Broker(parts.hostname, parts.port or _PORTS[scheme], user, password))
        except (ValueError, KeyError):
            raise ConfigurationError(
                "transport_url must be like rabbit://user:password@host:port/virtual-host, with "
                "commas between several hosts, or amqps://… for TLS"
            ) from None
        return cls(tuple(members), unquote(path.partition("?")[0]) or "/", tls)

    @classmethod
    def from_config(cls, conf: cfg.ConfigOpts) -> Brokers:
        """Read ``transport_url`` and the options of ``[oslo_messaging_rabbit]``.

        :raises ConfigurationError: the URL is invalid, or a file for TLS cannot be used.
        """
        options, url = conf.oslo_messaging_rabbit, conf.transport_url
        if not (options.ssl or url.startswith("amqps:")):
            return cls.from_url(url)
        return cls.from_url(
            url, client_tls("oslo_messaging_rabbit", options.ssl_ca_file, options.ssl_cert_file, options.ssl_key_file)
        )

    def endpoint(self, reactor: IReactor, broker: Broker, timeout: float) -> IStreamClientEndpoint:
        """Return an endpoint that connects to a member.

        :param timeout: seconds to wait for the connection.
        """
        endpoint = HostnameEndpoint(reactor, broker.host, broker.port, timeout=timeout)
        return endpoint if self.tls is None else wrapClientTLS(self.tls(broker.host), endpoint)


@attrs.define(eq=False)
class _ConnectionLostGuard(Protocol):
    """Hides the loss of a connection from ClientService while the connection is being prepared.

    ClientService learns of the loss from the failed preparation; a loss before that would be an error in its state
    machine.

    :ivar proxy: the protocol that ClientService wraps around the client, to be notified when the connection is lost.
    """

    proxy: IProtocol
    client: Client

    def makeConnection(self, transport: ITransport) -> None:
        """Connect the proxy, which connects the client."""
        self.proxy.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        """Pass data to the client."""
        self.client.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Notify ClientService if the connection was prepared, and the client in any case."""
        if self.client.prepared:
            self.proxy.connectionLost(reason)
        else:
            self.client.connectionLost(reason)


@attrs.define(eq=False)
class _ConnectionLostGuardFactory(Factory):
    factory: IProtocolFactory
    clients: _ClientFactory

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> _ConnectionLostGuard | None:
        # Factory allows None, but endpoints pass the address to which they are connected.
        proxy = self.factory.buildProtocol(cast(IAddress, addr))
        return None if proxy is None else _ConnectionLostGuard(proxy, self.clients.latest)


@implementer(IStreamClientEndpoint)
@attrs.define(eq=False)
class _RoundRobinEndpoint:
    """Connects to the next member of the cluster at each attempt.

    :ivar timeout: seconds to wait for the connection.
    """

    reactor: IReactor
    clients: _ClientFactory
    timeout: float
    _members: Iterator[Broker] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._members = itertools.cycle(self.clients.brokers.members)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        broker = self.clients.broker = next(self._members)
        endpoint = self.clients.brokers.endpoint(self.reactor, broker, self.timeout)
        connecting = endpoint.connect(_ConnectionLostGuardFactory(protocolFactory, self.clients))
        return connecting.addCallbacks(lambda guard: guard.proxy, self._failed, errbackArgs=(broker,))

    def _failed(self, failure: Failure, broker: Broker) -> Failure:
        if not failure.check(CancelledError):
            log.warn(
                "{name}: the broker at {host}:{port} cannot be reached: {reason}",
                name=self.clients.name,
                host=broker.host,
                port=broker.port,
                reason=close_reason(failure),
                log_outage=True,
            )
        return failure


@attrs.define(eq=False)
class _ClientFactory(Factory):
    """Makes a client for each connection.

    :ivar broker: the broker to which the next connection is made.
    :ivar latest: the client that was made last.
    """

    reactor: IReactor
    brokers: Brokers
    name: str
    heartbeat: float
    broker: Broker = attrs.field(init=False)
    latest: Client = attrs.field(init=False)
    _spec: Spec = attrs.field(factory=load_spec, init=False)

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Client:
        self.latest = Client(
            self._spec,
            self.reactor,
            self.brokers.vhost,
            (self.broker.user, self.broker.password),
            self.name,
            self.heartbeat,
        )
        return self.latest


@attrs.define(eq=False)
class _Preparation:
    """Prepares each new connection before ClientService considers it connected; see :func:`client_service`.

    :ivar timeout: seconds after which a connection that is not prepared is aborted.
    """

    reactor: IReactor
    clients: _ClientFactory
    timeout: float
    prepare: Callable[[Client], Awaitable[None]]
    refuse: Callable[[str], None] | None
    _attempts: int = attrs.field(default=0, init=False)

    async def run(self) -> None:
        client, broker = self.clients.latest, self.clients.broker
        self._attempts += 1
        watchdog = self.reactor.callLater(self.timeout, client.transport.abortConnection)
        try:
            await client.open()
            await self.prepare(client)
        except Closed as problem:
            client.transport.abortConnection()
            if isinstance(problem, ChannelClosed) and str(problem).startswith(_PRECONDITION_FAILED):
                self._mismatch(str(problem))
            else:
                reason = close_reason(problem.args[0] if problem.args else problem)
                log.warn(
                    "{name}: the broker at {host}:{port} cannot be used: {reason}",
                    name=self.clients.name,
                    host=broker.host,
                    port=broker.port,
                    reason=reason if watchdog.active() else "no response in time",
                    log_outage=True,
                )
            raise
        finally:
            if watchdog.active():
                watchdog.cancel()
        client.prepared = True
        log.info(
            "{name}: connected to the broker at {host}:{port}",
            name=self.clients.name,
            host=broker.host,
            port=broker.port,
        )

    def _mismatch(self, problem: str) -> None:
        text = (
            "the exchanges or queues at the broker differ from the configuration: "
            f"{problem}; change the options in [queue], or delete the queue in RabbitMQ once it is empty"
        )
        if self._attempts == 1 and self.refuse is not None:
            self.refuse(text)
        else:
            log.error("{name}: {text}", name=self.clients.name, text=text)


def client_service(
    reactor: IReactor,
    brokers: Brokers,
    name: str,
    heartbeat: float,
    prepare: Callable[[Client], Awaitable[None]],
    refuse: Callable[[str], None] | None = None,
) -> ClientService:
    """Make a service that keeps a connection, and reconnects with exponential backoff (10 seconds at most) and jitter.

    :param name: name of the connection, in the log and at the broker.
    :param heartbeat: heartbeat interval in seconds, and the timeout of the handshake, which is 5 seconds at least.
    :param prepare: prepares a new connection before it is used. If it fails, the connection is closed and retried.
    :param refuse: called with the reason if, at the first attempt, an exchange or queue at the broker has other
        arguments than those configured. At later attempts that is only logged.
    """
    timeout = max(heartbeat, 5.0)
    clients = _ClientFactory(reactor, brokers, name, heartbeat)
    preparation = _Preparation(reactor, clients, timeout, prepare, refuse)
    return ClientService(
        _RoundRobinEndpoint(reactor, clients, timeout),
        clients,
        retryPolicy=backoffPolicy(initialDelay=0.2, maxDelay=10.0),
        clock=reactor,
        prepareConnection=lambda proxy: Deferred.fromCoroutine(preparation.run()),
    )
