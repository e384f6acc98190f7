"""Tokens: what they stand for, asked of Keystone as seldom as possible."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import attrs
from cachetools import TLRUCache, TTLCache
from oslo_config import cfg
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from barbtx.errors import ServiceUnavailable, Unauthorized
from barbtx.identity.keystone.access_rules import AccessRules
from barbtx.identity.keystone.fair_scheduler import Requester
from barbtx.identity.keystone.session import KeystoneSession, parse_expiry
from barbtx.identity.keystone.single_flight import SingleFlight
from barbtx.times import Clock

log = Logger()

# Fernet and JWS tokens have some hundred characters; what is longer than this is none.
_MAX_TOKEN = 4096


_ENDED_LIFE = 30.0


class InvalidToken(Unauthorized):
    """There is no token, or not a good one."""

    def __init__(self) -> None:
        super().__init__("The request you have made requires authentication.")


@attrs.frozen
class Identity:
    """Whom a token stands for.

    :ivar project_id: of its scope, if that is a project.
    :ivar roles: names in lower case.
    :ivar expires_at: seconds since the epoch.
    :ivar is_admin_project: whether the project is the cloud's admin project, or the cloud has none.
    :ivar access_rules: what the token may be used for, if its application credential limits that.
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
        """Read the ``token`` object of Keystone's answer (Identity API v3, GET /v3/auth/tokens).

        :raises LookupError, TypeError, ValueError: it is not one.
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
    """Remembers what Keystone said, under digests, and asks once for however many ask it.

    :ivar secret: with which tokens are digested, so that a copy of the memory's index is of no use elsewhere.
    """

    session: KeystoneSession
    clock: Clock
    _valid: TLRUCache
    _invalid: TTLCache
    _flights: SingleFlight = attrs.field(factory=SingleFlight, init=False)
    _secret: bytes = attrs.field(factory=lambda: os.urandom(32), init=False, repr=False)

    @classmethod
    def from_config(cls, reactor: Any, clock: Clock, conf: cfg.ConfigOpts) -> TokenValidator:
        """:raises ConfigurationError: an option is missing, or a file cannot be used."""
        options = conf.keystone_authtoken
        life = options.token_cache_time

        def until(key: object, identity: Identity, now: float) -> float:
            remaining = identity.expires_at - clock.seconds()
            # One that has ended is good for as long as Keystone says, which nobody but Keystone knows.
            return now + min(life, remaining if remaining > 0 else _ENDED_LIFE)

        return cls(
            KeystoneSession.from_config(reactor, clock, conf),
            clock,
            TLRUCache(options.token_cache_entries, until, timer=reactor.seconds),
            TTLCache(options.token_cache_entries, options.invalid_token_cache_time, timer=reactor.seconds),
        )

    def known(self, token: bytes, *, allow_expired: bool = False) -> Identity | None:
        """Whom a token stands for, if that is known without asking.

        :raises InvalidToken: it is known, or seen, to be no good.
        """
        key = self._key(token, allow_expired)
        if key in self._invalid:
            raise InvalidToken
        return self._valid.get(key)

    def gauges(self) -> dict[str, object]:
        """Sizes of the caches, for the report to an operator."""
        return {"good": len(self._valid), "bad": len(self._invalid)}

    def validate(
        self, token: bytes, *, allow_expired: bool = False, asker: Requester = Requester()
    ) -> Deferred[Identity]:
        """Whom a token stands for, asked of Keystone.

        :param allow_expired: whether one is good for a while after its end.
        :param asker: who sent it.
        :raises InvalidToken: (asynchronously) nobody.
        :raises ServiceUnavailable: (asynchronously) Keystone does not say.
        """
        key = self._key(token, allow_expired)
        asker = attrs.evolve(asker, is_waiting=lambda: self._flights.is_awaited(key))
        return self._flights.join(key, lambda: self._ask(key, token.decode("ascii"), allow_expired, asker))

    async def _ask(self, key: bytes, token: str, allow_expired: bool, asker: Requester) -> Identity:
        document = await self.session.describe_token(token, allow_expired=allow_expired, asker=asker)
        if document is None:
            self._invalid[key] = True
            raise InvalidToken
        try:
            identity = Identity.from_document(document)
        except (LookupError, TypeError, ValueError, AttributeError):
            log.error("Keystone's answer about a token cannot be read")
            raise ServiceUnavailable("Keystone gave an answer that cannot be read.") from None
        if not allow_expired and identity.expires_at <= self.clock.seconds():
            self._invalid[key] = True
            raise InvalidToken
        self._valid[key] = identity
        return identity

    def _key(self, token: bytes, allow_expired: bool) -> bytes:
        if not 0 < len(token) <= _MAX_TOKEN or not token.isascii() or any(byte <= 32 or byte == 127 for byte in token):
            raise InvalidToken
        return hashlib.blake2b(
            token, key=self._secret, digest_size=32, salt=b"expired" if allow_expired else b""
        ).digest()
