"""The service's own way to Keystone: it logs itself in, and asks about tokens."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any

import attrs
from oslo_config import cfg
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from barbtx.errors import ConfigurationError
from barbtx.identity.keystone.access_rules import SUPPORT_HEADER
from barbtx.identity.keystone.circuit_breaker import CircuitBreaker
from barbtx.identity.keystone.fair_scheduler import (
    FAST,
    SLOWEST,
    ConcurrencyWindow,
    FairScheduler,
    Requester,
    SuspectTable,
)
from barbtx.identity.keystone.single_flight import SingleFlight
from barbtx.identity.keystone.token_formats import is_usual, may_be_token
from barbtx.times import Clock
from barbtx.tls import client_tls

log = Logger()

_MAX_ANSWER = 1 << 20
# That Keystone, or a proxy before it, does not know the token, or cannot take it for one: too long, for example.
_NO_TOKEN = frozenset({400, 404, 413, 414, 431})
# The service's own token is renewed so many seconds before it expires.
_RENEW_BEFORE = 60


class _NoResponse(Exception):
    """Keystone gave none, or none that can be used; the text says why. Another try may help."""


class _BrokenExchange(_NoResponse):
    """Keystone could not answer this question, which says nothing of others."""


class _Body(Protocol):
    """The body of an answer, up to a limit. Unlike treq's collector it can be given up, and its connection with it."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.complete: Deferred[None] = Deferred(lambda _: self.transport.loseConnection())

    def dataReceived(self, data: bytes) -> None:
        self.content.extend(data)
        if len(self.content) > _MAX_ANSWER and not self.complete.called:
            self.transport.loseConnection()
            self.complete.errback(ValueError("the answer is too long"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.complete.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.complete.callback(None)
        else:
            self.complete.errback(reason)


@implementer(IPolicyForHTTPS)
@attrs.frozen
class _TLSPolicy:
    make: Any

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        return self.make(hostname.decode("ascii"))


@attrs.frozen
class _OwnToken:
    text: str = attrs.field(repr=False)
    expires_at: float
    project_id: str | None


def _keystone_url(url: str) -> str:
    url = url.rstrip("/")
    return url if url.endswith("/v3") else f"{url}/v3"


def _domain(options: Any, kind: str) -> dict[str, str]:
    name, id = getattr(options, f"{kind}_domain_name"), getattr(options, f"{kind}_domain_id")
    return {"name": name} if name and not id else {"id": id or "default"}


def _user(options: Any) -> dict[str, Any]:
    return (
        {"id": options.user_id} if options.user_id else {"name": options.username, "domain": _domain(options, "user")}
    )


def login_document(options: Any, *, system: bool = False) -> dict[str, Any]:
    """The body of the service's own authentication (Identity API v3, POST /v3/auth/tokens).

    :param options: the ``[keystone_authtoken]`` section.
    :param system: whether the token is for the whole system instead of the service's project.
    :raises ConfigurationError: something is missing that the way to authenticate needs.
    """

    def need(*names: str) -> None:
        if not any(getattr(options, name) for name in names):
            raise ConfigurationError(
                f"[keystone_authtoken] {' or '.join(names)} must be set for auth_type {options.auth_type}"
            )

    if options.auth_type == "v3applicationcredential":
        if system:
            raise ConfigurationError(
                "[keystone_authtoken] auth_type must be password for a token with system scope: "
                "application credentials are for a project"
            )
        need("application_credential_id", "application_credential_name")
        need("application_credential_secret")
        credential: dict[str, Any] = {"secret": options.application_credential_secret}
        if options.application_credential_id:
            credential["id"] = options.application_credential_id
        else:
            need("username", "user_id")
            credential |= {"name": options.application_credential_name, "user": _user(options)}
        return {"auth": {"identity": {"methods": ["application_credential"], "application_credential": credential}}}
    need("username", "user_id")
    need("password")
    need("project_name", "project_id")
    project = (
        {"id": options.project_id}
        if options.project_id
        else {"name": options.project_name, "domain": _domain(options, "project")}
    )
    user = {**_user(options), "password": options.password}
    scope = {"system": {"all": True}} if system else {"project": project}
    return {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}


def _error_of(content: bytes) -> Any:
    """The document of an error, which may come from a proxy in whatever words; empty if it is no JSON object."""
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def parse_expiry(text: str) -> float:
    """Keystone's time of expiry, as seconds since the epoch.

    :raises ValueError: it is no time.
    """
    moment = datetime.datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


@attrs.define(eq=False)
class KeystoneSession:
    """Asks Keystone, with limits on how long, how often and how many at once.

    :ivar url: of the Identity API, with its version.
    """

    reactor: Any
    clock: Clock
    url: str
    options: Any = attrs.field(repr=False)
    _login: Mapping[str, Any] = attrs.field(repr=False)
    _http: HTTPClient = attrs.field(repr=False)
    _circuit: CircuitBreaker
    _turns: FairScheduler
    _suspects: SuspectTable
    _answered_at: float = attrs.field(default=float("-inf"), init=False)
    _silent: bool = attrs.field(default=False, init=False)
    _own: _OwnToken | None = attrs.field(default=None, init=False)
    _logins: SingleFlight = attrs.field(factory=SingleFlight, init=False)

    @classmethod
    def from_config(cls, reactor: Any, clock: Clock, conf: cfg.ConfigOpts, *, system: bool = False) -> KeystoneSession:
        """Make a session; nothing is asked yet.

        :param system: whether the service asks with a token for the whole system instead of its project.
        :raises ConfigurationError: an option is missing, or a file cannot be used.
        """
        options = conf.keystone_authtoken
        if not options.auth_url:
            raise ConfigurationError("[keystone_authtoken] auth_url must be set: this process asks Keystone")
        login = login_document(options, system=system)
        tls = _TLSPolicy(client_tls("keystone_authtoken", options.cafile, options.certfile, options.keyfile))
        pool = HTTPConnectionPool(reactor)
        pool.maxPersistentPerHost = options.max_requests
        agent = Agent(reactor, tls, options.http_connect_timeout, pool=pool)
        circuit = CircuitBreaker(reactor, "Keystone", options.circuit_failures, options.circuit_seconds)
        suspects = SuspectTable(reactor.seconds)
        window = ConcurrencyWindow(reactor.seconds, options.max_requests)
        turns = FairScheduler(window, options.max_waiting_requests, suspects, circuit.unavailable)
        return cls(
            reactor, clock, _keystone_url(options.auth_url), options, login, HTTPClient(agent), circuit, turns, suspects
        )

    async def describe_token(
        self, token: str, *, allow_expired: bool = False, asker: Requester = Requester()
    ) -> Mapping[str, Any] | None:
        """What Keystone knows of a token, or None if it knows it for invalid.

        :param allow_expired: whether one is good for a while after its end (for services that act for a user).
        :param asker: who sent it.
        :raises ServiceUnavailable: Keystone does not say.
        """
        document = await self._describe(token, allow_expired, asker)
        if document is None:
            self._suspects.blame(asker)
            await deferLater(self.reactor, self._suspects.penalty(asker), lambda: None)
        return document

    async def _describe(self, token: str, allow_expired: bool, asker: Requester) -> Mapping[str, Any] | None:
        path = "/auth/tokens?nocatalog" + ("&allow_expired=1" if allow_expired else "")
        for _ in range(2):
            own = await self._own_token()
            if not may_be_token(token, own.text):
                return None
            fastest = FAST if is_usual(token, self.clock.seconds()) else SLOWEST
            headers = {"X-Auth-Token": own.text, "X-Subject-Token": token, **SUPPORT_HEADER}
            status, document, _ = await self._exchange("GET", path, headers, None, asker, fastest)
            if status == 200:
                if not isinstance(document.get("token"), dict):
                    break
                return document["token"]
            if status in _NO_TOKEN:
                return None
            # It is our own token that it does not take: revoked, perhaps. Another one may do.
            if self._own is own:
                self._own = None
            if status != 401:
                break
        self._circuit.open()
        self._circuit.cause = f"Keystone does not validate tokens for barbtx: status {status}"
        log.error(
            "Keystone does not validate tokens for barbtx: it answers {status}; does the user of "
            "[keystone_authtoken] have a role on its project?",
            status=status,
            log_outage=True,
        )
        raise self._circuit.unavailable()

    async def get(self, path: str) -> tuple[int, Mapping[str, Any]]:
        """What Keystone answers to the service itself: status and document, which is empty if it is no JSON object.

        :param path: below the Identity API's URL, with a slash before it.
        :raises ServiceUnavailable: there is no answer.
        """
        for _ in range(2):
            own = await self._own_token()
            status, document, _ = await self._exchange("GET", path, {"X-Auth-Token": own.text}, None, Requester(), FAST)
            if status != 401:
                break
            if self._own is own:
                self._own = None
        return status, document

    async def project_id(self) -> str | None:
        """The project for which the service has its token, if it is for one.

        :raises ServiceUnavailable: there is no answer.
        """
        return (await self._own_token()).project_id

    def _own_token(self) -> Deferred[_OwnToken]:
        own = self._own
        if own is not None and own.expires_at - _RENEW_BEFORE > self.clock.seconds():
            return succeed(own)
        return self._logins.join("login", self._log_in)

    async def _log_in(self) -> _OwnToken:
        status, document, headers = await self._exchange("POST", "/auth/tokens", {}, self._login, Requester(), FAST)
        try:
            if status != 201:
                raise ValueError
            token = document["token"]
            self._own = _OwnToken(
                headers["x-subject-token"], parse_expiry(token["expires_at"]), (token.get("project") or {}).get("id")
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            log.error(
                "Keystone refuses to authenticate barbtx itself: it answers {status}; see the user, password "
                "and project of [keystone_authtoken]",
                status=status,
                log_outage=True,
            )
            self._circuit.open()
            self._circuit.cause = f"Keystone refuses to authenticate barbtx itself: status {status}"
            raise self._circuit.unavailable() from None
        return self._own

    async def _exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        document: Mapping[str, Any] | None,
        asker: Requester,
        fastest: int,
    ) -> tuple[int, Mapping[str, Any], Mapping[str, str]]:
        """One question, tried several times if need be.

        :raises ServiceUnavailable: there is no answer.
        """
        self._circuit.check()
        async with self._turns.turn(asker, fastest) as lane:
            begun = self.reactor.seconds()
            retries = self.options.http_request_max_retries if lane == FAST else 0
            retrying = AsyncRetrying(
                stop=stop_after_attempt(1 + retries),
                wait=wait_random_exponential(multiplier=0.1, max=1),
                retry=retry_if_exception_type(_NoResponse),
                sleep=lambda seconds: deferLater(self.reactor, seconds, lambda: None),
                reraise=True,
            )
            try:
                answer = await self._take_turn(retrying, method, path, headers, document)
            except _NoResponse as problem:
                self._turns.window.unanswered(begun)
                # A question that Keystone cannot answer says nothing of Keystone while it answers others.
                if self._answered_at < begun and not isinstance(problem, _BrokenExchange):
                    self._circuit.failed()
                log.warn(
                    "Keystone at {url} does not answer: {reason}", url=self.url, reason=str(problem), log_outage=True
                )
                self._circuit.cause, self._silent = f"Keystone does not answer: {problem}", True
                raise self._circuit.unavailable() from None
            self._answered_at = self.reactor.seconds()
            if self._silent:
                self._silent = False
                log.info("Keystone at {url} answers again", url=self.url, log_outage=True)
            self._turns.window.answered()
        self._circuit.succeeded()
        return answer

    async def _take_turn(self, retrying: AsyncRetrying, *question: Any) -> Any:
        # While it waited for its turn, others may have learnt that there is no answer to be had.
        if self._circuit.is_open:
            raise self._circuit.unavailable()
        return await retrying(self._try, *question)

    async def _try(
        self, method: str, path: str, headers: Mapping[str, str], document: Mapping[str, Any] | None
    ) -> tuple[int, Mapping[str, Any], Mapping[str, str]]:
        trying = Deferred.fromCoroutine(self._request(method, path, headers, document))
        trying.addTimeout(self.options.http_request_timeout, self.reactor)
        try:
            status, content, answered = await trying
            found = json.loads(content) if status in (200, 201) else _error_of(content)
        except Exception as problem:
            # Whatever goes wrong with another service's answer, its kind is all that is safe to say: texts may quote it.
            raise _NoResponse(type(problem).__name__) from None
        if status == 500:
            raise _BrokenExchange("status 500")
        if status > 500 or status == 429 or not isinstance(found, dict):
            raise _NoResponse(f"status {status}")
        return status, found, answered

    async def _request(
        self, method: str, path: str, headers: Mapping[str, str], document: Mapping[str, Any] | None
    ) -> tuple[int, bytes, Mapping[str, str]]:
        sent = {"Accept": "application/json", "User-Agent": "barbtx", **headers}
        data = None
        if document is not None:
            sent["Content-Type"], data = "application/json", json.dumps(document).encode()
        response = await self._http.request(method, self.url + path, headers=sent, data=data, allow_redirects=False)
        body = _Body()
        if response.length != 0:
            response.deliverBody(body)
            await body.complete
        answered = {
            name.decode("ascii", "replace").lower(): values[0].decode("latin-1")
            for name, values in response.headers.getAllRawHeaders()
        }
        return response.code, bytes(body.content), answered
