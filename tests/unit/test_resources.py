"""What happens between the API and a store that keeps payloads itself."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import pytest_twisted
from zope.interface.verify import verifyObject

from barbtx.errors import NotSupported, to_error_response
from barbtx.model.records import EncryptedDatum, KEKMeta, NewSecret
from barbtx.plugin import resources
from barbtx.plugin.interface.secret_store import ISecretStore, StorageReceipt
from barbtx.plugin.manager import PluginNotEnabled, StoreManager
from barbtx.plugin.stores.store_crypto import StoreCrypto
from tests.support.wrapping_store import WrappingStore

SECRET = NewSecret("s", "p")


@pytest.fixture
def stores(tmp_path: Path) -> StoreManager:
    return StoreManager((WrappingStore(tmp_path),), (), None)


def test_the_fake_keeps_to_the_interface(tmp_path: Path) -> None:
    assert verifyObject(ISecretStore, WrappingStore(tmp_path))


@pytest_twisted.ensureDeferred
async def test_a_payload_is_kept_read_and_forgotten(stores: StoreManager, tmp_path: Path) -> None:
    stored = attrs.evolve(SECRET, payload=await resources.store_secret(stores, SECRET, b"payload", "text/plain"))
    assert stored.payload.plugin.endswith("WrappingStore") and stored.payload.datum is None
    assert await resources.get_secret(stores, stored) == b"payload"
    assert len(list(tmp_path.iterdir())) == 1
    await resources.delete_secret(stores, stored)
    assert list(tmp_path.iterdir()) == []


@pytest_twisted.ensureDeferred
async def test_a_secret_without_payload_is_none_of_the_stores_business(stores: StoreManager) -> None:
    await resources.delete_secret(stores, SECRET)


@pytest_twisted.ensureDeferred
async def test_a_store_that_is_not_enabled_any_more_is_named(stores: StoreManager) -> None:
    stored = attrs.evolve(SECRET, payload=await resources.store_secret(stores, SECRET, b"payload", "text/plain"))
    lacking = StoreManager((), (), None)
    with pytest.raises(LookupError, match="WrappingStore") as caught:
        await resources.get_secret(lacking, stored)
    fault = to_error_response(caught.value, "Secret payload retrieval")
    assert fault.status == 503 and "Retry-After" in fault.headers and "WrappingStore" not in fault.description
    with pytest.raises(PluginNotEnabled):
        await resources.delete_secret(lacking, stored)


@pytest_twisted.ensureDeferred
async def test_a_crypto_plugin_that_is_not_enabled_is_no_corruption() -> None:
    kek = KEKMeta("k", "another.Plugin", "l", "aes", 256, "gcm", "w")
    with pytest.raises(PluginNotEnabled, match=r"another\.Plugin"):
        await StoreCrypto((), None, {}, {}).get_secret("s", "p", StorageReceipt(datum=EncryptedDatum(kek, b"c", None)))


@pytest_twisted.ensureDeferred
async def test_where_no_store_fits_the_request_is_not_supported(stores: StoreManager) -> None:
    with pytest.raises(NotSupported):
        await resources.generate_secret(stores, SECRET, "text/plain")
    with pytest.raises(NotSupported):
        await resources.store_secret(StoreManager((), (), None), SECRET, b"x", "text/plain")
