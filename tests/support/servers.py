"""Private servers in temporary directories on free ports, for tests to use, stop, freeze and kill."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pymysql

from tests.support.programs import require

#: Longest wait for what another process does, in seconds. It only ends tests that would never end, and must suffice on
#: a machine that is busy with something else.
PATIENCE = 180.0


# Below the range from which Linux takes the ports of outgoing connections (32768 and up, net.ipv4.ip_local_port_range):
# such a connection could take the port before the server listens.
_PORTS = range(20000, 32000)
_handed_out: set[int] = set()
# Tests may seed the global generator.
_random = random.SystemRandom()


def free_port() -> int:
    """A port that nobody listens on, a different one for each call."""
    while True:
        port = _random.choice(_PORTS)
        if port in _handed_out:
            continue
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            _handed_out.add(port)
            return port


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for something that another process does and does not announce.

    :raises TimeoutError: it did not happen in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)


class Server:
    """A server process in a directory of its own.

    :cvar user: the system user to be when root runs the tests; some servers refuse root.
    """

    user: str | None = None

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"barbtx-{type(self).__name__.lower()}-", dir="/tmp"))
        self.directory.chmod(0o755)
        if self._other_user:
            entry = pwd.getpwnam(self.user)
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)
        self.port = free_port()
        self.process: subprocess.Popen | None = None
        self.prepare()

    @property
    def _other_user(self) -> bool:
        return self.user is not None and os.geteuid() == 0

    def run(self, *command: str) -> None:
        """Run a command to its end, as the server's user."""
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            **self._identity(),
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} ends with {done.returncode}: {done.stdout[-4000:]!r}")

    def _identity(self) -> dict[str, object]:
        return {"user": self.user, "group": self.user, "extra_groups": []} if self._other_user else {}

    def prepare(self) -> None:
        """Make what the server needs before its first start."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def is_ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Start, and return when it takes connections."""
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.directory,
                env=self.environment(),
                start_new_session=True,
                **self._identity(),
            )
        try:
            wait_until(lambda: self.process.poll() is not None or self.is_ready(), PATIENCE, f"{self} did not start")
        finally:
            if self.process.poll() is not None:
                raise RuntimeError((self.directory / "log").read_text()[-3000:])

    def _processes(self) -> list[psutil.Process]:
        """The server and all its children, some of which make themselves sessions of their own."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def signal(self, number: int) -> None:
        """Send a signal to all of the server's processes."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL to all of the server's processes, and return when none is left.

        PostgreSQL does not start while one of them exists.
        """
        frozen: list[psutil.Process] = []
        # A process that is not stopped could start another one that is not seen here.
        while new := [process for process in self._processes() if process not in frozen]:
            for process in new:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
            frozen += new
        for process in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        wait_until(lambda: not any(process.is_running() for process in frozen), PATIENCE, f"{self} does not end")

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class PostgreSQL(Server):
    user = "postgres"

    def prepare(self) -> None:
        self.run(
            require("initdb"),
            "-D",
            str(self.directory / "data"),
            "-U",
            "postgres",
            "-A",
            "trust",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        )

    def command(self) -> list[str]:
        return [
            require("postgres"),
            "-D",
            str(self.directory / "data"),
            "-p",
            str(self.port),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"unix_socket_directories={self.directory}",
        ]

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", autocommit=True, connect_timeout=10
        )

    def is_ready(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def new_database(self, name: str) -> str:
        """Create a database; its URL."""
        with self._connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"


class PgBouncer(Server):
    """A pooler before a PostgreSQL server.

    :param mode: ``session`` or ``transaction``: for how long a client keeps a connection to the server.
    """

    user = "postgres"

    def __init__(self, server: PostgreSQL, mode: str) -> None:
        self._server, self._mode = server, mode
        super().__init__()

    def prepare(self) -> None:
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": self._mode,
            "default_pool_size": 30,
            "ignore_startup_parameters": "options",
        }
        (self.directory / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={self._server.port} user=postgres\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )

    def command(self) -> list[str]:
        return [require("pgbouncer"), str(self.directory / "pgbouncer.ini")]

    def is_ready(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), options="", connect_timeout=10).close()
        except psycopg.OperationalError:
            return False
        return True

    def url(self, database: str) -> str:
        """The URL of one of the server's databases, by way of the pooler."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


class MariaDB(Server):
    user = "mysql"

    def prepare(self) -> None:
        self.run(
            require("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )

    def command(self) -> list[str]:
        return [
            require("mariadbd"),
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            f"--socket={self.directory / 'socket'}",
            f"--pid-file={self.directory / 'pid'}",
            "--innodb-buffer-pool-size=64M",
        ]

    def _connect(self) -> pymysql.Connection:
        return pymysql.connect(unix_socket=str(self.directory / "socket"), user="root", autocommit=True)

    def is_ready(self) -> bool:
        try:
            self._connect().close()
        except pymysql.OperationalError:
            return False
        return True

    def new_database(self, name: str) -> str:
        """Create a database, and a user for it; its URL."""
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
            cursor.execute("CREATE USER IF NOT EXISTS tester@'127.0.0.1' IDENTIFIED BY 'tester'")
            cursor.execute("CREATE USER IF NOT EXISTS tester@'localhost' IDENTIFIED BY 'tester'")
            for host in ("127.0.0.1", "localhost"):
                cursor.execute(f"GRANT ALL ON `{name}`.* TO tester@'{host}'")
        return f"mysql://tester:tester@127.0.0.1:{self.port}/{name}"


class RabbitMQ(Server):
    """:param tls: PEM files of an authority, a certificate and its key; clients must have one of that authority too."""

    def __init__(self, tls: tuple[str, str, str] | None = None) -> None:
        self._tls = tls
        self.tls_port = free_port()
        super().__init__()

    def prepare(self) -> None:
        self._epmd_port, self._distribution_port = free_port(), free_port()
        (self.directory / "plugins").write_text("[].\n")
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\ndisk_free_limit.absolute = 10MB\n"
            "vm_memory_high_watermark.absolute = 1GB\n"
        )
        if self._tls:
            names = ("cacertfile", "certfile", "keyfile")
            with open(self.directory / "rabbitmq.conf", "a") as file:
                file.write(
                    f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\nssl_options.verify = verify_peer\n"
                    "ssl_options.fail_if_no_peer_cert = true\n"
                )
                file.writelines(f"ssl_options.{name} = {path}\n" for name, path in zip(names, self._tls, strict=True))
        self._epmd = subprocess.Popen(
            [require("epmd"), "-port", str(self._epmd_port), "-address", "127.0.0.1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def command(self) -> list[str]:
        return [require("rabbitmq-server")]

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "HOME": str(self.directory),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": f"barbtx{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.directory / "logs"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "plugins"),
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
        }

    def control(self, *command: str) -> None:
        """Run rabbitmqctl."""
        subprocess.run(
            [require("rabbitmqctl"), *command],
            check=True,
            capture_output=True,
            env=self.environment(),
            cwd=self.directory,
        )

    @property
    def url(self) -> str:
        return f"rabbit://guest:guest@127.0.0.1:{self.port}/"

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as probe:
                probe.sendall(b"AMQP\x00\x00\x09\x01")
                return probe.recv(1) == b"\x01"
        except OSError:
            return False

    def stop(self) -> None:
        super().stop()
        self._epmd.kill()
        self._epmd.wait()
