"""Starting, reloading and stopping: a process serves, or it says why not and ends with a status that tells."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import pytest_twisted
from sqlalchemy.engine import make_url

from tests.conftest import unique
from tests.support.servers import MariaDB, PostgreSQL, RabbitMQ, free_port, wait_until
from tests.support.service import BIN, DEV_CONFIG, Deployment, Process

SECONDS = 120

# A secret store whose check, and whose making, do what a file beside it says.
_STORE = """
import builtins, time
from pathlib import Path
from twisted.internet.defer import Deferred
from barbtx.plugin.stores import store_crypto

BEHAVIOUR = Path(__file__).with_name("behaviour")


class Store(store_crypto.StoreCrypto):
    in_thread = None

    async def check(self):
        wanted = BEHAVIOUR.read_text().strip()
        BEHAVIOUR.with_name("checking").touch()
        if wanted == "hang":
            await Deferred()
        elif wanted == "thread":
            await Store.in_thread(time.sleep, 3600)
        elif wanted:
            raise getattr(builtins, wanted)("in the store's own words")
        await super().check()


def from_config(context):
    if BEHAVIOUR.read_text() == "no start":
        raise ValueError("cannot be made")
    Store.in_thread = context.in_thread
    store = store_crypto.from_config(context)
    return Store(store.plugins, store.keks, store.cache, store.reported)
"""


class Behaving(Deployment):
    """A deployment on SQLite with that secret store."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            directory,
            f"sqlite:///{directory}/barbtx.sqlite",
            **{"secretstore.enabled_secretstore_plugins": "behaving", "start_check_seconds": 1},
        )
        self.plugins = directory / "plugins"
        metadata = self.plugins / "behaving-1.0.dist-info"
        metadata.mkdir(parents=True)
        (self.plugins / "behaving_store.py").write_text(_STORE)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: behaving\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[barbtx.secretstore]\nbehaving = behaving_store:from_config\n")
        self.behave("")

    def behave(self, how: str) -> None:
        (self.plugins / "behaviour").write_text(how)


@pytest.fixture
def behaving(tmp_path: Path) -> Iterator[Behaving]:
    deployment = Behaving(tmp_path)
    yield deployment
    deployment.stop()


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path, f"sqlite:///{tmp_path}/barbtx.sqlite")
    yield deployment
    deployment.stop()


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """A deployment for starts that are refused."""
    directory = tmp_path_factory.mktemp("unchanged")
    return Deployment(directory, f"sqlite:///{directory}/barbtx.sqlite")


def refusal(deployment: Deployment, plugin: str = "barbtx", **settings: object) -> str:
    """Start a process that must not start: its exit status is 1, and the one line that says why is returned."""
    process = Process(
        plugin,
        deployment.directory,
        deployment.settings | settings,
        unique("refused"),
        deployment.config_files,
        deployment.plugins,
    )
    with contextlib.suppress(RuntimeError, TimeoutError):
        process.start("a line that is never written")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.process.wait(SECONDS)
    printed = process.read_log()
    if process.process.poll() is None:
        process.kill()
        raise AssertionError(f"still running: {printed}")
    assert process.process.returncode == 1, printed
    lines = [line for line in printed.splitlines() if "barbtx: " in line]
    assert len(lines) == 1, printed
    assert "barbtx listens on" not in printed
    return lines[0]


def _sqlite(make: Callable[[Path], object]) -> Callable[[Path], str]:
    def url(directory: Path) -> str:
        path = directory / "broken.sqlite"
        path.unlink(missing_ok=True)
        make(path)
        return f"sqlite:///{path}"

    return url


def _without_table(path: Path) -> None:
    shutil.copy(path.with_name("barbtx.sqlite"), path)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE acl_users")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (lambda directory: f"sqlite:///{directory}/none/barbtx.sqlite", "no directory"),
        (lambda directory: f"sqlite:///{directory}/none.sqlite", "barbtx-manage db upgrade"),
        (lambda directory: f"sqlite:///{directory}", "is not a file"),
        (
            _sqlite(lambda path: path.write_text("something else, long enough to be no header")),
            "is not an SQLite database",
        ),
        (_sqlite(lambda path: path.write_text("x")), "is not an SQLite database"),
        (_sqlite(lambda path: path.write_bytes(b"SQLite format 3\0" + os.urandom(5000))), "file is not a database"),
        (_sqlite(lambda path: path.touch()), "the database has no schema yet"),
        (_sqlite(os.mkfifo), "is not a file"),
        (_sqlite(_without_table), "no table acl_users"),
    ],
    ids=["no-directory", "no-file", "directory", "text", "short", "garbage", "empty", "pipe", "table"],
)
def test_what_is_no_database_of_ours_refuses_the_start(
    unchanged: Deployment, url: Callable[[Path], str], said: str
) -> None:
    assert said in refusal(unchanged, **{"database.connection": url(unchanged.directory)})
    assert not list(unchanged.directory.glob("none*"))


def _mistreat_postgresql(server: PostgreSQL, url: str, how: str) -> str:
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection:
        if how == "no table":
            connection.execute("DROP TABLE acl_users")
            return url
        role = unique("role")
        connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute(f"GRANT SELECT ON alembic_version, projects TO {role}")
        return make_url(url).set(username=role).render_as_string(hide_password=False)


def _mistreat_mariadb(server: MariaDB, url: str, how: str) -> str:
    database = make_url(url).database
    with server._connect() as connection, connection.cursor() as cursor:
        if how == "no table":
            cursor.execute(f"DROP TABLE `{database}`.acl_users")
            return url
        role = unique("role")
        for host in ("127.0.0.1", "localhost"):
            cursor.execute(f"CREATE USER {role}@'{host}' IDENTIFIED BY 'tester'")
            cursor.execute(f"GRANT SELECT ON `{database}`.alembic_version TO {role}@'{host}'")
            cursor.execute(f"GRANT INSERT ON `{database}`.* TO {role}@'{host}'")
    return make_url(url).set(username=role).render_as_string(hide_password=False)


@pytest.mark.parametrize(("how", "said"), [("no table", "no table acl_users"), ("no rights", "lacks the privileges")])
@pytest.mark.parametrize(("server", "mistreat"), [("postgresql", _mistreat_postgresql), ("mariadb", _mistreat_mariadb)])
def test_missing_tables_and_rights_refuse_the_start(
    request: pytest.FixtureRequest, tmp_path: Path, server: str, mistreat: Callable, how: str, said: str
) -> None:
    running = request.getfixturevalue(server)
    deployment = Deployment(tmp_path, running.new_database(unique()))
    url = mistreat(running, deployment.settings["database.connection"], how)
    assert said in refusal(deployment, **{"database.connection": url})


@pytest.mark.parametrize("how", ["ValueError", "KeyError", "RuntimeError", "AssertionError", "RecursionError"])
def test_whatever_a_plugins_check_raises_refuses_the_start(behaving: Behaving, how: str) -> None:
    behaving.behave(how)
    line = refusal(behaving)
    assert how in line and "in the store's own words" in line


def test_a_plugin_that_cannot_be_made_refuses_the_start(behaving: Behaving) -> None:
    behaving.behave("no start")
    line = refusal(behaving)
    assert "'behaving'" in line and "cannot be made" in line


@pytest.mark.parametrize("how", ["ConnectionRefusedError", "TimeoutError", "OSError", "hang"])
@pytest_twisted.ensureDeferred
async def test_a_check_that_may_pass_later_is_repeated_and_nothing_is_served_before(
    behaving: Behaving, how: str
) -> None:
    behaving.behave(how)
    api = behaving.api()
    # The database is there, and would answer.
    for reply in (await api.get("/v1/secrets"), await api.post("/v1/secrets", {"name": "x"})):
        assert reply.status == 503 and "retry-after" in reply.headers
    assert (await api.get("/healthcheck")).status == 200
    assert "startup check is not complete" in api.process.read_log()
    behaving.behave("")

    while (await api.get("/v1/secrets")).status != 200:
        assert api.process.process.poll() is None
    assert (await api.get("/v1/secrets")).json["total"] == 0
    assert (await api.get(await api.store())).status == 200
    assert api.process.stop(SECONDS) == 0
    assert "Traceback" not in api.process.read_log()


@pytest.mark.parametrize(
    ("how", "settings", "said"),
    [
        ("hang", {}, "Server Shut Down"),
        ("thread", {"thread_shutdown_seconds": 1}, "threads are still busy"),
        ("thread", {"thread_shutdown_seconds": 3600, "graceful_shutdown_timeout": 2}, "shutdown timed out"),
    ],
)
def test_a_stop_during_a_check_that_hangs_ends_with_status_0(
    behaving: Behaving, how: str, settings: dict, said: str
) -> None:
    behaving.behave(how)
    behaving.settings |= {"start_check_seconds": 3600, **settings}
    process = Process("barbtx", behaving.directory, behaving.settings, "hangs", plugins=behaving.plugins)
    process.start("reactor class")
    behaving.processes.append(process)
    # The handlers are in place once the reactor runs; it does when it reports.
    while "report: versions" not in process.read_log():
        process.process.send_signal(signal.SIGUSR1)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.process.wait(0.2)
        assert process.process.poll() is None
    wait_until((behaving.plugins / "checking").exists, SECONDS, "the check did not begin")
    assert process.stop(SECONDS) == 0
    assert said in process.read_log()


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("127.0.0.1", "Address already in use"),
        ("localhost", "Address already in use"),
        ("192.0.2.1", "Cannot assign requested address"),
        ("2001:db8::1", "Cannot assign requested address"),
        ("no-such-host.invalid", ""),
        ("not a name", ""),
        ("999.1.1.1", ""),
    ],
)
def test_where_nobody_can_listen_the_start_is_refused(unchanged: Deployment, host: str, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(
            unchanged, **{"api.bind_host": host, "api.bind_port": port, "api.allow_unauthenticated_remote": "true"}
        )
    shown = f"[{host}]" if ":" in host else host
    assert f"cannot listen on {shown}:{port} " in line and said in line


@pytest_twisted.ensureDeferred
async def test_names_are_looked_up_before_they_are_listened_on(deployment: Deployment) -> None:
    api = deployment.api(**{"api.bind_host": "localhost"})
    assert (await api.get("/healthcheck")).status == 200
    assert api.process.stop(SECONDS) == 0


@pytest_twisted.ensureDeferred
async def test_a_queue_that_is_not_as_configured_refuses_the_start_of_both(
    rabbitmq: RabbitMQ, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    deployment = Deployment(tmp_path, postgresql.new_database(unique()), rabbitmq.url, unique("tasks."))
    deployment.worker().stop(SECONDS)
    for plugin in ("barbtx", "barbtx-worker"):
        process = Process(plugin, tmp_path, deployment.settings | {"queue.max_length": 77}, unique("mismatch"))
        with contextlib.suppress(RuntimeError, TimeoutError):
            process.start("a line that is never written")
        assert process.process.wait(SECONDS) == 1
        assert "the exchanges or queues at the broker differ from the configuration" in process.read_log()


@pytest.fixture(params=["barbtx", "barbtx-worker"])
def process(request: pytest.FixtureRequest, deployment: Deployment) -> Process:
    """A running process of each kind, with a configuration file of its own."""
    config = deployment.directory / "own.conf"
    config.write_text("[api]\nidle_timeout_seconds = 61\n")
    config.chmod(0o600)
    deployment.config_files.append(config)
    if request.param == "barbtx":
        return deployment.api().process
    rabbitmq = request.getfixturevalue("rabbitmq")
    deployment.settings |= {"queue.enable": "true", "transport_url": rabbitmq.url, "queue.topic": unique("tasks.")}
    return deployment.worker()


def test_threads_of_workers_are_nicer_than_those_of_api_processes(process: Process) -> None:
    threads = Path(f"/proc/{process.process.pid}/task").glob("*/stat")
    # The nineteenth field; the second one, in parentheses, may contain spaces. See proc(5).
    niceness = {int(stat.read_text().rpartition(")")[2].split()[16]) for stat in threads}
    assert niceness == {psutil.Process().nice() + (5 if "barbtx-worker" in process.process.args else 0)}


def after(process: Process, number: int, said: str) -> str:
    """Send a signal and wait for a line; what was logged since."""
    seen = len(process.read_log())
    process.process.send_signal(number)
    wait_until(lambda: said in process.read_log()[seen:] or process.process.poll() is not None, SECONDS, said)
    assert process.process.poll() is None, process.read_log()
    return process.read_log()[seen:]


def test_sighup_reloads_and_a_reload_with_an_error_changes_nothing(process: Process, deployment: Deployment) -> None:
    (config,) = deployment.config_files
    in_force = "the list of master keys was reloaded and is in effect"
    printed = after(process, signal.SIGHUP, in_force)
    assert "until a restart" not in printed
    config.write_text("[api]\nidle_timeout_seconds = 62\n[database]\nmax_retries = 4\n")
    printed = after(process, signal.SIGHUP, in_force)
    assert "not in effect until a restart: [api] idle_timeout_seconds, [database] max_retries" in printed
    # What follows does not seem to say that the changed options are in effect.
    assert printed.index("not in effect until a restart") < printed.index("is in effect")
    for broken in ("[api]\nidle_timeout_seconds = long\n", "[api]\nidle_timeout = 1\n", "[", "\xff\n"):
        config.write_text(broken, encoding="latin-1")
        printed = after(process, signal.SIGHUP, "the previous one stays in effect")
        assert "the configuration" in printed and in_force not in printed
    config.write_text("")
    after(process, signal.SIGHUP, in_force)
    assert process.stop(SECONDS) == 0


def test_sigusr1_logs_a_report_without_anything_secret(process: Process, deployment: Deployment) -> None:
    printed = after(process, signal.SIGUSR1, "report: options [retry_scheduler]")
    for part in (
        "versions: pid =",
        "threads: count =",
        "database: transactions =",
        "leases: count = 0",
        "queue: ",
        "store Software Only Crypto: records of project keys = 0",
        "reactor: threads =",
    ):
        assert f"report: {part}" in printed, part
    assert re.search(r"master keys of Software Only Crypto = [0-9a-f]{32}\n", printed)
    assert "connection = ****" in printed and "transport_url = ****" in printed and "Traceback" not in printed
    key = (deployment.directory / "mkek").read_text().strip()
    assert key not in printed and str(deployment.settings["database.connection"]) not in printed
    assert process.stop(SECONDS) == 0


def test_signals_that_come_in_numbers_are_all_survived_until_the_last_one_stops(process: Process) -> None:
    for number in (signal.SIGHUP, signal.SIGUSR1) * 10:
        process.process.send_signal(number)
    after(process, signal.SIGUSR1, "report: options [retry_scheduler]")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        with contextlib.suppress(ProcessLookupError):
            process.process.send_signal(number)
    assert process.process.wait(SECONDS) == 0
    assert "Traceback" not in process.read_log()


@pytest_twisted.ensureDeferred
async def test_a_daemon_has_a_pid_file_and_handles_signals_as_well(deployment: Deployment) -> None:
    directory, port = deployment.directory, free_port()
    pid_file, log_file = directory / "barbtx.pid", directory / "daemon.log"

    def start(**settings: object) -> subprocess.CompletedProcess:
        sets = [
            part for name, value in (deployment.settings | settings).items() for part in ("--set", f"{name}={value}")
        ]
        return subprocess.run(
            [
                BIN / "twistd",
                f"--pidfile={pid_file}",
                f"--logfile={log_file}",
                "barbtx",
                "--config-file",
                DEV_CONFIG,
                *sets,
            ],
            capture_output=True,
            timeout=SECONDS,
            cwd=directory,
        )

    def logged(text: str) -> None:
        wait_until(lambda: log_file.exists() and text in log_file.read_text(), SECONDS, text)

    assert start(**{"api.bind_port": port}).returncode == 0
    logged("barbtx listens on")
    daemon = psutil.Process(int(pid_file.read_text()))
    daemon.send_signal(signal.SIGHUP)
    logged("the list of master keys was reloaded and is in effect")
    daemon.send_signal(signal.SIGUSR1)
    logged("report: options [retry_scheduler]")
    assert [path.name for path in directory.glob("daemon.log*")] == ["daemon.log"]
    assert start(**{"api.bind_port": port}).returncode != 0
    daemon.terminate()
    wait_until(lambda: not daemon.is_running(), SECONDS, "the daemon did not stop")
    assert not pid_file.exists() and "Traceback" not in log_file.read_text()

    # What a daemon finds wrong when it is one already is in the log; it leaves no pid file.
    with socket.create_server(("127.0.0.1", port)):
        start(**{"api.bind_port": port})
        logged("cannot listen on")
        wait_until(lambda: not pid_file.exists(), SECONDS, "the pid file is still there")


@pytest.mark.parametrize("option", ["logfile", "pidfile"])
def test_a_file_that_cannot_be_created_refuses_the_start_in_one_line(deployment: Deployment, option: str) -> None:
    path = deployment.directory / "none" / "api"
    done = subprocess.run(
        [
            BIN / "twistd",
            "-n",
            *(f"--{name}={value}" for name, value in {"pidfile": "", option: path}.items()),
            "barbtx",
            "--config-file",
            DEV_CONFIG,
            *(part for key, value in deployment.settings.items() for part in ("--set", f"{key}={value}")),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"barbtx: --{option} {path}: No such file or directory"]


def test_a_pid_file_of_a_process_that_was_killed_does_not_hold_up_the_next(deployment: Deployment) -> None:
    pid_file = deployment.directory / "barbtx.pid"
    gone = subprocess.Popen(["true"])
    gone.wait()
    pid_file.write_text(str(gone.pid))
    process = Process("barbtx", deployment.directory, deployment.settings, "stale")
    process._command[2] = f"--pidfile={pid_file}"
    deployment.processes.append(process.start("barbtx listens on"))
    assert int(pid_file.read_text()) == process.process.pid
    assert process.stop(SECONDS) == 0 and not pid_file.exists()
