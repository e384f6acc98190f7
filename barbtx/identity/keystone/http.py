"""One HTTP exchange with Keystone, with a timeout and a limit on the size of the response."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from oslo_config import cfg
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from barbtx.errors import ConfigurationError
from barbtx.reactor import IReactor
from barbtx.tls import client_tls
from barbtx.validators import provides

_MAX_RESPONSE_BYTES = 1 << 20


class NoResponse(Exception):
    """Keystone sent no usable response; the text says why. A retry may succeed."""


class RequestFailed(NoResponse):
    """Keystone failed to handle this request (status 500), which tells nothing about other requests."""


@attrs.frozen
class Response:
    """A response of Keystone.

    :ivar document: the JSON object of the body; empty if an error response has none.
    :ivar headers: the first value of each header, by name in lower case.
    """

    status: int
    document: Mapping[str, Any] = attrs.field(repr=False)
    headers: Mapping[str, str] = attrs.field(repr=False)


class _Body(Protocol):
    """Collects the body of a response up to a limit.

    Unlike treq's collector, it closes the connection when its Deferred is cancelled.
    """

    def __init__(self) -> None:
        self.content = bytearray()
        self.complete: Deferred[None] = Deferred(lambda _: self._close())

    def dataReceived(self, data: bytes) -> None:
        """Add to the body."""
        self.content.extend(data)
        if len(self.content) > _MAX_RESPONSE_BYTES and not self.complete.called:
            self._close()
            self.complete.errback(ValueError("the response is too long"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Finish: the body is complete, or the connection was lost."""
        if self.complete.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.complete.callback(None)
        else:
            self.complete.errback(reason)

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


@implementer(IPolicyForHTTPS)
@attrs.frozen
class _TLSPolicy:
    make: Callable[[str], IOpenSSLClientConnectionCreator]

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        """Return the TLS options for a host."""
        return self.make(hostname.decode("ascii"))


@attrs.define(eq=False)
class KeystoneHTTP:
    """Sends requests to Keystone.

    :ivar url: base URL of the Identity API, with its version.
    :ivar timeout: seconds for each request, from connecting to the end of the response.
    """

    reactor: IReactorTime = attrs.field(validator=provides(IReactorTime))
    url: str
    timeout: float
    _client: HTTPClient = attrs.field(repr=False)

    @classmethod
    def from_config(cls, reactor: IReactor, conf: cfg.ConfigOpts) -> KeystoneHTTP:
        """Make the client for ``[keystone_authtoken] auth_url``.

        :raises ConfigurationError: the URL is not set, or a file for TLS cannot be used.
        """
        options = conf.keystone_authtoken
        if not options.auth_url:
            raise ConfigurationError("[keystone_authtoken] auth_url must be set: this process uses Keystone")
        tls = _TLSPolicy(client_tls("keystone_authtoken", options.cafile, options.certfile, options.keyfile))
        pool = HTTPConnectionPool(reactor)
        pool.maxPersistentPerHost = options.max_requests
        agent = Agent(reactor, tls, options.http_connect_timeout, pool=pool)
        url = options.auth_url.rstrip("/")
        url = url if url.endswith("/v3") else f"{url}/v3"
        return cls(reactor, url, options.http_request_timeout, HTTPClient(agent))

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], document: Mapping[str, Any] | None = None
    ) -> Response:
        """Send one request.

        :param path: path below the URL, with a leading slash.
        :param document: the JSON object to send as body.
        :raises NoResponse: no response came in time, it cannot be read, or its status means that Keystone is overloaded
            or broken.
        """
        exchange = Deferred.fromCoroutine(self._exchange(method, path, headers, document))
        exchange.addTimeout(self.timeout, self.reactor)
        try:
            status, content, response_headers = await exchange
            found: object = json.loads(content) if status in (200, 201) else _error_document(content)
        except Exception as problem:
            # Only the class of the error is safe to log: its text may quote Keystone's response.
            raise NoResponse(type(problem).__name__) from None
        if status == 500:
            raise RequestFailed("status 500")
        if status > 500 or status == 429 or not isinstance(found, dict):
            raise NoResponse(f"status {status}")
        return Response(status, found, response_headers)

    async def _exchange(
        self, method: str, path: str, headers: Mapping[str, str], document: Mapping[str, Any] | None
    ) -> tuple[int, bytes, dict[str, str]]:
        sent: dict[bytes | str, bytes | str] = {"Accept": "application/json", "User-Agent": "barbtx"}
        sent.update(headers.items())
        data = None
        if document is not None:
            sent["Content-Type"], data = "application/json", json.dumps(document).encode()
        response = await self._client.request(method, self.url + path, headers=sent, data=data, allow_redirects=False)
        body = _Body()
        if response.length != 0:
            response.deliverBody(body)
            await body.complete
        received = {
            name.decode("ascii", "replace").lower(): values[0].decode("latin-1")
            for name, values in response.headers.getAllRawHeaders()
        }
        return response.code, bytes(body.content), received


def _error_document(content: bytes) -> dict[str, Any]:
    """Return the document of an error response; empty if it is not a JSON object, as those of proxies are not."""
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
