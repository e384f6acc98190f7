"""barbtx in the catalog of a real Keystone, for the clients that people use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.conftest import unique
from tests.support.keystone import Identity
from tests.support.service import Api, Deployment, with_keystone


@pytest.fixture(scope="session")
def deployment(
    service_user: None, identity: Identity, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    deployment = with_keystone(tmp_path_factory.mktemp("clients"), identity.keystone.url)
    yield deployment
    deployment.stop()


@pytest.fixture(scope="session")
def api(deployment: Deployment) -> Api:
    return deployment.api()


@pytest.fixture(scope="session")
def catalog(identity: Identity, api: Api) -> None:
    """The API's entry in the catalog."""

    async def make() -> None:
        made = await identity.admin("POST", "/services", {"service": {"type": "key-manager", "name": "barbtx"}})
        await identity.admin(
            "POST",
            "/endpoints",
            {
                "endpoint": {
                    "service_id": made["service"]["id"],
                    "interface": "public",
                    "region_id": "RegionOne",
                    "url": api.url,
                }
            },
        )

    pytest_twisted.blockon(Deferred.fromCoroutine(make()))


@pytest_twisted.async_fixture
async def project(catalog: None, identity: Identity) -> str:
    """The name of a new project, which has a user called ``<name>-member`` with the role member."""
    name = unique()
    await identity.user(f"{name}-member", await identity.project(name), "member")
    return name
