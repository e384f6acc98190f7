"""What is left of a project that Keystone has deleted: nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import sqlalchemy
from txamqp.content import Content

from barbtx.model import models
from barbtx.queue.amqp.connection import Brokers, client_service
from barbtx.queue.transport import InvalidMessage
from tests.conftest import unique
from tests.support.cluster import pause
from tests.support.keystone import PASSWORD, Identity, Keystone
from tests.support.logs import logged
from tests.support.servers import RabbitMQ
from tests.support.service import BIN, Api, Deployment, with_wrapping_store
from tests.support.stub_keystone import StubKeystone
from workers.keystone_notifications import deleted_project


def notification(project_id: str, event: str = "identity.project.deleted", envelope: bool = True) -> bytes:
    inner = {
        "message_id": "m",
        "publisher_id": "identity.host",
        "event_type": event,
        "priority": "INFO",
        "timestamp": "2026-01-01 00:00:00.000000",
        "payload": {"resource_info": project_id},
        "_unique_id": "u",
    }
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(inner)} if envelope else inner).encode()


@pytest.mark.parametrize("envelope", [True, False])
def test_only_deleted_projects_count(envelope: bool) -> None:
    assert deleted_project(notification("p", envelope=envelope)) == "p"
    assert deleted_project(notification("p", "identity.PROJECT.deleted", envelope)) == "p"
    for event in ("identity.project.created", "identity.user.deleted", "project.deleted", "identity.authenticate"):
        assert deleted_project(notification("p", event, envelope)) is None
    assert deleted_project(notification("", envelope=envelope)) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b"{}",
        b'{"oslo.version": "3.0", "oslo.message": "{}"}',
        b'{"oslo.version": "2.1"}',
        b'{"oslo.version": "2.0", "oslo.message": "nothing"}',
        b'{"event_type": 1}',
        b"[" * 100000,
        *(notification(project_id) for project_id in ("p" * 256, "p\0", "p\n", "\ud800", ".", "..", "\u202e")),
    ],
)
def test_what_is_no_notification_is_a_dead_letter(body: bytes) -> None:
    with pytest.raises(InvalidMessage):
        deleted_project(body)


@pytest.fixture
def keystone() -> Iterator[StubKeystone]:
    keystone = StubKeystone()
    keystone.listen()
    yield keystone
    pytest_twisted.blockon(keystone.close())


@pytest.fixture(params=["sqlite", "postgresql"])
def deployment(
    request: pytest.FixtureRequest, rabbitmq: RabbitMQ, keystone: StubKeystone, tmp_path: Path
) -> Iterator[Deployment]:
    url = f"sqlite:///{tmp_path}/barbtx.sqlite"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").new_database(unique())
    deployment = Deployment(
        tmp_path,
        url,
        **{
            "keystone_notifications.enable": "true",
            "keystone_notifications.pool_name": unique("notifications."),
            "keystone_notifications.control_exchange": unique("keystone."),
            "transport_url": rabbitmq.url,
            "keystone_notifications.batch_size": 3,
            "keystone_notifications.retry_seconds_max": 0.1,
            "keystone_notifications.max_attempts": 3,
            "keystone_notifications.interval_seconds": 0.1,
            "keystone_notifications.grace_seconds": 0,
            **keystone.settings,
        },
    )
    yield deployment
    deployment.stop()


class Exchange:
    """Keystone's end of the broker."""

    def __init__(self, broker: Brokers, deployment: Deployment) -> None:
        from twisted.internet import reactor

        async def nothing(client: Any) -> None:
            pass

        self._settings = deployment.settings
        self._service = client_service(reactor, broker, "keystone", 10, nothing)

    async def __aenter__(self) -> Exchange:
        self._service.startService()
        client = await self._service.whenConnected(failAfterFailures=1)
        self.channel = await client.new_channel()
        # As Keystone declares it unless told otherwise.
        await self.channel.exchange_declare(exchange=self.name, type="topic")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._service.stopService()

    @property
    def name(self) -> str:
        return self._settings["keystone_notifications.control_exchange"]

    def send(self, body: bytes) -> None:
        self.channel.basic_publish(
            exchange=self.name,
            routing_key="notifications.info",
            content=Content(body, properties={"content-type": "application/json"}),
        )

    async def dead_letters(self) -> int:
        queue = self._settings["keystone_notifications.pool_name"] + ".dead"
        return (await self.channel.queue_declare(queue=queue, passive=True)).message_count


async def fill(api: Api, other: Api) -> None:
    """One of everything, and of secrets more than fit into a batch."""
    refs = [await api.store() for _ in range(7)]
    await api.store("short-lived", expiration="2099-01-01")
    container = (
        await api.post(
            "/v1/containers", {"type": "generic", "name": "c", "secret_refs": [{"name": "s", "secret_ref": refs[0]}]}
        )
    ).json["container_ref"]
    other_ref = await other.store("other's")
    await other.request("PUT", f"{other_ref}/acl", json={"read": {"users": ["user"]}})
    consumer = {"service": "s", "resource_type": "t", "resource_id": "r"}
    for ref in (refs[0], other_ref):
        assert (await api.post(f"{ref}/consumers", consumer)).status == 200
    assert (await api.post(f"{container}/consumers", {"name": "n", "URL": "http://u"})).status == 200
    await api.request("PUT", f"{refs[0]}/acl", json={"read": {"users": ["a", "b"]}})
    await api.request("PUT", f"{container}/acl", json={"read": {"project-access": False}})
    await api.request("PUT", f"{refs[0]}/metadata", json={"metadata": {"k": "v"}})
    await api.finished(await api.order())
    await api.post(
        "/v1/orders", {"type": "asymmetric", "meta": {"algorithm": "rsa", "bit_length": 1024, "passphrase": "p"}}
    )
    await api.request(
        "PUT",
        f"/v1/project-quotas/{api.project}",
        json={"project_quotas": {"secrets": 50}},
        roles="key-manager:service-admin",
    )


def removals(deployment: Deployment, *command: str) -> list[str]:
    """What ``barbtx-manage removals`` prints."""
    sets = [
        part
        for key in ("database.connection", "keystone_notifications.max_attempts")
        for part in ("--set", f"{key}={deployment.settings[key]}")
    ]
    return subprocess.run(
        [BIN / "barbtx-manage", *sets, "removals", *command], check=True, capture_output=True, text=True
    ).stdout.splitlines()


def rows(deployment: Deployment) -> dict[str, int]:
    url = str(deployment.settings["database.connection"]).replace("postgresql://", "postgresql+psycopg://")
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        counts = {
            name: connection.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(table))
            for name, table in models.Base.metadata.tables.items()
        }
    engine.dispose()
    return {name: count for name, count in counts.items() if count}


@pytest_twisted.ensureDeferred
async def test_everything_of_a_deleted_project_goes_and_nothing_else(
    deployment: Deployment, rabbitmq: RabbitMQ
) -> None:
    api = deployment.api()
    other = api.of(unique())
    async with Exchange(Brokers.from_url(rabbitmq.url), deployment) as exchange:
        worker = deployment.worker("consuming notifications from")
        gone = api.of(unique())
        await fill(gone, other)
        await expire_one(deployment)
        exchange.send(notification("never-heard-of"))
        exchange.send(notification(gone.project, "identity.user.deleted"))
        for _ in range(3):
            exchange.send(notification(gone.project))
        await logged(worker, f"project {gone.project} was deleted in Keystone; ")
        await logged(worker, "project never-heard-of was deleted in Keystone; 0 secrets")
        while rows(deployment).get("secret_count_changes"):
            await pause(0.2)
        left = rows(deployment)
        # On PostgreSQL: the count of the project that is left.
        assert left.pop("secret_counts", 1) == 1
        # Those belong to no project.
        for table in ("alembic_version", "crypto_canaries"):
            left.pop(table, None)
        # What is remembered of removals keeps tokens that are remembered from bringing the projects back.
        assert left.pop("project_removals") == 2
        assert left == {"projects": 1, "secrets": 1, "encrypted_data": 1, "kek_data": 1, "acls": 1, "acl_users": 1}
        assert await exchange.dead_letters() == 0
    assert (await other.get("/v1/secrets")).json["total"] == 1
    assert (await gone.get("/v1/secrets")).json["total"] == 0


async def expire_one(deployment: Deployment) -> None:
    """Nobody can wait until 2099, and the API stores nothing that has expired."""
    import datetime

    url = str(deployment.settings["database.connection"]).replace("postgresql://", "postgresql+psycopg://")
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        changed = connection.execute(
            sqlalchemy.update(models.Secret)
            .where(models.Secret.expiration.is_not(None))
            .values(expiration=datetime.datetime(2020, 1, 1))
        )
        assert changed.rowcount == 1
    engine.dispose()


@pytest_twisted.ensureDeferred
async def test_stores_are_asked_to_delete_and_a_failing_one_is_asked_again(
    rabbitmq: RabbitMQ, keystone: StubKeystone, tmp_path: Path
) -> None:
    (tmp_path / "plugins").mkdir()
    deployment = with_wrapping_store(
        tmp_path,
        tmp_path / "plugins",
        **{
            "keystone_notifications.enable": "true",
            "keystone_notifications.pool_name": unique("notifications."),
            "keystone_notifications.control_exchange": unique("keystone."),
            "transport_url": rabbitmq.url,
            "keystone_notifications.retry_seconds_max": 0.1,
            "keystone_notifications.max_attempts": 3,
            "keystone_notifications.interval_seconds": 0.1,
            "keystone_notifications.grace_seconds": 0,
            **keystone.settings,
        },
    )
    # Orders stay PENDING: whoever takes them is not there.
    api = deployment.api(**{"queue.enable": "true", "transport_url": "rabbit://127.0.0.1:1/"}).of(unique())
    payloads = deployment.plugins / "payloads"
    try:
        async with Exchange(Brokers.from_url(rabbitmq.url), deployment) as exchange:
            worker = deployment.worker("consuming notifications from")
            await api.store()
            # Its passphrase waits in the store; nobody makes pairs of keys here.
            await api.post(
                "/v1/orders",
                {"type": "asymmetric", "meta": {"algorithm": "rsa", "bit_length": 1024, "passphrase": "p"}},
            )
            deleted = (
                await api.post(
                    "/v1/orders",
                    {"type": "asymmetric", "meta": {"algorithm": "rsa", "bit_length": 1024, "passphrase": "p"}},
                )
            ).json["order_ref"]
            assert len(list(payloads.iterdir())) == 3
            assert (await api.delete(deleted)).status == 204
            assert len(list(payloads.iterdir())) == 2
            moved = payloads.rename(payloads.with_name("elsewhere"))
            payloads.write_text("a file where a directory should be")
            exchange.send(notification(api.project))
            await logged(worker, "is not retried")
            assert f"{api.project}\tfailed\t" in "".join(removals(deployment, "list"))
            assert (await api.get("/v1/secrets")).json["total"] == 1
            payloads.unlink()
            moved.rename(payloads)
            exchange.send(notification(api.project))
            await logged(worker, f"project {api.project} was deleted in Keystone; ")
            assert not list(payloads.iterdir()) and (await api.get("/v1/secrets")).json["total"] == 0
            exchange.send(b"{")
            await logged(worker, "moving a message to")
    finally:
        deployment.stop()


@pytest.mark.parametrize("deployment", ["sqlite"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_a_real_keystone_s_word_is_enough(deployment: Deployment, rabbitmq: RabbitMQ) -> None:
    real = Keystone(rabbitmq.url)
    deployment.settings |= {
        "keystone_notifications.control_exchange": "keystone",
        "keystone_notifications.system_scope": "true",
        "keystone_authtoken.auth_url": real.url,
        "keystone_authtoken.password": PASSWORD,
    }
    try:
        real.start()
        identity = Identity(real)
        user = await identity.user("barbtx", await identity.project("service"), "service")
        await identity.grant(user, "/system", "reader")
        project, other = await identity.project(unique()), await identity.project(unique())
        # The exchange is there since Keystone has told of the project's making.
        worker = deployment.worker("consuming notifications from")
        api = deployment.api().of(project)
        await api.store()
        await api.of(other).store()
        await identity.admin("PATCH", f"/projects/{other}", {"project": {"enabled": False}})
        async with Exchange(Brokers.from_url(rabbitmq.url), deployment) as exchange:
            exchange.send(notification(other))
            await logged(worker, f"project {other} exists in Keystone")
        await identity.admin("DELETE", f"/projects/{project}")
        await logged(worker, f"project {project} was deleted in Keystone; 1 secrets")
        assert (await api.get("/v1/secrets")).json["total"] == 0
        assert (await api.of(other).get("/v1/secrets")).json["total"] == 1
    finally:
        real.stop()
