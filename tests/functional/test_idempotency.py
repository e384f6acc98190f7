"""Requests that are sent again, because the answer was lost: Idempotency-Key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.conftest import unique
from tests.support.service import Api, Deployment

SECRET = {"name": "s", "payload": "a payload", "payload_content_type": "text/plain"}
BODIES = {
    "secrets": SECRET,
    "containers": {"type": "generic", "name": "c"},
    "orders": {"type": "asymmetric", "meta": {"algorithm": "rsa", "bit_length": 1024, "passphrase": "p"}},
}


def keyed(key: str) -> dict[str, Any]:
    return {"headers": {"Idempotency-Key": key}}


@pytest.mark.parametrize("collection", list(BODIES))
@pytest_twisted.ensureDeferred
async def test_a_repetition_gets_the_first_answer_and_creates_nothing(api: Api, collection: str) -> None:
    path, body, key = f"/v1/{collection}", BODIES[collection], unique()
    first = await api.post(path, body, **keyed(key))
    assert first.status in (201, 202), first
    for again in (key, f'"{key}"'):
        repeated = await api.post(path, body, **keyed(again))
        assert (repeated.status, repeated.json) == (first.status, first.json)
        assert repeated.headers["location"] == first.headers["location"]
    assert (await api.get(path)).json["total"] == 1
    assert (await api.post(path, body, **keyed(unique()))).json != first.json
    assert (await api.post(path, body)).json != first.json
    assert (await api.get(path)).json["total"] == 3


@pytest.mark.parametrize("collection", list(BODIES))
@pytest_twisted.ensureDeferred
async def test_concurrent_repetitions_create_one(api: Api, collection: str) -> None:
    path, key = f"/v1/{collection}", unique()
    replies = await gatherResults(
        [Deferred.fromCoroutine(api.post(path, BODIES[collection], **keyed(key))) for _ in range(20)]
    )
    assert len({str(reply.json) for reply in replies}) == 1 and replies[0].status in (201, 202), replies[0]
    assert (await api.get(path)).json["total"] == 1


@pytest_twisted.ensureDeferred
async def test_a_key_is_for_one_request_of_one_project(api: Api) -> None:
    key = unique()
    first = await api.post("/v1/secrets", SECRET, **keyed(key))
    for path, body in (("/v1/secrets", SECRET | {"payload": "another"}), ("/v1/containers", BODIES["containers"])):
        reply = await api.post(path, body, **keyed(key))
        assert reply.status == 422 and reply.json["title"] == "Unprocessable Entity", reply
    other = await api.of(unique()).post("/v1/secrets", SECRET, **keyed(key))
    assert other.status == 201 and other.json != first.json
    assert (await api.get("/v1/secrets")).json["total"] == 1


@pytest_twisted.ensureDeferred
async def test_what_was_refused_may_be_tried_again_under_the_same_key(api: Api) -> None:
    key = unique()
    assert (await api.post("/v1/secrets", {"payload": "x"}, **keyed(key))).status == 400
    assert (await api.post("/v1/secrets", SECRET, **keyed(key))).status == 201


@pytest.mark.parametrize("key", ["", " ", "k" * 256, '"unfinished', "two words", "tab\tbed"])
@pytest_twisted.ensureDeferred
async def test_what_is_no_key_is_refused(api: Api, key: str) -> None:
    reply = await api.post("/v1/secrets", SECRET, **keyed(key))
    assert reply.status == 400 and "Idempotency-Key" in reply.json["description"]
    assert (await api.get("/v1/secrets")).json["total"] == 0


@pytest_twisted.ensureDeferred
async def test_a_repetition_is_not_stopped_by_the_quota_that_the_first_one_filled(api: Api) -> None:
    await api.request(
        "PUT",
        f"/v1/project-quotas/{api.project}",
        json={"project_quotas": {"secrets": 1}},
        roles="key-manager:service-admin",
    )
    key = unique()
    first = await api.post("/v1/secrets", SECRET, **keyed(key))
    assert (await api.post("/v1/secrets", SECRET, **keyed(key))).json == first.json
    assert (await api.post("/v1/secrets", SECRET, **keyed(unique()))).status == 403


@pytest_twisted.ensureDeferred
async def test_keys_are_forgotten_after_their_life_and_bounded_in_number(tmp_path: Path) -> None:
    from twisted.internet import reactor

    deployment = Deployment(
        tmp_path, f"sqlite:///{tmp_path}/barbtx.sqlite", **{"idempotency.life_seconds": 2, "idempotency.max_keys": 3}
    )
    api = deployment.api()
    try:
        refs = [(await api.post("/v1/secrets", SECRET, **keyed(f"k{n}"))).json for n in range(3)]
        reply = await api.post("/v1/secrets", SECRET, **keyed("k3"))
        assert reply.status == 429 and "retry-after" in reply.headers
        assert (await api.post("/v1/secrets", SECRET, **keyed("k2"))).json == refs[2]
        # Their life is measured by the clock of another process.
        await deferLater(reactor, 2.1, lambda: None)
        assert (await api.post("/v1/secrets", SECRET, **keyed("k2"))).json != refs[2]
        assert (await api.post("/v1/secrets", SECRET, **keyed("k3"))).status == 201
    finally:
        deployment.stop()
