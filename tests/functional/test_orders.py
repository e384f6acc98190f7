"""Orders of keys, as a client sees them."""

from __future__ import annotations

import pytest
import pytest_twisted
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from twisted.internet.defer import Deferred, gatherResults

from tests.support.logs import logged
from tests.support.service import Api


@pytest_twisted.ensureDeferred
async def test_an_ordered_key_can_be_read(api: Api) -> None:
    order = await api.finished(await api.order(name="my key", mode="cbc"))
    assert order["status"] == "ACTIVE" and order["sub_status"] == "Unknown"
    assert order["meta"] == {"algorithm": "aes", "bit_length": 256, "mode": "cbc", "name": "my key", "expiration": None}
    secret = (await api.get(order["secret_ref"])).json
    assert (secret["algorithm"], secret["bit_length"], secret["mode"], secret["name"], secret["secret_type"]) == (
        "aes",
        256,
        "cbc",
        "my key",
        "symmetric",
    )
    assert len((await api.get(f"{order['secret_ref']}/payload")).content) == 32


@pytest_twisted.ensureDeferred
async def test_without_a_broker_the_next_read_finds_the_order_done(api: Api) -> None:
    ref = await api.order()
    if "embedded" in str(api.process.log):
        assert (await api.get(ref)).json["status"] == "ACTIVE"
    assert (await api.finished(ref))["status"] == "ACTIVE"


@pytest_twisted.ensureDeferred
async def test_each_order_makes_one_key_and_no_two_the_same(api: Api) -> None:
    refs = await gatherResults([Deferred.fromCoroutine(api.order()) for _ in range(25)])
    orders = [await api.finished(ref) for ref in refs]
    keys = {(await api.get(f"{order['secret_ref']}/payload")).content for order in orders}
    assert len(keys) == 25
    assert (await api.get("/v1/secrets")).json["total"] == 25


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        ({"algorithm": "aes", "bit_length": 512}, "400"),
        ({"algorithm": "3des", "bit_length": 192}, "400"),
        ({"algorithm": "desede", "bit_length": 192}, "400"),
        ({"algorithm": "rsa", "bit_length": 2048}, "400"),
        ({"algorithm": "banana", "bit_length": 256}, "400"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_made_ends_in_error_with_a_reason(api: Api, meta: dict, code: str) -> None:
    order = await api.finished(await api.order(**meta))
    assert (order["status"], order["error_status_code"]) == ("ERROR", code)
    assert order["error_reason"].startswith("Process TypeOrder issue seen - ")
    assert "secret_ref" not in order
    assert (await api.get("/v1/secrets")).json["total"] == 0


@pytest_twisted.ensureDeferred
async def test_a_failed_pair_leaves_nothing(api: Api) -> None:
    for algorithm, bits in (("ec", 256), ("rsa", 1032), ("aes", 256), ("diffie_hellman", 1024)):
        order = await api.finished(await _pair(api, algorithm=algorithm, bit_length=bits, passphrase="p"))
        assert (order["status"], order["error_status_code"]) == ("ERROR", "400")
    for collection in ("secrets", "containers"):
        assert (await api.get(f"/v1/{collection}")).json["total"] == 0


async def _pair(api: Api, **meta: object) -> str:
    reply = await api.post("/v1/orders", {"type": "asymmetric", "meta": meta})
    assert reply.status == 202, reply
    return reply.json["order_ref"]


@pytest.mark.parametrize("key", ["passphrase", "pass_phrase"])
@pytest_twisted.ensureDeferred
async def test_an_ordered_pair_comes_in_a_container_and_its_passphrase_in_a_secret_only(api: Api, key: str) -> None:
    passphrase = "a very own passphrase"
    order = await api.finished(await _pair(api, algorithm="RSA", bit_length=2048, name="pair", **{key: passphrase}))
    assert order["status"] == "ACTIVE" and key not in order["meta"]
    container = (await api.get(order["container_ref"])).json
    refs = {entry["name"]: entry["secret_ref"] for entry in container["secret_refs"]}
    assert (container["type"], container["name"], set(refs)) == (
        "rsa",
        "pair",
        {"private_key", "public_key", "private_key_passphrase"},
    )
    payloads = {name: (await api.get(f"{ref}/payload")).content for name, ref in refs.items()}
    private = load_pem_private_key(payloads["private_key"], passphrase.encode())
    assert private.public_key() == load_pem_public_key(payloads["public_key"])
    assert payloads["private_key_passphrase"].decode() == passphrase
    reply = await api.get("/v1/orders")
    assert passphrase not in str(reply.json)
    await logged(api.process, reply.headers["x-openstack-request-id"])
    assert passphrase not in api.process.read_log()


@pytest_twisted.ensureDeferred
async def test_a_passphrase_that_is_no_text_is_refused(api: Api) -> None:
    reply = await api.post(
        "/v1/orders", {"type": "asymmetric", "meta": {"algorithm": "rsa", "bit_length": 2048, "passphrase": 5}}
    )
    assert reply.status == 400


@pytest_twisted.ensureDeferred
async def test_the_creator_of_the_order_owns_the_key_whatever_the_meta_says(api: Api) -> None:
    order = await api.finished(await api.order(creator_id="thief", project_id="thief"))
    assert (await api.get(order["secret_ref"])).json["creator_id"] == "user"
    assert (await api.of("thief").get("/v1/secrets")).json["total"] == 0


@pytest_twisted.ensureDeferred
async def test_deleting_an_order_keeps_its_key_and_deleting_the_key_keeps_the_order(api: Api) -> None:
    one, two = [await api.order(), await api.order()]
    first, second = [await api.finished(ref) for ref in (one, two)]
    assert (await api.delete(one)).status == 204
    assert (await api.get(one)).status == 404
    assert (await api.get(first["secret_ref"])).status == 200
    assert (await api.delete(second["secret_ref"])).status == 204
    assert (await api.get(two)).json["secret_ref"] == second["secret_ref"]


@pytest_twisted.ensureDeferred
async def test_a_refused_order_leaves_nothing(api: Api) -> None:
    reply = await api.post("/v1/orders", {"type": "key", "meta": {"algorithm": "aes", "bit_length": 255}})
    assert reply.status == 400 and "multiple of 8" in reply.json["description"]
    assert (await api.get("/v1/orders")).json == {"orders": [], "total": 0}


@pytest_twisted.ensureDeferred
async def test_a_key_with_an_expiration_has_it(api: Api) -> None:
    order = await api.finished(await api.order(expiration="2090-01-02T03:04:05+01:00"))
    assert order["meta"]["expiration"] == "2090-01-02T02:04:05.000000"
    assert (await api.get(order["secret_ref"])).json["expiration"] == "2090-01-02T02:04:05"
