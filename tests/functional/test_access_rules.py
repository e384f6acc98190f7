"""Application credentials that are limited to some requests, as a real Keystone gives them out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted

from tests.conftest import unique
from tests.support.keystone import Identity, Keystone
from tests.support.service import Api, Deployment, with_keystone

READ = {"service": "key-manager", "method": "GET", "path": "/v1/secrets/**"}
STORE = {"service": "key-manager", "method": "POST", "path": "/v1/secrets"}


@pytest.fixture(scope="module")
def deployment(
    keystone: Keystone, service_user: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    deployment = with_keystone(tmp_path_factory.mktemp("rules"), keystone.url)
    yield deployment
    deployment.stop()


@pytest.fixture(scope="module")
def api(deployment: Deployment) -> Api:
    return deployment.api()


class Owner:
    """A user who makes application credentials for a project of theirs."""

    def __init__(self, identity: Identity) -> None:
        self.identity, self.name = identity, unique()

    async def arrive(self) -> Owner:
        project = await self.identity.project(self.name)
        self.id = await self.identity.user(self.name, project, "member")
        self.token = await self.identity.token(self.name, project=self.name)
        return self

    async def limited(self, *access_rules: dict[str, str]) -> str:
        """A token of an application credential with access rules."""
        document: dict[str, Any] = {"name": unique(), "secret": "a secret"}
        if access_rules:
            document["access_rules"] = list(access_rules)
        _, made = await self.identity.call(
            "POST", f"/users/{self.id}/application_credentials", {"application_credential": document}, self.token
        )
        credential = {"id": made["application_credential"]["id"], "secret": "a secret"}
        response, _ = await self.identity.call(
            "POST",
            "/auth/tokens",
            {"auth": {"identity": {"methods": ["application_credential"], "application_credential": credential}}},
        )
        return response.headers.getRawHeaders("x-subject-token")[0]


@pytest_twisted.async_fixture(scope="module")
async def owner(identity: Identity, service_user: None) -> Owner:
    return await Owner(identity).arrive()


async def status(api: Api, method: str, path: str, **arguments: Any) -> int:
    return (await api.request(method, path, **arguments)).status


@pytest_twisted.ensureDeferred
async def test_a_limited_credential_does_what_its_rules_say_and_nothing_else(api: Api, owner: Owner) -> None:
    ref = await api.by(owner.token).store("kept")
    path = ref.removeprefix(api.url)
    limited = api.by(await owner.limited(READ, STORE))
    assert (await limited.get(f"{path}/payload", headers={"Accept": "text/plain"})).content == b"kept"
    assert await status(limited, "GET", path) == 200
    await limited.store("stored by it")
    secret_id = path.rpartition("/")[2]
    for method, refused in (
        ("DELETE", path),
        ("PUT", path),
        ("HEAD", path),
        ("GET", "/v1/secrets"),
        ("GET", "/v1/secrets/"),
        ("GET", "/v1//secrets"),
        ("GET", "/v1/secrets?name=x"),
        ("GET", "/v1/orders"),
        ("POST", "/v1/orders"),
        ("POST", f"{path}/metadata"),
        ("GET", "/v1"),
        ("GET", f"/v1/secrets%2F{secret_id}"),
    ):
        assert await status(limited, method, refused) in (401, 400), (method, refused)
    # Other spellings of an allowed resource are allowed as it is.
    for spelling in (f"/v1//secrets/{secret_id}/", f"/v1/%73ecrets/{secret_id}", f"{path}/index", f"{path}.json"):
        assert await status(limited, "GET", spelling) == 200, spelling
    reply = await limited.delete(path)
    assert reply.status == 401 and "www-authenticate" in reply.headers
    assert await status(api.by(owner.token), "GET", path) == 200


@pytest.mark.parametrize(
    "spelling",
    [
        "/v1/secrets/{id}/",
        "/v1//secrets/{id}",
        "/v1/secrets/{id}/index",
        "/v1/secrets/{id}.json",
        "/v1/%73ecrets/{id}",
        "//v1/secrets//{id}//",
    ],
)
@pytest_twisted.ensureDeferred
async def test_no_spelling_of_a_path_goes_around_a_rule(api: Api, owner: Owner, spelling: str) -> None:
    path = (await api.by(owner.token).store()).removeprefix(api.url)
    # Rules that name the spelling's text, but not the resource that it leads to.
    spelt = spelling.format(id=path.rpartition("/")[2])
    limited = api.by(
        await owner.limited(
            *({**READ, "path": path} for path in ("/v1/secrets/*/index", "/v1/secrets/*.json", "/v1/%73ecrets/*"))
        )
    )
    assert await status(limited, "GET", spelt) == 401


@pytest_twisted.ensureDeferred
async def test_rules_of_other_services_count_for_nothing_here(api: Api, owner: Owner) -> None:
    limited = api.by(await owner.limited({"service": "compute", "method": "GET", "path": "/**"}))
    assert await status(limited, "GET", "/v1/secrets") == 401
    unlimited = api.by(await owner.limited())
    assert await status(unlimited, "GET", "/v1/secrets") == 200


@pytest_twisted.ensureDeferred
async def test_rules_are_part_of_what_is_remembered_of_a_token(api: Api, owner: Owner) -> None:
    limited = api.by(await owner.limited(STORE))
    for _ in range(3):
        assert await status(limited, "GET", "/v1/secrets") == 401
        assert await status(limited, "POST", "/v1/secrets", json={}) == 201


@pytest_twisted.ensureDeferred
async def test_a_service_acts_for_a_limited_user_beyond_the_rules(api: Api, owner: Owner, identity: Identity) -> None:
    limited = api.by(await owner.limited(STORE))
    service = await identity.token("barbtx", project="service")
    assert await status(limited, "GET", "/v1/secrets", headers={"X-Service-Token": service}) == 200
    for other in (owner.token, "none"):
        assert await status(limited, "GET", "/v1/secrets", headers={"X-Service-Token": other}) == 401


@pytest_twisted.ensureDeferred
async def test_type_and_prefix_are_those_that_clients_know(deployment: Deployment, owner: Owner) -> None:
    api = deployment.api(
        host_href="https://cloud.example/key-manager/", **{"keystone_authtoken.service_type": "our-keys"}
    )
    prefixed = {"service": "our-keys", "method": "GET", "path": "/key-manager/v1/secrets"}
    for rule, expected in (
        (prefixed, 200),
        ({**prefixed, "path": "/v1/secrets"}, 200),
        ({**prefixed, "path": "/other/v1/secrets"}, 401),
        ({**prefixed, "service": "key-manager"}, 401),
    ):
        assert await status(api.by(await owner.limited(rule)), "GET", "/v1/secrets") == expected, rule
    api.process.stop()
