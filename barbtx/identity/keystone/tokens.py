"""Validates tokens with Keystone and caches the results."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, MutableMapping
from typing import Any

import attrs
from cachetools import TLRUCache, TTLCache
from oslo_config import cfg
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from barbtx.errors import ServiceUnavailable, Unauthorized
from barbtx.identity.keystone.access_rules import AccessRules
from barbtx.identity.keystone.fair_scheduler import ANONYMOUS, Requester
from barbtx.identity.keystone.session import KeystoneSession
from barbtx.identity.keystone.single_flight import SingleFlight
from barbtx.identity.keystone.token_formats import parse_expiry
from barbtx.reactor import IReactor
from barbtx.times import Clock

log = Logger()

# Fernet and JWS tokens have a few hundred characters; a longer text than this is not a token.
_MAX_TOKEN = 4096
# Visible ASCII characters.
_TOKEN = re.compile(rb"[!-~]+")

# Seconds for which the validation of an expired token, which Keystone accepted from a service, is cached.
_EXPIRED_TOKEN_SECONDS = 30.0


class InvalidToken(Unauthorized):
    """The request has no token, or an invalid one."""

    def __init__(self) -> None:
        super().__init__("The request you have made requires authentication.")


@attrs.frozen
class Identity:
    """The user and scope that a token represents.

    :ivar project_id: the project of its scope; None if the scope is not a project.
    :ivar roles: role names in lower case.
    :ivar expires_at: seconds since the epoch.
    :ivar is_admin_project: whether the project is the cloud's admin project; true if the cloud has none.
    :ivar access_rules: the requests that the token is limited to; None if its application credential does not limit it.
    """

    user_id: str
    user_domain_id: str | None
    project_id: str | None
    project_domain_id: str | None
    roles: frozenset[str]
    expires_at: float
    is_admin_project: bool = True
    access_rules: AccessRules | None = None

    @classmethod
    def from_document(cls, token: Mapping[str, Any]) -> Identity:
        """Read the ``token`` object of Keystone's response (Identity API v3, GET /v3/auth/tokens).

        :raises LookupError, TypeError, ValueError, AttributeError: it does not have the documented form.
        """
        user, project = token["user"], token.get("project") or {}
        return cls(
            user["id"],
            user["domain"]["id"],
            project.get("id"),
            (project.get("domain") or {}).get("id"),
            frozenset(role["name"].lower() for role in token.get("roles", ())),
            parse_expiry(token["expires_at"]),
            token.get("is_admin_project", True) is True,
            AccessRules.from_token(token),
        )


@attrs.define(eq=False)
class TokenValidator:
    """Validates tokens. Results are cached under digests of the tokens; concurrent validations share a request.

    :ivar clock: wall clock, for the expiry of tokens.
    :ivar secret: the key of the digests, without which a copy of the caches reveals nothing about tokens.
    """

    session: KeystoneSession
    clock: Clock
    _valid: MutableMapping[bytes, Identity] = attrs.field(repr=False)
    _invalid: MutableMapping[bytes, bool] = attrs.field(repr=False)
    _flights: SingleFlight[Identity] = attrs.field(factory=SingleFlight, init=False)
    _secret: bytes = attrs.field(factory=lambda: os.urandom(32), init=False, repr=False)

    @classmethod
    def from_config(cls, reactor: IReactor, clock: Clock, conf: cfg.ConfigOpts) -> TokenValidator:
        """Make a validator; no request is sent yet.

        :raises ConfigurationError: an option is missing, or a file cannot be used.
        """
        options = conf.keystone_authtoken
        lifetime: float = options.token_cache_time

        def cached_until(key: bytes, identity: Identity, now: float) -> float:
            remaining = identity.expires_at - clock.seconds()
            # Only Keystone knows for how long it accepts an expired token.
            return now + min(lifetime, remaining if remaining > 0 else _EXPIRED_TOKEN_SECONDS)

        valid: TLRUCache[bytes, Identity] = TLRUCache(options.token_cache_entries, cached_until, timer=reactor.seconds)
        invalid: TTLCache[bytes, bool] = TTLCache(
            options.token_cache_entries, options.invalid_token_cache_time, timer=reactor.seconds
        )
        return cls(KeystoneSession.from_config(reactor, clock, conf), clock, valid, invalid)

    def cached(self, token: bytes, *, allow_expired: bool = False) -> Identity | None:
        """Return the cached identity of a token; None if Keystone must be asked.

        :raises InvalidToken: the token is cached as invalid, or cannot be a token.
        """
        key = self._key(token, allow_expired)
        if key in self._invalid:
            raise InvalidToken
        return self._valid.get(key)

    def gauges(self) -> dict[str, object]:
        """Return the sizes of the caches, for the status report."""
        return {"valid": len(self._valid), "invalid": len(self._invalid)}

    def validate(
        self, token: bytes, *, allow_expired: bool = False, requester: Requester = ANONYMOUS
    ) -> Deferred[Identity]:
        """Validate a token with Keystone.

        :param allow_expired: whether a token is valid for a while after it expired.
        :param requester: who sent it.
        :raises InvalidToken: (asynchronously, or at once for a text that cannot be a token) it is invalid.
        :raises ServiceUnavailable: (asynchronously) Keystone does not respond, or its response cannot be read.
        """
        key = self._key(token, allow_expired)
        requester = attrs.evolve(requester, is_waiting=lambda: self._flights.is_awaited(key))
        return self._flights.join(key, lambda: self._validate(key, token.decode("ascii"), allow_expired, requester))

    async def _validate(self, key: bytes, token: str, allow_expired: bool, requester: Requester) -> Identity:
        document = await self.session.validate_token(token, allow_expired=allow_expired, requester=requester)
        if document is None:
            self._invalid[key] = True
            raise InvalidToken
        try:
            identity = Identity.from_document(document)
        except (LookupError, TypeError, ValueError, AttributeError):
            log.error("the response of Keystone to the validation of a token is not valid")
            raise ServiceUnavailable("The response of Keystone is not valid.") from None
        if not allow_expired and identity.expires_at <= self.clock.seconds():
            self._invalid[key] = True
            raise InvalidToken
        self._valid[key] = identity
        return identity

    def _key(self, token: bytes, allow_expired: bool) -> bytes:
        if len(token) > _MAX_TOKEN or not _TOKEN.fullmatch(token):
            raise InvalidToken
        return hashlib.blake2b(
            token, key=self._secret, digest_size=32, salt=b"expired" if allow_expired else b""
        ).digest()
