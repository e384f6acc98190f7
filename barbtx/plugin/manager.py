"""Finding the configured plugins and choosing among them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import attrs
from oslo_config import cfg
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import Interface
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from barbtx.errors import ConfigurationError, NotSupported
from barbtx.model.repositories.keks import KEKRepo
from barbtx.plugin.interface.secret_store import ISecretStore, KeySpec

OPTIONS = {
    "secretstore": [
        cfg.ListOpt("enabled_secretstore_plugins", default=["store_crypto"],
                    help="Secret stores, in the order in which they are asked."),
    ],
    "crypto": [
        cfg.ListOpt("enabled_crypto_plugins", default=["simple_crypto"],
                    help="Crypto plugins of store_crypto, in the order in which they are asked."),
    ],
}

STORES = "barbtx.secretstore"
CRYPTO = "barbtx.crypto"


@attrs.frozen
class PluginContext:
    """What a plugin is made from.

    :ivar in_thread: calls a blocking function in a thread of the reactor's; a Deferred of its result.
    """

    conf: cfg.ConfigOpts
    clock: IReactorTime
    keks: KEKRepo
    in_thread: Callable[..., Deferred[Any]]


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
        except (ImportError, AttributeError, Invalid) as problem:
            raise ConfigurationError(f"{group} plugin '{name}' does not load: {problem}") from None
        plugins.append(plugin)
    return tuple(plugins)


def full_name(plugin: object) -> str:
    """The full class name, by which a secret remembers the store that wrote it."""
    return f"{type(plugin).__module__}.{type(plugin).__qualname__}"


@attrs.frozen
class StoreManager:
    """The enabled secret stores, in the order in which they are asked."""

    stores: tuple[Any, ...]

    @classmethod
    def from_config(cls, context: PluginContext) -> StoreManager:
        names = context.conf.secretstore.enabled_secretstore_plugins
        return cls(load(STORES, names, ISecretStore, context))

    def to_store(self, key_spec: KeySpec) -> Any:
        """The first store that takes such a thing.

        :raises NotSupported: none does.
        """
        return self._first(lambda store: store.store_secret_supports(key_spec),
                           "Secret store supported plugin not found")

    def to_generate(self, key_spec: KeySpec) -> Any:
        """The first store that makes such a key.

        :raises NotSupported: none does.
        """
        return self._first(lambda store: store.generate_supports(key_spec),
                           "Secret generate supported plugin not found")

    def by_name(self, name: str) -> Any:
        """The store of a full class name.

        :raises LookupError: it is not enabled any more.
        """
        for store in self.stores:
            if full_name(store) == name:
                return store
        raise LookupError(f"the secret store {name} is not enabled")

    def _first(self, fits: Callable[[Any], bool], otherwise: str) -> Any:
        for store in self.stores:
            if fits(store):
                return store
        raise NotSupported(otherwise)
