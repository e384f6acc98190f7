"""``make run`` wherever the checkout and its data are, and twistd as a daemon with a pid file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.servers import wait_until
from tests.support.service import BIN, DEV_CONFIG, ROOT, manage

ODD = ["a b%2Fc", "it's a#b?c=d", 'a&b;c%d "ü"']


def checkout(directory: Path) -> Path:
    """A checkout whose environment is already installed: an installation would take minutes, and would test pip."""
    directory.mkdir()
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, directory)
    shutil.copytree(ROOT / "config", directory / "config")
    for name in ("barbtx", "workers", "twisted"):
        (directory / name).mkdir()
    programs = directory / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")
    (programs / "python").chmod(0o755)
    shutil.copy(BIN / "twistd", programs)
    time_of_install = time.time() + 60
    (directory / ".venv" / "barbtx").touch()
    os.utime(directory / ".venv" / "barbtx", (time_of_install, time_of_install))
    return directory


def run(directory: Path, log: Path, *arguments: str) -> int:
    """Run the service until it listens, stop it, and return the exit status of make."""
    with log.open("wb") as output:
        make = subprocess.Popen(
            ["make", "run", "PORT=0", *arguments], cwd=directory, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    wait_until(lambda: "barbtx listens on" in log.read_text() or make.poll() is not None, 120, log.read_text())
    assert make.poll() is None, log.read_text()
    (child,) = psutil.Process(make.pid).children()
    child.send_signal(signal.SIGTERM)
    return make.wait(120)


@pytest.mark.parametrize("name", ODD)
def test_it_runs_in_any_directory_with_its_data_in_any_other(tmp_path: Path, name: str) -> None:
    directory = checkout(tmp_path / name)
    for _ in range(2):
        assert run(directory, tmp_path / "log", f"VAR=data {name}") == 0
    data = directory / f"data {name}"
    assert {path.name for path in data.iterdir()} >= {"mkek", "barbtx.sqlite"}
    assert {path.stat().st_mode & 0o077 for path in [data, *data.iterdir()]} == {0}
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        [
            *(".venv", "Makefile", "barbtx", "config", "constraints.txt", "pyproject.toml", "setup.py", "twisted"),
            *("workers", data.name),
        ]
    )


def test_a_lost_master_key_is_not_replaced(tmp_path: Path) -> None:
    directory = checkout(tmp_path / "a b")
    assert run(directory, tmp_path / "log") == 0
    (directory / "var" / "mkek").unlink()
    done = subprocess.run(["make", "run", "PORT=0"], cwd=directory, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "mkek is missing" in done.stderr and not (directory / "var" / "mkek").exists()


def test_a_checkout_of_a_group_of_its_own_runs(tmp_path: Path) -> None:
    directory = checkout(tmp_path / "c")
    for path in [directory, *directory.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o020)
    assert run(directory, tmp_path / "log") == 0


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[list[object]]:
    """The command that starts a daemon. A daemon that still runs after the test is killed."""
    manage("simple_crypto", "gen_mkek", str(tmp_path / "mkek"))
    manage("db", "upgrade", "-d", f"sqlite:///{tmp_path}/x")
    yield [
        BIN / "twistd",
        f"--pidfile={tmp_path}/barbtx.pid",
        f"--logfile={tmp_path}/log",
        "barbtx",
        "--config-file",
        DEV_CONFIG,
        "--set",
        f"database.connection=sqlite:///{tmp_path}/x",
        "--set",
        f"simple_crypto_plugin.kek_file={tmp_path}/mkek",
        "--set",
        "api.bind_port=0",
    ]
    if (tmp_path / "barbtx.pid").exists():
        os.kill(int((tmp_path / "barbtx.pid").read_text()), signal.SIGKILL)


def _started(tmp_path: Path) -> psutil.Process:
    wait_until(
        lambda: (tmp_path / "log").exists() and "barbtx listens on" in (tmp_path / "log").read_text(), 120, "the daemon"
    )
    return psutil.Process(int((tmp_path / "barbtx.pid").read_text()))


@pytest.mark.parametrize("stale", [False, True])
def test_a_daemon_is_known_by_its_pid_file(tmp_path: Path, daemon: list[object], stale: bool) -> None:
    if stale:
        ended = subprocess.Popen(["true"])
        ended.wait()
        (tmp_path / "barbtx.pid").write_text(str(ended.pid))
    subprocess.run(daemon, check=True, timeout=120, cwd=tmp_path)
    process = _started(tmp_path)
    second = subprocess.run(daemon, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert second.returncode != 0 and str(process.pid) in second.stdout + second.stderr
    process.send_signal(signal.SIGTERM)
    process.wait(120)
    assert not (tmp_path / "barbtx.pid").exists()


def test_a_daemon_s_start_is_refused_with_a_status(tmp_path: Path, daemon: list[object]) -> None:
    done = subprocess.run(
        [*daemon, "--set", "api.bind_prot=1"], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 1 and "bind_prot" in done.stderr
    assert not (tmp_path / "barbtx.pid").exists()
