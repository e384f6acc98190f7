"""The secret store that encrypts through crypto plugins and leaves the ciphertext to the database."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from cachetools import TTLCache
from oslo_config import cfg
from twisted.internet.defer import maybeDeferred
from twisted.logger import Logger
from zope.interface import implementer

from barbtx.errors import NotSupported
from barbtx.model.records import EncryptedDatum, KEKMeta
from barbtx.model.repositories.keks import KEKRepo
from barbtx.plugin.interface.crypto import (
    DecryptDTO,
    EncryptDTO,
    GenerateDTO,
    GeneratePairDTO,
    ICryptoPlugin,
    IMasterKeys,
    MasterKeyUnavailable,
    ResponseDTO,
    SupportType,
)
from barbtx.plugin.interface.key_derivation import DerivedKey, IKeyDerivation
from barbtx.plugin.interface.secret_store import (
    ASYMMETRIC_ALGORITHMS,
    SYMMETRIC_ALGORITHMS,
    ISecretStore,
    KeyPairReceipt,
    KeySpec,
    PairIds,
    SecretDTO,
    StorageReceipt,
)
from barbtx.plugin.manager import CRYPTO, PluginContext, derived_keys, full_name, load, not_enabled
from barbtx.plugin.stores.master_keys import check_master_keys, reload_keys

log = Logger()

OPTIONS = {
    "crypto": [
        cfg.IntOpt(
            "kek_cache_limit", default=1000, min=1, help="Projects whose active key record is remembered, at most."
        ),
        cfg.FloatOpt(
            "kek_cache_ttl",
            default=60.0,
            min=0,
            help="Seconds after which the record is read again: the time that a rotation takes to be seen.",
        ),
    ],
}

# A missing master key is logged this often, in seconds, however many requests need it.
_REPORT_SECONDS = 60.0


def from_config(context: PluginContext) -> StoreCrypto:
    """Make the store, with the crypto plugins that ``[crypto]`` names."""
    options = context.conf.crypto
    names = context.crypto_plugins or options.enabled_crypto_plugins
    plugins = load(CRYPTO, list(names), ICryptoPlugin, context)
    cache = TTLCache(options.kek_cache_limit, options.kek_cache_ttl, timer=context.clock.seconds)
    return StoreCrypto(plugins, context.keks, cache, TTLCache(100, _REPORT_SECONDS, timer=context.clock.seconds))


@implementer(ISecretStore, IKeyDerivation)
@attrs.define(eq=False)
class StoreCrypto:
    """:ivar plugins: the crypto plugins, in the order in which they are asked.
    :ivar cache: active project keys, by plugin and project.
    :ivar reported: master keys whose absence was logged a short while ago.
    """

    plugins: tuple[Any, ...]
    keks: KEKRepo
    cache: TTLCache = attrs.field(repr=False)
    reported: TTLCache = attrs.field(repr=False)

    def get_plugin_name(self) -> str:
        return self.plugins[0].get_plugin_name()

    def store_secret_supports(self, key_spec: KeySpec) -> bool:
        return any(plugin.supports(SupportType.ENCRYPT_DECRYPT) for plugin in self.plugins)

    def generate_supports(self, key_spec: KeySpec) -> bool:
        return (key_spec.alg or "").lower() in SYMMETRIC_ALGORITHMS | ASYMMETRIC_ALGORITHMS

    def get_transport_key(self) -> None:
        """There is none: what is wrapped for it could not be unwrapped."""

    async def store_secret(self, secret: SecretDTO) -> StorageReceipt:
        plugin = self._plugin(SupportType.ENCRYPT_DECRYPT)
        dto = EncryptDTO(secret.secret, secret.secret_id, secret.domain)
        return await self._keep(plugin, plugin.encrypt, dto, secret.project_id)

    async def get_secret(self, secret_id: str, project_id: str, kept: StorageReceipt, wrapping: None = None) -> bytes:
        datum = kept.datum
        if datum is None:
            raise LookupError("the secret's ciphertext is missing")
        plugin = next((p for p in self.plugins if full_name(p) == datum.kek.plugin_name), None)
        if plugin is None:
            raise not_enabled(f"the crypto plugin {datum.kek.plugin_name}")
        dto = DecryptDTO(datum.cypher_text, secret_id, datum.kek_meta_extended, kept.domain)
        return await self._ask(plugin.decrypt, dto, datum.kek, project_id)

    def delete_secret(self, kept: StorageReceipt) -> None:
        """The ciphertext goes with the secret, in the same transaction."""

    async def generate_symmetric_key(self, secret_id: str, project_id: str, key_spec: KeySpec) -> StorageReceipt:
        plugin = self._plugin(SupportType.SYMMETRIC_KEY_GENERATION, key_spec)
        dto = GenerateDTO(key_spec.alg, key_spec.bit_length, key_spec.mode, secret_id)
        return await self._keep(plugin, plugin.generate_symmetric, dto, project_id)

    async def generate_asymmetric_key(self, ids: PairIds, project_id: str, key_spec: KeySpec) -> KeyPairReceipt:
        plugin = self._plugin(SupportType.ASYMMETRIC_KEY_GENERATION, key_spec)
        kek = await self._active_kek(plugin, project_id)
        dto = GeneratePairDTO(
            key_spec.alg, key_spec.bit_length, key_spec.passphrase, ids.private, ids.public, ids.passphrase
        )
        made = await self._ask(plugin.generate_asymmetric, dto, kek, project_id)
        return KeyPairReceipt(*(_kept(kek, part) if part is not None else None for part in made))

    async def derive_keys(self, purpose: str) -> Sequence[DerivedKey]:
        """The keys of its crypto plugins."""
        return await derived_keys(self.plugins, purpose)

    def _plugin(self, what: SupportType, spec: KeySpec = KeySpec()) -> Any:
        for plugin in self.plugins:
            if plugin.supports(what, spec.alg, spec.bit_length, spec.mode):
                return plugin
        raise NotSupported(
            f"No crypto plugin can {what.value} of {spec.bit_length} bits for algorithm '{spec.alg}'"
            if spec.alg
            else "Crypto plugin not found for requested operation"
        )

    async def _keep(
        self, plugin: Any, make: Callable[..., Any], dto: EncryptDTO | GenerateDTO, project_id: str
    ) -> StorageReceipt:
        kek = await self._active_kek(plugin, project_id)
        made = await self._ask(make, dto, kek, project_id)
        return _kept(kek, made)

    async def _active_kek(self, plugin: Any, project_id: str) -> KEKMeta:
        name = full_name(plugin)
        kek = self.cache.get((name, project_id))
        if kek is None:
            kek = await self.keks.get_active(project_id, name)
            if kek is None:
                kek_id = str(uuid.uuid4())
                blank = KEKMeta(kek_id, name, f"project-{project_id}-key-{kek_id}"[:255], "", 0, "", "")
                bound = await self._ask(plugin.bind_kek_metadata, blank, project_id)
                kek = await self.keks.add_active(project_id, bound)
            self.cache[name, project_id] = kek
        return kek

    async def _ask(self, method: Callable[..., Any], *arguments: object) -> Any:
        try:
            return await maybeDeferred(method, *arguments)
        except MasterKeyUnavailable as problem:
            if problem.key_id not in self.reported:
                self.reported[problem.key_id] = True
                log.error(
                    "the master key {key_id} is missing: what is under it is answered with 503, and orders wait",
                    key_id=problem.key_id,
                )
            raise

    def forget_project(self, project_id: str) -> None:
        """Read the project's key again when it is needed: the one that is remembered is gone."""
        for plugin in self.plugins:
            self.cache.pop((full_name(plugin), project_id), None)

    async def check(self) -> None:
        """Make sure that the crypto plugins have every master key that is in use.

        :raises ConfigurationError: they do not.
        """
        await check_master_keys(self.keks, self.plugins)

    async def prepare_reload(self, conf: cfg.ConfigOpts, in_thread: Callable[..., Any]) -> Callable[[], None]:
        """Read the master keys again and check them.

        :return: puts them in force.
        :raises ConfigurationError: they cannot be read, or one that is in use is missing.
        """
        plugins = tuple([await in_thread(reload_keys, plugin, conf) for plugin in self.plugins])
        await check_master_keys(self.keks, plugins)

        def use() -> None:
            self.plugins = plugins

        return use

    def gauges(self) -> dict[str, object]:
        """Sizes of the caches and the ids of the master keys, for the report to an operator."""
        unwrapped = {
            f"unwrapped keys of {plugin.get_plugin_name()}": len(plugin.cache)
            for plugin in self.plugins
            if hasattr(plugin, "cache")
        }
        masters = {
            f"master keys of {plugin.get_plugin_name()}": " ".join(plugin.master_key_ids())
            for plugin in self.plugins
            if IMasterKeys.providedBy(plugin)
        }
        return {"records of project keys": len(self.cache), **unwrapped, **masters}


def _kept(kek: KEKMeta, made: ResponseDTO) -> StorageReceipt:
    return StorageReceipt(datum=EncryptedDatum(kek, made.cypher_text, made.kek_meta_extended))
