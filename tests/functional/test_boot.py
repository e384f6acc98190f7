"""Starting and stopping, as an operator does it."""

from __future__ import annotations

import platform
import re
import sqlite3
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
import pytest_twisted

import twisted
from barbtx import __version__
from tests.support.service import BIN, DEV_CONFIG, Deployment, manage


def embedded(directory: Path, **settings: object) -> Deployment:
    directory.mkdir(exist_ok=True)
    return Deployment(directory, f"sqlite:///{directory}/barbtx.sqlite", **settings)


def refused(plugin: str, *settings: str, files: Iterable[Path] = ()) -> str:
    """Start with settings that cannot work; what it prints."""
    sets = [part for setting in settings for part in ("--set", setting)]
    configs = [part for path in (DEV_CONFIG, *files) for part in ("--config-file", path)]
    done = subprocess.run(
        [BIN / "twistd", "-n", "--pidfile=", plugin, *configs, *sets], capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    return done.stderr + done.stdout


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("api.bind_prot=1", "did you mean 'bind_port'"),
        ("api.bind_port=x", "bind_port"),
        ("database.connection=nonsense", "[database] connection"),
        ("crypto.enabled_crypto_plugins=none", "no plugin 'none'"),
        ("simple_crypto_plugin.kek_file=/none", "/none"),
        ("api_paste_config=none.ini", "none.ini"),
    ],
)
def test_a_bad_setting_stops_the_start_with_one_line(tmp_path: Path, setting: str, said: str) -> None:
    manage("simple_crypto", "gen_mkek", str(tmp_path / "mkek"))
    needed = (f"database.connection=sqlite:///{tmp_path}/db", f"simple_crypto_plugin.kek_file={tmp_path}/mkek")
    (line,) = refused("barbtx", *needed, setting).strip().splitlines()
    assert line.startswith("barbtx: ") and said in line


@pytest.mark.parametrize("command", [["barbtx-manage"], ["twistd", "barbtx"], ["twistd", "barbtx-worker"]])
def test_commands_print_the_version(command: list[str]) -> None:
    done = subprocess.run([BIN / command[0], *command[1:], "--version"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"barbtx {__version__}\n", "")


@pytest_twisted.ensureDeferred
async def test_the_first_line_of_the_log_names_the_versions(tmp_path: Path) -> None:
    api = embedded(tmp_path).api()
    first = api.process.read_log().splitlines()[0]
    versions = rf"Python {platform.python_version()}, Twisted {twisted.__version__}"
    assert re.search(rf"\[barbtx.twistd#info\] barbtx {__version__} starting \({versions}\)$", first)
    api.process.stop()


def test_without_authentication_it_listens_on_loopback_only(tmp_path: Path) -> None:
    deployment = embedded(tmp_path)
    sets = [f"{key}={value}" for key, value in deployment.settings.items()]
    assert "no authentication" in refused("barbtx", *sets, "api.bind_host=0.0.0.0")


def test_a_worker_without_a_queue_says_so(tmp_path: Path) -> None:
    deployment = embedded(tmp_path)
    assert "needs no worker" in refused("barbtx-worker", *[f"{k}={v}" for k, v in deployment.settings.items()])


def test_a_database_without_tables_stops_the_start(tmp_path: Path) -> None:
    deployment = embedded(tmp_path)
    sets = [f"{k}={v}" for k, v in deployment.settings.items() if k != "database.connection"]
    assert "barbtx-manage db upgrade" in refused(
        "barbtx", *sets, f"database.connection=sqlite:///{tmp_path}/new.sqlite"
    )


@pytest_twisted.ensureDeferred
async def test_another_master_key_stops_the_start_and_writes_nothing(tmp_path: Path) -> None:
    deployment = embedded(tmp_path)
    api = deployment.api()
    await api.store()
    api.process.stop()
    before = _dump(tmp_path)
    manage("simple_crypto", "gen_mkek", str(tmp_path / "other"))
    deployment.settings["simple_crypto_plugin.kek_file"] = tmp_path / "other"
    printed = refused("barbtx", *[f"{k}={v}" for k, v in deployment.settings.items()])
    assert "cannot unwrap" in printed and "Traceback" not in printed
    assert _dump(tmp_path) == before


def _dump(directory: Path) -> list[str]:
    with sqlite3.connect(directory / "barbtx.sqlite") as connection:
        return list(connection.iterdump())


def test_a_master_key_is_never_overwritten(tmp_path: Path) -> None:
    manage("simple_crypto", "gen_mkek", str(tmp_path / "mkek"))
    before = (tmp_path / "mkek").read_text()
    with pytest.raises(RuntimeError, match="exit status 1"):
        manage("simple_crypto", "gen_mkek", str(tmp_path / "mkek"))
    assert (tmp_path / "mkek").read_text() == before
    assert (tmp_path / "mkek").stat().st_mode & 0o077 == 0


@pytest_twisted.ensureDeferred
async def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    deployment = embedded(tmp_path)
    api = deployment.api()
    ref = (await api.store("kept")).rpartition("/")[2]
    assert api.process.stop() == 0
    assert "Main loop terminated" in api.process.read_log()
    again = deployment.api()
    assert (await again.get(f"/v1/secrets/{ref}/payload")).content == b"kept"
    again.process.kill()


@pytest_twisted.ensureDeferred
async def test_the_database_never_holds_a_payload(tmp_path: Path) -> None:
    deployment = embedded(tmp_path)
    api = deployment.api()
    marker = "plain-text-marker-4711"
    ref = await api.store(marker)
    two_step = (await api.post("/v1/secrets", {"name": "x"})).json["secret_ref"]
    await api.request("PUT", two_step, data=marker.encode(), headers={"Content-Type": "text/plain"})
    key = (await api.get(f"{(await api.finished(await api.order()))['secret_ref']}/payload")).content
    assert (await api.get(f"{ref}/payload")).content.decode() == marker
    master = (tmp_path / "mkek").read_text().strip()
    files = [path for path in tmp_path.iterdir() if path.name != "mkek"]
    assert any(path.name.endswith("-wal") for path in files)
    for path in files:
        content = path.read_bytes()
        for secret in (marker.encode(), key, master.encode()):
            assert secret not in content, path
    api.process.stop()


@pytest_twisted.ensureDeferred
async def test_a_postgresql_dump_never_holds_a_payload(tmp_path: Path, postgresql, name: str) -> None:
    url = postgresql.new_database(name)
    deployment = Deployment(tmp_path, url)
    api = deployment.api()
    marker = "plain-text-marker-4711"
    await api.store(marker)
    dump = subprocess.run(
        ["pg_dump", "-h", "127.0.0.1", "-p", str(postgresql.port), "-U", "postgres", name],
        check=True,
        capture_output=True,
    ).stdout
    assert b"encrypted_data" in dump and marker.encode() not in dump and marker.encode().hex().encode() not in dump
    api.process.stop()


@pytest_twisted.ensureDeferred
async def test_pages_of_allowed_origins_and_no_others_may_read_answers(tmp_path: Path) -> None:
    api = embedded(tmp_path, **{"cors.allowed_origin": "https://dashboard.example"}).api()
    ours, theirs = {"Origin": "https://dashboard.example"}, {"Origin": "https://evil.example"}
    reply = await api.get("/v1/secrets", headers=ours)
    assert reply.status == 200 and reply.headers["access-control-allow-origin"] == "https://dashboard.example"
    assert "X-Openstack-Request-Id" in reply.headers["access-control-expose-headers"]
    asked = {**ours, "Access-Control-Request-Method": "DELETE"}
    preflight = await api.request("OPTIONS", "/v1/secrets", headers=asked)
    assert preflight.status == 200 and "DELETE" in preflight.headers["access-control-allow-methods"]
    assert "X-Auth-Token" in preflight.headers["access-control-allow-headers"]
    for method in ("GET", "OPTIONS"):
        refused_reply = await api.request(method, "/v1/secrets", headers=theirs)
        assert not [name for name in refused_reply.headers if name.startswith("access-control")]
    api.process.stop()


@pytest_twisted.ensureDeferred
async def test_only_a_trusted_proxy_says_under_which_name_the_service_is_known(tmp_path: Path) -> None:
    said = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example, keys.example"}
    for trusted, base in (("10.0.0.0/8, ::1", None), ("127.0.0.0/8", "https://keys.example")):
        (tmp_path / trusted[:3]).mkdir()
        api = embedded(tmp_path / trusted[:3], **{"api.trusted_proxies": trusted}).api()
        reply = await api.post("/v1/secrets", {}, headers=said)
        assert reply.status == 201 and reply.json["secret_ref"].startswith(f"{base or api.url}/v1/secrets/")
        assert reply.headers["location"] == reply.json["secret_ref"]
        api.process.stop()
    assert "127.0.0.300" in refused("barbtx", "api.trusted_proxies=127.0.0.300")
