"""What bodies may hold, and what answers say of the rest: numbers, times, content types, keys."""

from __future__ import annotations

import datetime
import json

import pytest
import pytest_twisted
from sqlalchemy import create_engine, update

from barbtx.model.models import Order
from tests.support.service import Api, Deployment, Reply

_JSON = {"Content-Type": "application/json"}


def _strict(reply: Reply) -> object:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(reply.content, parse_constant=refuse)


async def _send(api: Api, path: str, body: str, method: str = "POST") -> Reply:
    return await api.request(method, path, data=body.encode(), headers=_JSON, roles="admin,key-manager:service-admin")


def _order(meta: str) -> str:
    return f'{{"type": "key", "meta": {{"algorithm": "aes", "bit_length": 256{meta}}}}}'


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e-400", "NaN", "-Infinity", "9" * 400, "9" * 5000])
@pytest_twisted.ensureDeferred
async def test_a_number_that_cannot_be_represented_is_refused_in_every_body(api: Api, number: str) -> None:
    ref = await api.store()
    container = (await api.post("/v1/containers", {"type": "generic"})).json["container_ref"]
    bodies = [
        ("POST", "/v1/orders", _order(f', "x": {number}')),
        ("POST", "/v1/orders", _order(f', "x": [{{"y": [{number}]}}]')),
        ("POST", "/v1/orders", _order(f', "bit_length": {number}')),
        ("POST", "/v1/secrets", f'{{"x": {number}}}'),
        ("POST", "/v1/secrets", f'{{"bit_length": {number}}}'),
        ("POST", "/v1/containers", f'{{"type": "generic", "x": {number}}}'),
        ("PUT", f"{ref}/acl", f'{{"read": {{"users": [{number}]}}}}'),
        ("PUT", f"{ref}/metadata", f'{{"metadata": {{"a": {number}}}}}'),
        ("POST", f"{ref}/consumers", f'{{"service": "s", "resource_type": "t", "resource_id": "i", "x": {number}}}'),
        ("POST", f"{container}/consumers", f'{{"name": "n", "URL": "u", "x": {number}}}'),
        ("PUT", f"/v1/project-quotas/{api.project}", f'{{"project_quotas": {{"secrets": {number}}}}}'),
    ]
    for method, path, body in bodies:
        reply = await _send(api, path, body, method)
        assert reply.status == 400 and "number" in reply.json["description"], (path, reply)
    assert (await api.get("/v1/orders")).json["total"] == 0
    assert (await api.get("/v1/secrets")).json["total"] == 1


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("128.0", "128"),
        ("1e2", "100"),
        ("0.5", "0.5"),
        ("-2.50", "-2.5"),
        ("9007199254740993", "9007199254740993"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("-0.0", "0"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_whole_numbers_stay_whole_in_an_order(api: Api, written: str, shown: str) -> None:
    reply = await _send(api, "/v1/orders", _order(f', "bit_length": 256.0, "x": {{"deep": [{written}]}}'))
    assert reply.status == 202
    for path in (reply.json["order_ref"], "/v1/orders"):
        content = (await api.get(path)).content.decode()
        assert '"bit_length": 256,' in content and f'"deep": [{shown}]' in content, content


@pytest_twisted.ensureDeferred
async def test_whole_numbers_stay_whole_in_secrets_and_quotas(api: Api) -> None:
    ref = (await _send(api, "/v1/secrets", '{"bit_length": 1.28e2}')).json["secret_ref"]
    assert b'"bit_length": 128,' in (await api.get(ref)).content
    path = f"/v1/project-quotas/{api.project}"
    assert (await _send(api, path, '{"project_quotas": {"secrets": 5.0, "orders": 1e1}}', "PUT")).status == 204
    quotas = (await api.get(path, roles="key-manager:service-admin")).content.decode()
    assert '"secrets": 5,' in quotas and '"orders": 10,' in quotas


@pytest_twisted.ensureDeferred
async def test_numbers_that_were_stored_before_do_not_spoil_a_list(api: Api, deployment: Deployment) -> None:
    refs = [await api.order(name=f"{n}") for n in range(2)]
    await api.finished(refs[0])
    url = deployment.settings["database.connection"].replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            update(Order)
            .where(Order.id == refs[0].rpartition("/")[2])
            .values(meta='{"algorithm": "aes", "bit_length": 256.0, "x": [Infinity, {"y": NaN}], "name": null}')
        )
    engine.dispose()
    listed = _strict(await api.get("/v1/orders"))
    assert listed["orders"][0]["meta"] == {
        "algorithm": "aes",
        "bit_length": 256,
        "x": [None, {"y": None}],
        "name": None,
    }
    assert _strict(await api.get(refs[0]))["meta"] == listed["orders"][0]["meta"]


@pytest_twisted.ensureDeferred
async def test_what_an_order_nests_deeply_comes_back_or_is_refused(api: Api) -> None:
    for levels, status in ((60, 202), (70, 400), (4000, 400)):
        reply = await _send(api, "/v1/orders", _order(f', "x": {"[" * levels}{"]" * levels}'))
        assert reply.status == status, reply
    assert (await api.get("/v1/orders")).json["total"] == 1


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("2090-01-02T03:04:05.123456", "2090-01-02T03:04:05.123456"),
        ("2090-01-02T03:04:05.5+01:00", "2090-01-02T02:04:05.500000"),
        ("2090-01-02 03:04:05.000001Z", "2090-01-02T03:04:05.000001"),
        ("2090-01-02", "2090-01-02T00:00:00.000000"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_order_keeps_the_fraction_of_its_expiration(api: Api, given: str, shown: str) -> None:
    order = await api.finished(await api.order(expiration=given))
    assert order["meta"]["expiration"] == shown
    secret = (await api.get(order["secret_ref"])).json
    stored = await api.store(expiration=given)
    assert secret["expiration"] == (await api.get(stored)).json["expiration"] == shown.partition(".")[0]


@pytest_twisted.ensureDeferred
async def test_an_order_that_expires_before_its_secret_could_live_is_refused(api: Api) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
    reply = await api.post(
        "/v1/orders", {"type": "key", "meta": {"algorithm": "aes", "bit_length": 256, "expiration": past.isoformat()}}
    )
    assert reply.status == 400


_ALLOWED = (
    "is not one of ['text/plain', 'text/plain;charset=utf-8', 'text/plain; charset=utf-8', "
    "'application/octet-stream', 'application/pkcs8']"
)


@pytest.mark.parametrize(
    "kind",
    [
        "",
        " ",
        "text",
        "text/",
        "text/html",
        "invalid",
        "text/plain; charset=utf-88",
        "application/aes",
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_content_type_that_is_not_supported_names_those_that_are(api: Api, kind: str) -> None:
    meta = {"algorithm": "aes", "bit_length": 256, "payload_content_type": kind}
    for path, body in (
        ("/v1/secrets", {"payload": "p", "payload_content_type": kind}),
        ("/v1/orders", {"type": "key", "meta": meta}),
        ("/v1/orders", {"type": "asymmetric", "meta": meta | {"algorithm": "rsa", "bit_length": 1024}}),
    ):
        reply = await api.post(path, body)
        assert reply.status == 400 and _ALLOWED in reply.json["description"], reply
    assert (await api.get("/v1/orders")).json["total"] == (await api.get("/v1/secrets")).json["total"] == 0


@pytest_twisted.ensureDeferred
async def test_a_value_that_is_not_in_an_enumeration_names_those_that_are(api: Api) -> None:
    reply = await api.post("/v1/secrets", {"secret_type": "my-password"})
    assert "['symmetric', 'public'" in reply.json["description"] and "my-password" not in reply.json["description"]
    reply = await api.post("/v1/orders", {"type": "certificate", "meta": {}})
    assert "['key', 'asymmetric']" in reply.json["description"]


@pytest_twisted.ensureDeferred
async def test_clients_recognise_that_a_secret_has_consumers(api: Api) -> None:
    ref = await api.store()
    await api.post(f"{ref}/consumers", {"service": "s", "resource_type": "t", "resource_id": "i"})
    for query in ("", "?force=false", "?force=0"):
        reply = await api.delete(ref + query, headers={"OpenStack-API-Version": "key-manager 1.2"})
        assert reply.status == 400 and "Secret cannot be deleted as it has consumers." in reply.json["description"]
    assert (await api.delete(f"{ref}?force=1", headers={"OpenStack-API-Version": "key-manager 1.2"})).status == 204


@pytest_twisted.ensureDeferred
async def test_clients_recognise_ids_that_lead_nowhere(api: Api) -> None:
    for path, words in (
        ("9999999f-f99f-49f9-9fff-f99f999ff9ff", "Secret not found"),
        ("9999999f-ffff-ffff-9fff-f99f999ff9ff", "Provided secret id is invalid."),
    ):
        for below in ("", "/consumers", "/payload", "/metadata", "/acl"):
            reply = await api.get(f"/v1/secrets/{path}{below}")
            assert reply.status == 404 and words in reply.json["description"], reply


@pytest_twisted.ensureDeferred
async def test_the_service_without_a_version_is_the_default_version(api: Api) -> None:
    for value in ("key-manager", "Key-Manager", "key-manager, compute 2.1"):
        reply = await api.get("/v1/secrets", headers={"OpenStack-API-Version": value})
        assert (reply.status, reply.headers["openstack-api-version"]) == (200, "key-manager 1.0"), value


@pytest_twisted.ensureDeferred
async def test_an_empty_metadata_key_is_refused_and_changes_nothing(api: Api) -> None:
    path = f"{await api.store()}/metadata"
    await api.request("PUT", path, json={"metadata": {"a": "b"}})
    for method, body in (
        ("POST", {"key": "", "value": "v"}),
        ("POST", {"key": "  ", "value": "v"}),
        ("PUT", {"metadata": {"": "v"}}),
        ("PUT", {"metadata": {"b": "c", "": ""}}),
        ("POST", {"key": "a\nb", "value": "v"}),
        ("PUT", {"metadata": {"a\n": "v"}}),
    ):
        reply = await api.request(method, path, json=body)
        assert reply.status == 400 and "location" not in reply.headers, (body, reply)
    assert (await api.get(path)).json == {"metadata": {"a": "b"}}
