"""A real Keystone, and the clients of OpenStack, from PyPI in a virtual environment of their own."""

from __future__ import annotations

import fcntl
import getpass
import grp
import hashlib
import os
import subprocess
import sys
import tarfile
import uuid
from pathlib import Path
from typing import Any

import psutil
import treq
from treq.client import HTTPClient
from twisted.web.client import Agent, HTTPConnectionPool

from tests.support.servers import PATIENCE, Server, free_port

ROOT = Path(__file__).parents[2]
_PINS = Path(__file__).parent / "openstack.txt"
_SERVE = """
import sys
key, certificate, port = sys.argv.pop(), sys.argv.pop(), int(sys.argv.pop())
from keystone.server.wsgi import initialize_public_application
from werkzeug.serving import run_simple
tls = (certificate, key) if key else None
run_simple("127.0.0.1", port, initialize_public_application(), threaded=True, ssl_context=tls)
"""
# Clients whose own functional tests are run; wheels do not always hold them.
_WITH_SUITES = ("python-barbicanclient", "castellan")
PASSWORD = "a password that must not be seen"


def openstack() -> Path:
    """The ``bin`` directory of the virtual environment; it is made if it is not there yet."""
    directory = ROOT / ".tox" / "openstack"
    stamp = directory / "stamp"
    wanted = hashlib.sha256(_PINS.read_bytes()).hexdigest()
    directory.parent.mkdir(exist_ok=True)
    # Tests run in several processes, any of which may be the first.
    with open(directory.parent / "openstack.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
            pip = [directory / "bin" / "pip", "--quiet"]
            subprocess.run([*pip, "install", "--no-deps", "-r", _PINS], check=True)
            pins = dict(line.split("==") for line in _PINS.read_text().split())
            subprocess.run(
                [
                    *pip,
                    "download",
                    "--no-deps",
                    "--no-binary",
                    ":all:",
                    "--dest",
                    directory / "sources",
                    *(f"{name}=={pins[name]}" for name in _WITH_SUITES),
                ],
                check=True,
            )
            for archive in (directory / "sources").glob("*.tar.gz"):
                with tarfile.open(archive) as file:
                    file.extractall(directory / "sources", filter="data")
            stamp.write_text(wanted)
    return directory / "bin"


def client_source(package: str) -> Path:
    """The unpacked source distribution of a client, which holds its functional test suite."""
    return next(
        path for path in (openstack().parent / "sources").glob(f"{package.replace('-', '?')}-*") if path.is_dir()
    )


class Keystone(Server):
    """Keystone on SQLite.

    :param broker_url: where it sends notifications, if anywhere.
    """

    def __init__(self, broker_url: str | None = None) -> None:
        self._broker_url = broker_url
        self._twin_of: Keystone | None = None
        self._tls: tuple[str, str] = ("", "")
        super().__init__()

    def prepare(self) -> None:
        self._bin = openstack()
        self._configure(self.directory)
        for directory in ("fernet", "credential"):
            (self.directory / directory).mkdir(mode=0o700)
        self._manage("db_sync")
        who = ["--keystone-user", getpass.getuser(), "--keystone-group", grp.getgrgid(os.getgid()).gr_name]
        self._manage("fernet_setup", *who)
        self._manage("credential_setup", *who)
        self._manage(
            "bootstrap",
            "--bootstrap-password",
            PASSWORD,
            "--bootstrap-public-url",
            self.url,
            "--bootstrap-region-id",
            "RegionOne",
        )

    def _configure(self, shared: Path, expiration: int = 3600) -> None:
        notifications = ""
        if self._broker_url:
            notifications = (
                f"[oslo_messaging_notifications]\ndriver = messagingv2\ntransport_url = {self._broker_url}\n"
            )
        (self.directory / "keystone.conf").write_text(
            f"[DEFAULT]\nlog_file = {self.directory}/keystone.log\n{notifications}"
            f"[database]\nconnection = sqlite:///{shared}/keystone.sqlite\n"
            f"[fernet_tokens]\nkey_repository = {shared}/fernet\n"
            f"[credential]\nkey_repository = {shared}/credential\n"
            f"[token]\nexpiration = {expiration}\n"
            "[cache]\nenabled = true\nbackend = oslo_cache.dict\n[identity]\npassword_hash_rounds = 4\n"
        )

    def _manage(self, *command: str) -> None:
        self.run(str(self._bin / "keystone-manage"), "--config-file", str(self.directory / "keystone.conf"), *command)

    def twin(self, *, expiration: int = 3600, tls: tuple[str, str] = ("", "")) -> Keystone:
        """Another process with the same data.

        :param expiration: seconds that its tokens live.
        :param tls: files with its certificate and key.
        """
        twin = Keystone.__new__(Keystone)
        twin.directory = self.directory / uuid.uuid4().hex
        twin.directory.mkdir()
        twin.port, twin.process = free_port(), None
        twin._broker_url, twin._bin, twin._tls = self._broker_url, self._bin, tls
        twin._configure(self.directory, expiration)
        return twin

    def command(self) -> list[str]:
        return [
            str(self._bin / "python"),
            "-W",
            "ignore",
            "-c",
            _SERVE,
            "--config-file",
            str(self.directory / "keystone.conf"),
            str(self.port),
            *self._tls,
        ]

    @property
    def url(self) -> str:
        return f"{'https' if any(self._tls) else 'http'}://127.0.0.1:{self.port}/v3"

    def is_ready(self) -> bool:
        return any(
            connection.laddr.port == self.port and connection.status == psutil.CONN_LISTEN
            for connection in psutil.Process(self.process.pid).net_connections("tcp")
        )

    def validations(self) -> int:
        """How often it was asked about a token."""
        return (self.directory / "keystone.log").read_text().count("GET /v3/auth/tokens?")


class Identity:
    """What an administrator and users do at a Keystone."""

    def __init__(self, keystone: Keystone) -> None:
        self.keystone = keystone
        self._admin: str | None = None
        self._roles: dict[str, str] = {}

    async def call(
        self,
        method: str,
        path: str,
        document: object = None,
        token: str | None = None,
        keystone: Keystone | None = None,
        **headers: str,
    ) -> Any:
        """A request; the response and the JSON of its body."""
        from twisted.internet import reactor

        sent = dict(headers)
        if token:
            sent["X-Auth-Token"] = token
        client = HTTPClient(Agent(reactor, pool=HTTPConnectionPool(reactor, persistent=False)))
        url = (keystone or self.keystone).url + path
        response = await client.request(
            method, url, headers=sent, timeout=PATIENCE, **({} if document is None else {"json": document})
        )
        content = await treq.content(response)
        if response.code >= 400:
            raise RuntimeError(f"{method} {path}: {response.code} {content!r}")
        import json

        return response, json.loads(content) if content else None

    async def admin(self, method: str, path: str, document: object = None, **headers: str) -> Any:
        """A request of the cloud's administrator; the JSON of the answer."""
        if self._admin is None:
            self._admin = await self.token("admin", PASSWORD, project="admin")
        return (await self.call(method, path, document, self._admin, **headers))[1]

    async def token(
        self,
        user: str,
        password: str = PASSWORD,
        *,
        keystone: Keystone | None = None,
        project: str | None = None,
        **scope: Any,
    ) -> str:
        """A token for a project by name, for another scope, or for none."""
        if project is not None:
            scope = {"project": {"name": project, "domain": {"id": "default"}}}
        identity = {
            "methods": ["password"],
            "password": {"user": {"name": user, "domain": {"id": "default"}, "password": password}},
        }
        document = {"auth": {"identity": identity, **({"scope": scope} if scope else {"scope": "unscoped"})}}
        response, _ = await self.call("POST", "/auth/tokens", document, keystone=keystone)
        return response.headers.getRawHeaders("x-subject-token")[0]

    async def project(self, name: str) -> str:
        """A new project; its id."""
        return (await self.admin("POST", "/projects", {"project": {"name": name}}))["project"]["id"]

    async def user(self, name: str, project_id: str, *roles: str) -> str:
        """A new user with roles in a project; their id."""
        document = {"user": {"name": name, "password": PASSWORD}}
        user_id = (await self.admin("POST", "/users", document))["user"]["id"]
        for role in roles:
            await self.grant(user_id, f"/projects/{project_id}", role)
        return user_id

    async def grant(self, user_id: str, where: str, role: str) -> None:
        """Give a user a role in a project or domain, given by its path; the role is made if there is none."""
        if not self._roles:
            listed = (await self.admin("GET", "/roles"))["roles"]
            self._roles = {found["name"]: found["id"] for found in listed}
        if role not in self._roles:
            self._roles[role] = (await self.admin("POST", "/roles", {"role": {"name": role}}))["role"]["id"]
        await self.admin("PUT", f"{where}/users/{user_id}/roles/{self._roles[role]}")
