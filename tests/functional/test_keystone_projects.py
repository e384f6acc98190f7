"""Whether Keystone has a project: only a clear answer counts, since data is destroyed by it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted

from barbtx.config import load
from barbtx.errors import ConfigurationError, ServiceUnavailable
from barbtx.identity.keystone.projects import ProjectDirectory, ProjectStateUnknown
from barbtx.times import WallClock
from tests.conftest import unique
from tests.support.keystone import PASSWORD, Identity, Keystone
from tests.support.stub_keystone import OWN, StubKeystone, found, missing


def directory(settings: dict[str, object]) -> ProjectDirectory:
    from twisted.internet import reactor

    return ProjectDirectory.from_config(reactor, WallClock(), load([], [f"{k}={v}" for k, v in settings.items()]))


@pytest.fixture
def stub() -> Iterator[StubKeystone]:
    stub = StubKeystone()
    stub.listen()
    yield stub
    pytest_twisted.blockon(stub.close())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (found("p"), True),
        (found("p", enabled=False), True),
        (missing(), False),
        (missing(410), False),
        (found("another"), ProjectStateUnknown),
        ((200, b"{}"), ProjectStateUnknown),
        ((200, b'{"project": "p"}'), ProjectStateUnknown),
        ((404, b"<html>nothing here</html>"), ProjectStateUnknown),
        ((404, b""), ProjectStateUnknown),
        ((404, b"[]"), ProjectStateUnknown),
        ((404, b'{"error": "no"}'), ProjectStateUnknown),
        ((404, b'{"error": {"code": 500}}'), ProjectStateUnknown),
        ((403, b'{"error": {"code": 403}}'), ProjectStateUnknown),
        ((403, b'{"error": {"code": 404}}'), ProjectStateUnknown),
        ((401, b'{"error": {"code": 401}}'), ProjectStateUnknown),
        ((400, b'{"error": {"code": 404}}'), ProjectStateUnknown),
        ((302, b""), ProjectStateUnknown),
        ((204, b""), ProjectStateUnknown),
        ((500, b'{"error": {"code": 404}}'), ServiceUnavailable),
        ((503, b""), ServiceUnavailable),
        ((429, b""), ServiceUnavailable),
        ((200, b"<html>"), ServiceUnavailable),
        ((200, b"[]"), ServiceUnavailable),
    ],
)
@pytest_twisted.ensureDeferred
async def test_only_a_document_of_keystone_s_own_counts(
    stub: StubKeystone, answer: tuple[int, bytes], expected: bool | type[Exception]
) -> None:
    stub.answers["p"] = answer
    if isinstance(expected, bool):
        assert await directory(stub.settings).exists("p") is expected
    else:
        with pytest.raises(expected):
            await directory(stub.settings).exists("p")


@pytest.mark.parametrize("own", [missing(), missing(410), found("another"), (403, b""), (404, b""), (500, b"")])
@pytest_twisted.ensureDeferred
async def test_one_that_does_not_find_the_service_s_own_project_is_not_believed(
    stub: StubKeystone, own: tuple[int, bytes]
) -> None:
    stub.answers[OWN] = own
    with pytest.raises(ServiceUnavailable):
        await directory(stub.settings).exists("p")
    with pytest.raises(ServiceUnavailable):
        await directory(stub.settings).exists(OWN)


@pytest.mark.parametrize("project_id", ["a/b", "../users", "p?x=y", "p#x", "%2e%2e", "né", " "])
@pytest_twisted.ensureDeferred
async def test_a_project_id_is_one_segment_of_the_path(stub: StubKeystone, project_id: str) -> None:
    stub.answers[project_id] = found(project_id)
    assert await directory(stub.settings).exists(project_id)


def test_what_is_missing_in_the_configuration_is_named() -> None:
    with pytest.raises(ConfigurationError, match="auth_url"):
        directory({})
    with pytest.raises(ConfigurationError, match="system scope"):
        directory(
            {
                "keystone_authtoken.auth_url": "http://k",
                "keystone_notifications.system_scope": "true",
                "keystone_authtoken.auth_type": "v3applicationcredential",
                "keystone_authtoken.application_credential_id": "c",
                "keystone_authtoken.application_credential_secret": "s",
            }
        )


@pytest_twisted.ensureDeferred
async def test_a_real_keystone_is_asked_with_the_role_that_it_takes(keystone: Keystone, identity: Identity) -> None:
    service = await identity.project(unique())
    name = unique()
    user = await identity.user(name, service, "service")
    settings = {
        "keystone_authtoken.auth_url": keystone.url,
        "keystone_authtoken.username": name,
        "keystone_authtoken.password": PASSWORD,
        "keystone_authtoken.project_id": service,
    }
    there, disabled, gone = [await identity.project(unique()) for _ in range(3)]
    await identity.admin("PATCH", f"/projects/{disabled}", {"project": {"enabled": False}})
    await identity.admin("DELETE", f"/projects/{gone}")

    async def refused(asking: ProjectDirectory) -> None:
        for project in (there, disabled, gone, "never-heard-of"):
            with pytest.raises(ServiceUnavailable):
                await asking.exists(project)

    async def answered(asking: ProjectDirectory) -> None:
        assert await asking.exists(there) and await asking.exists(disabled)
        assert not await asking.exists(gone) and not await asking.exists("never-heard-of")

    in_system = {**settings, "keystone_notifications.system_scope": "true"}
    await refused(directory(settings))
    await refused(directory(in_system))
    await identity.grant(user, "/system", "reader")
    await refused(directory(settings))
    await answered(directory(in_system))
    await identity.grant(user, f"/projects/{service}", "admin")
    await answered(directory(settings))
