"""Fingerprints of requests whose bodies may contain secrets: HMAC-SHA-256 under keys that are not in the database.

The keys come from the configuration, or from plugins that derive them from their master keys
(:class:`~barbtx.plugin.interface.key_derivation.IKeyDerivation`), so they are the same in all processes and after a
restart. New fingerprints are made with the current key and verified with all known keys, so that retries are recognized
across a rotation of the master key.

Without any key, fingerprints do not cover bodies, because someone who can read the database could then guess the bodies
and verify the guesses. Retries are then recognized by everything except their bodies.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

import attrs
from oslo_config import cfg
from twisted.logger import Logger

from barbtx.errors import ConfigurationError, ServiceUnavailable
from barbtx.plugin.interface.key_derivation import DerivedKey
from barbtx.plugin.manager import StoreManager

OPTIONS = {
    "idempotency": [
        cfg.MultiStrOpt(
            "fingerprint_key",
            default=[],
            secret=True,
            help="Keys for the fingerprints by which repeated requests are compared, each a random text of at least "
            "32 characters. The first key makes fingerprints, all keys verify them; to rotate, put a new key "
            "first and remove the old one after life_seconds. All processes need the same keys. Not needed if "
            "an enabled secret store or crypto plugin, such as simple_crypto, derives them from its master "
            "keys.",
        ),
    ],
}

PURPOSE = "barbtx idempotency fingerprint"
_SHORTEST_KEY = 32
_NO_KEY = "none"

log = Logger()


@attrs.frozen
class Content:
    """The parts of a request that a retry has in common with the first request.

    :ivar head: parts that are not secret.
    :ivar body: the body, which may contain a secret.
    """

    head: tuple[bytes, ...]
    body: bytes = attrs.field(repr=False)


@attrs.define
class Fingerprints:
    """Makes and verifies fingerprints, which are texts of at most 255 characters.

    :ivar stores: the secret stores that derive keys.
    :ivar configured: keys of the configuration, which take precedence over derived keys.
    """

    stores: StoreManager
    configured: tuple[DerivedKey, ...] = ()
    _warned: bool = False

    @classmethod
    def from_config(cls, conf: cfg.ConfigOpts, stores: StoreManager) -> Fingerprints:
        """Make an instance with the keys of the configuration and the stores.

        :raises ConfigurationError: a key is too short.
        """
        return cls(
            stores, tuple(_configured(number, text) for number, text in enumerate(conf.idempotency.fingerprint_key, 1))
        )

    async def make(self, content: Content) -> str:
        """Make a content's fingerprint with the current key."""
        keys = await self._keys()
        if keys:
            return f"{keys[0].id}:{_mac(keys[0], content)}"
        if not self._warned:
            self._warned = True
            log.warn(
                "no secret store or crypto plugin derives keys: repeated requests are recognized without their "
                "bodies; set [idempotency] fingerprint_key"
            )
        return f"{_NO_KEY}:{_digest_of_head(content)}"

    async def matches(self, fingerprint: str, content: Content) -> bool:
        """Return whether a fingerprint is that of a content.

        :raises ServiceUnavailable: the fingerprint's key is not known to this process.
        """
        key_id, _, known = fingerprint.partition(":")
        if key_id == _NO_KEY:
            return hmac.compare_digest(known, _digest_of_head(content))
        for key in await self._keys():
            if key.id == key_id:
                return hmac.compare_digest(known, _mac(key, content))
        log.warn(
            "a repeated request cannot be compared: its fingerprint is under the key {key_id}, which this process "
            "does not know",
            key_id=key_id,
        )
        raise ServiceUnavailable(
            "The first request with this Idempotency-Key cannot be compared at the moment; please try again."
        )

    async def _keys(self) -> tuple[DerivedKey, ...]:
        return self.configured + await self.stores.derive_keys(PURPOSE)


def _configured(number: int, text: str) -> DerivedKey:
    if len(text) < _SHORTEST_KEY:
        raise ConfigurationError(
            f"[idempotency] fingerprint_key number {number} is shorter than {_SHORTEST_KEY} characters"
        )
    key = text.encode()
    return DerivedKey(
        hashlib.sha256(b"barbtx fingerprint key id\0" + key).hexdigest()[:32],
        hmac.digest(key, PURPOSE.encode(), "sha256"),
    )


def _framed(parts: tuple[bytes, ...]) -> bytes:
    return b"".join(struct.pack(">Q", len(part)) + part for part in parts)


def _mac(key: DerivedKey, content: Content) -> str:
    return hmac.digest(key.key, _framed((*content.head, content.body)), "sha256").hex()


def _digest_of_head(content: Content) -> str:
    return hashlib.sha256(_framed(content.head)).hexdigest()
