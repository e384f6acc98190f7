"""Several backends, among which projects choose."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from tests.conftest import unique
from tests.functional.test_boot import refused
from tests.support.service import Api, Deployment, manage

BACKENDS = """
[secretstore]
enable_multiple_secret_stores = true
stores_lookup_suffix = software, again

[secretstore:software]
secret_store_plugin = store_crypto
crypto_plugin = simple_crypto
global_default = true

[secretstore:again]
secret_store_plugin = {store}
{crypto}
global_default = {default}
"""


def configured(directory: Path, store: str = "store_crypto", crypto: str = "", default: str = "false") -> Path:
    path = directory / "backends.conf"
    path.write_text(BACKENDS.format(store=store, crypto=f"crypto_plugin = {crypto}" if crypto else "", default=default))
    return path


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    directory = tmp_path_factory.mktemp("backends")
    deployment = Deployment(directory, f"sqlite:///{directory}/barbtx.sqlite")
    deployment.config_files = [configured(directory)]
    yield deployment
    deployment.stop()


@pytest.fixture(scope="module")
def served(deployment: Deployment) -> Api:
    return deployment.api()


@pytest.fixture
def api(served: Api) -> Api:
    return served.of(unique())


@pytest_twisted.ensureDeferred
async def test_the_configured_stores_are_listed_and_one_is_the_default(api: Api) -> None:
    stores = (await api.get("/v1/secret-stores")).json["secret_stores"]
    assert {(s["secret_store_plugin"], s["crypto_plugin"], s["global_default"]) for s in stores} == {
        ("store_crypto", "simple_crypto", True),
        ("store_crypto", None, False),
    }
    default = (await api.get("/v1/secret-stores/global-default")).json
    assert default["global_default"] is True and default["name"] == "Software Only Crypto"
    assert (await api.get(default["secret_store_ref"])).json == default


@pytest_twisted.ensureDeferred
async def test_a_project_prefers_a_store_until_it_does_not(api: Api) -> None:
    assert (await api.get("/v1/secret-stores/preferred")).status == 404
    first, second = (await api.get("/v1/secret-stores")).json["secret_stores"]
    before = await api.store("before")
    for store in (first, second):
        assert (await api.request("POST", f"{store['secret_store_ref']}/preferred")).status == 204
        assert (await api.get("/v1/secret-stores/preferred")).json == store
        ref = await api.store("kept")
        assert (await api.get(f"{ref}/payload")).content == b"kept"
    assert (await api.get(f"{before}/payload")).content == b"before"
    assert (await api.of(unique()).get("/v1/secret-stores/preferred")).status == 404
    assert (await api.delete(f"{first['secret_store_ref']}/preferred")).status == 204
    assert (await api.delete(f"{first['secret_store_ref']}/preferred")).status == 404


@pytest_twisted.ensureDeferred
async def test_stores_that_do_not_exist_are_not_found(api: Api) -> None:
    for path in ("x", "00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000000/preferred"):
        assert (await api.get(f"/v1/secret-stores/{path}")).status == 404
    (store, *_) = (await api.get("/v1/secret-stores")).json["secret_stores"]
    assert (await api.get(f"{store['secret_store_ref']}/other")).status == 404
    assert (await api.request("PUT", "/v1/secret-stores")).status == 405
    assert (await api.get(f"{store['secret_store_ref']}/preferred")).headers["allow"] == "DELETE, POST"


@pytest_twisted.ensureDeferred
async def test_only_an_admin_chooses(api: Api) -> None:
    (store, *_) = (await api.get("/v1/secret-stores")).json["secret_stores"]
    path = f"{store['secret_store_ref']}/preferred"
    assert (await api.request("POST", path, roles="creator")).status == 403
    assert (await api.get("/v1/secret-stores", roles="nobody")).status == 403


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"default": "true"}, "exactly one"),
        ({"store": ""}, "secret_store_plugin is missing"),
        ({"store": "nothing"}, "no plugin 'nothing'"),
        ({"crypto": "nothing"}, "no plugin 'nothing'"),
    ],
)
def test_backends_that_make_no_sense_stop_the_start(tmp_path: Path, fields: dict, said: str) -> None:
    manage("simple_crypto", "gen_mkek", str(tmp_path / "mkek"))
    path = configured(tmp_path, **fields)
    assert said in refused("barbtx", f"simple_crypto_plugin.kek_file={tmp_path}/mkek", files=[path])


@pytest_twisted.ensureDeferred
async def test_a_store_that_a_project_prefers_cannot_vanish(deployment: Deployment, api: Api, tmp_path: Path) -> None:
    stores = (await api.get("/v1/secret-stores")).json["secret_stores"]
    (second,) = [store for store in stores if not store["global_default"]]
    await api.request("POST", f"{second['secret_store_ref']}/preferred")
    path = tmp_path / "one.conf"
    path.write_text(
        BACKENDS.format(store="", crypto="", default="")
        .replace("software, again", "software")
        .split("[secretstore:again]")[0]
    )
    sets = [f"{key}={value}" for key, value in deployment.settings.items()]
    assert "projects prefer it" in refused("barbtx", *sets, files=[path])
    with sqlite3.connect(deployment.directory / "barbtx.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM secret_stores").fetchone() == (2,)
