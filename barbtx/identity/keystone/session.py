"""barbtx's session with Keystone: it authenticates itself, validates tokens and reads projects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from oslo_config import cfg
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from barbtx.identity.keystone.access_rules import SUPPORT_HEADER
from barbtx.identity.keystone.circuit_breaker import CircuitBreaker
from barbtx.identity.keystone.fair_scheduler import (
    ANONYMOUS,
    FAST,
    SLOWEST,
    ConcurrencyWindow,
    FairScheduler,
    Requester,
    SuspectTable,
)
from barbtx.identity.keystone.http import KeystoneHTTP, NoResponse, RequestFailed, Response
from barbtx.identity.keystone.login import login_document
from barbtx.identity.keystone.single_flight import SingleFlight
from barbtx.identity.keystone.token_formats import is_usual, may_be_token, parse_expiry
from barbtx.reactor import IReactor
from barbtx.times import Clock
from barbtx.validators import provides

log = Logger()

# Keystone, or a proxy before it, does not know the token or does not accept it as one: it is too long, for example.
_INVALID_TOKEN = frozenset({400, 404, 413, 414, 431})
# The service's own token is renewed this many seconds before it expires.
_RENEW_BEFORE = 60


@attrs.frozen
class _OwnToken:
    text: str = attrs.field(repr=False)
    expires_at: float
    project_id: str | None


@attrs.define(eq=False)
class KeystoneSession:
    """Sends requests to Keystone with a token of the service's own, with limits on their number, time and retries.

    :ivar reactor: for timers.
    :ivar clock: wall clock, for the expiry of tokens.
    :ivar max_retries: retries of a request after the first try.
    """

    reactor: IReactorTime = attrs.field(validator=provides(IReactorTime))
    clock: Clock
    max_retries: int
    _login: Mapping[str, Any] = attrs.field(repr=False)
    _http: KeystoneHTTP
    _circuit: CircuitBreaker
    _scheduler: FairScheduler
    _suspects: SuspectTable
    _last_response_at: float = attrs.field(default=float("-inf"), init=False)
    _outage_logged: bool = attrs.field(default=False, init=False)
    _own: _OwnToken | None = attrs.field(default=None, init=False, repr=False)
    _logins: SingleFlight[_OwnToken] = attrs.field(factory=SingleFlight, init=False)

    @classmethod
    def from_config(
        cls, reactor: IReactor, clock: Clock, conf: cfg.ConfigOpts, *, system: bool = False
    ) -> KeystoneSession:
        """Make a session; no request is sent yet.

        :param system: whether the service uses a token for the whole system instead of its project.
        :raises ConfigurationError: an option is missing, or a file cannot be used.
        """
        http = KeystoneHTTP.from_config(reactor, conf)
        options = conf.keystone_authtoken
        login = login_document(options, system=system)
        circuit = CircuitBreaker(reactor, "Keystone", options.circuit_failures, options.circuit_seconds)
        suspects = SuspectTable(reactor.seconds)
        window = ConcurrencyWindow(reactor.seconds, options.max_requests)
        scheduler = FairScheduler(window, options.max_waiting_requests, suspects, circuit.unavailable)
        return cls(reactor, clock, options.http_request_max_retries, login, http, circuit, scheduler, suspects)

    async def validate_token(
        self, token: str, *, allow_expired: bool = False, requester: Requester = ANONYMOUS
    ) -> Mapping[str, Any] | None:
        """Validate a token.

        :param allow_expired: whether a token is valid for a while after it expired (for services that act for a user).
        :param requester: who sent it.
        :return: the ``token`` object of Keystone's response; None if the token is invalid.
        :raises ServiceUnavailable: Keystone does not respond or refuses to validate.
        """
        document = await self._validate(token, allow_expired, requester)
        if document is None:
            self._suspects.record_invalid_token(requester)
            await deferLater(self.reactor, self._suspects.penalty(requester), lambda: None)
        return document

    async def _validate(self, token: str, allow_expired: bool, requester: Requester) -> Mapping[str, Any] | None:
        path = "/auth/tokens?nocatalog" + ("&allow_expired=1" if allow_expired else "")
        for _ in range(2):
            own = await self._own_token()
            if not may_be_token(token, own.text):
                return None
            fastest = FAST if is_usual(token, self.clock.seconds()) else SLOWEST
            headers = {"X-Auth-Token": own.text, "X-Subject-Token": token, **SUPPORT_HEADER}
            response = await self._request("GET", path, headers, None, requester, fastest)
            status = response.status
            if status == 200:
                document = response.document.get("token")
                if isinstance(document, dict):
                    return document
                break
            if status in _INVALID_TOKEN:
                return None
            # Keystone refuses the service's own token, which may have been revoked; a new one may be accepted.
            if self._own is own:
                self._own = None
            if status != 401:
                break
        self._circuit.open()
        self._circuit.cause = f"Keystone does not validate tokens for barbtx: status {status}"
        log.error(
            "Keystone does not validate tokens for barbtx: it responds with {status}; does the user of "
            "[keystone_authtoken] have a role on its project?",
            status=status,
            log_outage=True,
        )
        raise self._circuit.unavailable()

    async def get(self, path: str) -> tuple[int, Mapping[str, Any]]:
        """Send a GET request as the service itself.

        :param path: path below the Identity API's URL, with a leading slash.
        :return: status and document; the document is empty if the body is not a JSON object.
        :raises ServiceUnavailable: there is no response.
        """
        for _ in range(2):
            own = await self._own_token()
            response = await self._request("GET", path, {"X-Auth-Token": own.text}, None, ANONYMOUS, FAST)
            if response.status != 401:
                break
            if self._own is own:
                self._own = None
        return response.status, response.document

    async def project_id(self) -> str | None:
        """Return the project of the service's own token, or None if the token is for the system.

        :raises ServiceUnavailable: there is no response.
        """
        return (await self._own_token()).project_id

    def _own_token(self) -> Deferred[_OwnToken]:
        own = self._own
        if own is not None and own.expires_at - _RENEW_BEFORE > self.clock.seconds():
            return succeed(own)
        return self._logins.join("login", self._log_in)

    async def _log_in(self) -> _OwnToken:
        response = await self._request("POST", "/auth/tokens", {}, self._login, ANONYMOUS, FAST)
        try:
            if response.status != 201:
                raise ValueError
            token = response.document["token"]
            own = _OwnToken(
                response.headers["x-subject-token"],
                parse_expiry(token["expires_at"]),
                (token.get("project") or {}).get("id"),
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            log.error(
                "Keystone refuses to authenticate barbtx itself: it responds with {status}; check the user, password "
                "and project of [keystone_authtoken]",
                status=response.status,
                log_outage=True,
            )
            self._circuit.open()
            self._circuit.cause = f"Keystone refuses to authenticate barbtx itself: status {response.status}"
            raise self._circuit.unavailable() from None
        self._own = own
        return own

    async def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        document: Mapping[str, Any] | None,
        requester: Requester,
        fastest: int,
    ) -> Response:
        """Send a request, with retries.

        :raises ServiceUnavailable: there is no response.
        """
        self._circuit.check()
        async with self._scheduler.slot(requester, fastest) as lane:
            started_at = self.reactor.seconds()
            retrying = AsyncRetrying(
                stop=stop_after_attempt(1 + (self.max_retries if lane == FAST else 0)),
                wait=wait_random_exponential(multiplier=0.1, max=1),
                retry=retry_if_exception_type(NoResponse),
                sleep=lambda seconds: deferLater(self.reactor, seconds, lambda: None),
                reraise=True,
            )
            # While this request waited for its slot, others may have found that Keystone does not respond.
            if self._circuit.is_open:
                raise self._circuit.unavailable()
            try:
                response: Response = await retrying(self._http.request, method, path, headers, document)
            except NoResponse as problem:
                self._record_failure(problem, started_at)
                raise self._circuit.unavailable() from None
            self._record_response()
        self._circuit.record_success()
        return response

    def _record_failure(self, problem: NoResponse, started_at: float) -> None:
        self._scheduler.window.record_timeout(started_at)
        # A request that Keystone fails to handle tells nothing about Keystone while it responds to others.
        if self._last_response_at < started_at and not isinstance(problem, RequestFailed):
            self._circuit.record_failure()
        log.warn(
            "Keystone at {url} does not respond: {reason}", url=self._http.url, reason=str(problem), log_outage=True
        )
        self._circuit.cause, self._outage_logged = f"Keystone does not respond: {problem}", True

    def _record_response(self) -> None:
        self._last_response_at = self.reactor.seconds()
        if self._outage_logged:
            self._outage_logged = False
            log.info("Keystone at {url} responds again", url=self._http.url, log_outage=True)
        self._scheduler.window.record_response()
