"""The secret store that encrypts through crypto plugins and leaves the ciphertext to the database."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import attrs
from cachetools import TTLCache
from oslo_config import cfg
from twisted.internet.defer import maybeDeferred
from zope.interface import implementer

from barbtx.errors import NotSupported
from barbtx.model.records import EncryptedDatum, KEKMeta
from barbtx.model.repositories.keks import KEKRepo
from barbtx.plugin.interface.crypto import (
    DecryptDTO, EncryptDTO, GenerateDTO, GeneratePairDTO, ICryptoPlugin, ResponseDTO, SupportType,
)
from barbtx.plugin.interface.secret_store import (
    ASYMMETRIC_ALGORITHMS, SYMMETRIC_ALGORITHMS, ISecretStore, KeySpec, Kept, KeptPair, PairIds, SecretDTO,
)
from barbtx.plugin.manager import CRYPTO, PluginContext, full_name, load

OPTIONS = {
    "crypto": [
        cfg.IntOpt("kek_cache_limit", default=1000, min=1,
                   help="Projects whose active key record is remembered, at most."),
        cfg.FloatOpt("kek_cache_ttl", default=60.0, min=0,
                     help="Seconds after which the record is read again: the time that a rotation takes to be seen."),
    ],
}


def from_config(context: PluginContext) -> StoreCrypto:
    """Make the store, with the crypto plugins that ``[crypto]`` names."""
    options = context.conf.crypto
    names = context.crypto_plugins or options.enabled_crypto_plugins
    plugins = load(CRYPTO, list(names), ICryptoPlugin, context)
    cache = TTLCache(options.kek_cache_limit, options.kek_cache_ttl, timer=context.clock.seconds)
    return StoreCrypto(plugins, context.keks, cache)


@implementer(ISecretStore)
@attrs.frozen
class StoreCrypto:
    plugins: tuple[Any, ...]
    keks: KEKRepo
    cache: TTLCache = attrs.field(repr=False)

    def get_plugin_name(self) -> str:
        return self.plugins[0].get_plugin_name()

    def store_secret_supports(self, key_spec: KeySpec) -> bool:
        return any(plugin.supports(SupportType.ENCRYPT_DECRYPT) for plugin in self.plugins)

    def generate_supports(self, key_spec: KeySpec) -> bool:
        return (key_spec.alg or "").lower() in SYMMETRIC_ALGORITHMS | ASYMMETRIC_ALGORITHMS

    def get_transport_key(self) -> None:
        """There is none: what is wrapped for it could not be unwrapped."""

    async def store_secret(self, secret: SecretDTO) -> Kept:
        plugin = self._plugin(SupportType.ENCRYPT_DECRYPT)
        return await self._keep(plugin, plugin.encrypt, EncryptDTO(secret.secret, secret.secret_id), secret.project_id)

    async def get_secret(self, secret_id: str, project_id: str, kept: Kept, wrapping: None = None) -> bytes:
        datum = kept.datum
        if datum is None:
            raise LookupError("the secret's ciphertext is missing")
        plugin = next((p for p in self.plugins if full_name(p) == datum.kek.plugin_name), None)
        if plugin is None:
            raise LookupError(f"the crypto plugin {datum.kek.plugin_name} is not enabled")
        dto = DecryptDTO(datum.cypher_text, secret_id, datum.kek_meta_extended)
        return await maybeDeferred(plugin.decrypt, dto, datum.kek, project_id)

    def delete_secret(self, kept: Kept) -> None:
        """The ciphertext goes with the secret, in the same transaction."""

    async def generate_symmetric_key(self, secret_id: str, project_id: str, key_spec: KeySpec) -> Kept:
        plugin = self._plugin(SupportType.SYMMETRIC_KEY_GENERATION, key_spec)
        dto = GenerateDTO(key_spec.alg, key_spec.bit_length, key_spec.mode, secret_id)
        return await self._keep(plugin, plugin.generate_symmetric, dto, project_id)

    async def generate_asymmetric_key(self, ids: PairIds, project_id: str, key_spec: KeySpec) -> KeptPair:
        plugin = self._plugin(SupportType.ASYMMETRIC_KEY_GENERATION, key_spec)
        kek = await self._active_kek(plugin, project_id)
        dto = GeneratePairDTO(key_spec.alg, key_spec.bit_length, key_spec.passphrase, ids.private, ids.public,
                              ids.passphrase)
        made = await maybeDeferred(plugin.generate_asymmetric, dto, kek, project_id)
        return KeptPair(*(_kept(kek, part) if part is not None else None for part in made))

    def _plugin(self, what: SupportType, spec: KeySpec = KeySpec()) -> Any:
        for plugin in self.plugins:
            if plugin.supports(what, spec.alg, spec.bit_length, spec.mode):
                return plugin
        raise NotSupported(f"No crypto plugin can {what.value} of {spec.bit_length} bits for algorithm '{spec.alg}'"
                           if spec.alg else "Crypto plugin not found for requested operation")

    async def _keep(self, plugin: Any, make: Callable[..., Any], dto: EncryptDTO | GenerateDTO,
                    project_id: str) -> Kept:
        kek = await self._active_kek(plugin, project_id)
        made = await maybeDeferred(make, dto, kek, project_id)
        return _kept(kek, made)

    async def _active_kek(self, plugin: Any, project_id: str) -> KEKMeta:
        name = full_name(plugin)
        kek = self.cache.get((name, project_id))
        if kek is None:
            kek = await self.keks.get_active(project_id, name)
            if kek is None:
                kek_id = str(uuid.uuid4())
                blank = KEKMeta(kek_id, name, f"project-{project_id}-key-{kek_id}"[:255], "", 0, "", "")
                bound = await maybeDeferred(plugin.bind_kek_metadata, blank, project_id)
                kek = await self.keks.add_active(project_id, bound)
            self.cache[name, project_id] = kek
        return kek

    def forget_project(self, project_id: str) -> None:
        """Read the project's key again when it is needed: the one that is remembered is gone."""
        for plugin in self.plugins:
            self.cache.pop((full_name(plugin), project_id), None)

    async def check(self) -> None:
        """Make sure that the crypto plugins can unwrap the keys that are there.

        :raises DecryptionFailed: they cannot; most likely the configured master key is another one.
        """
        for plugin in self.plugins:
            for project_id, kek in await self.keks.oldest_and_newest(full_name(plugin)):
                await maybeDeferred(plugin.check_kek, kek, project_id)


def _kept(kek: KEKMeta, made: ResponseDTO) -> Kept:
    return Kept(datum=EncryptedDatum(kek, made.cypher_text, made.kek_meta_extended))
