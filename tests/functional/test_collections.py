"""What is below one object, however much of it there is: consumers, user metadata, secrets of a container."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import pytest_twisted
import sqlalchemy
from hypothesis import strategies as st
from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session
from twisted.internet.defer import gatherResults
from twisted.internet.task import Clock

from barbtx.errors import LimitReached
from barbtx.limits import ObjectLimits
from barbtx.model import models
from barbtx.model.database import Database
from barbtx.model.records import Entry, NewContainer, NewSecret
from barbtx.model.repositories.consumers import (
    CONTAINER_CONSUMERS,
    SECRET_CONSUMERS,
    ConsumerKind,
    ConsumerRepo,
    embedded_consumers,
)
from barbtx.model.repositories.containers import ContainerRepo
from barbtx.model.repositories.pending_removals import RemovalLost
from barbtx.model.repositories.secrets import SecretRepo
from barbtx.model.repositories.user_metadata import UserMetadataRepo
from tests.functional.conftest import NOW
from tests.support.exploring import explore
from tests.support.removals import claim_removal
from tests.support.service import Api, Deployment

MANY = 20000
V11, V12 = ({"OpenStack-API-Version": f"key-manager 1.{minor}"} for minor in (1, 2))
LIMITS = ObjectLimits(
    max_embedded_consumers=3,
    max_consumers_per_object=8,
    max_consumers_per_registrant=5,
    max_metadata_per_secret=4,
    max_secrets_per_container=3,
)


def consumer(n: int) -> dict[str, str]:
    return {"service": "s", "resource_type": "t", "resource_id": f"{n}"}


def register(
    session: Session | sqlalchemy.Connection,
    kind: ConsumerKind,
    object_id: str,
    count: int,
    created: datetime.datetime = NOW,
    first: int = 0,
) -> None:
    """Register consumers past all limits, as an earlier release may have done, a second apart and named by number.

    :param first: the number of the first.
    """
    project = session.scalar(
        select(models.Project.id)
        .join(kind.owner, kind.owner.project_id == models.Project.id)
        .where(kind.owner.id == object_id)
    )
    for start in range(0, count, 1000):
        session.execute(
            insert(kind.model),
            [
                {
                    "id": str(uuid.uuid4()),
                    "object_id": object_id,
                    "project_id": project,
                    "digest": uuid.uuid4().hex,
                    "status": "ACTIVE",
                    "created_at": created + datetime.timedelta(seconds=n),
                    "updated_at": created,
                    **dict.fromkeys(kind.fields, f"{first + n}"),
                }
                for n in range(start, min(start + 1000, count))
            ],
        )


async def new_secret(secrets: SecretRepo, project: str = "p") -> str:
    secret = NewSecret(str(uuid.uuid4()), project)
    await secrets.create(secret)
    return secret.id


async def new_container(containers: ContainerRepo, *entries: Entry) -> str:
    container = NewContainer(str(uuid.uuid4()), "p", "generic", "box", "u", entries)
    await containers.create(container)
    return container.id


@pytest.fixture
def containers(database: Database, clock: Clock) -> ContainerRepo:
    return ContainerRepo(database, clock, -1, LIMITS)


@pytest_twisted.ensureDeferred
async def test_of_each_object_the_oldest_consumers_are_embedded(database: Database, secrets: SecretRepo) -> None:
    def delete_all(session: Session) -> None:
        session.execute(sqlalchemy.delete(models.SecretConsumer))

    async def check(counts: list[int], limit: int, same_time: bool) -> None:
        ids = [await new_secret(secrets) for _ in counts]

        def fill(session: Session) -> None:
            for object_id, count in zip(ids, counts, strict=True):
                for n in range(count):
                    age = datetime.timedelta(seconds=0 if same_time else n)
                    register(session, SECRET_CONSUMERS, object_id, 1, NOW - age, first=n)

        await database.interact(fill)
        shown = await database.interact(lambda session: embedded_consumers(session, SECRET_CONSUMERS, ids, limit))
        assert {object_id: len(shown.get(object_id, ())) for object_id in ids} == {
            object_id: min(count, limit) for object_id, count in zip(ids, counts, strict=True)
        }
        assert set(shown) == {object_id for object_id, count in zip(ids, counts, strict=True) if count}
        if not same_time:
            for object_id, count in zip(ids, counts, strict=True):
                oldest = [f"{n}" for n in range(count)][::-1][:limit]
                assert [consumer["service"] for consumer in shown.get(object_id, ())] == oldest
        for object_id in ids[:2]:
            (one,) = (
                await database.interact(
                    lambda session, alone=object_id: embedded_consumers(session, SECRET_CONSUMERS, [alone], limit)
                )
            ).values() or [()]
            assert one == shown.get(object_id, ())
        await database.interact(delete_all)

    await explore(
        check,
        counts=st.lists(st.integers(0, 6), min_size=1, max_size=5),
        limit=st.integers(1, 4),
        same_time=st.booleans(),
    )


@pytest_twisted.ensureDeferred
async def test_the_oldest_are_embedded_in_pages_of_any_length(database: Database, clock: Clock) -> None:
    containers = ContainerRepo(database, clock, -1, LIMITS)
    ids = [await new_container(containers) for _ in range(230)]

    def fill(session: Session) -> None:
        for object_id in ids:
            register(session, CONTAINER_CONSUMERS, object_id, 5)

    await database.interact(fill)
    page = await containers.list_page("p", [], 230, 0)
    assert {container.id for container in page.items} == set(ids)
    for container in page.items:
        assert [shown["name"] for shown in container.consumers] == ["0", "1", "2"]


@pytest_twisted.ensureDeferred
async def test_very_many_consumers_are_deleted_in_bounded_transactions(
    database: Database, secrets: SecretRepo, containers: ContainerRepo
) -> None:
    for kind, object_id, repo in (
        (SECRET_CONSUMERS, await new_secret(secrets), secrets),
        (CONTAINER_CONSUMERS, await new_container(containers), containers),
    ):
        await database.interact(partial(register, kind=kind, object_id=object_id, count=12000))
        remaining = select(func.count()).select_from(kind.model)
        left = []
        while not await repo.delete(object_id):
            left.append(await database.interact(lambda session, query=remaining: session.scalar(query), write=False))
        assert left == [6999, 1998]
        assert await repo.get(object_id, None) is None


@pytest_twisted.ensureDeferred
async def test_a_project_with_very_many_consumers_is_removed(
    database: Database, secrets: SecretRepo, containers: ContainerRepo, clock: Clock
) -> None:
    secret_ids = [await new_secret(secrets) for _ in range(3)]
    container_id = await new_container(containers)
    for kind, object_id in (
        *((SECRET_CONSUMERS, secret_id) for secret_id in secret_ids),
        (CONTAINER_CONSUMERS, container_id),
    ):
        await database.interact(partial(register, kind=kind, object_id=object_id, count=4000))
    removal, claim = await claim_removal(database, clock, "p")
    calls = 1
    while not await removal.remove_secrets(claim, secret_ids):
        calls += 1
    assert calls == 3
    while await removal.remove_rest(claim, 100):
        pass
    with pytest.raises(RemovalLost):
        await removal.remove_rest(claim, 100)


@pytest_twisted.ensureDeferred
async def test_limits_hold_however_many_come_at_once(
    database: Database, secrets: SecretRepo, containers: ContainerRepo, clock: Clock
) -> None:
    consumers = ConsumerRepo(database, clock, SECRET_CONSUMERS, -1, LIMITS)
    metadata = UserMetadataRepo(database, clock, LIMITS)
    secret_id = await new_secret(secrets)
    container = await containers.get(await new_container(containers), None)
    held = [await new_secret(secrets) for _ in range(9)]

    async def of(calls: list) -> int:
        outcomes = await gatherResults(
            [call.addCallbacks(lambda _: True, lambda f: not f.trap(LimitReached)) for call in calls]
        )
        return sum(outcomes)

    assert await of([consumers.add(secret_id, "q", consumer(n)) for n in range(9)]) == 5
    assert await of([consumers.add(secret_id, f"r{n}", consumer(10 + n)) for n in range(9)]) == 3
    assert (await consumers.list_page(secret_id, 100, 0)).total == 8
    assert await of([metadata.add(secret_id, f"k{n}", "v") for n in range(9)]) == 4
    assert await of([containers.add_secret(container, "p", Entry(None, secret)) for secret in held]) == 3


@pytest_twisted.ensureDeferred
async def test_at_the_limit_what_is_there_may_come_again_and_go(
    database: Database, secrets: SecretRepo, clock: Clock
) -> None:
    consumers = ConsumerRepo(database, clock, SECRET_CONSUMERS, -1, LIMITS)
    secret_id = await new_secret(secrets)
    for n in range(5):
        await consumers.add(secret_id, "q", consumer(n))
    await consumers.add(secret_id, "q", consumer(0))
    with pytest.raises(LimitReached, match="5 consumers"):
        await consumers.add(secret_id, "q", consumer(6))
    await consumers.remove(secret_id, "p", "q", consumer(0))
    assert len((await consumers.add(secret_id, "q", consumer(6))).embedded) == LIMITS.max_embedded_consumers


@pytest_twisted.ensureDeferred
async def test_a_replacement_that_is_too_large_changes_nothing(
    database: Database, secrets: SecretRepo, clock: Clock
) -> None:
    metadata = UserMetadataRepo(database, clock, LIMITS)
    secret_id = await new_secret(secrets)
    await metadata.replace(secret_id, {f"k{n}": "v" for n in range(4)})
    with pytest.raises(LimitReached, match="4 metadata keys"):
        await metadata.replace(secret_id, {f"n{n}": "v" for n in range(5)})
    assert set(await metadata.get(secret_id)) == {"k0", "k1", "k2", "k3"}
    assert await metadata.find(secret_id, "k0") == "v"
    for other in ("k0 ", " k0", "K0", "k", "nul\0"):
        assert await metadata.find(secret_id, other) is None
        await metadata.remove(secret_id, other)
    assert len(await metadata.get(secret_id)) == 4


def engine_of(deployment: Deployment) -> sqlalchemy.Engine:
    url = str(deployment.settings["database.connection"])
    return sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


@pytest.fixture
def engine(deployment: Deployment) -> Iterator[sqlalchemy.Engine]:
    engine = engine_of(deployment)
    yield engine
    engine.dispose()


@pytest_twisted.ensureDeferred
async def test_an_object_with_very_many_consumers_can_be_used(api: Api, engine: sqlalchemy.Engine) -> None:
    secret = await api.store()
    container = (await api.post("/v1/containers", {"type": "generic"})).json["container_ref"]
    with engine.begin() as connection:
        register(connection, SECRET_CONSUMERS, secret.rpartition("/")[2], MANY)
        register(connection, CONTAINER_CONSUMERS, container.rpartition("/")[2], MANY)
    bodies = {secret: consumer(-1), container: {"name": "n", "URL": "u"}}
    for ref, list_path in ((secret, "/v1/secrets"), (container, "/v1/containers")):
        one = (await api.get(ref, headers=V11)).json
        (listed,) = (await api.get(list_path, headers=V11)).json[list_path.removeprefix("/v1/")]
        assert listed == one and len(one["consumers"]) == 100
        assert "0" in one["consumers"][0].values() and "99" in one["consumers"][99].values()
        for offset in (0, MANY // 2, MANY - 5):
            page = await api.get(f"{ref}/consumers?limit=100&offset={offset}")
            assert page.json["total"] == MANY and len(page.json["consumers"]) == min(100, MANY - offset)
        refused = await api.post(f"{ref}/consumers", bodies[ref])
        assert refused.status == 403 and "10000" in refused.json["description"]
    assert (await api.delete(secret, headers=V12)).status == 400
    for ref, query in ((secret, "?force=true"), (container, "")):
        assert (await api.delete(ref + query, headers=V12)).status == 204
        assert (await api.get(ref)).status == 404


@pytest_twisted.ensureDeferred
async def test_consumers_are_read_only_where_they_are_shown(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, f"sqlite:///{tmp_path}/barbtx.sqlite")
    try:
        api = deployment.api()
        secret, other = await api.store(), await api.store()
        container = (await api.post("/v1/containers", {"type": "generic"})).json["container_ref"]
        engine = engine_of(deployment)
        with engine.begin() as connection:
            for kind in (SECRET_CONSUMERS, CONTAINER_CONSUMERS):
                table = kind.model.__tablename__
                connection.execute(text(f"ALTER TABLE {table} RENAME TO gone_{table}"))
        engine.dispose()
        entry = {"name": "e", "secret_ref": other}
        for method, path, body in (
            ("GET", secret, None),
            ("GET", "/v1/secrets", None),
            ("GET", f"{secret}/payload", None),
            ("GET", f"{secret}/acl", None),
            ("PUT", f"{secret}/acl", {"read": {"users": ["u"]}}),
            ("PATCH", f"{secret}/acl", {"read": {"users": ["v"]}}),
            ("DELETE", f"{secret}/acl", None),
            ("PUT", f"{secret}/metadata", {"metadata": {"k": "v"}}),
            ("GET", f"{secret}/metadata/k", None),
            ("PUT", f"{container}/acl", {"read": {"users": ["u"]}}),
            ("GET", f"{container}/acl", None),
            ("POST", f"{container}/secrets", entry),
            ("DELETE", f"{container}/secrets", entry),
        ):
            reply = await api.request(method, path, **({} if body is None else {"json": body}))
            assert reply.status < 300, (method, path, reply)
        for path, headers in ((container, None), ("/v1/containers", None), (secret, V11), ("/v1/secrets", V11)):
            assert (await api.get(path, headers=headers)).status >= 500
    finally:
        deployment.stop()


@pytest_twisted.ensureDeferred
async def test_the_limits_are_options_and_refusals_name_them(tmp_path: Path) -> None:
    deployment = Deployment(
        tmp_path,
        f"sqlite:///{tmp_path}/barbtx.sqlite",
        **{
            "api.max_embedded_consumers": 2,
            "api.max_consumers_per_object": 5,
            "api.max_consumers_per_registrant": 3,
            "api.max_metadata_per_secret": 2,
            "api.max_secrets_per_container": 2,
        },
    )
    try:
        api = deployment.api()
        secret, box = await api.store(), await api.post("/v1/containers", {"type": "generic"})
        container = box.json["container_ref"]
        entries = [{"name": f"{n}", "secret_ref": await api.store()} for n in range(3)]
        await api.request("PUT", f"{secret}/acl", json={"read": {"users": ["guest"]}})
        guest = api.of("theirs")

        async def post(where: Api, path: str, body: object, status: int, words: str = "", **who: object) -> None:
            reply = await where.post(path, body, **who)
            assert reply.status == status and words in reply.content.decode(), reply

        # Whoever may read the secret from another project cannot use up what its owners may register.
        for n in range(4):
            status, words = (403, "limit of 3") if n == 3 else (200, "")
            await post(guest, f"{secret}/consumers", consumer(n), status, words, user="guest", roles="nobody")
        for n in range(10, 13):
            status, words = (403, "limit of 5") if n == 12 else (200, "")
            await post(api, f"{secret}/consumers", consumer(n), status, words)
        answer = await api.post(f"{secret}/consumers", consumer(10))
        assert answer.json["consumers"] == [consumer(0), consumer(1)]
        assert (await api.get(secret, headers=V11)).json["consumers"] == [consumer(0), consumer(1)]
        removed = await api.delete(f"{secret}/consumers", json=consumer(0))
        assert removed.json["consumers"] == [consumer(1), consumer(2)]
        for n in range(3):
            await post(
                api,
                f"{secret}/metadata",
                {"key": f"{n}", "value": "v"},
                403 if n == 2 else 201,
                "limit of 2 metadata keys" if n == 2 else "",
            )
            await post(
                api, f"{container}/secrets", entries[n], 403 if n == 2 else 201, "limit of 2 secrets" if n == 2 else ""
            )
        await post(api, "/v1/containers", {"type": "generic", "secret_refs": entries}, 403, "limit of 2 secrets")
        too_many = await api.request("PUT", f"{secret}/metadata", json={"metadata": {f"n{n}": "v" for n in range(3)}})
        assert too_many.status == 403
        assert set((await api.get(f"{secret}/metadata")).json["metadata"]) == {"0", "1"}
        assert len((await api.get(container)).json["secret_refs"]) == 2
        assert (await api.get("/v1/containers")).json["total"] == 1
    finally:
        deployment.stop()
