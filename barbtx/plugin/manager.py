"""Loads the configured plugins and chooses among the secret stores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from importlib.metadata import entry_points
from typing import Any, TypeVar

import attrs
from oslo_config import cfg
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface.verify import verifyObject

from barbtx.errors import ConfigurationError, NotAvailableHere, NotSupported, one_line
from barbtx.model.records import SecretStore
from barbtx.model.repositories.keks import KEKRepo
from barbtx.model.repositories.secret_stores import ConfiguredStore, SecretStoreRepo
from barbtx.plugin.interface.key_derivation import DerivedKey, IKeyDerivation
from barbtx.plugin.interface.optional import IProjectCache
from barbtx.plugin.interface.results import resolve
from barbtx.plugin.interface.secret_store import ISecretStore, KeySpec
from barbtx.validators import provides

T = TypeVar("T")

OPTIONS = {
    "secretstore": [
        cfg.ListOpt(
            "enabled_secretstore_plugins",
            default=["store_crypto"],
            help="Secret store plugins, in order of preference: the first that supports a secret stores it. Keep a "
            "store enabled as long as it has payloads.",
        ),
        cfg.BoolOpt(
            "enable_multiple_secret_stores",
            default=False,
            help="Whether the stores of the [secretstore:<suffix>] sections are used, among which projects may choose, "
            "instead of enabled_secretstore_plugins.",
        ),
        cfg.ListOpt("stores_lookup_suffix", default=[], help="Suffixes of the [secretstore:<suffix>] sections."),
    ],
    "crypto": [
        cfg.ListOpt(
            "enabled_crypto_plugins",
            default=["simple_crypto"],
            help="Crypto plugins of store_crypto, in order of preference. Keep a plugin enabled as long as it has "
            "encrypted payloads.",
        ),
    ],
}

#: The options of each ``[secretstore:<suffix>]`` section.
BACKEND_OPTIONS = [
    cfg.StrOpt("secret_store_plugin", help="Secret store plugin of this backend."),
    cfg.StrOpt("crypto_plugin", help="Crypto plugin that the store encrypts with; not set for stores that need none."),
    cfg.BoolOpt(
        "global_default",
        default=False,
        help="Whether this is the backend of projects that have not chosen one; exactly one backend must be.",
    ),
]

log = Logger()

STORES = "barbtx.secretstore"
CRYPTO = "barbtx.crypto"


class PluginNotEnabled(NotAvailableHere, LookupError):
    """A plugin that is needed to read or delete stored data is not enabled in this process.

    :param plugin: kind and name of the plugin, for the log.
    """

    def __init__(self, plugin: str) -> None:
        super().__init__(
            "A secret store that is needed for this is not available at the moment; please try again", plugin=plugin
        )

    def __str__(self) -> str:
        return f"{self.debug['plugin']} is not enabled"


def not_enabled(plugin: str) -> PluginNotEnabled:
    """Log that a plugin is missing and return the error to raise."""
    log.error("{plugin} is not enabled: requests that need it get 503, and orders wait", plugin=plugin)
    return PluginNotEnabled(plugin)


@attrs.frozen
class PluginContext:
    """The argument of a plugin's factory.

    :ivar clock: for timers and the lifetime of cache entries; monotonic.
    :ivar in_thread: calls a blocking function with arguments in a thread of the reactor; returns an awaitable.
    :ivar crypto_plugins: for a store that uses crypto plugins: their names, the one that encrypts new payloads first.
        If it is None, the store uses those of ``[crypto] enabled_crypto_plugins``.
    """

    conf: cfg.ConfigOpts
    clock: IReactorTime = attrs.field(validator=provides(IReactorTime))
    keks: KEKRepo
    in_thread: Callable[..., Awaitable[Any]]
    crypto_plugins: tuple[str, ...] | None = None


def load(group: str, names: list[str], interface: type[T], context: PluginContext) -> tuple[T, ...]:
    """Make the named plugins of an entry point group, in the order of their names.

    :param interface: the zope interface that each plugin must provide.
    :raises ConfigurationError: a plugin is not installed, fails to load or does not provide the interface, or no plugin
        is named.
    """
    if not names:
        raise ConfigurationError(f"no plugin of {group} is enabled")
    found = {point.name: point for point in entry_points(group=group)}
    plugins = []
    for name in names:
        if name not in found:
            raise ConfigurationError(f"{group} has no plugin '{name}'; installed: {', '.join(sorted(found)) or 'none'}")
        try:
            factory: Callable[[PluginContext], Any] = found[name].load()
            plugin = factory(context)
            verifyObject(interface, plugin)
        except ConfigurationError:
            raise
        except Exception as problem:
            # Plugins are third-party code, which may raise anything.
            raise ConfigurationError(
                f"{group} plugin '{name}' does not load: {type(problem).__name__}: {one_line(problem)}"
            ) from None
        plugins.append(plugin)
    return tuple(plugins)


def full_name(plugin: object) -> str:
    """Return the full class name of a plugin, which the database stores with everything that the plugin wrote."""
    return f"{type(plugin).__module__}.{type(plugin).__qualname__}"


async def derived_keys(plugins: Iterable[object], purpose: str) -> tuple[DerivedKey, ...]:
    """Return the keys that plugins derive for a purpose, without duplicates; skip plugins without IKeyDerivation."""
    keys: dict[str, DerivedKey] = {}
    for plugin in plugins:
        if IKeyDerivation.providedBy(plugin):
            for key in await resolve(plugin.derive_keys(purpose)):
                keys.setdefault(key.id, key)
    return tuple(keys.values())


@attrs.frozen
class Backend:
    """One of several secret stores that projects may choose from."""

    store: ISecretStore = attrs.field(validator=provides(ISecretStore))
    configured: ConfiguredStore

    def is_choice(self, preferred: SecretStore | None) -> bool:
        """Return whether a project with this preference uses the backend; without one, the global default is used."""
        if preferred is None:
            return self.configured.global_default
        return (self.configured.store_plugin, self.configured.crypto_plugin) == (
            preferred.store_plugin,
            preferred.crypto_plugin,
        )


@attrs.frozen
class StoreManager:
    """The enabled secret stores.

    :ivar stores: in order of preference.
    :ivar backends: the stores that projects may choose from; empty if they may not choose.
    :ivar choices: the repository of the projects' choices.
    """

    stores: tuple[ISecretStore, ...] = attrs.field(validator=attrs.validators.deep_iterable(provides(ISecretStore)))
    backends: tuple[Backend, ...]
    choices: SecretStoreRepo

    @classmethod
    def from_config(cls, context: PluginContext, choices: SecretStoreRepo) -> StoreManager:
        """Make the stores that the configuration enables.

        :raises ConfigurationError: a store cannot be made, or the ``[secretstore:...]`` sections contradict each other.
        """
        options = context.conf.secretstore
        if not options.enable_multiple_secret_stores:
            return cls(load(STORES, options.enabled_secretstore_plugins, ISecretStore, context), (), choices)
        backends = _load_backends(context)
        return cls(tuple(backend.store for backend in backends), backends, choices)

    async def for_new_secret(self, project_id: str, key_spec: KeySpec) -> ISecretStore:
        """Choose the store for a new secret: the one that the project prefers, or the first that supports it.

        :param project_id: external id.
        :raises NotSupported: no store supports it.
        """
        for store in await self._candidates(project_id):
            if store.store_secret_supports(key_spec):
                return store
        raise NotSupported("Secret store supported plugin not found")

    async def for_new_key(self, project_id: str, key_spec: KeySpec) -> ISecretStore:
        """Choose the store that generates a new key: the one that the project prefers, or the first that supports it.

        :param project_id: external id.
        :raises NotSupported: no store supports it.
        """
        for store in await self._candidates(project_id):
            if store.generate_supports(key_spec):
                return store
        raise NotSupported("Secret generate supported plugin not found")

    def by_name(self, name: str) -> ISecretStore:
        """Return the store with a full class name.

        :raises PluginNotEnabled: it is not enabled in this process.
        """
        store = self.find(name)
        if store is None:
            raise not_enabled(f"the secret store {name}")
        return store

    def find(self, name: str) -> ISecretStore | None:
        """Return the store with a full class name, or None if it is not enabled."""
        return next((store for store in self.stores if full_name(store) == name), None)

    async def derive_keys(self, purpose: str) -> tuple[DerivedKey, ...]:
        """Return the keys that the stores derive for a purpose, the current one first; empty if none derives keys."""
        return await derived_keys(self.stores, purpose)

    def forget_project(self, project_id: str) -> None:
        """Make the stores drop the data that they have cached for a project, such as its keys.

        :param project_id: external id.
        """
        for store in self.stores:
            if IProjectCache.providedBy(store):
                store.forget_project(project_id)

    async def _candidates(self, project_id: str) -> tuple[ISecretStore, ...]:
        return (await self._backend_of(project_id),) if self.backends else self.stores

    async def _backend_of(self, project_id: str) -> ISecretStore:
        preferred = await self.choices.preferred(project_id)
        for backend in self.backends:
            if backend.is_choice(preferred):
                return backend.store
        # Exactly one backend is the global default, so the project has a preference; another process may know it.
        assert preferred is not None
        raise not_enabled(
            f"the secret store {preferred.store_plugin}/{preferred.crypto_plugin}, which a project prefers,"
        )


def _load_backends(context: PluginContext) -> tuple[Backend, ...]:
    suffixes = context.conf.secretstore.stores_lookup_suffix
    if not suffixes:
        raise ConfigurationError("[secretstore] stores_lookup_suffix is empty, yet several stores are enabled")
    sections = [context.conf[f"secretstore:{suffix}"] for suffix in suffixes]
    crypto = tuple(dict.fromkeys(section.crypto_plugin for section in sections if section.crypto_plugin))
    backends = []
    for suffix, section in zip(suffixes, sections, strict=True):
        if not section.secret_store_plugin:
            raise ConfigurationError(f"[secretstore:{suffix}] secret_store_plugin is missing")
        own = section.crypto_plugin
        # Every store can decrypt ciphertext of the other stores' plugins; its own plugin comes first and encrypts.
        plugins = tuple(dict.fromkeys((own, *crypto))) if own else None
        (store,) = load(
            STORES, [section.secret_store_plugin], ISecretStore, attrs.evolve(context, crypto_plugins=plugins)
        )
        backends.append(
            Backend(
                store,
                ConfiguredStore(section.secret_store_plugin, own, section.global_default, store.get_plugin_name()),
            )
        )
    kinds = [(backend.configured.store_plugin, backend.configured.crypto_plugin) for backend in backends]
    for store_plugin, crypto_plugin in kinds:
        if kinds.count((store_plugin, crypto_plugin)) > 1:
            raise ConfigurationError(
                f"several [secretstore:…] sections have the same plugins, {store_plugin} and {crypto_plugin}"
            )
    if sum(backend.configured.global_default for backend in backends) != 1:
        raise ConfigurationError("exactly one [secretstore:…] section must have global_default = true")
    return tuple(backends)
