"""A store that somebody else wrote, found by its entry point; and payloads wrapped for its transport key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from tests.conftest import unique
from tests.support.service import Api, with_wrapping_store
from tests.support.wrapping_store import TRANSPORT_KEY, wrap

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plugins")


@pytest.fixture(scope="module")
def served(plugins: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    deployment = with_wrapping_store(tmp_path_factory.mktemp("wrapping"), plugins)
    yield deployment.api()
    deployment.stop()


@pytest.fixture
def api(served: Api) -> Api:
    return served.of(unique())


async def prepared(api: Api) -> tuple[str, str]:
    """A secret without payload, and the id of the key to wrap it for."""
    made = await api.post("/v1/secrets", {"name": "x", "transport_key_needed": "true"})
    assert made.status == 201, made
    key = (await api.get(made.json["transport_key_ref"])).json
    assert key["transport_key"] == TRANSPORT_KEY and key["plugin_name"].endswith("WrappingStore")
    return made.json["secret_ref"], key["id"]


@pytest_twisted.ensureDeferred
async def test_a_payload_travels_wrapped_in_both_directions(api: Api) -> None:
    ref, key_id = await prepared(api)
    put = await api.request(
        "PUT",
        f"{ref}?transport_key_id={key_id}",
        data=wrap(b"payload", TRANSPORT_KEY),
        headers={"Content-Type": "application/octet-stream"},
    )
    assert put.status == 204
    document = (await api.get(f"{ref}?transport_key_needed=TRUE")).json
    assert document["transport_key_ref"].endswith(key_id)
    assert (await api.get(f"{ref}/payload")).content == b"payload"
    wrapped = await api.get(f"{ref}/payload?trans_wrapped_session_key=session&transport_key_id={key_id}")
    assert wrap(wrapped.content, "session") == b"payload"


@pytest_twisted.ensureDeferred
async def test_a_store_gives_out_one_key_however_often_it_is_asked(api: Api) -> None:
    assert (await prepared(api))[1] == (await prepared(api))[1]


@pytest_twisted.ensureDeferred
async def test_unknown_keys_and_keys_of_stores_that_do_not_wrap_are_refused(api: Api) -> None:
    ref = await api.store("clear")
    made = await api.post(
        "/v1/transport_keys",
        roles="key-manager:service-admin",
        document={"plugin_name": "barbtx.plugin.stores.store_crypto.StoreCrypto", "transport_key": "k"},
    )
    for key_id in (UNKNOWN, made.json["transport_key_ref"].rpartition("/")[2]):
        body = {"payload": "x", "payload_content_type": "text/plain", "transport_key_id": key_id}
        assert (await api.post("/v1/secrets", body)).status == 400
        path = f"{ref}/payload?trans_wrapped_session_key=session&transport_key_id={key_id}"
        assert (await api.get(path)).status == 400
    assert (await api.get("/v1/secrets?limit=1")).json["total"] == 1


@pytest_twisted.ensureDeferred
async def test_keys_are_ordered_from_the_store_that_makes_them(api: Api) -> None:
    order = await api.finished(await api.order())
    assert len((await api.get(f"{order['secret_ref']}/payload")).content) == 32


def kept(plugins: Path) -> set[str]:
    """The ids of the secrets whose payloads the store has."""
    return {path.name for path in (plugins / "payloads").iterdir()}


@pytest_twisted.ensureDeferred
async def test_a_deleted_secret_is_forgotten_by_its_store(api: Api, plugins: Path) -> None:
    ref = await api.store("x")
    assert ref.rpartition("/")[2] in kept(plugins)
    assert (await api.delete(ref)).status == 204
    assert ref.rpartition("/")[2] not in kept(plugins)


@pytest_twisted.ensureDeferred
async def test_a_secret_that_is_refused_leaves_no_payload_in_its_store(api: Api, plugins: Path) -> None:
    quota = await api.request(
        "PUT",
        f"/v1/project-quotas/{api.project}",
        json={"project_quotas": {"secrets": 1}},
        roles="key-manager:service-admin",
    )
    assert quota.status == 204
    await api.store("one")
    before = kept(plugins)
    body = {"payload": "two", "payload_content_type": "text/plain"}
    assert (await api.post("/v1/secrets", body)).status == 403
    assert kept(plugins) == before
