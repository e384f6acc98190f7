"""Published authorization flaws of key managers, and tricks with paths, queries and bodies: none of them works here."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from hypothesis import strategies as st
from twisted.internet.threads import deferToThread

from barbtx.api.routes import V1_ROUTES
from barbtx.identity.policy import list_rules
from tests.conftest import unique
from tests.support.exploring import explore
from tests.support.logs import logged
from tests.support.service import Api, Deployment, Reply

ROLES = ("admin", "member", "reader", "creator", "observer", "audit", "key-manager:service-admin", "nobody")
CONSUMER = {"service": "s", "resource_type": "t", "resource_id": "r"}


@attrs.frozen
class Victim:
    """What project A has.

    :ivar api: a client of project A.
    """

    api: Api
    secret: str
    container: str

    async def state(self) -> list[object]:
        """Everything that others could have changed."""
        parts = []
        for path in ("{s}/metadata", "{s}/consumers", "{s}/acl", "{s}", "{c}", "{c}/consumers", "{c}/acl"):
            reply = await self.api.get(path.format(s=self.secret, c=self.container), roles="admin,member,creator")
            assert reply.status == 200, (path, reply)
            parts.append(reply.json)
        return parts


@pytest.fixture(scope="module", params=["new defaults", "legacy defaults"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    directory = tmp_path_factory.mktemp("authorization")
    deployment = Deployment(
        directory,
        f"sqlite:///{directory}/barbtx.sqlite",
        **{"oslo_policy.enforce_new_defaults": str(request.param == "new defaults")},
    )
    yield deployment.api()
    deployment.stop()


async def victim(api: Api, private: bool) -> Victim:
    """A secret with metadata in a container, each with a consumer, perhaps private."""
    roles = {"roles": "admin,member,creator"}
    mine = api.of(unique("a"))
    made = await mine.post("/v1/secrets", {"payload": "marker-payload", "payload_content_type": "text/plain"}, **roles)
    secret = made.json["secret_ref"]
    container = (
        await mine.post(
            "/v1/containers", {"type": "generic", "secret_refs": [{"name": "s", "secret_ref": secret}]}, **roles
        )
    ).json["container_ref"]
    await mine.request("PUT", f"{secret}/metadata", json={"metadata": {"key": "value"}}, **roles)
    await mine.post(f"{secret}/consumers", CONSUMER, **roles)
    await mine.post(f"{container}/consumers", {"name": "n", "URL": "http://u"}, **roles)
    if private:
        for ref in (secret, container):
            await mine.request("PUT", f"{ref}/acl", json={"read": {"project-access": False}}, **roles)
    return Victim(mine, secret, container)


@pytest_twisted.async_fixture(scope="module")
async def victims(api: Api) -> dict[bool, Victim]:
    return {private: await victim(api, private) for private in (False, True)}


SOMEBODY = st.fixed_dictionaries(
    {
        "roles": st.sets(st.sampled_from(ROLES), min_size=1).map(",".join),
        "user": st.sampled_from(["user", "other", None]),
    }
)


def _request(api: Api, method: str, path: str, somebody: dict[str, Any], document: object = None) -> Any:
    return lambda: api.request(method, path, **somebody, **({} if document is None else {"json": document}))


def _metadata(theirs: Victim, stranger: Api, somebody: dict[str, Any]) -> list[Any]:
    path, one = f"{theirs.secret}/metadata", {"key": "key", "value": "changed"}
    return [
        _request(stranger, "GET", path, somebody),
        _request(stranger, "GET", f"{path}/key", somebody),
        _request(stranger, "POST", path, somebody, {"key": "new", "value": "x"}),
        _request(stranger, "PUT", path, somebody, {"metadata": {"other": "x"}}),
        _request(stranger, "PUT", f"{path}/key", somebody, one),
        _request(stranger, "DELETE", f"{path}/key", somebody),
    ]


def _container_secrets(theirs: Victim, stranger: Api, somebody: dict[str, Any]) -> list[Any]:
    path, entry = f"{theirs.container}/secrets", {"name": "s", "secret_ref": theirs.secret}
    return [_request(stranger, method, path, somebody, entry) for method in ("POST", "DELETE")]


def _consumers(theirs: Victim, stranger: Api, somebody: dict[str, Any]) -> list[Any]:
    made = []
    for ref, consumer in ((theirs.secret, CONSUMER), (theirs.container, {"name": "n", "URL": "http://u"})):
        made += [
            _request(stranger, "GET", f"{ref}/consumers", somebody),
            _request(stranger, "POST", f"{ref}/consumers", somebody, consumer),
            _request(stranger, "DELETE", f"{ref}/consumers", somebody, consumer),
        ]
    return made


def _acls(theirs: Victim, stranger: Api, somebody: dict[str, Any]) -> list[Any]:
    return [
        _request(
            stranger,
            method,
            f"{ref}/acl",
            somebody,
            None if method in ("GET", "DELETE") else {"read": {"users": ["user", "other"]}},
        )
        for ref in (theirs.secret, theirs.container)
        for method in ("GET", "PUT", "PATCH", "DELETE")
    ]


def _payload(theirs: Victim, stranger: Api, somebody: dict[str, Any]) -> list[Any]:
    headers = {"headers": {"Accept": "text/plain"}}
    return [
        _request(stranger, "GET", f"{theirs.secret}/payload", somebody | headers),
        _request(stranger, "GET", theirs.secret, somebody | headers),
        lambda: stranger.request("PUT", theirs.secret, data=b"x", **somebody, headers={"Content-Type": "text/plain"}),
        _request(stranger, "DELETE", theirs.container, somebody),
    ]


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(_metadata, id="CVE-2022-23451 metadata"),
        pytest.param(_container_secrets, id="CVE-2022-23452 secrets of a container"),
        pytest.param(_consumers, id="consumers"),
        pytest.param(_acls, id="ACLs"),
        pytest.param(_payload, id="payloads"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_strangers_are_refused_and_change_nothing(
    api: Api, victims: dict[bool, Victim], what: Callable[[Victim, Api, dict[str, Any]], list[Any]]
) -> None:
    async def check(somebody: dict[str, Any], private: bool, choice: int) -> None:
        theirs = victims[private]
        before = await theirs.state()
        requests = what(theirs, api.of("stranger"), somebody)
        reply = await requests[choice % len(requests)]()
        assert reply.status in (403, 404), reply
        assert "marker-payload" not in reply.content.decode()
        assert await theirs.state() == before

    await explore(check, somebody=SOMEBODY, private=st.booleans(), choice=st.integers(0, 100))


FORGED = st.sampled_from(
    [
        "target.secret.project_id",
        "target.secret.creator_id",
        "target.secret.read",
        "target.secret.read_project_access",
        "target.container.project_id",
        "project_id",
        "user_id",
        "roles",
        "enforce_new_defaults",
        "creator_id",
        "external_project_id",
        "is_admin",
        "context",
        "rule",
        "target",
    ]
)
VALUES = st.sampled_from(["stranger", "user", "read", "True", "true", "admin", "@"])


@pytest_twisted.ensureDeferred
async def test_cve_2022_3100_neither_query_nor_body_has_a_say_in_the_decision(
    api: Api, victims: dict[bool, Victim]
) -> None:
    async def check(
        query: dict[str, str], body: dict[str, str], somebody: dict[str, Any], private: bool, method: str, path: str
    ) -> None:
        theirs = victims[private]
        # An admin of any project may read a secret's metadata and delete it, by the shipped rules.
        if path == "{s}" and "admin" in somebody["roles"] and method in ("GET", "DELETE"):
            return
        where = path.format(s=theirs.secret, c=theirs.container)
        before = await theirs.state()
        plain = await api.of("stranger").request(method, where, json=body or None, **somebody)
        forged = await api.of("stranger").request(method, where, json=body or None, params=query, **somebody)
        assert forged.status == plain.status and forged.status in (403, 404, 405), (plain, forged)
        assert await theirs.state() == before

    await explore(
        check,
        query=st.dictionaries(FORGED, VALUES, min_size=1),
        body=st.dictionaries(FORGED, VALUES),
        somebody=SOMEBODY,
        private=st.booleans(),
        method=st.sampled_from(["GET", "PUT", "POST", "DELETE"]),
        path=st.sampled_from(["{s}", "{s}/payload", "{s}/metadata", "{s}/acl", "{c}", "{c}/secrets", "{c}/consumers"]),
    )


@pytest.mark.parametrize("body", [[], "text", 1, {}, {"name": 1}, {"name": {}, "URL": []}, {"service": None}])
@pytest_twisted.ensureDeferred
async def test_malformed_consumers_are_refused(api: Api, body: object) -> None:
    mine = await victim(api, False)
    for ref in (mine.secret, mine.container):
        for method in ("POST", "DELETE"):
            reply = await mine.api.request(method, f"{ref}/consumers", json=body, roles="member,creator,admin")
            assert reply.status == 400, reply


@pytest_twisted.ensureDeferred
async def test_a_container_cannot_take_in_a_secret_of_another_project(api: Api, victims: dict[bool, Victim]) -> None:
    stranger, roles = api.of(unique("b")), {"roles": "admin,member,creator"}
    entry = {"name": "s", "secret_ref": victims[False].secret}
    assert (await stranger.post("/v1/containers", {"type": "generic", "secret_refs": [entry]}, **roles)).status in (
        403,
        404,
    )
    made = (await stranger.post("/v1/containers", {"type": "generic"}, **roles)).json["container_ref"]
    assert (await stranger.post(f"{made}/secrets", entry, **roles)).status in (403, 404)
    assert (await stranger.get(made, **roles)).json["secret_refs"] == []


@pytest_twisted.ensureDeferred
async def test_tricks_with_the_path_change_no_decision(api: Api, victims: dict[bool, Victim]) -> None:
    secret_id = victims[False].secret.rpartition("/")[2]
    tricks = [
        "/v1/secrets/{id}/payload",
        "/v1/secrets/{id}/payload/",
        "/v1//secrets//{id}//payload",
        "//v1/secrets/{id}/payload",
        "/v1/secrets/{id}%2Fpayload",
        "/v1/secrets%2f{id}/payload",
        "/v1/secrets/x/%2e%2e/{id}/payload",
        "/v1/secrets/../secrets/{id}/payload",
        "/v1/secrets/{id};x/payload",
        "/v1/secrets/{id}/payload;x",
        "/v1/secrets/{ID}/payload",
        "/v1/secrets/{id}.json/payload",
        "/v1/secrets/{id}/payload.json",
        "/V1/secrets/{id}/payload",
        "/v1/secrets/{id}%00/payload",
        "/v1/secrets/{id}/./payload",
        "/v1/secrets/{id}/payload%20",
        "/healthcheck/../v1/secrets/{id}/payload",
        "/v1/secrets/%7B{id}%7D/payload",
        "/openapi.json/../v1/secrets/{id}/payload",
    ]
    for trick in tricks:
        path = trick.format(id=secret_id, ID=secret_id.upper())
        status, body = await raw(
            api.url,
            path,
            {"X-Project-Id": "stranger", "X-User-Id": "user", "X-Roles": "reader", "Accept": "text/plain"},
        )
        assert status in (400, 403, 404), (trick, status)
        assert b"marker-payload" not in body
        if (
            secret_id in path
            and path.replace("//", "/").rstrip("/").endswith(f"/v1/secrets/{secret_id}/payload")
            and ".." not in path
        ):
            assert status == 403, trick


async def raw(url: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """A request whose path no client library has tidied up."""
    import socket

    host, _, port = url.removeprefix("http://").partition(":")

    def exchange() -> bytes:
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            lines = [
                f"GET {path} HTTP/1.1",
                f"Host: {host}",
                "Connection: close",
                *(f"{name}: {value}" for name, value in headers.items()),
                "",
                "",
            ]
            connection.sendall("\r\n".join(lines).encode())
            return b"".join(iter(lambda: connection.recv(65536), b""))

    answer = await deferToThread(exchange)
    return int(answer.split(b" ", 2)[1]), answer


@pytest_twisted.ensureDeferred
async def test_a_refused_request_is_not_in_the_log(api: Api) -> None:
    marker = f"marker-{uuid.uuid4()}"
    body = {"name": "x", "payload": marker, "payload_content_type": "text/plain"}
    for roles, document, status in (
        ("nobody", body, 403),
        ("admin,member", body | {"expiration": "yesterday"}, 400),
        ("admin,member", body | {"payload_content_type": "no/such"}, 400),
    ):
        reply = await api.post("/v1/secrets", document, roles=roles)
        assert reply.status == status
        await logged(api.process, reply.headers["x-openstack-request-id"])
    assert marker not in api.process.read_log()


@pytest_twisted.ensureDeferred
async def test_no_route_is_outside_the_policy(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, f"sqlite:///{tmp_path}/barbtx.sqlite")
    api = deployment.api()
    mine = await victim(api, False)
    order = await mine.api.order()
    key = (
        await mine.api.post(
            "/v1/transport_keys", {"plugin_name": "p", "transport_key": "k"}, roles="key-manager:service-admin"
        )
    ).json["transport_key_ref"]
    (tmp_path / "policy.yaml").write_text("".join(f'"{rule.name}": "!"\n' for rule in list_rules()))
    closed = deployment.api(**{"oslo_policy.policy_file": tmp_path / "policy.yaml"}).of(mine.api.project)
    ids = {"secret_id": mine.secret, "container_id": mine.container, "order_id": order, "key_id": key, "key": "x/key"}
    before = await mine.state()
    for route in V1_ROUTES:
        path = "/".join(
            ids.get(segment[1:-1], "x/00000000-0000-4000-8000-000000000000").rpartition("/")[2]
            if segment.startswith("<")
            else segment
            for segment in route.split("/")
        )
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            reply: Reply = await closed.request(
                method, path, json={} if method != "GET" else None, roles=",".join(ROLES)
            )
            expected = (403, 404, 405) if (route, method) != ("/v1", "GET") else (200,)
            assert reply.status in expected, (method, path, reply)
    assert await mine.state() == before
    deployment.stop()
