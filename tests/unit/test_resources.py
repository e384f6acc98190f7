"""What happens between the API and a store that keeps payloads itself."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import pytest_twisted
from zope.interface.verify import verifyObject

from barbtx.errors import NotSupported
from barbtx.model.records import NewSecret
from barbtx.plugin import resources
from barbtx.plugin.interface.secret_store import ISecretStore
from barbtx.plugin.manager import StoreManager
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
    with pytest.raises(LookupError, match="WrappingStore"):
        await resources.get_secret(StoreManager((), (), None), stored)


@pytest_twisted.ensureDeferred
async def test_where_no_store_fits_the_request_is_not_supported(stores: StoreManager) -> None:
    with pytest.raises(NotSupported):
        await resources.generate_secret(stores, SECRET, "text/plain")
    with pytest.raises(NotSupported):
        await resources.store_secret(StoreManager((), (), None), SECRET, b"x", "text/plain")
