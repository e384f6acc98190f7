"""An Idempotency-Key belongs to one user of one project, and what is remembered gives nothing away."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from twisted.internet.task import Clock

from barbtx.api.fingerprints import Content
from barbtx.api.idempotency import IdempotentRequest
from barbtx.cmd.manage import main as manage
from barbtx.errors import ServiceUnavailable
from barbtx.model import models
from barbtx.model.database import Database
from barbtx.model.records import Created, NewContainer, NewSecret, Task
from barbtx.model.repositories.containers import ContainerRepo
from barbtx.model.repositories.idempotency import DuplicateKey, IdempotencyRecord, IdempotencyRepo, StoredRequest
from barbtx.model.repositories.orders import OrderRepo
from barbtx.model.repositories.secrets import SecretRepo
from tests.conftest import unique
from tests.functional.test_idempotency import BODIES, SECRET, keyed
from tests.support.removals import claim_removal
from tests.support.service import Api, Deployment, Reply, with_wrapping_store


async def repeat(
    api: Api, collection: str, key: str, user: str | None = "user", body: object = None, **headers: str
) -> Reply:
    return await api.post(
        f"/v1/{collection}",
        BODIES[collection] if body is None else body,
        user=user,
        headers={"Idempotency-Key": key, **headers},
    )


@pytest.mark.parametrize("collection", list(BODIES))
@pytest_twisted.ensureDeferred
async def test_each_user_of_a_project_has_keys_of_their_own(api: Api, collection: str) -> None:
    key, users = unique(), ["one", "two", "None", "null", "ONE", "", None, '"null"', f'one", "{unique()}']
    # An empty header is none, so that the last two are the same nobody.
    firsts = {user or None: await repeat(api, collection, key, user) for user in users}
    assert all(reply.status in (201, 202) for reply in firsts.values())
    assert len({reply.content for reply in firsts.values()}) == len(firsts) == len(users) - 1
    for user, first in firsts.items():
        assert (await repeat(api, collection, key, user)).json == first.json
    assert (await api.get(f"/v1/{collection}")).json["total"] == len(firsts)


@pytest_twisted.ensureDeferred
async def test_nobody_learns_from_another_users_key_what_its_body_was(api: Api) -> None:
    """Whether the guess is right or wrong, the answer is a new object."""
    key = unique()
    assert (await repeat(api, "secrets", key, "owner")).status == 201
    for guess in ("a payload", "another payload"):
        reply = await repeat(api, "secrets", key, f"mate {guess}", SECRET | {"payload": guess})
        assert reply.status == 201, reply
    assert (await repeat(api, "secrets", key, "owner", SECRET | {"payload": "another payload"})).status == 422
    # Policy comes before the key.
    refused = await api.post("/v1/secrets", SECRET, user="owner", roles="observer", **keyed(key))
    assert refused.status == 403


@pytest.mark.parametrize("collection", list(BODIES))
@pytest_twisted.ensureDeferred
async def test_references_follow_the_request_that_is_answered(api: Api, collection: str) -> None:
    key = unique()
    first = await repeat(api, collection, key, Host="127.0.0.77:1")
    assert first.headers["location"].startswith("http://127.0.0.77:1/v1/")
    path = first.headers["location"].removeprefix("http://127.0.0.77:1")
    for host in ("localhost:9311", None):
        again = await repeat(api, collection, key, **({"Host": host} if host else {}))
        base = f"http://{host}" if host else api.url
        assert again.headers["location"] == base + path == next(iter(again.json.values()))
        assert "127.0.0.77" not in str(again.headers) + str(again.json)


@pytest_twisted.ensureDeferred
async def test_the_transport_key_of_the_first_answer_is_named_again(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    deployment = with_wrapping_store(tmp_path, tmp_path / "plugins")
    try:
        api, body = deployment.api(), {"name": "two steps", "transport_key_needed": "true"}
        first = await repeat(api, "secrets", "key", body=body, Host="127.0.0.77:1")
        again = await repeat(api, "secrets", "key", body=body)
        assert first.json.keys() == again.json.keys() == {"secret_ref", "transport_key_ref"}
        assert {name: ref.replace("http://127.0.0.77:1", api.url) for name, ref in first.json.items()} == again.json
        assert (await api.get(again.json["transport_key_ref"])).status == 200
    finally:
        deployment.stop()


@pytest.mark.parametrize("collection", list(BODIES))
@pytest_twisted.ensureDeferred
async def test_a_key_is_forgotten_with_its_object(api: Api, collection: str) -> None:
    key = unique()
    first = await repeat(api, collection, key)
    other = await repeat(api, collection, key, "other")
    assert (await api.delete(first.headers["location"])).status == 204
    again = await repeat(api, collection, key)
    assert again.status == first.status and again.json != first.json
    assert (await repeat(api, collection, key)).json == again.json
    assert (await repeat(api, collection, key, "other")).json == other.json


@pytest_twisted.ensureDeferred
async def test_a_quota_refuses_keyed_requests_and_remembers_none_of_them(api: Api) -> None:
    async def limit(secrets: int) -> None:
        await api.request(
            "PUT",
            f"/v1/project-quotas/{api.project}",
            json={"project_quotas": {"secrets": secrets}},
            roles="key-manager:service-admin",
        )

    await limit(0)
    key = unique()
    assert (await repeat(api, "secrets", key)).status == 403
    await limit(1)
    first = await repeat(api, "secrets", key, body=SECRET | {"payload": "the refused one left no fingerprint"})
    assert first.status == 201
    assert (await repeat(api, "secrets", key)).status == 422
    await limit(0)
    assert (
        await repeat(api, "secrets", key, body=SECRET | {"payload": "the refused one left no fingerprint"})
    ).json == first.json
    assert (await repeat(api, "secrets", key, "other")).status == 403


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    directory = tmp_path_factory.mktemp("own")
    deployment = Deployment(directory, f"sqlite:///{directory}/barbtx.sqlite")
    yield deployment
    deployment.stop()


def rows(deployment: Deployment) -> list[tuple[Any, ...]]:
    with sqlite3.connect(deployment.directory / "barbtx.sqlite") as connection:
        return connection.execute("SELECT * FROM idempotency_keys").fetchall()


@pytest_twisted.ensureDeferred
async def test_a_repetition_is_known_by_other_processes_and_after_a_rotation(own: Deployment, tmp_path: Path) -> None:
    first, second = own.api(), own.api()
    made = await repeat(first, "secrets", "key")
    assert (await repeat(second, "secrets", "key")).json == {
        "secret_ref": made.json["secret_ref"].replace(first.url, second.url)
    }
    first.process.stop()
    master = (own.directory / "mkek").read_text()
    assert manage(["simple_crypto", "gen_mkek", str(tmp_path / "new")]) == 0
    rotated = tmp_path / "rotated"
    rotated.write_text((tmp_path / "new").read_text() + master)
    rotated.chmod(0o600)
    third = own.api(**{"simple_crypto_plugin.kek_file": rotated})
    again = await repeat(third, "secrets", "key")
    assert again.status == 201 and again.json["secret_ref"].endswith(made.json["secret_ref"].rpartition("/")[2])
    assert (await repeat(third, "secrets", "key", body=SECRET | {"payload": "other"})).status == 422
    # The second process does not have the new master key, under which this is remembered.
    await repeat(third, "secrets", "new-key")
    before = (await second.get("/v1/secrets")).json["total"]
    reply = await repeat(second, "secrets", "new-key")
    assert reply.status == 503 and "retry-after" in reply.headers
    assert (await second.get("/v1/secrets")).json["total"] == before
    assert "which this process does not know" in second.process.read_log()


@pytest_twisted.ensureDeferred
async def test_a_guess_cannot_be_checked_with_the_database_alone(own: Deployment) -> None:
    """No plain or salted digest of a body is stored, and the same body looks different with every user and key."""
    api, body = own.api().of(unique()), SECRET | {"payload": "0042"}
    for user, key in itertools.product(("one", "two"), ("a", "b")):
        assert (await repeat(api, "secrets", key, user, body)).status == 201
    stored = rows(own)
    texts = {text for row in stored for text in row if isinstance(text, str)}
    assert len({row[2] for row in stored}) == len(stored)
    sent = json.dumps(body).encode()
    salts = [b"", *(text.encode() for text in texts)]
    for algorithm, salt in itertools.product(("sha1", "sha256", "sha512"), salts):
        for digest in (
            hashlib.new(algorithm, salt + sent),
            hashlib.new(algorithm, sent + salt),
            hmac.new(salt, sent, algorithm),
        ):
            assert not any(digest.hexdigest()[:32] in text for text in texts)
    assert not any("0042" in text for text in texts)


def use(digest: str, created: Created) -> IdempotencyRecord:
    return IdempotencyRecord(digest, StoredRequest("fingerprint", created), 100, 10)


async def create(database: Database, clock: Clock, collection: str) -> str:
    """Create an object under an idempotency key, and return its id."""
    object_id = str(uuid.uuid4())
    key = use(unique().ljust(64), Created(collection, object_id, "transport key" if collection == "secrets" else None))
    if collection == "secrets":
        await SecretRepo(database, clock).create(NewSecret(object_id, "p"), key)
    elif collection == "containers":
        await ContainerRepo(database, clock, -1).create(NewContainer(object_id, "p", "generic"), key)
    else:
        await OrderRepo(database, clock).create(
            object_id, "p", "key", "{}", None, Task(object_id, "m", {}), 5, None, key
        )
    assert await IdempotencyRepo(database, clock, 100).find("p", key.digest) == key.first
    return object_id


async def remembered(database: Database) -> list[str]:
    return await database.interact(lambda session: list(session.scalars(select(models.IdempotencyKey.object_id))))


@pytest_twisted.ensureDeferred
async def test_whatever_deletes_objects_deletes_their_keys(database: Database, clock: Clock) -> None:
    ids = {collection: await create(database, clock, collection) for collection in BODIES}
    others = [await create(database, clock, collection) for collection in BODIES]
    await SecretRepo(database, clock).delete(ids["secrets"])
    await ContainerRepo(database, clock, -1).delete(ids["containers"])
    await OrderRepo(database, clock).delete(ids["orders"], "p")
    assert sorted(await remembered(database)) == sorted(others)
    removal, claim = await claim_removal(database, clock, "p")
    await removal.remove_secrets(claim, [others[0]])
    assert others[0] not in await remembered(database)
    while await removal.remove_rest(claim, 1) is not None:
        pass
    assert await remembered(database) == []


class Calls:
    """A request and what is behind it, where every race is lost: real ones cannot be had at will."""

    def __init__(self) -> None:
        self.dependencies = self.repositories = self.context = self.idempotency = self.fingerprints = self
        self.project_id = "p"
        self.made = 0

    async def find(self, project_id: str, digest: str) -> None:
        return None

    async def make(self, content: Content) -> str:
        return "fingerprint"

    async def create(self) -> None:
        self.made += 1
        raise DuplicateKey


@pytest_twisted.ensureDeferred
async def test_a_race_that_is_lost_again_and_again_is_no_failure_of_the_service() -> None:
    calls = Calls()
    with pytest.raises(ServiceUnavailable):
        await IdempotentRequest("digest", Content((), b"")).answer(calls, calls.create)
    assert 1 < calls.made < 10


class Asked:
    """As much of a request as a key is read from."""

    method, postpath, content_type, body = b"POST", [b"v1", b"secrets"], "application/json", b"{}"

    def __init__(self, project: str, user: str | None, key: str) -> None:
        self.request = self.context = self.requestHeaders = self
        self.project_id, self.user_id, self.key = project, user, key

    def getRawHeaders(self, name: bytes, default: object) -> list[bytes]:
        return [self.key.encode()]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
askers = st.tuples(texts, st.none() | texts, st.text(st.sampled_from("ab[],nul"), min_size=1, max_size=4))


@given(askers, askers)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_no_two_users_and_keys_have_the_same_digest(one: tuple, two: tuple) -> None:
    first, second = (IdempotentRequest.of(Asked(*asked)) for asked in (one, two))
    assert (first.digest == second.digest) is (one[1:] == two[1:])
    assert (first.content == second.content) is (one == two)
