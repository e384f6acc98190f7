"""Callers whom a real Keystone knows."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from cryptography.fernet import Fernet
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from barbtx.api.routes import V1_ROUTES
from tests.conftest import unique
from tests.support.certificates import authority, certificate
from tests.support.keystone import PASSWORD, Identity, Keystone
from tests.support.service import Api, Deployment, with_keystone


@attrs.define
class World:
    """Two projects, and people in them.

    :ivar tokens: by user: alice and a reader in project one, bob in project two; root is admin of project two.
    """

    one: str
    two: str
    name: str
    tokens: dict[str, str]


@pytest_twisted.async_fixture(scope="module")
async def world(service_user: None, identity: Identity) -> World:
    name = unique()
    one, two = await identity.project(f"{name}-one"), await identity.project(f"{name}-two")
    alice = await identity.user("alice", one, "member")
    await identity.grant(alice, "/domains/default", "member")
    await identity.user("rita", one, "reader")
    await identity.user("bob", two, "member")
    await identity.user("root", two, "admin")
    tokens = {
        user: await identity.token(user, project=f"{name}-{project}")
        for user, project in (("alice", "one"), ("rita", "one"), ("bob", "two"), ("root", "two"))
    }
    return World(one, two, name, tokens)


@pytest.fixture(scope="module")
def deployment(keystone: Keystone, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = with_keystone(
        tmp_path_factory.mktemp("keystone"),
        keystone.url,
        **{"keystone_authtoken.www_authenticate_uri": "http://keystone.example/v3"},
    )
    yield deployment
    deployment.stop()


@pytest.fixture(scope="module")
def api(deployment: Deployment) -> Api:
    return deployment.api()


def refused(reply: Any) -> None:
    assert reply.status == 401, reply
    assert reply.headers["www-authenticate"] == 'Keystone uri="http://keystone.example/v3"'
    assert reply.json["error"]["code"] == reply.json["code"] == 401
    assert reply.json["error"]["title"] == reply.json["title"] == "Unauthorized"
    assert reply.json["error"]["message"] == reply.json["description"]


@pytest_twisted.ensureDeferred
async def test_roles_and_projects_are_the_token_s(api: Api, world: World) -> None:
    ref = await api.by(world.tokens["alice"]).store("alice's")
    assert (
        await api.by(world.tokens["alice"]).get(f"{ref}/payload", headers={"Accept": "text/plain"})
    ).content == b"alice's"
    assert (await api.by(world.tokens["rita"]).get(ref)).status == 403
    assert (await api.by(world.tokens["bob"]).get(ref)).status == 403
    assert (await api.by(world.tokens["rita"]).post("/v1/secrets", {})).status == 403
    found = (await api.by(world.tokens["alice"]).get(ref)).json
    assert found["creator_id"] and (await api.by(world.tokens["bob"]).get("/v1/secrets")).json["secrets"] == []


@pytest_twisted.ensureDeferred
async def test_without_a_good_token_nothing_is_answered(api: Api, world: World, identity: Identity) -> None:
    good = world.tokens["alice"]
    revoked = await identity.token("alice", project=f"{world.name}-one")
    await identity.call("DELETE", "/auth/tokens", token=revoked, **{"X-Subject-Token": revoked})
    domain = {"domain": {"id": "default"}}
    bad = {
        "none": None,
        "forged": "gAAAAAB" + "x" * 150,
        "truncated": good[:-10],
        "changed": good[:-2] + "zz",
        "huge": "a" * 9000,
        "odd": "a b\tc",
        "revoked": revoked,
        "unscoped": await identity.token("alice"),
        "domain": await identity.token("alice", **domain),
        "system": await identity.token("admin", system={"all": True}),
    }
    for what, token in bad.items():
        for method, path in (("GET", "/v1/secrets"), ("POST", "/v1/secrets"), ("GET", "/v1"), ("GET", "/v1/nothing")):
            reply = await api.by(token).request(method, path, json={"name": what} if method == "POST" else None)
            refused(reply)
    assert (await api.by(good).get("/v1/secrets?name=none")).json["total"] == 0


@pytest_twisted.ensureDeferred
async def test_a_token_given_twice_is_none(api: Api, world: World) -> None:
    import treq

    for header in ("X-Auth-Token", "X-Service-Token"):
        headers = {"X-Auth-Token": [world.tokens["alice"]], "X-Service-Token": []}
        headers[header] = [world.tokens["alice"], world.tokens["alice"]]
        reply = await treq.get(f"{api.url}/v1/secrets", headers=headers)
        assert reply.code == 401
        await treq.content(reply)


@pytest_twisted.ensureDeferred
async def test_an_expired_token_is_refused_unless_a_service_brings_it(
    api: Api, world: World, identity: Identity
) -> None:
    short = identity.keystone.twin(expiration=1)
    short.start()
    try:
        token = await identity.token("alice", project=f"{world.name}-one", keystone=short)
        service = await identity.token("barbtx", project="service")
        await pause(1.2)
        refused(await api.by(token).get("/v1/secrets"))
        brought = await api.by(token).get("/v1/secrets", headers={"X-Service-Token": service})
        assert brought.status == 200, brought
        refused(await api.by(token).get("/v1/secrets", headers={"X-Service-Token": world.tokens["bob"]}))
        refused(await api.by(token).get("/v1/secrets", headers={"X-Service-Token": "none"}))
        refused(await api.by(token).get("/v1/secrets"))
    finally:
        short.process.kill()


async def pause(seconds: float) -> None:
    """Tokens expire by the real clock of another process; there is nothing to wait for but time."""
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    await deferLater(reactor, seconds, lambda: None)


@pytest_twisted.ensureDeferred
async def test_identity_headers_of_clients_count_for_nothing(api: Api, world: World) -> None:
    ref = await api.by(world.tokens["alice"]).store()
    forged = {
        "X-Project-Id": world.one,
        "X-Roles": "admin,member",
        "X-User-Id": "alice",
        "X-Identity-Status": "Confirmed",
        "X-Service-Roles": "service",
        "X-Is-Admin-Project": "True",
    }
    for user in ("bob", None):
        reply = await api.by(user and world.tokens[user]).get(f"{ref}/payload", headers=forged)
        assert reply.status == (403 if user else 401)
    stored = await api.by(world.tokens["bob"]).post("/v1/secrets", {"name": "smuggled"}, headers=forged)
    assert stored.status == 201
    assert (await api.by(world.tokens["alice"]).get("/v1/secrets?name=smuggled")).json["total"] == 0


@pytest_twisted.ensureDeferred
async def test_every_route_asks_for_a_token(api: Api) -> None:
    for route in V1_ROUTES:
        path = "/".join("x" if segment.startswith("<") else segment for segment in route.split("/"))
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "PURGE"):
            reply = await api.by(None).request(method, path)
            assert reply.status == 401, (method, path)
    for path, status in (("/", 300), ("/healthcheck", 200), ("/openapi.json", 200)):
        assert (await api.by(None).get(path)).status == status


@pytest_twisted.ensureDeferred
async def test_one_token_costs_one_validation(
    deployment: Deployment, world: World, keystone: Keystone, identity: Identity
) -> None:
    api = deployment.api()
    token = await identity.token("alice", project=f"{world.name}-one")
    before = keystone.validations()
    replies = await gatherResults([as_deferred(api.by(token).get("/v1/secrets?limit=1")) for _ in range(100)])
    assert {reply.status for reply in replies} == {200} and keystone.validations() - before == 1
    for _ in range(9):
        replies = await gatherResults([as_deferred(api.by(token).get("/v1/secrets?limit=1")) for _ in range(100)])
        assert {reply.status for reply in replies} == {200}
    assert keystone.validations() - before == 1
    for _ in range(10):
        refused(await api.by("forged").get("/v1/secrets"))
    assert keystone.validations() - before == 1, "that is no token to look at"
    forged = Fernet(Fernet.generate_key()).encrypt(b"x" * 40).decode()
    for _ in range(10):
        refused(await api.by(forged).get("/v1/secrets"))
    assert keystone.validations() - before == 2
    api.process.stop()


def as_deferred(coroutine: Any) -> Any:
    from twisted.internet.defer import Deferred

    return Deferred.fromCoroutine(coroutine)


@pytest_twisted.ensureDeferred
async def test_while_keystone_is_down_known_tokens_work_and_others_wait(
    deployment: Deployment, world: World, identity: Identity
) -> None:
    twin = identity.keystone.twin()
    twin.start()
    api = deployment.api(
        **{
            "keystone_authtoken.auth_url": twin.url,
            "keystone_authtoken.http_request_timeout": 2,
            "keystone_authtoken.http_request_max_retries": 1,
            "keystone_authtoken.circuit_seconds": 1,
            "keystone_authtoken.circuit_failures": 1,
        }
    )
    known, new = world.tokens["alice"], await identity.token("alice", project=f"{world.name}-one", keystone=twin)
    try:
        assert (await api.by(known).get("/v1/secrets")).status == 200
        twin.signal(signal.SIGSTOP)
        reply = await api.by(new).get("/v1/secrets")
        assert reply.status == 503 and int(reply.headers["retry-after"]) >= 1
        assert (await api.by(known).get("/v1/secrets")).status == 200
        assert (await api.by(new).get("/v1/secrets")).status == 503
        twin.signal(signal.SIGCONT)
        await pause(1.1)
        assert (await api.by(new).get("/v1/secrets")).status == 200
        twin.kill()
        reply = await api.by(world.tokens["bob"]).get("/v1/secrets")
        assert reply.status == 503 and "retry-after" in reply.headers
        assert (await api.get("/healthcheck")).status == 200
    finally:
        twin.process.kill()
        api.process.stop()


@pytest_twisted.ensureDeferred
async def test_an_application_credential_over_tls(
    deployment: Deployment, world: World, identity: Identity, tmp_path: Path
) -> None:
    ca = authority(tmp_path, "ca")
    twin = identity.keystone.twin(tls=certificate(tmp_path, ca, "127.0.0.1"))
    twin.start()
    token = await identity.token("barbtx", project="service")
    user = (await identity.call("GET", "/auth/tokens", token=token, **{"X-Subject-Token": token}))[1]["token"]["user"][
        "id"
    ]
    _, made = await identity.call(
        "POST",
        f"/users/{user}/application_credentials",
        {"application_credential": {"name": unique(), "secret": "of the credential"}},
        token,
    )
    settings = {
        "keystone_authtoken.auth_url": twin.url,
        "keystone_authtoken.auth_type": "v3applicationcredential",
        "keystone_authtoken.application_credential_id": made["application_credential"]["id"],
        "keystone_authtoken.application_credential_secret": "of the credential",
        "keystone_authtoken.http_request_max_retries": 0,
    }
    try:
        trusting = deployment.api(**settings, **{"keystone_authtoken.cafile": ca.path})
        assert (await trusting.by(world.tokens["alice"]).get("/v1/secrets")).status == 200
        trusting.process.stop()
        other = authority(tmp_path, "other")
        wary = deployment.api(**settings, **{"keystone_authtoken.cafile": other.path})
        assert (await wary.by(world.tokens["alice"]).get("/v1/secrets")).status == 503
        wary.process.stop()
    finally:
        twin.process.kill()


@pytest_twisted.ensureDeferred
async def test_a_wrong_password_of_its_own_is_said_in_the_log_and_nowhere_else(
    deployment: Deployment, world: World
) -> None:
    api = deployment.api(**{"keystone_authtoken.password": "mistaken", "keystone_authtoken.circuit_seconds": 60})
    for _ in range(3):
        reply = await api.by(world.tokens["alice"]).get("/v1/secrets")
        assert reply.status == 503 and "mistaken" not in reply.content.decode()
    log = api.process.read_log()
    # Each refused request names the cause; what to do about it is said once.
    assert (
        log.count("Keystone refuses to authenticate barbtx itself: it responds with 401") == 1 and "mistaken" not in log
    )
    api.process.stop()


@pytest_twisted.ensureDeferred
async def test_neither_tokens_nor_passwords_are_logged(deployment: Deployment, api: Api, world: World) -> None:
    assert (await api.by(world.tokens["alice"]).get("/v1/secrets")).status == 200
    logs = "".join(process.read_log() for process in deployment.processes)
    assert "/v1/secrets" in logs and PASSWORD not in logs
    assert not any(token in logs for token in world.tokens.values())


@pytest_twisted.ensureDeferred
async def test_policy_is_read_again_on_sighup_and_refused_whole(
    deployment: Deployment, world: World, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("{}")
    api = deployment.api(**{"oslo_policy.policy_file": policy, "policy.reload_seconds": 0})
    rita = api.by(world.tokens["rita"])

    async def after(text: str, line: str) -> int:
        seen = api.process.read_log().count(line)
        policy.write_text(text)
        api.process.process.send_signal(signal.SIGHUP)
        while api.process.read_log().count(line) == seen:
            await pause(0.02)
        return (await rita.get("/v1/secrets")).status

    assert (await rita.get("/v1/secrets")).status == 403
    assert await after('"secrets:get": "role:reader"', "the policy was reloaded") == 200
    assert await after('"secrets:get": "!"\n"secrets:post": "role:a or or"', "the policy was refused") == 200
    assert await after('"secrets:get": "!"', "the policy was reloaded") == 403
    api.process.stop()


@pytest_twisted.ensureDeferred
async def test_a_changed_policy_file_is_noticed(deployment: Deployment, world: World, tmp_path: Path) -> None:
    (tmp_path / "policy.d").mkdir()
    (tmp_path / "policy.d" / "none.yaml").write_text("{}")
    api = deployment.api(**{"oslo_policy.policy_dirs": tmp_path / "policy.d", "policy.reload_seconds": 0.2})
    rita = api.by(world.tokens["rita"])
    assert (await rita.get("/v1/secrets")).status == 403
    (tmp_path / "policy.d" / "readers.yaml").write_text('"secrets:get": "role:reader"')
    while (await rita.get("/v1/secrets")).status != 200:
        await pause(0.05)
    api.process.stop()


@pytest_twisted.ensureDeferred
async def test_nobody_may_pass_only_if_that_is_configured(deployment: Deployment) -> None:
    api = deployment.api(allow_anonymous_access="true", **{"keystone_authtoken.delay_auth_decision": "true"})
    assert (await api.by(None).get("/v1")).status == 200
    for path in ("/v1/secrets", "/v1/orders", "/v1/containers", "/v1/quotas"):
        assert (await api.by("forged").get(path)).status == 403
    assert (await api.by(None).post("/v1/secrets", {})).status == 403
    api.process.stop()


@pytest.mark.parametrize("missing", ["auth_url", "password", "username", "project_name", "cafile"])
def test_an_incomplete_configuration_stops_the_start(keystone: Keystone, tmp_path: Path, missing: str) -> None:
    deployment = with_keystone(tmp_path, keystone.url)
    if missing == "cafile":
        deployment.settings["keystone_authtoken.cafile"] = tmp_path / "absent.pem"
    else:
        del deployment.settings[f"keystone_authtoken.{missing}"]
    with pytest.raises(RuntimeError, match=rf"barbtx: \[keystone_authtoken\] .*{missing}"):
        deployment.api()


class _Endless(Resource):
    """Something that listens where Keystone should, and never ends its answers. No Keystone does that when asked to."""

    isLeaf = True

    def __init__(self, flood: bool) -> None:
        super().__init__()
        self.flood, self.left, self.begun = flood, 0, 0

    def render(self, request: Any) -> int:
        self.begun += 1
        request.notifyFinish().addErrback(lambda _: setattr(self, "left", self.left + 1))
        request.write(b"{" + b" " * (3 << 20 if self.flood else 10))
        return NOT_DONE_YET


@pytest.mark.parametrize("flood", [True, False])
@pytest_twisted.ensureDeferred
async def test_an_answer_without_an_end_is_given_up_with_its_connection(tmp_path: Path, flood: bool) -> None:
    from twisted.internet import reactor

    endless = _Endless(flood)
    port = reactor.listenTCP(0, Site(endless), interface="127.0.0.1")
    deployment = with_keystone(
        tmp_path,
        f"http://127.0.0.1:{port.getHost().port}",
        **{"keystone_authtoken.http_request_timeout": 0.5, "keystone_authtoken.http_request_max_retries": 1},
    )
    try:
        api = await deferToThread(deployment.api)
        reply = await api.by("a-token").get("/v1/secrets")
        assert reply.status == 503, reply
        while endless.left < 2:
            await pause(0.05)
        assert endless.begun == 2
    finally:
        deployment.stop()
        await port.stopListening()


class _Proxy(Resource):
    """A proxy before a Keystone that has its own words for what it does not pass on. It counts what it was asked."""

    isLeaf = True

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status, self.logins = status, 0

    def render(self, request: Any) -> bytes:
        if request.method == b"POST":
            self.logins += 1
            request.setResponseCode(201)
            request.setHeader(b"x-subject-token", b"our-own")
            return b'{"token": {"expires_at": "2099-01-01T00:00:00Z"}}'
        if request.getHeader(b"x-subject-token") != b"good":
            request.setResponseCode(self.status)
            return b"<html>no</html>"
        return json.dumps(
            {
                "token": {
                    "user": {"id": "u", "domain": {"id": "d"}},
                    "project": {"id": "p", "domain": {"id": "d"}},
                    "roles": [{"name": "member"}],
                    "expires_at": "2099-01-01T00:00:00Z",
                }
            }
        ).encode()


@pytest.mark.parametrize("status", [400, 404, 413, 414, 431])
@pytest_twisted.ensureDeferred
async def test_odd_tokens_do_not_keep_good_ones_out(tmp_path: Path, status: int) -> None:
    from twisted.internet import reactor

    proxy = _Proxy(status)
    port = reactor.listenTCP(0, Site(proxy), interface="127.0.0.1")
    deployment = with_keystone(tmp_path, f"http://127.0.0.1:{port.getHost().port}")
    try:
        api = await deferToThread(deployment.api)
        for n in range(5):
            assert (await api.by("x" * 4000 + str(n)).get("/v1/secrets")).status == 401
        assert (await api.by("good").get("/v1/secrets")).status == 200
        assert proxy.logins == 1
    finally:
        deployment.stop()
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_who_waits_for_a_turn_is_told_as_soon_as_it_is_known_that_there_is_no_answer(tmp_path: Path) -> None:
    from twisted.internet import reactor

    port = reactor.listenTCP(0, Site(_Endless(False)), interface="127.0.0.1")
    deployment = with_keystone(
        tmp_path,
        f"http://127.0.0.1:{port.getHost().port}",
        **{
            "keystone_authtoken.http_request_timeout": 0.5,
            "keystone_authtoken.http_request_max_retries": 0,
            "keystone_authtoken.max_requests": 1,
            "keystone_authtoken.circuit_failures": 1,
            "keystone_authtoken.circuit_seconds": 60,
        },
    )
    try:
        api = await deferToThread(deployment.api)
        begin = reactor.seconds()
        replies = await gatherResults([as_deferred(api.by(f"t{n}").get("/v1/secrets")) for n in range(20)])
        assert {reply.status for reply in replies} == {503} and reactor.seconds() - begin < 5
    finally:
        deployment.stop()
        await port.stopListening()
