"""Envelope encryption in software: payloads under a project key (KEK), project keys under a master key (MKEK).

Master keys are configured: the first one wraps new project keys, all of them unwrap. To rotate, add the new master key
behind the old ones in every process, and only then move it to the front. Project keys are unwrapped on demand and
cached in memory for a limited time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import attrs
from cachetools import TTLCache
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from oslo_config import cfg
from zope.interface import implementer

from barbtx.errors import ConfigurationError
from barbtx.files import read_key_file
from barbtx.model.records import KEKMeta
from barbtx.plugin.crypto.envelope import (
    KEY_BYTES,
    KEY_ID_BYTES,
    PASSPHRASE_VERSION_1,
    VERSION_1,
    key_id_of,
    open_sealed,
    seal,
)
from barbtx.plugin.crypto.key_pairs import PAIR_ALGORITHMS, PAIR_BITS, generate_pair
from barbtx.plugin.interface.crypto import (
    DecryptDTO,
    DecryptionFailed,
    EncryptDTO,
    GenerateDTO,
    GeneratePairDTO,
    ICryptoPlugin,
    IMasterKeys,
    MasterKeyUnavailable,
    ResponseDTO,
    SupportType,
)
from barbtx.plugin.interface.domains import Domain
from barbtx.plugin.interface.key_derivation import DerivedKey, IKeyDerivation
from barbtx.plugin.interface.optional import IStatusSource
from barbtx.plugin.manager import PluginContext

OPTIONS = {
    "simple_crypto_plugin": [
        cfg.MultiStrOpt(
            "kek",
            default=[],
            secret=True,
            help="Master keys (MKEKs), each 32 bytes in url-safe base64. The first one wraps new project keys, all "
            "unwrap. Prefer kek_file, which keeps them out of the configuration.",
        ),
        cfg.StrOpt(
            "kek_file",
            help="File with master keys, one per line, in addition to kek. Only its owner may have read permission; "
            "with [DEFAULT] allow_group_readable_keys, its group as well.",
        ),
        cfg.StrOpt("plugin_name", default="Software Only Crypto", help="Name of the plugin as the API shows it."),
        cfg.IntOpt("pkek_cache_limit", default=1000, min=1, help="Maximum number of unwrapped project keys in memory."),
        cfg.FloatOpt(
            "pkek_cache_ttl", default=900.0, min=0, help="Seconds for which a project key is kept unwrapped in memory."
        ),
    ],
}

# A domain in addition to those of :class:`Domain`; only this module seals project keys.
_PROJECT_KEY = "project key"

_SYMMETRIC = frozenset({"aes", "des", "3des", "hmacsha1", "hmacsha256", "hmacsha384", "hmacsha512"})
_BITS = frozenset({64, 128, 192, 256})
_XTS_BITS = frozenset({128, 256, 384, 512})


def generate_master_key() -> str:
    """Generate a master key: 32 random bytes in url-safe base64, as the configuration takes it."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


def from_config(context: PluginContext) -> SimpleCrypto:
    """Make the plugin that ``[simple_crypto_plugin]`` configures.

    :raises ConfigurationError: there is no master key, one is malformed, or its file can be read by others.
    """
    options = context.conf.simple_crypto_plugin
    cache: TTLCache[tuple[str, str], _Key] = TTLCache(
        options.pkek_cache_limit, options.pkek_cache_ttl, timer=context.clock.seconds
    )
    return SimpleCrypto(options.plugin_name, _configured_keys(context.conf), cache, context.in_thread)


def _configured_keys(conf: cfg.ConfigOpts) -> tuple[_MasterKey, ...]:
    """Read the configured master keys.

    :raises ConfigurationError: as :func:`from_config`.
    """
    options = conf.simple_crypto_plugin
    texts = list(options.kek)
    if options.kek_file:
        texts += _read_private(options.kek_file, conf.allow_group_readable_keys).split()
    if not texts:
        raise ConfigurationError(
            "[simple_crypto_plugin] has no master key: set kek_file (barbtx-manage simple_crypto gen_mkek makes one)"
        )
    return tuple(_master_keys(texts))


def _read_private(path: str, group_may_read: bool) -> str:
    try:
        return read_key_file(path, group_may_read=group_may_read)
    except OSError as problem:
        raise ConfigurationError(f"[simple_crypto_plugin] kek_file {path}: {problem.strerror}") from None


@attrs.frozen
class _Key:
    """A key that is ready for use, and the id that envelopes name it by."""

    id: bytes
    cipher: AESGCM = attrs.field(repr=False)


@attrs.frozen
class _MasterKey(_Key):
    """A master key.

    :ivar secret: the key itself, from which other keys are derived.
    """

    secret: bytes = attrs.field(repr=False)


def _master_keys(texts: Iterable[str]) -> Iterable[_MasterKey]:
    for number, text in enumerate(texts, 1):
        try:
            key = base64.b64decode(text, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise ConfigurationError(
                f"[simple_crypto_plugin] master key number {number} is not 32 bytes in url-safe base64"
            )
        # The id identifies the key of an envelope without trying all of them; it must not help to guess the key.
        yield _MasterKey(hashlib.sha256(b"barbtx master key id\0" + key).digest()[:KEY_ID_BYTES], AESGCM(key), key)


@implementer(ICryptoPlugin, IKeyDerivation, IMasterKeys, IStatusSource)
@attrs.frozen
class SimpleCrypto:
    """A crypto plugin that does all cryptography in this process.

    :ivar name: friendly name.
    :ivar masters: master keys; the first one wraps new project keys.
    :ivar cache: unwrapped project keys, by key id and project.
    :ivar in_thread: calls a blocking function in a thread.
    :ivar random: returns so many random bytes; only tests replace it.
    """

    name: str
    masters: tuple[_MasterKey, ...]
    cache: MutableMapping[tuple[str, str], _Key] = attrs.field(repr=False)
    in_thread: Callable[..., Awaitable[Any]]
    random: Callable[[int], bytes] = os.urandom

    def get_plugin_name(self) -> str:
        """Return the configured name."""
        return self.name

    def supports(
        self,
        type_enum: SupportType,
        algorithm: str | None = None,
        bit_length: int | None = None,
        mode: str | None = None,
    ) -> bool:
        """Return whether the plugin supports an operation for an algorithm, a length in bits and a mode."""
        if type_enum is SupportType.ENCRYPT_DECRYPT:
            return True
        if type_enum is SupportType.SYMMETRIC_KEY_GENERATION:
            lengths = _XTS_BITS if (mode or "").lower() == "xts" else _BITS
            return (algorithm or "").lower() in _SYMMETRIC and bit_length in lengths
        return (algorithm or "").lower() in PAIR_ALGORITHMS and bit_length in PAIR_BITS

    def bind_kek_metadata(self, kek_meta: KEKMeta, project_id: str) -> KEKMeta:
        """Generate a project key under the first master key; return a record that has a key unchanged."""
        if kek_meta.plugin_meta:
            return kek_meta
        master = self.masters[0]
        context = (_PROJECT_KEY, kek_meta.id, project_id)
        wrapped = seal(master.cipher, master.id, self.random(KEY_BYTES), context)
        return attrs.evolve(
            kek_meta,
            algorithm="aes",
            bit_length=KEY_BYTES * 8,
            mode="gcm",
            plugin_meta=base64.b64encode(wrapped).decode(),
            master_key_id=master.id.hex(),
        )

    def current_master_key_id(self) -> str:
        """Return the id of the first master key."""
        return self.masters[0].id.hex()

    def master_key_ids(self) -> list[str]:
        """Return the ids of all master keys in their configured order."""
        return [master.id.hex() for master in self.masters]

    def reload_keys(self, conf: cfg.ConfigOpts) -> SimpleCrypto:
        """Return a plugin with the master keys that are configured now, and the same cache. Reads files.

        :raises ConfigurationError: as :func:`from_config`.
        """
        return attrs.evolve(self, masters=_configured_keys(conf))

    def check_kek(self, kek_meta: KEKMeta, project_id: str) -> None:
        """Unwrap a project key without using the cache; raise as :meth:`decrypt` does."""
        self._unwrap(kek_meta, project_id)

    def encrypt(self, dto: EncryptDTO, kek_meta: KEKMeta, project_id: str) -> ResponseDTO:
        """Encrypt under a project key, which is unwrapped if it is not in the cache."""
        kek = self._kek(kek_meta, project_id)
        context = (dto.domain.value, dto.secret_id, project_id)
        return ResponseDTO(seal(kek.cipher, kek.id, dto.unencrypted, context))

    def decrypt(self, dto: DecryptDTO, kek_meta: KEKMeta, project_id: str) -> bytes:
        """Decrypt an envelope of this or an earlier release.

        :raises DecryptionFailed: it is corrupt, or was encrypted for something else.
        :raises MasterKeyUnavailable: the master key that wraps the project key is not configured.
        """
        kek = self._kek(kek_meta, project_id)
        context = (dto.domain.value, dto.secret_id, project_id)
        before_domains = ("barbtx payload", dto.secret_id, project_id)
        earlier = {VERSION_1: before_domains}
        if dto.domain is Domain.ORDER_PASSPHRASE:
            earlier[PASSPHRASE_VERSION_1] = before_domains
        return open_sealed(kek.cipher, kek.id, dto.encrypted, context, earlier)

    def derive_keys(self, purpose: str) -> Sequence[DerivedKey]:
        """Derive a key for a purpose from each master key with HKDF (RFC 5869)."""
        # The info separates these keys from each other, the salt from everything else derived from a master key.
        return [
            DerivedKey(
                master.id.hex(),
                HKDF(SHA256(), KEY_BYTES, b"barbtx derived key", purpose.encode()).derive(master.secret),
            )
            for master in self.masters
        ]

    def generate_symmetric(self, dto: GenerateDTO, kek_meta: KEKMeta, project_id: str) -> ResponseDTO:
        """Generate random bytes and encrypt them."""
        return self.encrypt(EncryptDTO(self.random(dto.bit_length // 8), dto.secret_id), kek_meta, project_id)

    async def generate_asymmetric(
        self, dto: GeneratePairDTO, kek_meta: KEKMeta, project_id: str
    ) -> tuple[ResponseDTO, ResponseDTO, ResponseDTO | None]:
        """Generate a key pair in a thread and encrypt its parts."""
        private, public = await self.in_thread(generate_pair, dto.algorithm, dto.bit_length, dto.passphrase)

        def sealed(content: bytes, secret_id: str) -> ResponseDTO:
            return self.encrypt(EncryptDTO(content, secret_id), kek_meta, project_id)

        passphrase = sealed(dto.passphrase.encode(), dto.passphrase_id) if dto.passphrase else None
        return sealed(private, dto.private_id), sealed(public, dto.public_id), passphrase

    def gauges(self) -> Mapping[str, object]:
        """Return the number of unwrapped project keys in the cache."""
        return {"unwrapped keys": len(self.cache)}

    def _kek(self, kek_meta: KEKMeta, project_id: str) -> _Key:
        # A key cached under its id alone would be returned for another project without checking its context.
        cache_key = (kek_meta.id, project_id)
        kek = self.cache.get(cache_key)
        if kek is None:
            kek = self.cache[cache_key] = self._unwrap(kek_meta, project_id)
        return kek

    def _unwrap(self, kek_meta: KEKMeta, project_id: str) -> _Key:
        try:
            wrapped = base64.b64decode(kek_meta.plugin_meta, validate=True)
        except binascii.Error:
            raise DecryptionFailed from None
        master_key_id = key_id_of(wrapped)
        if kek_meta.master_key_id not in (None, master_key_id.hex()):
            raise DecryptionFailed
        for master in self.masters:
            if master.id == master_key_id:
                key = open_sealed(
                    master.cipher,
                    master.id,
                    wrapped,
                    (_PROJECT_KEY, kek_meta.id, project_id),
                    {VERSION_1: ("barbtx project key", kek_meta.id, project_id)},
                )
                return _Key(uuid.UUID(kek_meta.id).bytes, AESGCM(key))
        raise MasterKeyUnavailable(master_key_id.hex())
