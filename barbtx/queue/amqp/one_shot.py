"""A connection for one command: each broker is tried once, and a failure is described to the operator."""

from __future__ import annotations

import attrs
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import defer, error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from txamqp.client import Closed
from txamqp.message import Message

from barbtx.queue.amqp.connection import Broker, Brokers
from barbtx.queue.amqp.protocol import Client, load_spec
from barbtx.reactor import IReactor

_ACCESS_REFUSED, _NOT_ALLOWED = "403", "530"
_HEARTBEAT = 10.0


class NoUsableBroker(Exception):
    """No broker can be used. The text is one line for the operator."""


@attrs.define(eq=False)
class _Factory(Factory):
    client: Client

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Client:
        return self.client


async def connect_one_shot(reactor: IReactor, brokers: Brokers, name: str, max_seconds: float) -> Client:
    """Connect to the first broker that can be used. Each broker is tried once.

    :param name: name of the connection at the broker.
    :param max_seconds: timeout for all brokers together.
    :raises NoUsableBroker: no broker can be used.
    """
    reasons = []
    attempt_seconds = max_seconds / len(brokers.members)
    for broker in brokers.members:
        client = Client(load_spec(), reactor, brokers.vhost, (broker.user, broker.password), name, _HEARTBEAT)
        opening = Deferred.fromCoroutine(_open(reactor, brokers, broker, client, attempt_seconds))
        try:
            await opening.addTimeout(attempt_seconds, reactor)
            return client
        except Exception as problem:
            reasons.append(_reason(problem, broker, brokers, attempt_seconds))
    raise NoUsableBroker("; ".join(dict.fromkeys(reasons)))


async def _open(reactor: IReactor, brokers: Brokers, broker: Broker, client: Client, max_seconds: float) -> None:
    await brokers.endpoint(reactor, broker, max_seconds).connect(_Factory(client))
    try:
        await client.open()
    except Closed:
        client.transport.abortConnection()
        reason = client.channels[0].reason
        if isinstance(reason, Failure):
            reason.raiseException()
        raise
    except BaseException:
        client.transport.abortConnection()
        raise


def _reason(problem: Exception, broker: Broker, brokers: Brokers, seconds: float) -> str:
    """Describe why a broker cannot be used.

    :param seconds: the timeout of the attempt.
    """
    place = f"{broker.host}:{broker.port}"
    if isinstance(problem, Closed):
        said = problem.args[0]
        text = f"{said.reply_code} {said.reply_text}" if isinstance(said, Message) else str(said)
        if text.startswith(_ACCESS_REFUSED):
            return f"the broker at {place} refuses the user {broker.user!r} or its password: {text}"
        if text.startswith(_NOT_ALLOWED):
            return (
                f"the broker at {place} denies the user {broker.user!r} access to the virtual host "
                f"{brokers.vhost!r}: {text}"
            )
        return f"the broker at {place} refuses the connection: {text}"
    if isinstance(problem, SSL.Error):
        reason = "; ".join(error[-1] for error in problem.args[0] if error) if problem.args and problem.args[0] else ""
        return f"TLS with the broker at {place} fails: {reason or 'the connection was closed during the handshake'}"
    if isinstance(problem, VerificationError):
        return f"TLS with the broker at {place} fails: its certificate is for another name"
    if isinstance(problem, (defer.TimeoutError, error.TimeoutError)):
        return f"no broker responds at {place} within {seconds:.1f} seconds"
    if isinstance(problem, error.ConnectionRefusedError):
        return f"no broker responds at {place}: connection refused"
    if isinstance(problem, error.DNSLookupError):
        return f"no broker responds at {place}: the host name is unknown"
    if isinstance(problem, (error.ConnectionLost, error.ConnectionDone, error.ConnectionAborted)):
        tls = " with TLS" if brokers.tls is not None else ""
        return f"the server at {place} closed the connection at once{tls}; is it an AMQP broker, and is TLS correct?"
    return f"no broker responds at {place}: {type(problem).__name__}"
