"""barbtx itself, as an operator runs it: twistd processes with a configuration, and a client that speaks to them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import treq
from treq.client import HTTPClient
from twisted.web.client import Agent, HTTPConnectionPool

from barbtx.cmd.manage import main
from tests.support import wrapping_store
from tests.support.keystone import PASSWORD
from tests.support.servers import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DEV_CONFIG = ROOT / "config" / "barbtx-dev.conf"
_LISTENS = re.compile(r"barbtx listens on (http://[^\s\"]+)")


def manage(*arguments: str) -> None:
    """Run a command of barbtx-manage in this process; a process of its own takes a second to start."""
    status = main(arguments)
    if status:
        raise RuntimeError(f"barbtx-manage {arguments}: exit status {status}")


class Process:
    """A twistd process.

    :ivar log: the file with everything it prints.
    """

    def __init__(
        self,
        plugin: str,
        directory: Path,
        settings: dict[str, object],
        name: str,
        files: Iterable[Path] = (),
        plugins: Path | None = None,
    ) -> None:
        self.log = directory / f"{name}.log"
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        configs = [part for path in (DEV_CONFIG, *files) for part in ("--config-file", path)]
        self._command = [BIN / "twistd", "-n", "--pidfile=", plugin, *configs, *sets]
        path = os.pathsep.join(filter(None, [plugins and str(plugins), os.environ.get("PYTHONPATH")]))
        self._environment = {**os.environ, "PYTHONPATH": path}
        self.process: subprocess.Popen | None = None

    def start(self, ready: str) -> Process:
        """Start, and return when the log says that it is ready."""
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment
            )
        wait_until(
            lambda: ready in self.read_log() or self.process.poll() is not None,
            PATIENCE,
            f"{self.log} does not say {ready!r}",
        )
        if self.process.poll() is not None:
            raise RuntimeError(self.read_log())
        return self

    def read_log(self) -> str:
        return self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = PATIENCE) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


class Deployment:
    """A database with its master key, and the processes that serve it.

    :ivar settings: what all of its processes are configured with.
    :ivar plugins: a directory with further distributions that they can import.
    """

    def __init__(
        self, directory: Path, database_url: str, broker_url: str | None = None, topic: str = "", **settings: object
    ) -> None:
        self.directory = directory
        self.settings: dict[str, object] = {
            "database.connection": database_url,
            "simple_crypto_plugin.kek_file": directory / "mkek",
            "api.bind_port": 0,
            **settings,
        }
        if broker_url:
            self.settings |= {"queue.enable": "true", "transport_url": broker_url, "queue.topic": topic}
        self.config_files: list[Path] = []
        self.plugins: Path | None = None
        self.processes: list[Process] = []
        if not (directory / "mkek").exists():
            manage("simple_crypto", "gen_mkek", str(directory / "mkek"))
        manage("db", "upgrade", "-d", database_url)

    def api(self, **settings: object) -> Api:
        """Start an API process."""
        number = len(self.processes)
        process = Process(
            "barbtx", self.directory, self.settings | settings, f"api-{number}", self.config_files, self.plugins
        )
        self.processes.append(process.start("barbtx listens on"))
        return Api(process, _LISTENS.search(process.read_log())[1])

    def worker(self, ready: str = "consuming tasks from", **settings: object) -> Process:
        """Start a worker process."""
        number = len(self.processes)
        process = Process(
            "barbtx-worker",
            self.directory,
            self.settings | settings,
            f"worker-{number}",
            self.config_files,
            self.plugins,
        )
        self.processes.append(process.start(ready))
        return process

    def stop(self) -> None:
        for process in self.processes:
            if process.process.poll() is None:
                process.kill()


def with_keystone(directory: Path, url: str, **settings: object) -> Deployment:
    """A deployment that asks a Keystone; the fixture ``service_user`` makes its user there."""
    return Deployment(
        directory,
        f"sqlite:///{directory}/barbtx.sqlite",
        **{
            "api.auth_strategy": "keystone",
            "keystone_authtoken.auth_url": url,
            "keystone_authtoken.username": "barbtx",
            "keystone_authtoken.password": PASSWORD,
            "keystone_authtoken.project_name": "service",
            "oslo_policy.enforce_new_defaults": "true",
            **settings,
        },
    )


def with_wrapping_store(directory: Path, plugins: Path, **settings: object) -> Deployment:
    """A deployment whose payloads go to the store of ``wrapping_store.py``, installed as a distribution of its own.

    :param plugins: an empty directory for that distribution.
    """
    shutil.copy(wrapping_store.__file__, plugins / "their_store.py")
    metadata = plugins / "their_store-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-store\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[barbtx.secretstore]\nwrapping = their_store:from_config\n")
    deployment = Deployment(
        directory,
        f"sqlite:///{directory}/barbtx.sqlite",
        **{"secretstore.enabled_secretstore_plugins": "wrapping,store_crypto", **settings},
    )
    deployment.plugins = plugins
    return deployment


class Api:
    """A running API process and a client for it."""

    def __init__(self, process: Process, url: str, project: str = "project", token: str | None = None) -> None:
        self.process = process
        self.url = url
        self.project = project
        self.token = token

    def of(self, project: str) -> Api:
        """The same service for another project."""
        return Api(self.process, self.url, project)

    def by(self, token: str | None) -> Api:
        """The same service for the holder of a token."""
        return Api(self.process, self.url, "", token or "")

    async def request(
        self,
        method: str,
        path: str,
        *,
        roles: str | None = "admin",
        user: str | None = "user",
        headers: dict[str, str] | None = None,
        timeout: float = PATIENCE,
        **arguments: Any,
    ) -> Reply:
        """Send a request to a path, or to a reference that the service gave."""
        from twisted.internet import reactor

        identity = {"X-Project-Id": self.project, "X-User-Id": user, "X-Roles": roles}
        if self.token is not None:
            identity = {"X-Auth-Token": self.token or None}
        sent = {name: value for name, value in {**identity, **(headers or {})}.items() if value is not None}
        url = path if path.startswith("http") else self.url + path
        pool = HTTPConnectionPool(reactor, persistent=False)
        client = HTTPClient(Agent(reactor, pool=pool))
        response = await client.request(method, url, headers=sent, allow_redirects=False, timeout=timeout, **arguments)
        content = await treq.content(response)
        return Reply(
            response.code,
            {name.decode().lower(): values[0].decode() for name, values in response.headers.getAllRawHeaders()},
            content,
        )

    async def get(self, path: str, **arguments: Any) -> Reply:
        return await self.request("GET", path, **arguments)

    async def post(self, path: str, document: object, **arguments: Any) -> Reply:
        return await self.request("POST", path, json=document, **arguments)

    async def delete(self, path: str, **arguments: Any) -> Reply:
        return await self.request("DELETE", path, **arguments)

    async def store(self, payload: str = "a payload", **fields: object) -> str:
        """Store a text secret; its reference."""
        reply = await self.post("/v1/secrets", {"payload": payload, "payload_content_type": "text/plain", **fields})
        assert reply.status == 201, reply
        return reply.json["secret_ref"]

    async def order(self, **meta: object) -> str:
        """Order an AES key; the order's reference."""
        reply = await self.post("/v1/orders", {"type": "key", "meta": {"algorithm": "aes", "bit_length": 256, **meta}})
        assert reply.status == 202, reply
        return reply.json["order_ref"]

    async def finished(self, order_ref: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """An order once it is not PENDING any more."""
        from twisted.internet import reactor
        from twisted.internet.task import deferLater

        end = reactor.seconds() + seconds
        while True:
            order = (await self.get(order_ref)).json
            if order["status"] != "PENDING":
                return order
            if reactor.seconds() > end:
                raise TimeoutError(f"still PENDING: {order}")
            await deferLater(reactor, 0.05, lambda: None)


class Reply:
    """An answer, read to its end."""

    def __init__(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.status = status
        self.headers = headers
        self.content = content

    @property
    def json(self) -> Any:
        import json

        return json.loads(self.content)

    def __repr__(self) -> str:
        return f"<{self.status} {self.content[:300]!r}>"
