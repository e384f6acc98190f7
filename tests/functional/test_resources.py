"""Containers, consumers, ACLs, user metadata, quotas and transport keys; what the recorded exchanges do not show."""

from __future__ import annotations

import uuid

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from barbtx.api.operation import Operation
from barbtx.api.routes import ROOT_ROUTES, V1_ROUTES
from barbtx.identity.policy import list_rules
from tests.conftest import unique
from tests.support.service import Api

SERVICE_ADMIN = "key-manager:service-admin"


async def container(api: Api, *secret_refs: str, **fields: object) -> str:
    refs = [{"name": f"s{n}", "secret_ref": ref} for n, ref in enumerate(secret_refs)]
    reply = await api.post("/v1/containers", {"type": "generic", "secret_refs": refs, **fields})
    assert reply.status == 201, reply
    return reply.json["container_ref"]


def consumer(number: int = 0) -> dict[str, str]:
    return {"service": "compute", "resource_type": "instance", "resource_id": f"vm-{number}"}


def container_consumer(number: int = 0) -> dict[str, str]:
    return {"name": f"service-{number}", "URL": f"http://service/{number}"}


async def set_quota(api: Api, project: str, **quotas: int) -> None:
    reply = await api.request(
        "PUT", f"/v1/project-quotas/{project}", json={"project_quotas": quotas}, roles=SERVICE_ADMIN
    )
    assert reply.status == 204, reply


def test_every_operation_of_every_route_has_a_rule_that_exists() -> None:
    rules = {rule.name for rule in list_rules()}
    open_to_all = set()
    for path, controller in {**ROOT_ROUTES, **V1_ROUTES}.items():
        for attribute in dir(controller):
            operation = getattr(controller, attribute, None)
            if isinstance(operation, Operation):
                if operation.rule is None:
                    open_to_all.add((path, attribute))
                else:
                    assert operation.rule in rules, (path, attribute)
    # Version documents, and the methods that transport keys do not have.
    assert open_to_all == {
        ("/", "on_get"),
        ("/v1", "on_get"),
        ("/v1/transport_keys", "on_other"),
        ("/v1/transport_keys/<key_id>", "on_other"),
    }


def test_the_policy_reference_names_the_operations_of_every_rule() -> None:
    served: dict[str, set[tuple[str, str]]] = {}
    for path, controller in V1_ROUTES.items():
        for attribute in dir(controller):
            operation = getattr(controller, attribute, None)
            # A route with <path:…> is another form of the one before it, and on_other rejects methods.
            if isinstance(operation, Operation) and operation.rule and "<path:" not in path and attribute != "on_other":
                method = attribute.removeprefix("on_").partition("_")[0].upper()
                template = path.replace("<", "{").replace(">", "}")
                served.setdefault(operation.rule, set()).add((method, template))
    documented = {rule.name: rule for rule in list_rules() if ":" in rule.name}
    for name, rule in documented.items():
        assert {(operation["method"], operation["path"]) for operation in rule.operations} == served[name], name
    assert documented.keys() == served.keys()
    assert all(rule.description for rule in list_rules())


@pytest.mark.parametrize("collection", ["secrets", "containers"])
@pytest_twisted.ensureDeferred
async def test_deleting_an_object_removes_all_its_consumers(api: Api, collection: str) -> None:
    await set_quota(api, api.project, consumers=15)
    for _ in range(3):
        ref = await api.store() if collection == "secrets" else await container(api)
        for n in range(15):
            body = consumer(n) if collection == "secrets" else container_consumer(n)
            assert (await api.post(f"{ref}/consumers", body)).status == 200
        assert (await api.delete(ref)).status == 204


@pytest_twisted.ensureDeferred
async def test_registering_again_at_the_quota_is_refused_too(api: Api) -> None:
    await set_quota(api, api.project, consumers=1)
    ref = await api.store()
    assert (await api.post(f"{ref}/consumers", consumer())).status == 200
    for again in (consumer(), consumer(1)):
        reply = await api.post(f"{ref}/consumers", again)
        assert reply.status == 403 and "quota has been reached" in reply.json["description"]
    await set_quota(api, api.project, consumers=2)
    assert (await api.post(f"{ref}/consumers", consumer())).status == 200


@pytest_twisted.ensureDeferred
async def test_concurrent_registrations_of_one_consumer_make_one(api: Api) -> None:
    ref = await api.store()
    replies = await gatherResults([Deferred.fromCoroutine(api.post(f"{ref}/consumers", consumer())) for _ in range(10)])
    assert {reply.status for reply in replies} == {200}
    assert (await api.get(f"{ref}/consumers")).json["total"] == 1


@pytest.mark.parametrize(
    ("resource", "path", "body"),
    [
        ("secrets", "/v1/secrets", {"name": "x"}),
        ("containers", "/v1/containers", {"type": "generic"}),
        ("orders", "/v1/orders", {"type": "key", "meta": {"algorithm": "aes", "bit_length": 256}}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_quota_holds_against_any_number_of_concurrent_creations(
    api: Api, resource: str, path: str, body: dict
) -> None:
    await set_quota(api, api.project, **{resource: 50})
    count = 200 if resource == "secrets" else 80
    replies = await gatherResults([Deferred.fromCoroutine(api.post(path, body, timeout=60)) for _ in range(count)])
    # A request that did not get its turn in time was refused with 503, and may come again.
    while sum(reply.status in (201, 202) for reply in replies) < 50:
        assert {reply.status for reply in replies} <= {201, 202, 403, 503}
        replies.append(await api.post(path, body))
    assert (await api.get(f"{path}?limit=1")).json["total"] == 50
    assert (await api.post(path, body)).status == 403


@pytest_twisted.ensureDeferred
async def test_expired_secrets_do_not_count_and_nulls_follow_the_configuration(api: Api) -> None:
    await set_quota(api, api.project, secrets=-1, orders=0)
    assert (await api.get("/v1/quotas")).json["quotas"] == {
        "secrets": -1,
        "orders": 0,
        "containers": -1,
        "consumers": -1,
        "cas": -1,
    }
    assert (
        await api.post("/v1/orders", {"type": "key", "meta": {"algorithm": "aes", "bit_length": 128}})
    ).status == 403
    assert (await api.get(f"/v1/project-quotas/{api.project}", roles=SERVICE_ADMIN)).json["project_quotas"] == {
        "secrets": -1,
        "orders": 0,
        "containers": None,
        "consumers": None,
        "cas": None,
    }


@pytest.mark.parametrize("quotas", [{"secrets": 2**31}, {"secrets": "5"}, {"secrets": True}, {"gold": 1}, []])
@pytest_twisted.ensureDeferred
async def test_quotas_that_make_no_sense_are_refused(api: Api, quotas: object) -> None:
    reply = await api.request(
        "PUT", f"/v1/project-quotas/{unique()}", json={"project_quotas": quotas}, roles=SERVICE_ADMIN
    )
    assert reply.status == 400


@pytest_twisted.ensureDeferred
async def test_a_project_id_that_is_too_long_is_refused(api: Api) -> None:
    reply = await api.request(
        "PUT", f"/v1/project-quotas/{'p' * 256}", json={"project_quotas": {}}, roles=SERVICE_ADMIN
    )
    assert reply.status == 400


@pytest_twisted.ensureDeferred
async def test_a_private_secret_is_for_its_creator_and_those_named(api: Api) -> None:
    ref = await api.store()
    reply = await api.request("PUT", f"{ref}/acl", json={"read": {"users": ["friend"], "project-access": False}})
    assert reply.status == 200
    elsewhere = api.of("elsewhere")
    for user, roles, client, status in (
        ("user", "creator", api, 200),
        ("colleague", "creator", api, 403),
        ("colleague", "observer", api, 403),
        ("friend", "nobody", elsewhere, 200),
        ("stranger", "admin", elsewhere, 403),
    ):
        assert (await client.get(f"{ref}/payload", user=user, roles=roles)).status == status, (user, roles)
    assert (await elsewhere.delete(ref, user="friend", roles="admin")).status == 403
    shared = (await elsewhere.get("/v1/secrets?acl_only=true", user="friend", roles="observer")).json
    assert [secret["secret_ref"] for secret in shared["secrets"]] == [ref] and shared["total"] == 1


@pytest_twisted.ensureDeferred
async def test_an_acl_write_moves_the_time_of_change_and_keeps_its_own_creation(api: Api) -> None:
    ref = await api.store()
    before = (await api.get(ref)).json["updated"]
    await api.request("PATCH", f"{ref}/acl", json={"read": {"users": ["a"]}})
    first = (await api.get(f"{ref}/acl")).json["read"]
    await api.request("PUT", f"{ref}/acl", json={"read": {"users": ["b", "a", "b"]}})
    second = (await api.get(f"{ref}/acl")).json["read"]
    assert (await api.get(ref)).json["updated"] > before
    assert second["users"] == ["a", "b"] and second["created"] == first["created"] < second["updated"]


@pytest_twisted.ensureDeferred
async def test_a_deleted_secret_leaves_its_containers(api: Api) -> None:
    first, second = [await api.store(), await api.store()]
    box = await container(api, first, second)
    assert (await api.delete(first)).status == 204
    assert (await api.get(box)).json["secret_refs"] == [{"name": "s1", "secret_ref": second}]
    assert (await api.delete(box)).status == 204
    assert (await api.get(second)).status == 200


@pytest_twisted.ensureDeferred
async def test_another_projects_admin_changes_nothing_of_a_container(api: Api) -> None:
    mine, box = await api.store(), await container(api)
    other = api.of("other")
    theirs = await other.store()
    assert (await other.post(f"{box}/secrets", {"name": "x", "secret_ref": theirs})).status == 403
    assert (await other.request("DELETE", f"{box}/secrets", json={"name": "x", "secret_ref": mine})).status == 403
    assert (await other.post(f"{box}/consumers", container_consumer())).status == 403
    assert (await other.request("DELETE", f"{box}/consumers", json=container_consumer())).status == 403
    assert (await api.post(f"{box}/secrets", {"name": "x", "secret_ref": theirs})).status == 404
    assert (await api.get(box)).json["secret_refs"] == []


@pytest_twisted.ensureDeferred
async def test_another_projects_user_does_nothing_with_metadata(api: Api) -> None:
    ref = await api.store()
    assert (await api.request("PUT", f"{ref}/metadata", json={"metadata": {"k": "v"}})).status == 201
    other = api.of("other")
    one = {"key": "k", "value": "stolen"}
    for method, path, body in (
        ("GET", "", None),
        ("GET", "/k", None),
        ("PUT", "", {"metadata": {}}),
        ("POST", "", one),
        ("PUT", "/k", one),
        ("DELETE", "/k", None),
    ):
        assert (await other.request(method, f"{ref}/metadata{path}", json=body)).status == 403, (method, path)
    assert (await api.get(f"{ref}/metadata")).json == {"metadata": {"k": "v"}}


@pytest.mark.parametrize("metadata", [{"a": "1", "A": "2"}, {"k\n": "v"}, {"k" * 256: "v"}, {"k": "v" * 256}, {"k": 1}])
@pytest_twisted.ensureDeferred
async def test_metadata_that_cannot_be_kept_is_refused_and_the_old_stays(api: Api, metadata: dict) -> None:
    ref = await api.store()
    await api.request("PUT", f"{ref}/metadata", json={"metadata": {"old": "one"}})
    assert (await api.request("PUT", f"{ref}/metadata", json={"metadata": metadata})).status == 400
    assert (await api.get(f"{ref}/metadata")).json == {"metadata": {"old": "one"}}


@pytest_twisted.ensureDeferred
async def test_malformed_consumers_are_the_clients_error(api: Api) -> None:
    ref, box = await api.store(), await container(api)
    for body in (
        {},
        [],
        {**consumer(), "service": ""},
        {**consumer(), "resource_id": "x" * 37},
        {**consumer(), "service": 5},
    ):
        assert (await api.post(f"{ref}/consumers", body)).status == 400, body
        assert (await api.post(f"{box}/consumers", body)).status == 400, body


@pytest_twisted.ensureDeferred
async def test_a_secret_in_use_needs_force_from_1_2_on(api: Api) -> None:
    ref = await api.store()
    await api.post(f"{ref}/consumers", consumer())
    latest = {"OpenStack-API-Version": "key-manager latest"}
    assert (await api.delete(ref, headers=latest)).status == 400
    assert (await api.delete(f"{ref}?force=maybe", headers=latest)).status == 400
    assert (await api.delete(f"{ref}?force=TRUE", headers=latest)).status == 204


@pytest_twisted.ensureDeferred
async def test_a_transport_key_lives_and_dies(api: Api) -> None:
    plugin = unique("plugin.")
    made = await api.post("/v1/transport_keys", {"plugin_name": plugin, "transport_key": "key"}, roles=SERVICE_ADMIN)
    ref = made.json["transport_key_ref"]
    key = (await api.get(ref)).json
    assert (key["plugin_name"], key["transport_key"], key["deleted"]) == (plugin, "key", False)
    assert (await api.get(f"/v1/transport_keys?plugin_name={plugin}")).json == {"transport_keys": [ref], "total": 1}
    body = {"payload": "x", "payload_content_type": "text/plain", "transport_key_id": ref.rpartition("/")[2]}
    assert (await api.post("/v1/secrets", body)).status == 400
    assert (await api.delete(ref, roles=SERVICE_ADMIN)).status == 204
    assert (await api.get(ref)).status == 404
    assert (await api.get(f"/v1/transport_keys?plugin_name={plugin}")).json["total"] == 0


@pytest_twisted.ensureDeferred
async def test_deep_paths_and_strange_ids_lead_nowhere(api: Api) -> None:
    ref, box = await api.store(), await container(api)
    for path in (
        f"{ref}/acl/read",
        f"{ref}/metadata/k/more",
        f"{ref}/consumers/x",
        f"{box}/acl/read",
        f"{box}/nosuch",
        f"{ref}/consumers/{uuid.uuid4()}",
        "/v1/quotas/x",
        "/v1/secret-stores/preferred/x",
        f"/v1/orders/{'o' * 4000}",
    ):
        assert (await api.get(path)).status == 404, path


@pytest_twisted.ensureDeferred
async def test_nul_is_kept_or_refused_but_never_an_error_of_ours(api: Api) -> None:
    ref, box = await api.store(name="a\0b", algorithm="\0"), await container(api, name="\0")
    assert (await api.get(ref)).json["name"] == "a\0b" and (await api.get(box)).json["name"] == "\0"
    assert (await api.get("/v1/secrets?name=a%00b")).json["total"] == 1
    for path, total in (
        ("secrets?secret_type=%00", 0),
        ("secrets?alg=%00", 1),
        ("orders?meta=%00", 0),
        ("containers?type=%00", 0),
        ("transport_keys?plugin_name=%00", 0),
    ):
        assert (await api.get(f"/v1/{path}")).json["total"] == total, path
    for path in ("/v1/orders/%00", "/v1/project-quotas/%00", f"{ref}/metadata/%00", f"{ref}%00"):
        assert (await api.get(path, roles=f"admin,{SERVICE_ADMIN}")).status == 400, path
    named = {"name": "x", "secret_ref": f"{api.url}/v1/secrets/\0"}
    assert (await api.post(f"{box}/secrets", named)).status == 404
    assert (await api.post("/v1/containers", {"type": "generic", "secret_refs": [named]})).status == 404
    key = {"plugin_name": "\0", "transport_key": "k"}
    assert (await api.post("/v1/transport_keys", key, roles=SERVICE_ADMIN)).status == 400
    for body in (consumer() | {"service": "\0"}, container_consumer() | {"name": "\0"}):
        where = ref if "service" in body else box
        assert (await api.post(f"{where}/consumers", body)).status == 200
    assert (await api.request("PUT", f"{ref}/acl", json={"read": {"users": ["\0"]}})).status == 200
    assert (await api.get(f"{ref}/acl")).json["read"]["users"] == ["\0"]
    order = await api.finished(await api.order(note="\0", name="\0"))
    assert order["status"] == "ACTIVE" and order["meta"]["note"] == "\0"
    assert "Traceback" not in api.process.read_log()
