"""Finding the configured plugins and choosing among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import Any

import attrs
from oslo_config import cfg
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import Interface
from zope.interface.verify import verifyObject

from barbtx.errors import ConfigurationError, NotAvailableHere, NotSupported
from barbtx.model.repositories.keks import KEKRepo
from barbtx.model.repositories.secret_stores import ConfiguredStore, SecretStoreRepo
from barbtx.plugin.interface.key_derivation import DerivedKey, IKeyDerivation
from barbtx.plugin.interface.secret_store import ISecretStore, KeySpec

OPTIONS = {
    "secretstore": [
        cfg.ListOpt(
            "enabled_secretstore_plugins",
            default=["store_crypto"],
            help="Secret stores, in the order in which they are asked.",
        ),
        cfg.BoolOpt(
            "enable_multiple_secret_stores",
            default=False,
            help="Whether projects may choose among the stores of [secretstore:<suffix>] sections instead.",
        ),
        cfg.ListOpt("stores_lookup_suffix", default=[], help="The suffixes of those sections."),
    ],
    "crypto": [
        cfg.ListOpt(
            "enabled_crypto_plugins",
            default=["simple_crypto"],
            help="Crypto plugins of store_crypto, in the order in which they are asked.",
        ),
    ],
}

#: Of each ``[secretstore:<suffix>]`` section.
BACKEND_OPTIONS = [
    cfg.StrOpt("secret_store_plugin", help="The secret store plugin."),
    cfg.StrOpt("crypto_plugin", help="The crypto plugin that it encrypts with, if it needs one."),
    cfg.BoolOpt(
        "global_default",
        default=False,
        help="Whether this is the store of projects that have not chosen; exactly one must be.",
    ),
]

log = Logger()

STORES = "barbtx.secretstore"
CRYPTO = "barbtx.crypto"


class PluginNotEnabled(NotAvailableHere, LookupError):
    """A plugin that has something is not enabled in this process.

    :param plugin: names it, for the log.
    """

    def __init__(self, plugin: str) -> None:
        super().__init__(
            "A secret store that is needed for this is not available at the moment; please try again", plugin=plugin
        )

    def __str__(self) -> str:
        return f"{self.debug['plugin']} is not enabled"


def not_enabled(plugin: str) -> PluginNotEnabled:
    """The error to raise for lack of a plugin, which the operator is told of."""
    log.error("{plugin} is not enabled: what it has is answered with 503, and orders wait", plugin=plugin)
    return PluginNotEnabled(plugin)


@attrs.frozen
class PluginContext:
    """What a plugin is made from.

    :ivar in_thread: calls a blocking function in a thread of the reactor's; a Deferred of its result.
    :ivar crypto_plugins: for a store that encrypts through them: which ones, the one that is to encrypt first; if it is
        None, those of ``[crypto] enabled_crypto_plugins``.
    """

    conf: cfg.ConfigOpts
    clock: IReactorTime
    keks: KEKRepo
    in_thread: Callable[..., Deferred[Any]]
    crypto_plugins: tuple[str, ...] | None = None


def load(group: str, names: list[str], interface: type[Interface], context: PluginContext) -> tuple[Any, ...]:
    """Make the plugins of an entry point group that the configuration names, in its order.

    :raises ConfigurationError: one is not installed, does not load or does not keep to its interface, or there is none.
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
            # A plugin is somebody else's code, and each mistake in it another exception.
            raise ConfigurationError(
                f"{group} plugin '{name}' does not load: {type(problem).__name__}: {' '.join(str(problem).split())}"
            ) from None
        plugins.append(plugin)
    return tuple(plugins)


def full_name(plugin: object) -> str:
    """The full class name, by which a secret remembers the store that wrote it."""
    return f"{type(plugin).__module__}.{type(plugin).__qualname__}"


async def derived_keys(plugins: Iterable[Any], purpose: str) -> tuple[DerivedKey, ...]:
    """The keys that plugins derive for a purpose, each once; a plugin without IKeyDerivation has none."""
    keys: dict[str, DerivedKey] = {}
    for plugin in plugins:
        if IKeyDerivation.providedBy(plugin):
            for key in await maybeDeferred(plugin.derive_keys, purpose):
                keys.setdefault(key.id, key)
    return tuple(keys.values())


@attrs.frozen
class Backend:
    """A secret store among several that projects may choose from."""

    store: Any
    configured: ConfiguredStore


@attrs.frozen
class StoreManager:
    """The secret stores.

    :ivar stores: those that are enabled, in the order in which they are asked.
    :ivar backends: those that projects may choose from; empty if they may not.
    :ivar choices: what projects have chosen.
    """

    stores: tuple[Any, ...]
    backends: tuple[Backend, ...]
    choices: SecretStoreRepo

    @classmethod
    def from_config(cls, context: PluginContext, choices: SecretStoreRepo) -> StoreManager:
        """Make the stores that the configuration names.

        :raises ConfigurationError: one is not as it should be.
        """
        options = context.conf.secretstore
        if not options.enable_multiple_secret_stores:
            return cls(load(STORES, options.enabled_secretstore_plugins, ISecretStore, context), (), choices)
        backends = _load_backends(context)
        return cls(tuple(backend.store for backend in backends), backends, choices)

    async def to_store(self, project_id: str, key_spec: KeySpec) -> Any:
        """The store for something new: the one that the project prefers, or the first that takes such a thing.

        :raises NotSupported: none does.
        """
        return await self._choose(
            project_id, lambda store: store.store_secret_supports(key_spec), "Secret store supported plugin not found"
        )

    async def to_generate(self, project_id: str, key_spec: KeySpec) -> Any:
        """The store for a new key, chosen likewise.

        :raises NotSupported: none makes such keys.
        """
        return await self._choose(
            project_id, lambda store: store.generate_supports(key_spec), "Secret generate supported plugin not found"
        )

    def by_name(self, name: str) -> Any:
        """The store of a full class name.

        :raises NotEnabled: it is not enabled here, or not any more.
        """
        store = self.find(name)
        if store is None:
            raise not_enabled(f"the secret store {name}")
        return store

    def find(self, name: str) -> Any | None:
        """The store of a full class name, if it is enabled."""
        return next((store for store in self.stores if full_name(store) == name), None)

    async def derive_keys(self, purpose: str) -> tuple[DerivedKey, ...]:
        """The keys that the stores derive for a purpose, the current one first; none if no store derives any."""
        return await derived_keys(self.stores, purpose)

    def forget_project(self, project_id: str) -> None:
        """Have the stores forget what they remember of a project, such as its keys, and read it again when needed."""
        for store in self.stores:
            getattr(store, "forget_project", lambda project_id: None)(project_id)

    async def _choose(self, project_id: str, fits: Callable[[Any], bool], otherwise: str) -> Any:
        stores = self.stores
        if self.backends:
            stores = (await self._backend_of(project_id),)
        for store in stores:
            if fits(store):
                return store
        raise NotSupported(otherwise)

    async def _backend_of(self, project_id: str) -> Any:
        preferred = await self.choices.preferred(project_id)
        for backend in self.backends:
            configured = backend.configured
            if (
                configured.global_default
                if preferred is None
                else (
                    (configured.store_plugin, configured.crypto_plugin)
                    == (preferred.store_plugin, preferred.crypto_plugin)
                )
            ):
                return backend.store
        # Another process may know it already.
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
    for suffix, section in zip(suffixes, sections):
        if not section.secret_store_plugin:
            raise ConfigurationError(f"[secretstore:{suffix}] secret_store_plugin is missing")
        own = section.crypto_plugin
        # Every store can read what the others' crypto plugins wrote; its own one comes first and writes.
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
    for store, crypto_plugin in kinds:
        if kinds.count((store, crypto_plugin)) > 1:
            raise ConfigurationError(
                f"several [secretstore:…] sections have the same plugins, {store} and {crypto_plugin}"
            )
    if sum(backend.configured.global_default for backend in backends) != 1:
        raise ConfigurationError("exactly one [secretstore:…] section must have global_default = true")
    return tuple(backends)
