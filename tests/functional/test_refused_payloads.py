"""A store that keeps payloads itself has none left of a request that was refused, and none lost of one that was not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
import pytest_twisted
import sqlalchemy
from twisted.internet.defer import Deferred, gatherResults

from tests.conftest import unique
from tests.support.servers import PostgreSQL
from tests.support.service import Api, Deployment, Reply, manage, with_wrapping_store

# Orders stay PENDING: whoever takes them is not there.
PENDING = {"queue.enable": "true", "transport_url": "rabbit://127.0.0.1:1/"}
SECRET = {"payload": "a payload", "payload_content_type": "text/plain"}
ORDER = {"type": "asymmetric", "meta": {"algorithm": "rsa", "bit_length": 1024, "passphrase": "p"}}
BODIES = {"secrets": SECRET, "orders": ORDER}


def deployed(tmp_path_factory: pytest.TempPathFactory, **settings: object) -> Deployment:
    return with_wrapping_store(
        tmp_path_factory.mktemp("wrapping"), tmp_path_factory.mktemp("plugins"), **{**PENDING, **settings}
    )


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = deployed(tmp_path_factory, **{"idempotency.max_keys": 1})
    yield deployment
    deployment.stop()


@pytest.fixture(scope="module")
def served(deployment: Deployment) -> Api:
    return deployment.api()


@pytest.fixture
def api(served: Api) -> Api:
    return served.of(unique())


def kept(deployment: Deployment) -> set[str]:
    """The payloads that the store has."""
    return {path.name for path in (deployment.plugins / "payloads").iterdir()}


async def at_once(count: int, request) -> list[Reply]:
    return await gatherResults([Deferred.fromCoroutine(request(number)) for number in range(count)])


@pytest.mark.parametrize("collection", list(BODIES))
@pytest_twisted.ensureDeferred
async def test_a_quota_that_is_full_leaves_nothing(api: Api, deployment: Deployment, collection: str) -> None:
    await api.request(
        "PUT",
        f"/v1/project-quotas/{api.project}",
        json={"project_quotas": {collection: 0}},
        roles="key-manager:service-admin",
    )
    before = kept(deployment)
    for headers in ({}, {"Idempotency-Key": unique()}):
        assert (await api.post(f"/v1/{collection}", BODIES[collection], headers=headers)).status == 403
    assert kept(deployment) == before


@pytest.mark.parametrize("collection", list(BODIES))
@pytest_twisted.ensureDeferred
async def test_too_many_keys_leave_nothing(api: Api, deployment: Deployment, collection: str) -> None:
    path = f"/v1/{collection}"
    assert (await api.post(path, BODIES[collection], headers={"Idempotency-Key": "one"})).status in (201, 202)
    before = kept(deployment)
    assert (await api.post(path, BODIES[collection], headers={"Idempotency-Key": "two"})).status == 429
    assert kept(deployment) == before


@pytest.mark.parametrize("collection", list(BODIES))
@pytest_twisted.ensureDeferred
async def test_of_concurrent_repetitions_one_payload_is_left(api: Api, deployment: Deployment, collection: str) -> None:
    before, key = kept(deployment), unique()
    replies = await at_once(
        12, lambda _: api.post(f"/v1/{collection}", BODIES[collection], headers={"Idempotency-Key": key})
    )
    assert len({reply.content for reply in replies}) == 1 and replies[0].status in (201, 202), replies[0]
    assert len(kept(deployment) - before) == 1
    if collection == "secrets":
        assert (await api.get(f"{replies[0].json['secret_ref']}/payload")).content == b"a payload"


@pytest_twisted.ensureDeferred
async def test_of_concurrent_payloads_for_a_secret_the_winners_is_left(api: Api, deployment: Deployment) -> None:
    before = kept(deployment)
    ref = (await api.post("/v1/secrets", {"name": "two steps"})).json["secret_ref"]
    replies = await at_once(
        12,
        lambda number: api.request(
            "PUT", ref, data=b"payload %d" % number, headers={"Content-Type": "application/octet-stream"}
        ),
    )
    (winner,) = [number for number, reply in enumerate(replies) if reply.status == 204]
    assert {reply.status for reply in replies} <= {204, 409}
    assert (await api.get(f"{ref}/payload")).content == b"payload %d" % winner
    assert len(kept(deployment) - before) == 1


async def attempts(api: Api) -> list[tuple[str, str, dict]]:
    """A request of each kind that stores a payload."""
    ref = (await api.post("/v1/secrets", {"name": "two steps"})).json["secret_ref"]
    return [
        ("POST", "/v1/secrets", {"json": SECRET}),
        ("POST", "/v1/orders", {"json": ORDER}),
        ("PUT", ref, {"data": b"payload", "headers": {"Content-Type": "application/octet-stream"}}),
    ]


@pytest_twisted.ensureDeferred
async def test_a_database_that_takes_no_write_leaves_nothing(api: Api, deployment: Deployment) -> None:
    requests, before = await attempts(api), kept(deployment)
    other = sqlite3.connect(deployment.directory / "barbtx.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        for method, path, arguments in requests:
            reply = await api.request(method, path, **arguments)
            assert reply.status == 503 and "retry-after" in reply.headers, reply
            assert kept(deployment) == before
    finally:
        other.close()


@pytest_twisted.ensureDeferred
async def test_where_the_commit_may_have_happened_the_payload_stays(
    postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory
) -> None:
    url = postgresql.new_database(unique())
    manage("db", "upgrade", "-d", url)
    deployment = deployed(tmp_path_factory, **{"database.connection": url})
    try:
        api = deployment.api().of(unique())
        requests = await attempts(api)
        engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as connection:
            # The server goes away in the middle of each commit.
            connection.execute(
                sqlalchemy.text(
                    "CREATE FUNCTION vanish() RETURNS trigger LANGUAGE plpgsql AS "
                    "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
                )
            )
            for table in ("secrets", "orders"):
                connection.execute(
                    sqlalchemy.text(
                        f"CREATE CONSTRAINT TRIGGER vanish AFTER INSERT OR UPDATE ON {table} "
                        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION vanish()"
                    )
                )
        engine.dispose()
        for number, (method, path, arguments) in enumerate(requests, 1):
            reply = await api.request(method, path, **arguments)
            assert reply.status == 503 and "retry-after" in reply.headers, reply
            assert len(kept(deployment)) == number
    finally:
        deployment.stop()


@pytest_twisted.ensureDeferred
async def test_an_order_is_deleted_although_its_store_cannot_forget_the_passphrase(
    api: Api, deployment: Deployment
) -> None:
    before = kept(deployment)
    ref = (await api.post("/v1/orders", ORDER)).json["order_ref"]
    (name,) = kept(deployment) - before
    path = deployment.plugins / "payloads" / name
    path.unlink()
    path.mkdir()
    assert (await api.delete(ref)).status == 204
    assert (await api.get(ref)).status == 404
    assert "could not be deleted from" in api.process.read_log()
    path.rmdir()
