"""Builds the sdist and the wheel, and follows the production steps with the wheel in an empty environment.

Run as a command, with the directory for both files as its argument. It needs the package ``build`` and pip's index.
"""

from __future__ import annotations

import configparser
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: What operators find below the prefix of an installation.
INSTALLED_FILES = (
    "etc/barbtx/barbtx.conf",
    "etc/barbtx/barbtx-api-paste.ini",
    "etc/barbtx/policy-hardened.yaml",
    "lib/systemd/system/barbtx.service",
    "lib/systemd/system/barbtx-worker.service",
)
# What `make run` and `make test` need of a checkout.
_SOURCES = (
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "barbtx",
    "benchmarks",
    "changelog.d",
    "config",
    "constraints.txt",
    "docs",
    "pyproject.toml",
    "setup.py",
    "tests",
    "tox.ini",
    "twisted",
    "workers",
)
_SECONDS = 120
_LISTENS = re.compile(r"barbtx listens on (http://\S+)")


def version() -> str:
    """The version of the checkout."""
    return re.search(r'^__version__ = "(.+)"$', (ROOT / "barbtx" / "__init__.py").read_text(), re.MULTILINE)[1]


def build(directory: Path) -> Path:
    """Build both distributions into a directory, and return the wheel.

    ``build`` makes the wheel from the unpacked sdist, so that a file which the sdist lacks is missed here.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("barbtx-*"):
        old.unlink()
    subprocess.run([sys.executable, "-m", "build", "--outdir", directory, ROOT], check=True)
    (wheel,) = directory.glob("*.whl")
    (sdist,) = directory.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    name = f"barbtx-{version()}"
    wanted = {f"{name}.data/data/{path}" for path in INSTALLED_FILES}
    wanted |= {f"{name}.dist-info/licenses/LICENSE", "barbtx/py.typed", "twisted/plugins/barbtx_plugin.py"}
    assert wanted <= names, f"not in the wheel: {sorted(wanted - names)}"
    assert not [path for path in names if path.startswith(("tests/", "benchmarks/"))]
    with tarfile.open(sdist) as archive:
        names = set(archive.getnames())
    files = [path for top in _SOURCES for path in ((ROOT / top).rglob("*") if (ROOT / top).is_dir() else [ROOT / top])]
    wanted = {
        f"{name}/{path.relative_to(ROOT)}"
        for path in files
        if path.is_file() and not {"__pycache__", "dropin.cache"} & set(path.parts)
    }
    assert wanted <= names, f"not in the sdist: {sorted(wanted - names)}"
    return wheel


class Installation:
    """The wheel in a virtual environment of its own, used from a directory without the checkout.

    :ivar prefix: the environment.
    :ivar etc: the configuration, which docs/howto/install.md puts into /etc/barbtx.
    """

    def __init__(self, directory: Path, wheel: Path) -> None:
        self.prefix = directory / "venv"
        self.etc = directory / "etc"
        self._directory = directory
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "VIRTUAL_ENV") and not name.startswith(("OS_", "COVERAGE_"))
        }
        venv.create(self.prefix, with_pip=True)
        self.run("pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
        self.run("pip", "check")

    def command(self, program: str, *arguments: object) -> list[str]:
        """The command line of an installed program."""
        return [str(self.prefix / "bin" / program), *map(str, arguments)]

    def run(self, program: str, *arguments: object) -> str:
        """Run an installed program and return what it prints."""
        return subprocess.run(
            self.command(program, *arguments),
            cwd=self._directory,
            env=self._environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    def configure(self) -> Path:
        """Take the installed configuration files, fill in what their comments ask for, and return the main one."""
        self.etc.mkdir(mode=0o755)
        for name in ("barbtx.conf", "barbtx-api-paste.ini"):
            (self.etc / name).write_text((self.prefix / "etc" / "barbtx" / name).read_text())
            (self.etc / name).chmod(0o640)
        conf = self.etc / "barbtx.conf"
        text = conf.read_text()
        for pattern, value in (
            (r"^# connection = .*$", f"connection = sqlite:///{self._directory}/barbtx.sqlite"),
            (r"^kek_file = .*$", f"kek_file = {self.etc}/mkek"),
            (r"^bind_port = .*$", "bind_port = 0"),
            (r"^# password = .*$", "password = keystone-password"),
        ):
            text, count = re.subn(pattern, value, text, flags=re.MULTILINE)
            assert count == 1, f"{pattern} in barbtx.conf: {count} times"
        conf.write_text(text)
        return conf

    def serve(self, conf: Path) -> tuple[int, str, int]:
        """Start the API, request ``/healthcheck`` and send SIGTERM.

        :returns: the status and body of the response, and the exit status of the process.
        """
        log = self._directory / "api.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command("twistd", "-n", "--pidfile=", "barbtx", "--config-file", conf),
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            deadline = time.monotonic() + _SECONDS
            while not (listens := _LISTENS.search(log.read_text())):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            with urllib.request.urlopen(f"{listens[1]}/healthcheck", timeout=_SECONDS) as response:
                status, body = response.status, response.read().decode()
            process.send_signal(signal.SIGTERM)
            return status, body, process.wait(_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def check_unit(self, name: str) -> None:
        """A unit file starts a program of the installation with a plugin that exists, and waits long enough."""
        unit = configparser.RawConfigParser(strict=False)
        unit.optionxform = str
        unit.read(self.prefix / "lib" / "systemd" / "system" / f"{name}.service")
        program, *arguments = unit["Service"]["ExecStart"].split()
        assert program == "/opt/barbtx/bin/twistd" and (self.prefix / "bin" / "twistd").exists()
        assert arguments == ["-n", "--pidfile=", name, "--config-file", "/etc/barbtx/barbtx.conf"]
        timeout = self.run(
            "python", "-c", "from barbtx.config import load; print(load([], []).graceful_shutdown_timeout)"
        )
        assert float(unit["Service"]["TimeoutStopSec"]) > float(timeout)


def main(directory: str) -> None:
    """Build into a directory and check what was built.

    :raises AssertionError: a file is missing, or a step does not do what it should.
    :raises subprocess.CalledProcessError: a step fails.
    """
    wheel = build((ROOT / directory).absolute())
    with tempfile.TemporaryDirectory(prefix="barbtx-package-") as temporary:
        installation = Installation(Path(temporary), wheel)
        for command in (["barbtx-manage"], ["twistd", "barbtx"], ["twistd", "barbtx-worker"]):
            printed = installation.run(*command, "--version")
            assert version() in printed, f"{' '.join(command)} --version: {printed}"
        conf = installation.configure()
        installation.run("barbtx-manage", "simple_crypto", "gen_mkek", installation.etc / "mkek")
        installation.run("barbtx-manage", "--config-file", conf, "db", "upgrade")
        assert installation.serve(conf) == (200, "OK", 0)
        for name in ("barbtx", "barbtx-worker"):
            installation.check_unit(name)
    print(f"{wheel.name} installs and runs")


if __name__ == "__main__":
    main(*sys.argv[1:])
