"""``barbtx-manage db``: upgrades at the same time, and databases that are not barbtx's to change."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from barbtx.cmd.manage import main as manage
from barbtx.errors import ConfigurationError
from barbtx.model.engine import parse_url
from barbtx.model.migration import check_schema, head_revision, known_revisions
from barbtx.model.migration.lock import schema_lock
from barbtx.model.migration.upgrade import alembic_config
from tests.support.service import BIN, DEV_CONFIG

OLDER = known_revisions()[1:]


def start_upgrade(url: str, *arguments: str, **popen: object) -> subprocess.Popen:
    return subprocess.Popen(
        [BIN / "barbtx-manage", *arguments, "db", "upgrade", "-d", url],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **popen,
    )


def run(url: str, *statements: str) -> None:
    engine = create_engine(parse_url(url))
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def contents(url: str) -> dict[str, list[tuple]]:
    engine = create_engine(parse_url(url))
    with engine.connect() as connection:
        found = {
            name: connection.execute(text(f"SELECT * FROM {name}")).all()
            for name in inspect(connection).get_table_names()
        }
    engine.dispose()
    return found


def test_the_known_versions_are_those_of_the_migrations() -> None:
    scripts = ScriptDirectory.from_config(alembic_config(""))
    assert known_revisions() == tuple(script.revision for script in scripts.walk_revisions())
    assert head_revision() == scripts.get_current_head()


@pytest.mark.parametrize("version", [None, *OLDER])
def test_upgrades_at_the_same_time_all_succeed(database_url: str, version: str | None) -> None:
    if version:
        assert manage(["db", "upgrade", "-d", database_url, "-v", version]) == 0
    processes = [start_upgrade(database_url) for _ in range(4)]
    outcomes = [(*process.communicate(timeout=300), process.returncode) for process in processes]
    assert [outcome[2] for outcome in outcomes] == [0] * 4, outcomes
    assert contents(database_url)["alembic_version"] == [(head_revision(),)]


def test_an_upgrade_waits_for_another_and_gives_up_with_one_line(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("on SQLite the write transaction is the lock")
    engine = create_engine(parse_url(database_url))
    with engine.connect() as connection, schema_lock(connection, 0), ThreadPoolExecutor(1) as threads:
        assert manage(["db", "upgrade", "-d", database_url, "--wait", "0.1"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "another upgrade" in line and contents(database_url) == {}

        def lose_connection(seconds: float) -> None:
            if not connection.invalidated:
                connection.invalidate()
            # The server takes a moment to see it, and tells nobody.
            time.sleep(seconds)

        def second() -> None:
            with engine.connect() as other, schema_lock(other, 60, sleep=lose_connection):
                pass

        threads.submit(second).result(timeout=60)
    engine.dispose()
    assert manage(["db", "upgrade", "-d", database_url]) == 0


FOREIGN = {
    "the tables of another program": (
        ["CREATE TABLE secrets (id INTEGER)", "CREATE TABLE projects (id INTEGER)"],
        "another program",
    ),
    "the version of another program": (
        [
            "CREATE TABLE alembic_version (version_num VARCHAR(32))",
            "INSERT INTO alembic_version VALUES ('39cf2e645cba')",
            "CREATE TABLE secrets (id INTEGER)",
        ],
        "another program",
    ),
    "a version of ours, but not our tables": (
        [
            "CREATE TABLE alembic_version (version_num VARCHAR(32))",
            "INSERT INTO alembic_version VALUES ('0001')",
            "CREATE TABLE users (id INTEGER)",
        ],
        "another program",
    ),
    "an empty version and another table": (
        ["CREATE TABLE alembic_version (version_num VARCHAR(32))", "CREATE TABLE users (id INTEGER)"],
        "another program",
    ),
    "several versions": (
        [
            "CREATE TABLE alembic_version (version_num VARCHAR(32))",
            "INSERT INTO alembic_version VALUES ('0001')",
            "INSERT INTO alembic_version VALUES ('abc')",
        ],
        "another program",
    ),
    "another kind of version table": (["CREATE TABLE alembic_version (something INTEGER)"], "another program"),
    "a later release": (
        [
            "CREATE TABLE alembic_version (version_num VARCHAR(32))",
            "INSERT INTO alembic_version VALUES ('9999')",
            "CREATE TABLE secrets (id INTEGER)",
        ],
        "newer than this release",
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_database_that_is_not_ours_is_left_alone(
    database_url: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    statements, said = FOREIGN[what]
    run(database_url, *statements)
    path = Path(database_url.removeprefix("sqlite:///"))
    before, raw = contents(database_url), path.read_bytes() if path.exists() else b""
    mode = path.stat().st_mode if path.exists() else 0
    for action in ("upgrade", "current"):
        assert manage(["db", action, "-d", database_url]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line and "Traceback" not in line
    assert contents(database_url) == before
    if path.exists():
        assert path.read_bytes() == raw and path.stat().st_mode == mode
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("what", ["the tables of another program", "a later release"])
def test_a_process_says_so_too_and_changes_nothing(tmp_path: Path, what: str) -> None:
    statements, said = FOREIGN[what]
    url = f"sqlite:///{tmp_path}/other.sqlite"
    run(url, *statements)
    before = (tmp_path / "other.sqlite").read_bytes()
    manage(["simple_crypto", "gen_mkek", str(tmp_path / "mkek")])
    done = subprocess.run(
        [
            BIN / "twistd",
            "-n",
            "--pidfile=",
            "barbtx",
            "--config-file",
            DEV_CONFIG,
            "--set",
            f"database.connection={url}",
            "--set",
            f"simple_crypto_plugin.kek_file={tmp_path}/mkek",
            "--set",
            "api.bind_port=0",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0 and said in done.stdout + done.stderr
    assert (tmp_path / "other.sqlite").read_bytes() == before


def test_an_unknown_version_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert manage(["db", "upgrade", "-d", f"sqlite:///{tmp_path}/x", "-v", "nonsense"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_version_is_shown_without_making_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/x"
    assert manage(["db", "current", "-d", url]) == 0 and not (tmp_path / "x").exists()
    assert manage(["db", "upgrade", "-d", url]) == 0 and manage(["db", "current", "-d", url]) == 0
    assert capsys.readouterr().out.split() == ["none", head_revision(), "(head)"]


def test_an_upgrade_to_an_older_version_says_that_it_does_nothing(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in ("head", "head", head_revision()):
        assert manage(["db", "upgrade", "-d", database_url, "-v", version]) == 0
    assert capsys.readouterr().err == ""
    before = contents(database_url)
    for version in OLDER:
        assert manage(["db", "upgrade", "-d", database_url, "-v", version]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"at version {head_revision()}, newer than {version}" in line and "nothing was changed" in line
    assert contents(database_url) == before


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_sqlite_file_is_for_its_owner_only(tmp_path: Path, umask: int) -> None:
    process = start_upgrade(f"sqlite:///{tmp_path}/x", umask=umask)
    assert process.wait(timeout=120) == 0
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600


def test_files_that_others_can_read_are_taken_from_them(tmp_path: Path) -> None:
    from barbtx.model.engine import make_engine

    url = f"sqlite:///{tmp_path}/x"
    manage(["db", "upgrade", "-d", url])
    (tmp_path / "x").chmod(0o644)
    engine = make_engine(url, 2, 5.0)
    before = os.umask(0)
    try:
        with engine.connect() as connection:
            connection.execute(text("CREATE TABLE something (id INTEGER)"))
            connection.commit()
            names = {path.name for path in tmp_path.iterdir()}
            assert {"x", "x-wal", "x-shm"} <= names
            assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}
    finally:
        os.umask(before)
        engine.dispose()


@pytest.mark.parametrize(
    "arguments",
    [
        ["db", "upgrade"],
        ["db", "current"],
        ["--set", "api.bind_port=1", "db", "upgrade"],
        ["--config-file", "empty.conf", "db", "upgrade"],
        ["removals", "list"],
        ["removals", "cancel", "p"],
        ["removals", "retry", "p"],
        ["--config-file", "empty.conf", "removals", "list"],
    ],
)
def test_without_a_configured_database_none_is_made(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "empty.conf").write_text("")
    done = subprocess.run(
        [BIN / "barbtx-manage", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 1 and "[database] connection" in done.stderr and len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty.conf"]


def test_without_any_configuration_no_broker_is_asked(tmp_path: Path) -> None:
    for action in ("dead-letters", "requeue"):
        done = subprocess.run(
            [BIN / "barbtx-manage", "queue", action],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
        assert "[DEFAULT] transport_url is not set" in done.stderr


def test_a_database_in_the_default_place_is_not_used_by_chance(tmp_path: Path) -> None:
    manage(["db", "upgrade", "-d", f"sqlite:///{tmp_path}/barbtx.sqlite"])
    manage(["simple_crypto", "gen_mkek", str(tmp_path / "mkek")])
    config = tmp_path / "barbtx.conf"
    config.write_text(f"[simple_crypto_plugin]\nkek_file = {tmp_path}/mkek\n[queue]\nenable = true\n")
    for plugin in ("barbtx", "barbtx-worker"):
        done = subprocess.run(
            [BIN / "twistd", "-n", "--pidfile=", plugin, "--config-file", DEV_CONFIG, "--config-file", config],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1
        assert done.stderr.splitlines() == [f"barbtx: [database] connection is not set; set it in {config}"]


def test_removals_of_a_database_without_tables_name_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for url in (f"sqlite:///{tmp_path}/none.sqlite", f"sqlite:///{tmp_path}/old.sqlite"):
        if "old" in url:
            manage(["db", "upgrade", "-d", url, "-v", OLDER[0]])
        for command in (["list"], ["cancel", "p"], ["retry", "p"]):
            assert manage(["--set", f"database.connection={url}", "removals", *command]) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert "run 'barbtx-manage db upgrade'" in line
    assert not (tmp_path / "none.sqlite").exists()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///"])
def test_sqlite_needs_a_file(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert manage(["db", "upgrade", "-d", url]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "SQLite needs a file" in line


@pytest.mark.parametrize("plugin", ["barbtx", "barbtx-worker"])
def test_without_any_configuration_a_start_is_refused(tmp_path: Path, plugin: str) -> None:
    done = subprocess.run(
        [BIN / "twistd", "-n", "--pidfile=", plugin],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "--config-file" in done.stderr and "/etc/barbtx/barbtx.conf" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_in_the_usual_place_is_used(tmp_path: Path) -> None:
    (tmp_path / ".barbtx").mkdir()
    (tmp_path / ".barbtx" / "barbtx.conf").write_text(f"[database]\nconnection = sqlite:///{tmp_path}/found.sqlite\n")
    subprocess.run(
        [sys.executable, "-m", "barbtx.cmd.manage", "db", "upgrade"],
        cwd=tmp_path,
        check=True,
        timeout=120,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert (tmp_path / "found.sqlite").exists()


def test_check_schema_names_the_remedy(tmp_path: Path) -> None:
    from sqlalchemy.orm import Session

    from barbtx.model.engine import make_engine

    for version, said in ((OLDER[0], "run 'barbtx-manage db upgrade'"), (None, None)):
        url = f"sqlite:///{tmp_path}/{version}"
        manage(["db", "upgrade", "-d", url, *(["-v", version] if version else [])])
        engine = make_engine(url, 1, 5.0)
        with Session(engine) as session:
            if said:
                with pytest.raises(ConfigurationError, match=said):
                    check_schema(session)
            else:
                check_schema(session)
        engine.dispose()
