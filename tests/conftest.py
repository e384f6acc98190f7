"""Fixtures that all tests share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support.keystone import Identity, Keystone
from tests.support.servers import MariaDB, PostgreSQL, RabbitMQ, Server
from tests.support.service import Api, Deployment


def _running(kind: type[Server]) -> Iterator[Server]:
    server = kind()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    yield from _running(PostgreSQL)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    yield from _running(MariaDB)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    yield from _running(RabbitMQ)


@pytest.fixture(scope="session")
def keystone() -> Iterator[Keystone]:
    yield from _running(Keystone)


@pytest.fixture(scope="session")
def identity(keystone: Keystone) -> Identity:
    """An administrator of the Keystone."""
    return Identity(keystone)


@pytest.fixture(scope="session")
def service_user(identity: Identity) -> None:
    """barbtx's own user at the Keystone, as ``with_keystone`` configures it."""

    async def make() -> None:
        await identity.user("barbtx", await identity.project("service"), "service")

    pytest_twisted.blockon(Deferred.fromCoroutine(make()))


def unique(prefix: str = "t") -> str:
    """A name that no other test uses."""
    return f"{prefix}{uuid.uuid4().hex[:12]}"


@pytest.fixture
def name() -> str:
    return unique()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new, empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/barbtx.sqlite"
    return request.getfixturevalue(request.param).new_database(unique())


@pytest.fixture(scope="session", params=["embedded", "distributed"])
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """barbtx in its two forms: SQLite with tasks in process; PostgreSQL and RabbitMQ with workers."""
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "embedded":
        deployment = Deployment(directory, f"sqlite:///{directory}/barbtx.sqlite")
    else:
        url = request.getfixturevalue("postgresql").new_database(unique())
        deployment = Deployment(directory, url, request.getfixturevalue("rabbitmq").url, unique("tasks."))
        deployment.worker()
        deployment.worker()
    yield deployment
    deployment.stop()


@pytest.fixture(scope="session")
def service(deployment: Deployment) -> Api:
    """A running API process of each deployment."""
    return deployment.api()


@pytest.fixture
def api(service: Api, name: str) -> Api:
    """A client for a fresh project of a running service."""
    return service.of(name)
