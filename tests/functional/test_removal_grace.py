"""Between a notification and the end of a project: what a forged one does, what can be undone, and who goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from barbtx.queue.amqp.connection import Brokers
from tests.conftest import unique
from tests.functional.test_project_removal import Exchange, notification, removals
from tests.support.logs import logged
from tests.support.servers import RabbitMQ
from tests.support.service import Api, Deployment, with_wrapping_store
from tests.support.stub_keystone import OWN, StubKeystone, found, missing

AES = {"algorithm": "aes", "bit_length": 256}
RSA = {"algorithm": "rsa", "bit_length": 1024, "passphrase": "p"}


@pytest.fixture
def keystone() -> Iterator[StubKeystone]:
    keystone = StubKeystone()
    keystone.listen()
    yield keystone
    pytest_twisted.blockon(keystone.close())


@pytest.fixture
def deployment(rabbitmq: RabbitMQ, keystone: StubKeystone, tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(
        tmp_path,
        f"sqlite:///{tmp_path}/barbtx.sqlite",
        **{
            "keystone_notifications.enable": "true",
            "keystone_notifications.pool_name": unique("notifications."),
            "keystone_notifications.control_exchange": unique("keystone."),
            "transport_url": rabbitmq.url,
            "keystone_notifications.retry_seconds_max": 0.2,
            "keystone_notifications.max_attempts": 3,
            "keystone_notifications.interval_seconds": 0.1,
            "keystone_notifications.batch_size": 2,
            "retry_scheduler.periodic_interval_max_seconds": 0.2,
            "retry_scheduler.republish_seconds": 1,
            "retry_scheduler.first_publish_seconds": 0.5,
            "queue.lease_seconds": 2,
            **keystone.settings,
        },
    )
    yield deployment
    deployment.stop()


def exchange_of(deployment: Deployment) -> Exchange:
    return Exchange(Brokers.from_url(deployment.settings["transport_url"]), deployment)


async def total(api: Api) -> int:
    return (await api.get("/v1/secrets?limit=1")).json["total"]


@pytest_twisted.ensureDeferred
async def test_a_forged_notification_does_nothing_but_a_warning(deployment: Deployment, keystone: StubKeystone) -> None:
    api = deployment.api().of(unique())
    deployment.settings["keystone_notifications.grace_seconds"] = 0
    keystone.answers[api.project] = found(api.project, enabled=False)
    async with exchange_of(deployment) as exchange:
        worker = deployment.worker("consuming notifications from")
        await api.store()
        exchange.send(notification(api.project))
        await logged(worker, f"project {api.project} exists in Keystone")
        await api.store()
        assert await total(api) == 2 and removals(deployment, "list") == ["0 removals"]
        assert await exchange.dead_letters() == 0


@pytest.mark.parametrize("trouble", ["silent", "refusing", "elsewhere"])
@pytest_twisted.ensureDeferred
async def test_without_keystone_s_word_nothing_is_lost_neither_data_nor_the_notification(
    deployment: Deployment, keystone: StubKeystone, trouble: str
) -> None:
    api = deployment.api().of(unique())
    deployment.settings["keystone_notifications.grace_seconds"] = 0
    if trouble == "silent":
        await keystone.close()
    elif trouble == "elsewhere":
        keystone.answers[OWN] = missing()
    else:
        keystone.otherwise = 403, b""
    async with exchange_of(deployment) as exchange:
        worker = deployment.worker("consuming notifications from")
        await api.store()
        exchange.send(notification(api.project))
        await logged(worker, f"the removal of project {api.project} is delayed", 4)
        await api.store()
        assert await total(api) == 2
        listed = removals(deployment, "list")[0].split("\t")
        assert listed[:3] == [api.project, "unconfirmed", "-"] or listed[1] == "running"
        # It outlives the worker that took the message.
        worker.kill()
        keystone.otherwise, keystone.answers[OWN] = missing(), found(OWN)
        if trouble == "silent":
            keystone.listen()
        second = deployment.worker("consuming notifications from")
        await logged(second, f"project {api.project} was deleted in Keystone; 2 secrets")
        assert await total(api) == 0 and await exchange.dead_letters() == 0


@pytest_twisted.ensureDeferred
async def test_in_its_grace_a_project_is_closed_and_can_be_opened_again(deployment: Deployment) -> None:
    api = deployment.api().of(unique())
    async with exchange_of(deployment) as exchange:
        worker = deployment.worker("consuming notifications from")
        ref = await api.store("kept")
        empty = (await api.post("/v1/secrets", {})).json["secret_ref"]
        box = (await api.post("/v1/containers", {"type": "generic"})).json["container_ref"]
        exchange.send(notification(api.project))
        await logged(worker, f"project {api.project} was deleted in Keystone: nothing can be added")
        text = {"headers": {"Content-Type": "text/plain"}, "data": b"x"}
        consumer = {"service": "s", "resource_type": "t", "resource_id": "r"}
        writes: list[tuple[str, str, dict[str, Any]]] = [
            ("POST", "/v1/secrets", {"json": {}}),
            ("POST", "/v1/secrets", {"json": {"payload": "x", "payload_content_type": "text/plain"}}),
            ("PUT", empty, text),
            ("POST", "/v1/orders", {"json": {"type": "key", "meta": AES}}),
            ("POST", "/v1/orders", {"json": {"type": "asymmetric", "meta": RSA}}),
            ("POST", "/v1/containers", {"json": {"type": "generic"}}),
            ("POST", f"{box}/secrets", {"json": {"secret_ref": ref}}),
            ("POST", f"{ref}/consumers", {"json": consumer}),
            ("POST", f"{box}/consumers", {"json": {"name": "n", "URL": "http://u"}}),
            ("PUT", f"{ref}/acl", {"json": {"read": {"users": ["a"]}}}),
            ("PATCH", f"{box}/acl", {"json": {"read": {"project-access": False}}}),
            ("PUT", f"{ref}/metadata", {"json": {"metadata": {"k": "v"}}}),
            ("POST", f"{ref}/metadata", {"json": {"key": "another", "value": "v"}}),
            (
                "PUT",
                f"/v1/project-quotas/{api.project}",
                {"json": {"project_quotas": {"secrets": 9}}, "roles": "key-manager:service-admin"},
            ),
        ]
        for method, path, body in writes:
            reply = await api.request(method, path, **body)
            assert reply.status == 409 and "deleted in Keystone" in reply.json["description"], (method, path, reply)
        assert (await api.get(f"{ref}/payload")).content == b"kept"
        assert removals(deployment, "list")[0].startswith(f"{api.project}\tpending\t")
        assert "all objects of the project are kept" in removals(deployment, "cancel", api.project)[0]
        for method, path, body in writes:
            reply = await api.request(method, path, **body)
            assert reply.status < 300, (method, path, reply)
        assert (await api.get(f"{ref}/payload")).content == b"kept"
        assert removals(deployment, "list") == ["0 removals"]


@pytest_twisted.ensureDeferred
async def test_a_removal_that_is_due_is_asked_about_again(deployment: Deployment, keystone: StubKeystone) -> None:
    deployment.settings["keystone_notifications.grace_seconds"] = 5
    api = deployment.api().of(unique())
    async with exchange_of(deployment) as exchange:
        worker = deployment.worker("consuming notifications from")
        await api.store()
        exchange.send(notification(api.project))
        await logged(worker, "nothing can be added to it any more")
        assert (await api.post("/v1/secrets", {})).status == 409
        keystone.answers[api.project] = found(api.project)
        await logged(worker, f"project {api.project} exists in Keystone")
        assert (await api.post("/v1/secrets", {})).status == 201 and await total(api) == 2
        assert await deferToThread(worker.stop, 60) == 0


@pytest_twisted.ensureDeferred
async def test_a_removal_outlives_the_worker_in_the_middle_of_it(
    rabbitmq: RabbitMQ, keystone: StubKeystone, deployment: Deployment, tmp_path: Path
) -> None:
    (tmp_path / "plugins").mkdir()
    stored = with_wrapping_store(
        tmp_path, tmp_path / "plugins", **{**deployment.settings, "keystone_notifications.grace_seconds": 0}
    )
    api = stored.api().of(unique())
    try:
        async with exchange_of(stored) as exchange:
            first = stored.worker("consuming notifications from")
            for _ in range(5):
                await api.store()
            down = stored.plugins / "down"
            down.touch()
            exchange.send(notification(api.project))
            await logged(first, f"the removal of project {api.project} is delayed", 3)
            first.kill()
            assert await total(api) == 5 and (await api.post("/v1/secrets", {})).status == 409
            down.unlink()
            second = stored.worker("consuming notifications from")
            await logged(second, f"project {api.project} was deleted in Keystone; 5 secrets")
            assert not list((stored.plugins / "payloads").iterdir()) and await total(api) == 0
    finally:
        stored.stop()


@pytest_twisted.ensureDeferred
async def test_a_removed_project_stays_closed_and_can_be_opened_with_new_keys(deployment: Deployment) -> None:
    deployment.settings["keystone_notifications.grace_seconds"] = 0
    # It remembers the project's key for as long as the test takes, and longer.
    api = deployment.api(**{"crypto.kek_cache_ttl": 3600}).of(unique())
    async with exchange_of(deployment) as exchange:
        worker = deployment.worker("consuming notifications from")
        await api.store("before")
        exchange.send(notification(api.project))
        await logged(worker, f"project {api.project} was deleted in Keystone; 1 secrets")
        for _ in range(2):
            for document in ({}, {"payload": "x", "payload_content_type": "text/plain"}):
                assert (await api.post("/v1/secrets", document)).status == 409
        exchange.send(notification(api.project))
        await logged(worker, "it is removed already")
        assert removals(deployment, "list")[0].startswith(f"{api.project}\tremoved\t")
        assert "can be created in it again" in removals(deployment, "cancel", api.project)[0]
        ref = await api.store("after")
        assert (await api.get(f"{ref}/payload")).content == b"after" and await total(api) == 1


def lose_keys(deployment: Deployment) -> None:
    """Take away what a project has, keys too, as another process would; the API's memory knows nothing of it."""
    with sqlite3.connect(deployment.directory / "barbtx.sqlite", timeout=30) as connection:
        for table in ("encrypted_data", "order_passphrases", "order_retry_tasks", "orders", "kek_data"):
            connection.execute(f"DELETE FROM {table}")


@pytest.mark.parametrize("what", ["post", "put", "passphrase", "order", "pair"])
@pytest_twisted.ensureDeferred
async def test_a_key_that_is_remembered_but_gone_is_read_again_in_the_same_request(tmp_path: Path, what: str) -> None:
    deployment = Deployment(tmp_path, f"sqlite:///{tmp_path}/barbtx.sqlite", **{"crypto.kek_cache_ttl": 3600})
    api = deployment.api()
    try:
        await api.store("before")
        empty = (await api.post("/v1/secrets", {})).json["secret_ref"]
        lose_keys(deployment)
        if what == "post":
            ref = await api.store("x")
        elif what == "put":
            reply = await api.request("PUT", empty, headers={"Content-Type": "text/plain"}, data=b"x")
            assert reply.status == 204, reply
            ref = empty
        elif what == "order":
            ref = (await api.finished(await api.order()))["secret_ref"]
        else:
            meta = RSA if what == "passphrase" else {"algorithm": "rsa", "bit_length": 1024}
            reply = await api.post("/v1/orders", {"type": "asymmetric", "meta": meta})
            assert reply.status == 202, reply
            order = await api.finished(reply.json["order_ref"])
            assert order["status"] == "ACTIVE", order
            ref = (await api.get(order["container_ref"])).json["secret_refs"][0]["secret_ref"]
        assert (await api.get(f"{ref}/payload")).status == 200
        assert "Traceback" not in api.process.read_log()
    finally:
        deployment.stop()
