"""What plugins provide, and how barbtx takes what they return."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import Interface, implementer
from zope.interface.verify import verifyObject

from barbtx.config import load
from barbtx.plugin.crypto.simple_crypto import SimpleCrypto, from_config, generate_master_key
from barbtx.plugin.interface.crypto import ICryptoPlugin, IMasterKeys
from barbtx.plugin.interface.key_derivation import IKeyDerivation
from barbtx.plugin.interface.optional import IProjectCache, IReloadable, IStartupCheck, IStatusSource
from barbtx.plugin.interface.results import MaybeAwaitable, resolve
from barbtx.plugin.interface.secret_store import ISecretStore
from barbtx.plugin.manager import PluginContext, StoreManager
from barbtx.plugin.stores.store_crypto import StoreCrypto
from barbtx.testing import MemoryStore


def simple_crypto() -> SimpleCrypto:
    conf = load([], [f"simple_crypto_plugin.kek={generate_master_key()}"])
    return from_config(PluginContext(conf, Clock(), None, lambda *work: succeed(None)))


async def later(value: str) -> str:
    return value


@pytest.mark.parametrize("result", ["value", succeed("value"), later("value")], ids=["value", "Deferred", "coroutine"])
@pytest_twisted.ensureDeferred
async def test_a_result_may_come_at_once_or_later(result: MaybeAwaitable[str]) -> None:
    assert await resolve(result) == "value"


@pytest_twisted.ensureDeferred
async def test_a_failure_that_comes_later_is_raised() -> None:
    failed: Deferred[str] = fail(ValueError("x"))
    with pytest.raises(ValueError, match="x"):
        await resolve(failed)


@pytest.mark.parametrize(
    "interface", [ISecretStore, IKeyDerivation, IStartupCheck, IReloadable, IProjectCache, IStatusSource]
)
def test_store_crypto_provides_what_it_declares(interface: type[Interface]) -> None:
    verifyObject(interface, StoreCrypto((simple_crypto(),), None, {}, {}))


@pytest.mark.parametrize("interface", [ICryptoPlugin, IKeyDerivation, IMasterKeys, IStatusSource])
def test_simple_crypto_provides_what_it_declares(interface: type[Interface]) -> None:
    verifyObject(interface, simple_crypto())


def test_the_status_names_the_plugin_of_each_figure() -> None:
    crypto = simple_crypto()
    assert StoreCrypto((crypto,), None, {}, {}).gauges() == {
        "records of project keys": 0,
        "unwrapped keys of Software Only Crypto": 0,
        "master keys of Software Only Crypto": crypto.current_master_key_id(),
    }


class _Undeclared(MemoryStore):
    """It has the method, but does not declare the interface."""

    forgotten: tuple[str, ...] = ()

    def forget_project(self, project_id: str) -> None:
        self.forgotten += (project_id,)


@implementer(IProjectCache)
class _Declared(_Undeclared):
    pass


def test_an_optional_method_is_called_only_if_its_interface_is_declared() -> None:
    undeclared, declared = _Undeclared(), _Declared()
    StoreManager((undeclared, declared), (), None).forget_project("p")
    assert (undeclared.forgotten, declared.forgotten) == ((), ("p",))


def test_what_is_no_secret_store_is_refused() -> None:
    with pytest.raises(TypeError, match="ISecretStore"):
        StoreManager((object(),), (), None)
    with pytest.raises(TypeError, match="ICryptoPlugin"):
        StoreCrypto((MemoryStore(),), None, {}, {})
