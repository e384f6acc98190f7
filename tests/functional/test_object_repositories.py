"""Containers, ACLs, consumers, user metadata, quotas, transport keys and stores, alike on every database."""

from __future__ import annotations

import datetime
import uuid

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults
from twisted.internet.task import Clock

from barbtx.errors import BadRequest, ConfigurationError, Conflict, Forbidden, NotFound, QuotaReached
from barbtx.model import models
from barbtx.model.database import Database
from barbtx.model.records import Entry, NewContainer, NewSecret
from barbtx.model.repositories.acls import AclRepo
from barbtx.model.repositories.consumers import CONTAINER_CONSUMERS, SECRET_CONSUMERS, ConsumerRepo
from barbtx.model.repositories.containers import ContainerRepo
from barbtx.model.repositories.listing import Condition
from barbtx.model.repositories.quotas import RESOURCES, QuotaRepo
from barbtx.model.repositories.secret_stores import ConfiguredStore, SecretStoreRepo
from barbtx.model.repositories.secrets import SecretRepo
from barbtx.model.repositories.transport_keys import TransportKeyRepo
from barbtx.model.repositories.user_metadata import UserMetadataRepo

GONE = str(uuid.uuid4())


@pytest.fixture
def containers(database: Database, clock: Clock) -> ContainerRepo:
    return ContainerRepo(database, clock, -1)


async def new_secret(secrets: SecretRepo, project: str = "p", **fields: object) -> str:
    secret = NewSecret(str(uuid.uuid4()), project, **fields)
    await secrets.create(secret)
    return secret.id


async def new_container(containers: ContainerRepo, *entries: Entry, project: str = "p") -> str:
    container = NewContainer(str(uuid.uuid4()), project, "generic", "box", "u", entries)
    await containers.create(container)
    return container.id


@pytest_twisted.ensureDeferred
async def test_a_container_comes_back_with_what_is_in_it(secrets: SecretRepo, containers: ContainerRepo) -> None:
    entries = [Entry(name, await new_secret(secrets)) for name in ("one", None, "zwei\0ü")]
    container = await containers.get(await new_container(containers, *entries), "u")
    assert set(container.entries) == set(entries)
    assert (container.name, container.type, container.creator_id, container.project_id) == ("box", "generic", "u", "p")


@pytest_twisted.ensureDeferred
async def test_a_container_takes_only_live_secrets_of_its_project(
    secrets: SecretRepo, containers: ContainerRepo, clock: Clock
) -> None:
    expired = await new_secret(secrets, expiration=datetime.datetime(2026, 11, 23, 6, 1, 5))
    clock.advance(10)
    for secret_id in (await new_secret(secrets, "other"), GONE, expired):
        with pytest.raises(NotFound):
            await new_container(containers, Entry("x", secret_id))
    assert (await containers.list_page("p", [], 10, 0)).total == 0


@pytest_twisted.ensureDeferred
async def test_secrets_go_in_and_out_of_a_container(secrets: SecretRepo, containers: ContainerRepo) -> None:
    first, second = await new_secret(secrets), await new_secret(secrets)
    container = await containers.get(await new_container(containers, Entry(None, first)), None)
    await containers.add_secret(container, "p", Entry("x", second))
    for taken in (Entry("x", second), Entry(None, first)):
        with pytest.raises(Conflict):
            await containers.add_secret(container, "p", taken)
    with pytest.raises(NotFound):
        await containers.remove_secret(container, "p", Entry("y", second))
    await containers.remove_secret(container, "p", Entry("x", second))
    await secrets.delete(first)
    assert (await containers.get(container.id, None)).entries == ()


@pytest_twisted.ensureDeferred
async def test_of_the_same_entry_added_at_once_one_is_there(secrets: SecretRepo, containers: ContainerRepo) -> None:
    entry = Entry("x", await new_secret(secrets))
    container = await containers.get(await new_container(containers), None)
    outcomes = await gatherResults(
        [
            containers.add_secret(container, "p", entry).addCallbacks(
                lambda _: "added", lambda f: f.trap(Conflict).__name__
            )
            for _ in range(6)
        ]
    )
    assert sorted(outcomes) == ["Conflict"] * 5 + ["added"]
    assert (await containers.get(container.id, None)).entries == (entry,)


@pytest_twisted.ensureDeferred
async def test_containers_are_listed_by_name_and_type(containers: ContainerRepo) -> None:
    await new_container(containers)
    await new_container(containers, project="other")
    for conditions, total in (([], 1), ([Condition("name", "like", "B_X")], 1), ([Condition("type", "eq", "rsa")], 0)):
        page = await containers.list_page("p", conditions, 10, 0)
        assert page.total == len(page.items) == total
    assert (await containers.list_page("unknown", [], 10, 0)).total == 0


@pytest_twisted.ensureDeferred
async def test_an_acl_says_what_it_means_to_whom(database: Database, secrets: SecretRepo, clock: Clock) -> None:
    acls = AclRepo(database, clock, models.Secret)
    secret_id = await new_secret(secrets)
    assert await acls.get(secret_id) is None
    await acls.merge(secret_id, None, ["b", "a", "b", ""])
    assert (await acls.get(secret_id)).users == ("", "a", "b")
    await acls.merge(secret_id, False, None)
    acl = await acls.get(secret_id)
    assert (acl.project_access, acl.users) == (False, ("", "a", "b"))
    for user, listed in (("a", True), ("c", False), (None, False)):
        access = (await secrets.get(secret_id, user)).access
        assert (access.project_access, access.listed) == (False, listed)
    assert (await secrets.list_page("other", (), (("name", False),), 10, 0, shared_with="a")).total == 1
    await acls.replace(secret_id, True, [])
    assert (await acls.get(secret_id)).users == ()
    await acls.remove(secret_id)
    assert await acls.get(secret_id) is None
    with pytest.raises(NotFound):
        await acls.replace(GONE, True, [])


@pytest_twisted.ensureDeferred
async def test_consumers_come_once_and_go(database: Database, secrets: SecretRepo, clock: Clock) -> None:
    consumers = ConsumerRepo(database, clock, SECRET_CONSUMERS, 2)
    secret_id = await new_secret(secrets)
    fields = [{"service": "s" * 255, "resource_type": "t", "resource_id": f"{n}"} for n in range(3)]
    await gatherResults([consumers.add(secret_id, "q", fields[0]) for _ in range(5)])
    clock.advance(1)
    assert (await consumers.add(secret_id, "q", fields[1])).embedded == tuple(fields[:2])
    with pytest.raises(QuotaReached):
        await consumers.add(secret_id, "q", fields[2])
    with pytest.raises(Forbidden):
        await consumers.remove(secret_id, "p", "stranger", fields[0])
    with pytest.raises(NotFound):
        await consumers.remove(secret_id, "p", "p", fields[2])
    with pytest.raises(BadRequest):
        await secrets.delete(secret_id, even_if_used=False)
    assert (await consumers.remove(secret_id, "p", "p", fields[0])).embedded == (fields[1],)
    assert (await consumers.list_page(secret_id, 10, 0)).items[0].fields == fields[1]
    await secrets.delete(secret_id)
    other = await new_secret(secrets)
    for n in range(2):
        await consumers.add(other, "q", fields[n])


@pytest_twisted.ensureDeferred
async def test_consumers_of_containers_are_listed_by_name(
    database: Database, containers: ContainerRepo, clock: Clock
) -> None:
    consumers = ConsumerRepo(database, clock, CONTAINER_CONSUMERS, -1)
    container_id = await new_container(containers)
    for name in ("b", "B", "a"):
        await consumers.add(container_id, "p", {"name": name, "URL": "u"})
    page = await consumers.list_page(container_id, 2, 1)
    assert [consumer.fields["name"] for consumer in page.items] == ["a", "b"] and page.total == 3
    await containers.delete(container_id)
    assert await containers.get(container_id, None) is None


@pytest_twisted.ensureDeferred
async def test_user_metadata_is_replaced_added_changed_and_removed(
    database: Database, secrets: SecretRepo, clock: Clock
) -> None:
    metadata = UserMetadataRepo(database, clock)
    secret_id = await new_secret(secrets)
    await metadata.replace(secret_id, {"a": "1", "": "empty\0"})
    await metadata.add(secret_id, "b", "2")
    with pytest.raises(Conflict):
        await metadata.add(secret_id, "b", "3")
    await metadata.change(secret_id, "a", "4")
    with pytest.raises(NotFound):
        await metadata.change(secret_id, "c", "5")
    await metadata.remove(secret_id, "b")
    await metadata.remove(secret_id, "b")
    assert await metadata.get(secret_id) == {"": "empty\0", "a": "4"}
    with pytest.raises(NotFound):
        await metadata.replace(GONE, {})


@pytest_twisted.ensureDeferred
async def test_quotas_merge_and_hold(database: Database, clock: Clock) -> None:
    quotas = QuotaRepo(database, clock, dict.fromkeys(RESOURCES, -1))
    assert await quotas.get("p") is None
    await quotas.merge("p", {"secrets": 3})
    await quotas.merge("p", {"orders": 0})
    assert await quotas.get("p") == {"secrets": 3, "orders": 0, "containers": None, "consumers": None, "cas": None}
    assert (await quotas.effective("p"))["containers"] == -1
    assert [project for project, _ in (await quotas.list_page(10, 0)).items] == ["p"]
    secrets = SecretRepo(database, clock)
    made = await gatherResults(
        [
            secrets.create(NewSecret(str(uuid.uuid4()), "p")).addCallbacks(
                lambda _: "made", lambda f: f.trap(QuotaReached).__name__
            )
            for _ in range(12)
        ]
    )
    assert sorted(made) == ["QuotaReached"] * 9 + ["made"] * 3
    await quotas.delete("p")
    with pytest.raises(NotFound):
        await quotas.delete("p")
    await new_secret(secrets)


@pytest_twisted.ensureDeferred
async def test_transport_keys_are_published_once(database: Database, clock: Clock) -> None:
    keys = TransportKeyRepo(database, clock)
    first = await keys.publish("plugin", "k" * 5000)
    assert await keys.publish("plugin", "k" * 5000) == first
    clock.advance(1)
    second = await keys.create("other", "k")
    assert (await keys.list_page(None, 10, 0)).items == (first, second)
    assert (await keys.list_page("plugin", 10, 0)).items == (first,)
    await keys.delete(first)
    assert await keys.get(first) is None


@pytest_twisted.ensureDeferred
async def test_stores_follow_the_configuration_unless_one_is_preferred(database: Database, clock: Clock) -> None:
    stores = SecretStoreRepo(database, clock)
    one, two = ConfiguredStore("a", "x", True, "one"), ConfiguredStore("b", None, False, "two")
    await stores.sync([one, two])
    await stores.sync([one, two])
    second = next(store for store in await stores.list_all() if store.store_plugin == "b")
    assert len(await stores.list_all()) == 2 and await stores.preferred("p") is None
    await stores.prefer("p", second.id)
    await stores.prefer("p", second.id)
    assert (await stores.preferred("p")).id == second.id
    with pytest.raises(ConfigurationError):
        await stores.sync([one])
    await stores.forget_preference("p")
    await stores.sync([one])
    assert [store.name for store in await stores.list_all()] == ["one"]


@pytest_twisted.ensureDeferred
async def test_case_is_folded_in_the_same_way(secrets: SecretRepo) -> None:
    await new_secret(secrets, name="Schlüssel")
    assert (await secrets.list_page("p", (Condition("name", "like", "SCHL%"),), (), 10, 0)).total == 1
