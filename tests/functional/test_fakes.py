"""The fakes of ``barbtx.testing`` behave as the real things do: the same tests run against both."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol

import attrs
import pytest
import pytest_twisted
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from zope.interface.verify import verifyObject

from barbtx.cmd.manage import main as manage
from barbtx.config import load
from barbtx.errors import NotSupported, ServiceUnavailable
from barbtx.identity.keystone.projects import ProjectDirectory
from barbtx.identity.keystone.tokens import InvalidToken, TokenValidator
from barbtx.model.database import Database
from barbtx.model.repositories.keks import KEKRepo
from barbtx.plugin.crypto.simple_crypto import generate_master_key
from barbtx.plugin.interface.domains import Domain
from barbtx.plugin.interface.results import resolve
from barbtx.plugin.interface.secret_store import ISecretStore, KeySpec, PairIds, SecretDTO, StorageReceipt
from barbtx.plugin.manager import PluginContext
from barbtx.plugin.stores.store_crypto import from_config as store_crypto
from barbtx.queue.amqp.connection import Brokers
from barbtx.queue.amqp.publisher import AMQPTransport
from barbtx.queue.amqp.topology import Topology
from barbtx.queue.transport import ITransport, PublishRefused, TaskMessage
from barbtx.testing import FakeKeystone, MemoryStore, MemoryTransport
from barbtx.times import WallClock
from tests.conftest import unique
from tests.support.keystone import PASSWORD, Identity
from tests.support.servers import PATIENCE, RabbitMQ


def reactor() -> Any:
    from twisted.internet import reactor

    return reactor


# Secret stores


@pytest.fixture(params=["MemoryStore", "StoreCrypto"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ISecretStore]:
    if request.param == "MemoryStore":
        yield MemoryStore()
        return
    url = f"sqlite:///{tmp_path}/barbtx.sqlite"
    assert manage(["db", "upgrade", "-d", url]) == 0
    conf = load([], [f"database.connection={url}", f"simple_crypto_plugin.kek={generate_master_key()}"])
    database = Database.from_config(reactor(), conf)
    database.start()
    context = PluginContext(conf, reactor(), KEKRepo(database, WallClock()), deferToThread)
    yield store_crypto(context)
    database.stop()


def secret(secret_id: str, payload: bytes = b"payload", domain: Domain = Domain.PAYLOAD) -> SecretDTO:
    return SecretDTO(secret_id, "project", "opaque", payload, domain=domain)


def test_a_store_provides_the_interface(store: ISecretStore) -> None:
    verifyObject(ISecretStore, store)
    assert store.get_plugin_name() and store.store_secret_supports(KeySpec())


@pytest_twisted.ensureDeferred
async def test_a_payload_is_returned_for_its_secret_project_and_domain_only(store: ISecretStore) -> None:
    receipt = await resolve(store.store_secret(secret("one")))
    assert await resolve(store.get_secret("one", "project", receipt)) == b"payload"
    for secret_id, project, domain in [
        ("two", "project", Domain.PAYLOAD),
        ("one", "other", Domain.PAYLOAD),
        ("one", "project", Domain.ORDER_PASSPHRASE),
    ]:
        with pytest.raises(Exception):  # noqa: B017, PT011  # Which exception it is, the interface leaves to the store.
            await resolve(store.get_secret(secret_id, project, attrs.evolve(receipt, domain=domain)))
    with pytest.raises(LookupError):
        await resolve(store.get_secret("one", "project", StorageReceipt({"key_id": "unknown"})))


@pytest_twisted.ensureDeferred
async def test_each_call_stores_a_payload_of_its_own(store: ISecretStore) -> None:
    first = await resolve(store.store_secret(secret("one", b"first")))
    second = await resolve(store.store_secret(secret("one", b"second")))
    await resolve(store.delete_secret(second))
    await resolve(store.delete_secret(second))
    assert await resolve(store.get_secret("one", "project", first)) == b"first"


@pytest_twisted.ensureDeferred
async def test_a_receipt_is_short_and_has_no_payload(store: ISecretStore) -> None:
    receipt = await resolve(store.store_secret(secret("one", b"a payload not to be seen")))
    assert all(isinstance(value, str) and len(value) <= 255 for value in receipt.metadata.values())
    assert "not to be seen" not in repr(receipt) + repr(store) + repr(secret("one", b"a payload not to be seen"))


@pytest_twisted.ensureDeferred
async def test_symmetric_keys_are_generated(store: ISecretStore) -> None:
    spec = KeySpec("aes", 256, "cbc")
    assert store.generate_supports(spec) and not store.generate_supports(KeySpec("unknown", 256))
    receipt = await resolve(store.generate_symmetric_key("one", "project", spec))
    assert len(await resolve(store.get_secret("one", "project", receipt))) == 32
    with pytest.raises(NotSupported):
        await resolve(store.generate_symmetric_key("one", "project", KeySpec("rsa", 2048)))
    with pytest.raises(NotSupported):
        await resolve(store.generate_symmetric_key("one", "project", KeySpec("aes", 13)))


@pytest.mark.parametrize("passphrase", [None, "open sesame"])
@pytest_twisted.ensureDeferred
async def test_key_pairs_are_generated(store: ISecretStore, passphrase: str | None) -> None:
    spec = KeySpec("RSA", 2048, passphrase=passphrase)
    assert store.generate_supports(spec)
    receipts = await resolve(store.generate_asymmetric_key(PairIds("a", "b", "c"), "project", spec))
    private = await resolve(store.get_secret("a", "project", receipts.private))
    key = load_pem_private_key(private, passphrase.encode() if passphrase else None)
    assert key.key_size == 2048
    assert (await resolve(store.get_secret("b", "project", receipts.public))).startswith(b"-----BEGIN PUBLIC KEY")
    assert (receipts.passphrase is None) == (passphrase is None)
    if receipts.passphrase is not None:
        assert await resolve(store.get_secret("c", "project", receipts.passphrase)) == b"open sesame"
    with pytest.raises(NotSupported):
        await resolve(store.generate_asymmetric_key(PairIds("a", "b", "c"), "project", KeySpec("rsa", 13)))


@pytest_twisted.ensureDeferred
async def test_a_memory_store_can_be_told_to_be_unreachable() -> None:
    store = MemoryStore()
    receipt = await store.store_secret(secret("one"))
    store.unavailable = True
    for operation in (store.store_secret(secret("two")), store.get_secret("one", "project", receipt)):
        with pytest.raises(ServiceUnavailable):
            await operation
    assert len(store) == 1


# Transports

MESSAGE = TaskMessage("process_type_order", {"order_id": "o", "project_id": "p", "request_id": None})


class Sender(Protocol):
    """A transport, and how a test makes it ready and reads what it sent."""

    transport: Any

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


@attrs.define
class _InMemory:
    transport: MemoryTransport = attrs.field(factory=lambda: MemoryTransport(ready=False))

    async def start(self) -> None:
        self.transport.ready = True

    async def stop(self) -> None:
        self.transport.ready = False


@attrs.define
class _OverAMQP:
    transport: AMQPTransport

    async def start(self) -> None:
        self.transport.startService()
        await until(lambda: self.transport.ready)

    async def stop(self) -> None:
        if self.transport.running:
            await self.transport.stopService()
            await until(lambda: not self.transport.ready)


async def until(condition: Any) -> None:
    end = reactor().seconds() + PATIENCE
    while not condition():
        assert reactor().seconds() < end, "it did not come true"
        await deferLater(reactor(), 0.02, lambda: None)


@pytest_twisted.async_yield_fixture(params=["MemoryTransport", "AMQPTransport"])
async def sender(request: pytest.FixtureRequest) -> AsyncIterator[Sender]:
    if request.param == "MemoryTransport":
        yield _InMemory()
        return
    rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq")
    name = f"tasks.{uuid.uuid4().hex}"
    topology = Topology(name, f"{name}.dead", "", delivery_limit=3, max_length=100)
    sender = _OverAMQP(AMQPTransport(reactor(), Brokers.from_url(rabbitmq.url), topology, "barbtx", "1.1", 10, 50))
    yield sender
    await sender.stop()


@pytest_twisted.ensureDeferred
async def test_a_transport_sends_while_it_is_ready_and_refuses_otherwise(sender: Sender) -> None:
    verifyObject(ITransport, sender.transport)
    assert not sender.transport.ready
    with pytest.raises(PublishRefused):
        await sender.transport.send(MESSAGE)
    await sender.start()
    assert sender.transport.ready
    assert await sender.transport.send(MESSAGE) is None
    assert all(isinstance(name, str) for name in sender.transport.gauges())
    await sender.stop()
    assert not sender.transport.ready
    with pytest.raises(PublishRefused):
        await sender.transport.send(MESSAGE)


@pytest_twisted.ensureDeferred
async def test_a_memory_transport_keeps_what_was_sent_and_can_be_told_to_refuse() -> None:
    transport = MemoryTransport(refusals=1)
    with pytest.raises(PublishRefused):
        await transport.send(MESSAGE)
    await transport.send(MESSAGE)
    assert transport.sent == [MESSAGE]


# Keystone


class Cloud(Protocol):
    """A Keystone and its administrator."""

    url: str

    async def project(self, *, enabled: bool = True) -> str: ...
    async def remove_project(self, project_id: str) -> None: ...
    async def user(self, name: str, project_id: str, *roles: str) -> str: ...
    async def grant_on_system(self, user_id: str, role: str) -> None: ...
    async def token(self, name: str, user_id: str, project_id: str) -> str: ...
    async def revoke(self, token: str) -> None: ...


class _Fake:
    def __init__(self, keystone: FakeKeystone) -> None:
        self._keystone = keystone
        self.url = keystone.url

    async def project(self, *, enabled: bool = True) -> str:
        return self._keystone.add_project(unique(), enabled=enabled)

    async def remove_project(self, project_id: str) -> None:
        self._keystone.remove_project(project_id)

    async def user(self, name: str, project_id: str, *roles: str) -> str:
        user_id = self._keystone.add_user(name, PASSWORD)
        for role in roles:
            self._keystone.grant(user_id, role, project_id)
        return user_id

    async def grant_on_system(self, user_id: str, role: str) -> None:
        self._keystone.grant(user_id, role)

    async def token(self, name: str, user_id: str, project_id: str) -> str:
        return self._keystone.issue_token(user_id, project_id)

    async def revoke(self, token: str) -> None:
        self._keystone.revoke(token)


class _Real:
    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._names: dict[str, str] = {}
        self.url = identity.keystone.url

    async def project(self, *, enabled: bool = True) -> str:
        name = unique()
        project_id = await self._identity.project(name)
        self._names[project_id] = name
        if not enabled:
            await self._identity.admin("PATCH", f"/projects/{project_id}", {"project": {"enabled": False}})
        return project_id

    async def remove_project(self, project_id: str) -> None:
        await self._identity.admin("DELETE", f"/projects/{project_id}")

    async def user(self, name: str, project_id: str, *roles: str) -> str:
        return await self._identity.user(name, project_id, *roles)

    async def grant_on_system(self, user_id: str, role: str) -> None:
        await self._identity.grant(user_id, "/system", role)

    async def token(self, name: str, user_id: str, project_id: str) -> str:
        return await self._identity.token(name, project=self._names[project_id])

    async def revoke(self, token: str) -> None:
        await self._identity.admin("DELETE", "/auth/tokens", **{"X-Subject-Token": token})


@pytest_twisted.async_yield_fixture(params=["FakeKeystone", "Keystone"])
async def cloud(request: pytest.FixtureRequest) -> AsyncIterator[Cloud]:
    if request.param == "Keystone":
        yield _Real(request.getfixturevalue("identity"))
        return
    keystone = FakeKeystone()
    keystone.listen(reactor())
    yield _Fake(keystone)
    await keystone.close()


@attrs.define
class Service:
    """barbtx's user at a Keystone."""

    cloud: Cloud
    user_id: str
    project_id: str
    settings: dict[str, object]

    def options(self, **changed: object) -> Any:
        return load([], [f"{name}={value}" for name, value in {**self.settings, **changed}.items()])

    def validator(self, **changed: object) -> TokenValidator:
        return TokenValidator.from_config(reactor(), WallClock(), self.options(**changed))

    def directory(self, **changed: object) -> ProjectDirectory:
        return ProjectDirectory.from_config(reactor(), WallClock(), self.options(**changed))


async def service_of(cloud: Cloud, *roles: str) -> Service:
    name, project = unique(), await cloud.project()
    user_id = await cloud.user(name, project, *roles)
    settings = {"auth_url": cloud.url, "username": name, "password": PASSWORD, "project_id": project}
    settings["http_request_max_retries"] = 0
    return Service(cloud, user_id, project, {f"keystone_authtoken.{key}": value for key, value in settings.items()})


@pytest_twisted.ensureDeferred
async def test_a_token_stands_for_its_user_project_and_roles(cloud: Cloud) -> None:
    service = await service_of(cloud, "service")
    name, project = unique(), await cloud.project()
    user = await cloud.user(name, project, "member")
    token = await cloud.token(name, user, project)
    found = await service.validator().validate(token.encode())
    assert (found.user_id, found.user_domain_id) == (user, "default")
    assert (found.project_id, found.project_domain_id) == (project, "default")
    # Keystone expands implied roles, which the fake does not have.
    assert "member" in found.roles <= {"member", "reader"}
    assert found.expires_at > WallClock().seconds() and found.access_rules is None and found.is_admin_project


@pytest_twisted.ensureDeferred
async def test_revoked_and_unknown_tokens_are_invalid(cloud: Cloud) -> None:
    service = await service_of(cloud, "service")
    name, project = unique(), await cloud.project()
    user = await cloud.user(name, project, "member")
    revoked, left = await cloud.token(name, user, project), await cloud.token(name, user, project)
    await cloud.revoke(revoked)
    for token in (revoked, "unknown"):
        with pytest.raises(InvalidToken):
            await service.validator().validate(token.encode())
    assert (await service.validator().validate(left.encode())).user_id == user
    await cloud.remove_project(project)
    with pytest.raises(InvalidToken):
        await service.validator().validate(left.encode())


@pytest_twisted.ensureDeferred
async def test_a_service_that_may_not_validate_tokens_learns_nothing(cloud: Cloud) -> None:
    service = await service_of(cloud, "member")
    name = unique()
    user = await cloud.user(name, service.project_id, "member")
    token = await cloud.token(name, user, service.project_id)
    with pytest.raises(ServiceUnavailable):
        await service.validator().validate(token.encode())
    wrong = service.validator(**{"keystone_authtoken.password": "wrong"})
    with pytest.raises(ServiceUnavailable):
        await wrong.validate(token.encode())


@pytest_twisted.ensureDeferred
async def test_projects_are_found_by_those_who_may_read_them(cloud: Cloud) -> None:
    service = await service_of(cloud, "service")
    there, disabled, gone = await cloud.project(), await cloud.project(enabled=False), await cloud.project()
    await cloud.remove_project(gone)
    in_system = {"keystone_notifications.system_scope": "true"}
    for directory in (service.directory(), service.directory(**in_system)):
        with pytest.raises(ServiceUnavailable):
            await directory.exists(there)
    await cloud.grant_on_system(service.user_id, "reader")
    directory = service.directory(**in_system)
    assert await directory.exists(there) and await directory.exists(disabled)
    assert not await directory.exists(gone) and not await directory.exists("never-heard-of")
