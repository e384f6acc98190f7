"""Secrets, as a client sees them; what the recorded exchanges do not show."""

from __future__ import annotations

import base64
import uuid

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from tests.support.logs import logged
from tests.support.service import Api


@pytest_twisted.ensureDeferred
async def test_text_goes_in_and_comes_out(api: Api) -> None:
    ref = await api.store("geheim: ü🔑", name="n")
    payload = await api.get(f"{ref}/payload", headers={"Accept": "text/plain"})
    assert payload.content.decode() == "geheim: ü🔑"
    assert payload.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("content", [b"\x00", bytes(range(256)), b"\xff" * 15000], ids=["nul", "all", "long"])
@pytest_twisted.ensureDeferred
async def test_octets_go_in_and_come_out(api: Api, content: bytes) -> None:
    reply = await api.post(
        "/v1/secrets",
        {
            "payload": base64.b64encode(content).decode(),
            "payload_content_type": "application/octet-stream",
            "payload_content_encoding": "base64",
        },
    )
    assert reply.status == 201
    payload = await api.get(f"{reply.json['secret_ref']}/payload", headers={"Accept": "application/octet-stream"})
    assert payload.content == content


@pytest_twisted.ensureDeferred
async def test_the_payload_is_labelled_with_its_own_type_for_whoever_takes_any(api: Api) -> None:
    ref = await api.store("text")
    assert (await api.get(f"{ref}/payload", headers={"Accept": "*/*"})).headers["content-type"].startswith("text/plain")


@pytest_twisted.ensureDeferred
async def test_of_concurrent_payloads_exactly_one_is_kept(api: Api) -> None:
    ref = (await api.post("/v1/secrets", {"name": "two steps"})).json["secret_ref"]
    replies = await gatherResults([_put(api, ref, f"payload {n}") for n in range(10)])
    assert sorted(reply.status for reply in replies) == [204] + [409] * 9
    winner = next(n for n, reply in enumerate(replies) if reply.status == 204)
    assert (await api.get(f"{ref}/payload", headers={"Accept": "text/plain"})).content == b"payload %d" % winner


def _put(api: Api, ref: str, text: str):
    from twisted.internet.defer import Deferred

    return Deferred.fromCoroutine(api.request("PUT", ref, data=text.encode(), headers={"Content-Type": "text/plain"}))


@pytest_twisted.ensureDeferred
async def test_a_deleted_secret_is_gone_everywhere(api: Api) -> None:
    ref = await api.store()
    assert (await api.delete(ref)).status == 204
    for path in ("", "/payload"):
        assert (await api.get(ref + path)).status == 404
    assert (await api.delete(ref)).status == 404
    assert (await api.get("/v1/secrets")).json["total"] == 0


@pytest_twisted.ensureDeferred
async def test_another_project_can_do_nothing_with_a_secret(api: Api) -> None:
    ref = await api.store()
    other = api.of("another")
    for method, path in (("GET", ref), ("GET", f"{ref}/payload"), ("DELETE", ref), ("PUT", ref)):
        assert (await other.request(method, path, headers={"Content-Type": "text/plain"})).status == 403
    assert (await api.get(f"{ref}/payload")).content == b"a payload"


@pytest.mark.parametrize(
    "document",
    [
        {"payload": "x", "payload_content_type": "text/plain", "bit_length": True},
        {"name": "n" * 256},
        {"name": 5},
        {"secret_type": "Opaque"},
        {"expiration": "2001-01-01"},
        {"expiration": "9999-12-31T23:59:59-23:00"},
        {"expiration": "tomorrow"},
        {"payload": "x"},
        {"payload": "a===", "payload_content_type": "application/octet-stream", "payload_content_encoding": "base64"},
        {"payload": "%%%%", "payload_content_type": "application/octet-stream", "payload_content_encoding": "base64"},
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_refused_says_why_and_changes_nothing(api: Api, document: dict) -> None:
    reply = await api.post("/v1/secrets", document)
    assert reply.status == 400
    assert reply.json["title"] == "Bad Request" and reply.json["description"].startswith("Provided object does not")
    assert (await api.get("/v1/secrets")).json == {"secrets": [], "total": 0}


@pytest.mark.parametrize("encoded", ["cGF5bG9hZA==", "cGF5\nbG9h ZA==", "  cGF5bG9hZA==  "])
@pytest_twisted.ensureDeferred
async def test_base64_may_have_white_space(api: Api, encoded: str) -> None:
    reply = await api.post(
        "/v1/secrets",
        {"payload": encoded, "payload_content_type": "application/octet-stream", "payload_content_encoding": "base64"},
    )
    assert (await api.get(f"{reply.json['secret_ref']}/payload")).content == b"payload"


@pytest_twisted.ensureDeferred
async def test_an_error_never_repeats_the_payload(api: Api) -> None:
    marker = uuid.uuid4().hex
    for document in (
        {"payload": marker, "payload_content_type": "text/html"},
        {"payload": marker * 1000, "payload_content_type": "text/plain"},
        {"payload": [marker], "payload_content_type": "text/plain"},
        {"payload": marker, "payload_content_type": marker},
        {"secret_type": marker},
        {"name": marker * 20},
    ):
        reply = await api.post("/v1/secrets", document)
        assert reply.status in (400, 413) and marker.encode() not in reply.content
    await logged(api.process, reply.headers["x-openstack-request-id"])
    assert marker not in api.process.read_log()


@pytest_twisted.ensureDeferred
async def test_a_query_or_body_never_forges_what_policy_knows(api: Api) -> None:
    ref = await api.store()
    forged = "?target.secret.read=read&target.secret.project_id=thief&project_id=thief&roles=admin"
    assert (await api.of("thief").get(ref + forged)).status == 403
    made = await api.post("/v1/secrets", {"name": "x", "creator_id": "thief", "project_id": "thief", "status": "ERROR"})
    document = (await api.get(made.json["secret_ref"])).json
    assert (document["creator_id"], document["status"]) == ("user", "ACTIVE")


@pytest_twisted.ensureDeferred
async def test_unknown_fields_and_repeated_parameters_do_no_harm(api: Api) -> None:
    reply = await api.post("/v1/secrets?external_project_id=x", {"name": "x", "external_project_id": "y", "inst": 1})
    assert reply.status == 201
    assert (await api.get("/v1/secrets?limit=1&limit=2&name=x&name=y")).json["total"] == 1


@pytest_twisted.ensureDeferred
async def test_concurrent_first_secrets_of_a_project_are_all_readable(api: Api) -> None:
    from twisted.internet.defer import Deferred

    refs = await gatherResults([Deferred.fromCoroutine(api.store(f"payload {n}")) for n in range(20)])
    for n, ref in enumerate(refs):
        assert (await api.get(f"{ref}/payload")).content == b"payload %d" % n
    assert (await api.get("/v1/secrets?limit=1")).json["total"] == 20
