"""The secret store that encrypts with crypto plugins and keeps the ciphertext in barbtx's database."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, TypeVar

import attrs
from cachetools import TTLCache
from oslo_config import cfg
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
from barbtx.plugin.interface.optional import IProjectCache, IReloadable, IStartupCheck, IStatusSource
from barbtx.plugin.interface.results import MaybeAwaitable, resolve
from barbtx.plugin.interface.secret_store import (
    ASYMMETRIC_ALGORITHMS,
    SYMMETRIC_ALGORITHMS,
    ISecretStore,
    KeyPairReceipt,
    KeySpec,
    PairIds,
    SecretDTO,
    StorageReceipt,
    Wrapping,
)
from barbtx.plugin.manager import CRYPTO, PluginContext, derived_keys, full_name, load, not_enabled
from barbtx.plugin.stores.master_keys import check_master_keys, reload_keys
from barbtx.validators import provides

log = Logger()

T = TypeVar("T")

OPTIONS = {
    "crypto": [
        cfg.IntOpt(
            "kek_cache_limit",
            default=1000,
            min=1,
            help="Maximum number of project keys (KEKs), still wrapped, in the cache.",
        ),
        cfg.FloatOpt(
            "kek_cache_ttl",
            default=60.0,
            min=0,
            help="Seconds after which a project key is read again from the database, and thus the delay until a "
            "process uses a new key. With 0, it is read for each request.",
        ),
    ],
}

# A missing master key is logged at most once in so many seconds, however many requests need it.
_REPORT_SECONDS = 60.0

_ANY_KEY = KeySpec()


def from_config(context: PluginContext) -> StoreCrypto:
    """Make the store, with the crypto plugins that the context or ``[crypto]`` names.

    :raises ConfigurationError: a crypto plugin is not installed or does not load.
    """
    options = context.conf.crypto
    names = context.crypto_plugins or options.enabled_crypto_plugins
    plugins = load(CRYPTO, list(names), ICryptoPlugin, context)
    clock = context.clock.seconds
    cache: TTLCache[tuple[str, str], KEKMeta] = TTLCache(options.kek_cache_limit, options.kek_cache_ttl, timer=clock)
    reported: TTLCache[str, bool] = TTLCache(100, _REPORT_SECONDS, timer=clock)
    return StoreCrypto(plugins, context.keks, cache, reported)


@implementer(ISecretStore, IKeyDerivation, IStartupCheck, IReloadable, IProjectCache, IStatusSource)
@attrs.define(eq=False)
class StoreCrypto:
    """Encrypts payloads under project keys (KEKs), which crypto plugins wrap.

    :ivar plugins: the crypto plugins in order of preference: the first that supports an operation performs it.
    :ivar cache: active project keys, wrapped, by plugin and project.
    :ivar reported: ids of missing master keys that were logged recently.
    """

    plugins: tuple[ICryptoPlugin, ...] = attrs.field(validator=attrs.validators.deep_iterable(provides(ICryptoPlugin)))
    keks: KEKRepo
    cache: MutableMapping[tuple[str, str], KEKMeta] = attrs.field(repr=False)
    reported: MutableMapping[str, bool] = attrs.field(repr=False)

    def get_plugin_name(self) -> str:
        """Return the name of the first crypto plugin, which encrypts new payloads."""
        return self.plugins[0].get_plugin_name()

    def store_secret_supports(self, key_spec: KeySpec) -> bool:
        """Return whether any crypto plugin encrypts; the kind of secret does not matter."""
        return any(plugin.supports(SupportType.ENCRYPT_DECRYPT) for plugin in self.plugins)

    def generate_supports(self, key_spec: KeySpec) -> bool:
        """Return whether the algorithm is a known one; lengths and modes are checked when the key is generated."""
        return (key_spec.alg or "").lower() in SYMMETRIC_ALGORITHMS | ASYMMETRIC_ALGORITHMS

    def get_transport_key(self) -> None:
        """Return None: the store cannot unwrap payloads, so it has no transport key."""

    async def store_secret(self, secret: SecretDTO) -> StorageReceipt:
        """Encrypt a payload; the ciphertext is in the receipt."""
        plugin = self._plugin_for(SupportType.ENCRYPT_DECRYPT)
        dto = EncryptDTO(secret.secret, secret.secret_id, secret.domain)
        kek = await self._active_kek(plugin, secret.project_id)
        return _receipt(kek, await self._call(lambda: plugin.encrypt(dto, kek, secret.project_id)))

    async def get_secret(
        self, secret_id: str, project_id: str, receipt: StorageReceipt, wrapping: Wrapping | None = None
    ) -> bytes:
        """Decrypt the ciphertext in a receipt.

        :raises LookupError: the receipt has no ciphertext.
        :raises PluginNotEnabled: the crypto plugin that encrypted it is not enabled in this process.
        :raises DecryptionFailed: it is corrupt, or belongs to another secret.
        """
        datum = receipt.datum
        if datum is None:
            raise LookupError("the secret's ciphertext is missing")
        plugin = next((plugin for plugin in self.plugins if full_name(plugin) == datum.kek.plugin_name), None)
        if plugin is None:
            raise not_enabled(f"the crypto plugin {datum.kek.plugin_name}")
        dto = DecryptDTO(datum.cypher_text, secret_id, datum.kek_meta_extended, receipt.domain)
        return await self._call(lambda: plugin.decrypt(dto, datum.kek, project_id))

    def delete_secret(self, receipt: StorageReceipt) -> None:
        """Do nothing: the ciphertext is deleted with the secret's row, in the same transaction."""

    async def generate_symmetric_key(self, secret_id: str, project_id: str, key_spec: KeySpec) -> StorageReceipt:
        """Generate a key and encrypt it.

        :raises NotSupported: no crypto plugin generates such keys.
        """
        plugin = self._plugin_for(SupportType.SYMMETRIC_KEY_GENERATION, key_spec)
        algorithm, bit_length = _size_of(key_spec)
        dto = GenerateDTO(algorithm, bit_length, key_spec.mode, secret_id)
        kek = await self._active_kek(plugin, project_id)
        return _receipt(kek, await self._call(lambda: plugin.generate_symmetric(dto, kek, project_id)))

    async def generate_asymmetric_key(self, ids: PairIds, project_id: str, key_spec: KeySpec) -> KeyPairReceipt:
        """Generate a key pair and encrypt its parts.

        :raises NotSupported: no crypto plugin generates such keys.
        """
        plugin = self._plugin_for(SupportType.ASYMMETRIC_KEY_GENERATION, key_spec)
        algorithm, bit_length = _size_of(key_spec)
        kek = await self._active_kek(plugin, project_id)
        dto = GeneratePairDTO(algorithm, bit_length, key_spec.passphrase, ids.private, ids.public, ids.passphrase)
        private, public, passphrase = await self._call(lambda: plugin.generate_asymmetric(dto, kek, project_id))
        return KeyPairReceipt(
            _receipt(kek, private), _receipt(kek, public), None if passphrase is None else _receipt(kek, passphrase)
        )

    async def derive_keys(self, purpose: str) -> Sequence[DerivedKey]:
        """Return the keys that the crypto plugins derive."""
        return await derived_keys(self.plugins, purpose)

    def forget_project(self, project_id: str) -> None:
        """Drop a project's key from the cache, so that it is read from the database again."""
        for plugin in self.plugins:
            self.cache.pop((full_name(plugin), project_id), None)

    async def check(self) -> None:
        """Check that the crypto plugins have every master key that the database needs.

        :raises ConfigurationError: they do not.
        """
        await check_master_keys(self.keks, self.plugins)

    async def prepare_reload(
        self, conf: cfg.ConfigOpts, in_thread: Callable[..., Awaitable[Any]]
    ) -> Callable[[], None]:
        """Read the master keys again and check them.

        :return: a function that puts them into use.
        :raises ConfigurationError: they cannot be read, or one that is in use is missing.
        """
        plugins = tuple([await in_thread(reload_keys, plugin, conf) for plugin in self.plugins])
        await check_master_keys(self.keks, plugins)

        def use() -> None:
            self.plugins = plugins

        return use

    def gauges(self) -> Mapping[str, object]:
        """Return the sizes of the caches and the ids of the master keys."""
        found: dict[str, object] = {"records of project keys": len(self.cache)}
        for plugin in self.plugins:
            name = plugin.get_plugin_name()
            if IStatusSource.providedBy(plugin):
                found |= {f"{gauge} of {name}": value for gauge, value in plugin.gauges().items()}
            if IMasterKeys.providedBy(plugin):
                found[f"master keys of {name}"] = " ".join(plugin.master_key_ids())
        return found

    def _plugin_for(self, operation: SupportType, spec: KeySpec = _ANY_KEY) -> ICryptoPlugin:
        for plugin in self.plugins:
            if plugin.supports(operation, spec.alg, spec.bit_length, spec.mode):
                return plugin
        raise NotSupported(
            f"No crypto plugin can {operation.value} of {spec.bit_length} bits for algorithm '{spec.alg}'"
            if spec.alg
            else "Crypto plugin not found for requested operation"
        )

    async def _active_kek(self, plugin: ICryptoPlugin, project_id: str) -> KEKMeta:
        name = full_name(plugin)
        kek = self.cache.get((name, project_id))
        if kek is None:
            kek = await self.keks.get_active(project_id, name)
            if kek is None:
                kek_id = str(uuid.uuid4())
                blank = KEKMeta(kek_id, name, f"project-{project_id}-key-{kek_id}"[:255], "", 0, "", "")
                bound = await self._call(lambda: plugin.bind_kek_metadata(blank, project_id))
                kek = await self.keks.add_active(project_id, bound)
            self.cache[name, project_id] = kek
        return kek

    async def _call(self, operation: Callable[[], MaybeAwaitable[T]]) -> T:
        try:
            return await resolve(operation())
        except MasterKeyUnavailable as problem:
            if problem.key_id not in self.reported:
                self.reported[problem.key_id] = True
                log.error(
                    "the master key {key_id} is missing: requests that need it get 503, and orders wait",
                    key_id=problem.key_id,
                )
            raise


def _receipt(kek: KEKMeta, response: ResponseDTO) -> StorageReceipt:
    return StorageReceipt(datum=EncryptedDatum(kek, response.cypher_text, response.kek_meta_extended))


def _size_of(spec: KeySpec) -> tuple[str, int]:
    if spec.alg is None or spec.bit_length is None:
        raise NotSupported("A key is generated only with an algorithm and a bit length")
    return spec.alg, spec.bit_length
