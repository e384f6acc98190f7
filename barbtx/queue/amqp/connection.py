"""A connection that comes back: where the brokers are, and a service that keeps a client connected to one of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs
from oslo_config import cfg
from twisted.application.internet import ClientService, backoffPolicy
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from txamqp.client import ChannelClosed, Closed
from txamqp.spec import Spec
from zope.interface import implementer

from barbtx.errors import ConfigurationError
from barbtx.queue.amqp.protocol import Client, load_spec, one_line
from barbtx.tls import client_tls

log = Logger()

_PORTS = {"rabbit": 5672, "amqp": 5672, "amqps": 5671}
_PRECONDITION_FAILED = "406"


@attrs.frozen
class Broker:
    """Where a broker is and how to log in."""

    host: str
    port: int
    user: str
    password: str = attrs.field(repr=False)


@attrs.frozen
class Brokers:
    """The members of a cluster, any of which will do.

    :ivar tls: makes the TLS options for a host; None for connections in clear.
    """

    members: tuple[Broker, ...]
    vhost: str
    tls: Callable[[str], Any] | None = None

    @classmethod
    def from_url(cls, url: str, tls: Callable[[str], Any] | None = None) -> Brokers:
        """Read a transport URL: ``rabbit://user:password@host:port,user:password@host:port/virtual-host``.

        A member without a user is logged in to as the first one is; the scheme ``amqps`` is the same with TLS.

        :raises ConfigurationError: it is none.
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
        """The brokers of ``transport_url`` and ``[oslo_messaging_rabbit]``.

        :raises ConfigurationError: one of them cannot be used.
        """
        options, url = conf.oslo_messaging_rabbit, conf.transport_url
        if not (options.ssl or url.startswith("amqps:")):
            return cls.from_url(url)
        return cls.from_url(
            url, client_tls("oslo_messaging_rabbit", options.ssl_ca_file, options.ssl_cert_file, options.ssl_key_file)
        )

    def endpoint(self, reactor: Any, broker: Broker, timeout: float) -> IStreamClientEndpoint:
        """What connects to one of them.

        :param timeout: seconds.
        """
        endpoint = HostnameEndpoint(reactor, broker.host, broker.port, timeout=timeout)
        return endpoint if self.tls is None else wrapClientTLS(self.tls(broker.host), endpoint)


@implementer(IProtocol)
@attrs.define(eq=False)
class _ConnectionLostGuard:
    """Keeps from ClientService that a connection was lost which it has not been given yet.

    It would take that for an error of its own: the loss is known to it by the failure to prepare the connection.

    :ivar proxy: what ClientService put around the client, to hear of its loss.
    """

    proxy: Any
    client: Client

    def makeConnection(self, transport: Any) -> None:
        self.proxy.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        self.client.dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:
        (self.proxy if self.client.prepared else self.client).connectionLost(reason)


@attrs.define(eq=False)
class _ConnectionLostGuardFactory(Factory):
    factory: Any
    clients: _ClientFactory

    noisy = False

    def buildProtocol(self, addr: object) -> _ConnectionLostGuard:
        return _ConnectionLostGuard(self.factory.buildProtocol(addr), self.clients.latest)


@implementer(IStreamClientEndpoint)
@attrs.define(eq=False)
class _RoundRobinEndpoint:
    """Connects to another member at each try."""

    reactor: Any
    clients: _ClientFactory
    timeout: float
    _members: Iterator[Broker] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._members = itertools.cycle(self.clients.brokers.members)

    def connect(self, factory: Factory) -> Deferred[Any]:
        broker = self.clients.broker = next(self._members)
        endpoint = self.clients.brokers.endpoint(self.reactor, broker, self.timeout)
        connecting = endpoint.connect(_ConnectionLostGuardFactory(factory, self.clients))
        return connecting.addCallbacks(lambda gate: gate.proxy, self._failed, errbackArgs=(broker,))

    def _failed(self, failure: Failure, broker: Broker) -> Failure:
        if not failure.check(CancelledError):
            log.warn(
                "{name}: the broker at {host}:{port} cannot be reached: {reason}",
                name=self.clients.name,
                host=broker.host,
                port=broker.port,
                reason=one_line(failure),
                log_outage=True,
            )
        return failure


@attrs.define(eq=False)
class _ClientFactory(Factory):
    """:ivar latest: the client that was made last."""

    reactor: Any
    brokers: Brokers
    name: str
    heartbeat: float
    broker: Broker = attrs.field(init=False)
    latest: Client = attrs.field(init=False)
    _spec: Spec = attrs.field(factory=load_spec, init=False)

    noisy = False

    def buildProtocol(self, addr: object) -> Client:
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
    """What is done on each new connection before it counts as one; see :func:`client_service`."""

    reactor: Any
    clients: _ClientFactory
    name: str
    timeout: float
    prepare: Callable[[Client], Coroutine[Any, Any, None]]
    refuse: Callable[[str], None] | None
    _tries: int = attrs.field(default=0, init=False)

    async def __call__(self, proxy: Any) -> None:
        client = self.clients.latest
        self._tries += 1
        watchdog = self.reactor.callLater(self.timeout, client.transport.abortConnection)
        try:
            await client.open()
            await self.prepare(client)
        except Closed as problem:
            client.transport.abortConnection()
            if isinstance(problem, ChannelClosed) and str(problem).startswith(_PRECONDITION_FAILED):
                self._mismatch(str(problem))
            else:
                broker, reason = self.clients.broker, one_line(problem.args[0] if problem.args else problem)
                log.warn(
                    "{name}: the broker at {host}:{port} cannot be used: {reason}",
                    name=self.name,
                    host=broker.host,
                    port=broker.port,
                    reason=reason,
                    log_outage=True,
                )
            raise
        finally:
            if watchdog.active():
                watchdog.cancel()
        client.prepared = True
        broker = self.clients.broker
        log.info("{name}: connected to the broker at {host}:{port}", name=self.name, host=broker.host, port=broker.port)

    def _mismatch(self, text: str) -> None:
        text = (
            f"what is declared at the broker is not what the configuration says: {text}; change [queue], or delete it "
            "at the broker once it is empty"
        )
        if self._tries == 1 and self.refuse is not None:
            self.refuse(text)
        else:
            log.error("{name}: {text}", name=self.name, text=text)


def client_service(
    reactor: Any,
    brokers: Brokers,
    name: str,
    heartbeat: float,
    prepare: Callable[[Client], Coroutine[Any, Any, None]],
    refuse: Callable[[str], None] | None = None,
) -> ClientService:
    """A service that stays connected, with capped exponential backoff and jitter between the tries.

    :param heartbeat: seconds; also the longest that a handshake may take.
    :param prepare: run on each new connection, before it counts as one; if it fails, the next try follows.
    :param refuse: called if, at the very first try, something is at the broker already that is not as it should be;
        later that is only logged, and tried again.
    """
    timeout = max(heartbeat, 5.0)
    clients = _ClientFactory(reactor, brokers, name, heartbeat)
    preparation = _Preparation(reactor, clients, name, timeout, prepare, refuse)
    return ClientService(
        _RoundRobinEndpoint(reactor, clients, timeout),
        clients,
        retryPolicy=backoffPolicy(initialDelay=0.2, maxDelay=10.0),
        clock=reactor,
        prepareConnection=lambda proxy: Deferred.fromCoroutine(preparation(proxy)),
    )
